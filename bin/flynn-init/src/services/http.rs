//! One request at a time over HTTP/1.1, to addresses only: a static program cannot resolve names, and need not.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, LOCATION, USER_AGENT};
use hyper::{Method, StatusCode};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// `http://` or `https://`, an address, and a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) tls: bool,
    pub(super) address: SocketAddr,
    /// As it is sent as `Host`.
    pub(super) authority: String,
    /// With query, beginning with a slash.
    pub(super) path: String,
}

impl Url {
    /// Without a scheme it is `http`; `localhost` is the only name that is known.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (tls, rest) = match (text.strip_prefix("http://"), text.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (None, Some(rest)) => (true, rest),
            (None, None) => (false, text),
        };
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let port = if tls { 443 } else { 80 };
        let local = authority.replacen("localhost", "127.0.0.1", 1);
        let address = local.parse().or_else(|_| {
            let bare = local.trim_matches(['[', ']']);
            bare.parse().map(|ip| SocketAddr::new(ip, port))
        });
        let address = address.map_err(|_| format!("{text:?} does not begin with an IP address"))?;
        Ok(Self { tls, address, authority: authority.to_owned(), path: path.to_owned() })
    }

    /// The URL with another path.
    pub(super) fn at(&self, path: &str) -> Self {
        Self { path: format!("{}{path}", self.path.trim_end_matches('/')), ..self.clone() }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Request<'a> {
    pub(super) method: Method,
    pub(super) url: &'a Url,
    /// Instead of the URL's.
    pub(super) host: Option<&'a str>,
    /// JSON.
    pub(super) body: Option<Bytes>,
}

impl<'a> Request<'a> {
    pub(super) fn get(url: &'a Url) -> Self {
        Self { method: Method::GET, url, host: None, body: None }
    }
}

#[derive(Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    /// Whether the body claims to be JSON.
    pub(super) json: bool,
    pub(super) location: Option<String>,
    pub(super) body: Vec<u8>,
}

impl Response {
    pub(super) fn is_redirect(&self) -> bool {
        StatusCode::from_u16(self.status).is_ok_and(|status| status.is_redirection())
    }
}

/// Sends a request on a connection of its own, and reads at most `limit` bytes of the response's body. The caller
/// limits the time.
pub(super) async fn send(request: Request<'_>, limit: usize) -> Result<Response, String> {
    let stream = TcpStream::connect(request.url.address).await.map_err(|err| err.to_string())?;
    let _ = stream.set_nodelay(true);
    if !request.url.tls {
        return exchange(stream, request, limit).await;
    }
    let name = request.host.map(without_port).and_then(|host| ServerName::try_from(host.to_owned()).ok());
    let name = name.unwrap_or_else(|| ServerName::IpAddress(request.url.address.ip().into()));
    let stream = connector()?.connect(name, stream).await.map_err(|err| err.to_string())?;
    exchange(stream, request, limit).await
}

fn without_port(host: &str) -> &str {
    host.rsplit_once(':').map_or(host, |(name, _)| name)
}

async fn exchange<S>(stream: S, request: Request<'_>, limit: usize) -> Result<Response, String>
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let text = |err: hyper::Error| err.to_string();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await.map_err(text)?;
    let mut message = hyper::Request::builder()
        .method(request.method)
        .uri(&request.url.path)
        .header(HOST, request.host.unwrap_or(&request.url.authority))
        .header(USER_AGENT, "flynn-init")
        .header(CONNECTION, "close");
    if request.body.is_some() {
        message = message.header(CONTENT_TYPE, "application/json").header("accept", "application/json");
    }
    let message = message.body(Full::new(request.body.unwrap_or_default())).map_err(|err| err.to_string())?;
    let answer = async {
        let response = sender.send_request(message).await.map_err(text)?;
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let location = header(LOCATION);
        let json = header(CONTENT_TYPE).is_some_and(|kind| kind.contains("json"));
        let status = response.status().as_u16();
        let mut incoming = response.into_body();
        let mut body = Vec::new();
        while body.len() < limit {
            let Some(frame) = incoming.frame().await else { break };
            if let Ok(data) = frame.map_err(text)?.into_data() {
                body.extend_from_slice(data.get(..limit - body.len()).unwrap_or(&data));
            }
        }
        Ok(Response { status, json, location, body })
    };
    tokio::pin!(answer);
    tokio::pin!(connection);
    tokio::select! {
        biased;
        answer = &mut answer => answer,
        // It also ends when the response was read in full: the answer is ready then.
        ended = &mut connection => match answer.await {
            Err(reason) => Err(ended.err().map_or(reason, |err| err.to_string())),
            answer => answer,
        },
    }
}

fn connector() -> Result<TlsConnector, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|err| err.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Accepts every certificate: a health check asks whether a program answers, not who it is.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_and_without_scheme() {
        for (text, address, tls, path) in [
            ("http://100.100.3.1:1111", "100.100.3.1:1111", false, "/"),
            ("100.100.3.1:1111", "100.100.3.1:1111", false, "/"),
            ("localhost:1111/a?b", "127.0.0.1:1111", false, "/a?b"),
            ("https://[::1]/x", "[::1]:443", true, "/x"),
            ("http://[::1]:80", "[::1]:80", false, "/"),
        ] {
            let url = Url::parse(text).unwrap();
            assert_eq!((url.address, url.tls, url.path.as_str()), (address.parse().unwrap(), tls, path), "{text}");
        }
        assert!(Url::parse("http://discoverd:1111").is_err());
        assert_eq!(Url::parse("http://[::1]:80/base/").unwrap().at("/services").path, "/base/services");
    }
}
