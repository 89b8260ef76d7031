//! Connections to sinks.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::net::{TcpStream, UdpSocket};
use tokio_rustls::TlsConnector;

use super::config::{Syslog, Target, Transport};

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// An open way to a sink.
pub(super) enum Connection {
    Stream { read: ReadHalf<Box<dyn Stream>>, write: WriteHalf<Box<dyn Stream>> },
    Datagrams(UdpSocket),
}

/// Messages as bytes, and where each ends.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    pub(super) bytes: Vec<u8>,
    pub(super) ends: Vec<usize>,
}

pub(super) async fn connect(target: &Target) -> io::Result<Connection> {
    let Syslog { transport, host, port, .. } = match target {
        Target::Aggregator { addr } => {
            let stream = TcpStream::connect(addr.as_str()).await?;
            return Ok(over_stream(stream));
        }
        Target::Syslog(config) => config,
    };
    let host = host.as_str();
    match transport {
        Transport::Tcp => Ok(over_stream(TcpStream::connect((host, *port)).await?)),
        Transport::Tls { verify } => {
            let stream = TcpStream::connect((host, *port)).await?;
            let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
            let tls = TlsConnector::from(tls_config(*verify)?).connect(name, stream).await?;
            Ok(over_stream(tls))
        }
        Transport::Udp => {
            let address = tokio::net::lookup_host((host, *port)).await?.next();
            let address = address.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
            let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = UdpSocket::bind(any).await?;
            socket.connect(address).await?;
            Ok(Connection::Datagrams(socket))
        }
    }
}

fn over_stream(stream: impl Stream + 'static) -> Connection {
    let (read, write) = tokio::io::split(Box::new(stream) as Box<dyn Stream>);
    Connection::Stream { read, write }
}

impl Connection {
    /// Sends everything, unless nothing can be sent for `patience` or the other side ends the connection.
    pub(super) async fn send(&mut self, outgoing: &Outgoing, patience: Duration) -> io::Result<()> {
        match self {
            Self::Stream { read, write } => {
                let writing = async {
                    let mut rest = outgoing.bytes.as_slice();
                    while !rest.is_empty() {
                        let n = tokio::time::timeout(patience, write.write(rest)).await??;
                        rest = rest.get(n..).filter(|_| n > 0).ok_or(io::ErrorKind::WriteZero)?;
                    }
                    tokio::time::timeout(patience, write.flush()).await?
                };
                tokio::select! {
                    biased;
                    err = ended(read) => Err(err),
                    written = writing => written,
                }
            }
            Self::Datagrams(socket) => {
                let mut start = 0;
                for end in &outgoing.ends {
                    socket.send(outgoing.bytes.get(start..*end).unwrap_or(&[])).await?;
                    start = *end;
                }
                Ok(())
            }
        }
    }

    /// Waits until the other side is gone, and says how.
    pub(super) async fn closed(&mut self) -> io::Error {
        match self {
            Self::Stream { read, .. } => ended(read).await,
            Self::Datagrams(socket) => loop {
                if let Err(err) = socket.recv(&mut [0; 512]).await {
                    return err;
                }
            },
        }
    }
}

/// Sinks say nothing; what one says nevertheless is not listened to.
async fn ended(read: &mut ReadHalf<Box<dyn Stream>>) -> io::Error {
    let mut buffer = [0; 512];
    loop {
        match read.read(&mut buffer).await {
            Ok(0) => return io::Error::new(io::ErrorKind::ConnectionAborted, "the other side closed the connection"),
            Ok(_) => {}
            Err(err) => return err,
        }
    }
}

fn tls_config(verify: bool) -> io::Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let config = if verify {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            return Err(io::Error::other("no certificate authorities are installed on this host"));
        }
        builder.with_root_certificates(roots).with_no_client_auth()
    } else {
        let verifier = Arc::new(AcceptAny(provider.signature_verification_algorithms));
        builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()
    };
    Ok(Arc::new(config))
}

/// Takes any certificate: for sinks whose operator asked for it (`insecure`).
#[derive(Debug)]
struct AcceptAny(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for AcceptAny {
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
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
