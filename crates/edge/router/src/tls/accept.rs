//! The handshake: which certificate for which name, and a clear refusal of names that nobody serves.

use std::fmt;
use std::io;
use std::sync::Arc;

use flynn_acme::challenge::ALPN;
use rustls::server::{ClientHello, ProducesTickets, ResolvesServerCert, WantsServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ConfigBuilder, ServerConfig};
use tokio::io::AsyncWriteExt as _;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use crate::proxied::Replay;
use crate::shared::Shared;
use crate::table::host_name;

/// Fatal alerts in clear (RFC 8446 section 6).
const PROTOCOL_VERSION: &[u8] = &[0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 70];
const UNRECOGNIZED_NAME: &[u8] = &[0x15, 0x03, 0x03, 0x00, 0x02, 0x02, 112];
/// Bytes of a ClientHello up to the end of its version.
const HELLO_VERSION_END: usize = 11;

/// The TLS side of one port.
#[derive(Clone)]
pub(crate) struct Acceptor {
    certificates: Arc<Certificates>,
    config: Arc<ServerConfig>,
}

impl Acceptor {
    /// `tickets` are those of the whole router: a client resumes its session on any port and worker.
    pub(crate) fn new(shared: Arc<Shared>, port_key: u16, tickets: Arc<dyn ProducesTickets>) -> Self {
        let certificates = Arc::new(Certificates { shared, port_key });
        let mut config = builder().with_cert_resolver(Arc::clone(&certificates) as _);
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.ticketer = tickets;
        Self { certificates, config: Arc::new(config) }
    }
}

/// Does the handshake. Who asks for a name that no route has learns just that, and so does who speaks only old versions.
pub(crate) async fn handshake(acceptor: &Acceptor, mut stream: Replay) -> io::Result<TlsStream<Replay>> {
    // rustls misses an extension that such clients never send, and complains about that instead.
    if is_before_tls12(stream.peek(HELLO_VERSION_END).await?) {
        return refuse(&mut stream, PROTOCOL_VERSION, "the client knows only versions before TLS 1.2").await;
    }
    let mut start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream).await?;
    if let Some(certificate) = acceptor.certificates.challenge(&start.client_hello()) {
        start.into_stream(Arc::new(challenge_config(certificate))).await?.shutdown().await?;
        return Err(io::Error::other("a challenge was answered"));
    }
    if acceptor.certificates.choose(start.client_hello().server_name()).is_none() {
        let reason = "no certificate for the name that the client asks for";
        return refuse(&mut start.io, UNRECOGNIZED_NAME, reason).await;
    }
    start.into_stream(Arc::clone(&acceptor.config)).await
}

/// For one handshake with an authority (RFC 8737 section 3): it is all that the connection is for.
fn challenge_config(certificate: Arc<CertifiedKey>) -> ServerConfig {
    let mut config = builder().with_cert_resolver(Arc::new(SingleCertAndKey::from(certificate)));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    config
}

fn builder() -> ConfigBuilder<ServerConfig, WantsServerCert> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("the provider knows TLS 1.2 and 1.3")
        .with_no_client_auth()
}

/// Says why there is no handshake. Best effort: the connection ends either way.
async fn refuse<T>(stream: &mut Replay, alert: &[u8], reason: &str) -> io::Result<T> {
    let _ = stream.write_all(alert).await;
    let _ = stream.shutdown().await;
    Err(io::Error::other(reason))
}

/// Whether a connection begins with the ClientHello of a version that is too old. Newer ones all say 1.2 here.
fn is_before_tls12(first: &[u8]) -> bool {
    matches!(first, [0x16, 3, _, _, _, 1, _, _, _, 3, minor] if *minor < 3)
}

/// Finds certificates in the present routes.
struct Certificates {
    shared: Arc<Shared>,
    port_key: u16,
}

impl Certificates {
    /// The certificate that an authority wants to see which verifies a domain, if that is asked for now.
    fn challenge(&self, hello: &ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // An authority offers this protocol and no other.
        if !hello.alpn()?.eq([ALPN]) {
            return None;
        }
        let snapshot = self.shared.snapshot.load();
        snapshot.challenges.certificate(&host_name(hello.server_name()?)).cloned()
    }

    /// The certificate of the `/` route of the name's domain, or the default one where that has none.
    fn choose(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let default = || self.shared.settings.default_certificate.as_ref().map(|default| Arc::clone(&default.0));
        let Some(name) = name else { return default() };
        let snapshot = self.shared.snapshot.load();
        let route = snapshot.table.domain(self.port_key, &host_name(name))?;
        route.certificate.clone().or_else(default)
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name())
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("port_key", &self.port_key).finish_non_exhaustive()
    }
}
