//! HTTPS and HTTP/2.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use flynn_router::{DefaultCertificate, Limits, Settings};
use flynn_types::router::{Certificate, Route};
use http::{Request, Version};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::backend::Backend;
use crate::client::Client;
use crate::rig::{Rig, members, route, settings, within};

/// An authority, and clients that trust it.
pub(crate) struct Authority {
    pub(crate) issuer: CertifiedIssuer<'static, KeyPair>,
    trust: Trust,
}

impl std::ops::Deref for Authority {
    type Target = Trust;

    fn deref(&self) -> &Trust {
        &self.trust
    }
}

/// What a client needs to trust an authority.
pub(crate) struct Trust {
    pub(crate) roots: Arc<RootCertStore>,
}

pub(crate) struct Pair {
    pub(crate) chain: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a certificate");
        let trust = Trust::new(issuer.der().clone());
        Self { issuer, trust }
    }

    pub(crate) fn issue(&self, names: &[&str]) -> Pair {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(names).expect("parameters");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        Pair { chain: certificate.pem(), key: key.serialize_pem() }
    }
}

impl Trust {
    pub(crate) fn new(root: CertificateDer<'static>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(root).expect("a root");
        Self { roots: Arc::new(roots) }
    }

    /// A handshake that trusts this authority only. Without a name none is sent.
    pub(crate) async fn connect(
        &self,
        address: SocketAddr,
        name: &str,
        protocols: &[&str],
        versions: &[&'static SupportedProtocolVersion],
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_protocol_versions(versions).expect("known versions");
        let mut config = builder.with_root_certificates(Arc::clone(&self.roots)).with_no_client_auth();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config.enable_sni = name != "127.0.0.1";
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        within(TlsConnector::from(Arc::new(config)).connect(name, stream)).await
    }

    pub(crate) async fn https(&self, address: SocketAddr, name: &str) -> std::io::Result<Client<TlsStream<TcpStream>>> {
        self.connect(address, name, &["http/1.1"], rustls::ALL_VERSIONS).await.map(Client::new)
    }

    /// The answer over HTTPS for a name, or why there is none.
    pub(crate) async fn get(&self, address: SocketAddr, name: &str) -> Result<String, String> {
        let mut client = self.https(address, name).await.map_err(|err| err.to_string())?;
        let answer = client.get(name, "/").await;
        Ok(format!("{} {}", answer.status, answer.text()))
    }
}

pub(crate) fn with_certificate(route: Route, pair: &Pair) -> Route {
    let (cert, key) = (pair.chain.clone(), pair.key.clone());
    Route { certificate: Some(Certificate { cert, key, ..Certificate::default() }), ..route }
}

fn with_default(pair: &Pair) -> Settings {
    let default = DefaultCertificate::from_pem(&pair.chain, &pair.key).expect("a pair");
    Settings { default_certificate: Some(default), ..settings() }
}

fn ok(text: &str) -> Result<String, String> {
    Ok(format!("200 {text}"))
}

/// HTTP/2 requests on one connection, each with its own authority: statuses and bodies.
async fn http2(stream: TlsStream<TcpStream>, hosts: &[&str]) -> Vec<(u16, String)> {
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = within(handshake).await.expect("HTTP/2");
    let driver = tokio::spawn(connection);
    let mut answers = Vec::new();
    for host in hosts {
        let request =
            Request::builder().uri(format!("https://{host}/x?y")).header("cookie", "a=b").header("cookie", "c=d");
        let response = within(sender.send_request(request.body(Empty::<Bytes>::new()).expect("a request"))).await;
        let response = response.expect("a response");
        let status = response.status().as_u16();
        let body = within(response.into_body().collect()).await.expect("a body").to_bytes();
        answers.push((status, String::from_utf8_lossy(&body).into_owned()));
    }
    driver.abort();
    answers
}

#[tokio::test]
async fn a1_a17_g1_a_route_with_a_certificate_serves_both_versions_of_http() {
    let authority = Authority::new();
    let (one, two) = (Backend::named("1").await, Backend::named("2").await);
    let pair = authority.issue(&["foo.example.org"]);
    let routes = vec![with_certificate(route("foo.example.org", "1"), &pair), route("bar.example.org", "2")];
    let rig = Rig::start(routes, vec![members("1", &[one.address]), members("2", &[two.address])]).await;
    assert_eq!(authority.get(rig.https(), "foo.example.org").await, ok("1"));
    assert_eq!(one.last().header("x-forwarded-proto"), "https");
    assert_eq!(one.last().header("x-forwarded-port"), rig.https().port().to_string());
    let stream = authority.connect(rig.https(), "foo.example.org", &["h2"], rustls::ALL_VERSIONS).await;
    let answers = http2(stream.expect("a handshake"), &["foo.example.org", "bar.example.org", "nowhere.org"]).await;
    assert_eq!(answers, [(200, "1".into()), (200, "2".into()), (404, "Not Found\n".into())]);
    let seen = one.last();
    assert_eq!((seen.target.as_str(), seen.header("host")), ("/x?y", "foo.example.org"));
    assert_eq!(seen.header("cookie"), "a=b; c=d");
}

#[tokio::test]
async fn g2_routes_share_a_wildcard_certificate() {
    let authority = Authority::new();
    let backend = Backend::named("b").await;
    let pair = authority.issue(&["*.bar.example.org"]);
    let domains = ["1.bar.example.org", "2.bar.example.org"];
    let routes = domains.map(|domain| with_certificate(route(domain, "s"), &pair)).to_vec();
    let rig = Rig::start(routes, vec![members("s", &[backend.address])]).await;
    for domain in domains {
        assert_eq!(authority.get(rig.https(), domain).await, ok("b"));
    }
}

#[tokio::test]
async fn g3_a_new_certificate_is_presented_at_once() {
    let (old, new) = (Authority::new(), Authority::new());
    let backend = Backend::named("b").await;
    let before = with_certificate(route("a.org", "s"), &old.issue(&["a.org"]));
    let rig = Rig::start(vec![before.clone()], vec![members("s", &[backend.address])]).await;
    let mut open = old.https(rig.https(), "a.org").await.expect("the old certificate");
    rig.set(with_certificate(route("a.org", "s"), &new.issue(&["a.org"]))).await;
    assert_eq!(new.get(rig.https(), "a.org").await, ok("b"));
    assert!(old.get(rig.https(), "a.org").await.is_err());
    assert_eq!(open.get("a.org", "/").await.text(), "b", "a connection that was open goes on");
}

#[tokio::test]
async fn g4_g6_g8_names_choose_the_certificate() {
    let authority = Authority::new();
    let backend = Backend::named("b").await;
    let default = authority.issue(&["example.com", "foo.example.com", "127.0.0.1"]);
    let sub = with_certificate(route("example.com/sub/", "s"), &Authority::new().issue(&["example.com"]));
    let routes = vec![route("example.com", "s"), route("foo.example.com", "s"), sub, route("127.0.0.1", "s")];
    let rig = Rig::with(with_default(&default), routes, vec![members("s", &[backend.address])]).await;
    for name in ["example.com", "foo.example.com", "127.0.0.1"] {
        assert_eq!(authority.get(rig.https(), name).await, ok("b"), "{name}");
    }
    let refused = authority.get(rig.https(), "nowhere.org").await.expect_err("no route has this name");
    assert!(refused.contains("UnrecognisedName") || refused.contains("unrecogni"), "{refused}");
}

#[tokio::test]
async fn g5_old_versions_are_refused() {
    let authority = Authority::new();
    let backend = Backend::named("b").await;
    let routes = vec![with_certificate(route("a.org", "s"), &authority.issue(&["a.org"]))];
    let rig = Rig::start(routes, vec![members("s", &[backend.address])]).await;
    for version in rustls::ALL_VERSIONS {
        assert!(authority.connect(rig.https(), "a.org", &[], &[version]).await.is_ok(), "{version:?}");
    }
    // A ClientHello of TLS 1.1 with AES128-SHA: the answer is a fatal alert `protocol_version`.
    let mut hello = vec![0x01, 0, 0, 0x2b, 0x03, 0x02];
    hello.extend([7; 32]);
    hello.extend([0, 0, 4, 0xc0, 0x13, 0, 0x2f, 1, 0]);
    hello[3] = u8::try_from(hello.len() - 4).expect("it is short");
    let mut record = vec![0x16, 0x03, 0x01, 0, u8::try_from(hello.len()).expect("it is short")];
    record.extend(hello);
    let mut client = Client::connect(rig.https()).await;
    client.send(record).await;
    let alert = client.rest().await;
    assert_eq!((alert.first(), alert.last()), (Some(&0x15), Some(&70)), "{alert:?}");
}

#[tokio::test]
async fn g7_protocols_are_agreed_on() {
    let authority = Authority::new();
    let backend = Backend::named("b").await;
    let routes = vec![with_certificate(route("a.org", "s"), &authority.issue(&["a.org"]))];
    let rig = Rig::start(routes, vec![members("s", &[backend.address])]).await;
    for (offer, agreed) in
        [(&["h2", "http/1.1"][..], Some(&b"h2"[..])), (&["http/1.1"], Some(b"http/1.1")), (&[], None)]
    {
        let stream = authority.connect(rig.https(), "a.org", offer, rustls::ALL_VERSIONS).await.expect("a handshake");
        assert_eq!(stream.get_ref().1.alpn_protocol(), agreed);
        if agreed != Some(b"h2") {
            assert_eq!(Client::new(stream).get("a.org", "/").await.text(), "b");
        }
    }
    assert!(authority.connect(rig.https(), "a.org", &["foo"], rustls::ALL_VERSIONS).await.is_err());
}

#[tokio::test]
async fn g9_each_port_has_certificates_of_its_own() {
    let (default, extra) = (Authority::new(), Authority::new());
    let backend = Backend::named("b").await;
    let routes = vec![with_certificate(route("a.org", "s"), &default.issue(&["a.org"]))];
    let rig = Rig::start(routes, vec![members("s", &[backend.address])]).await;
    let port = rig.extra_https().port();
    let on_extra = Route { id: "extra".into(), port, ..route("a.org", "s") };
    rig.set(with_certificate(on_extra, &extra.issue(&["a.org"]))).await;
    assert_eq!(extra.get(rig.extra_https(), "a.org").await, ok("b"));
    assert_eq!(default.get(rig.https(), "a.org").await, ok("b"));
    assert!(extra.get(rig.https(), "a.org").await.is_err());
}

#[tokio::test]
async fn g12_a_corrupt_certificate_is_the_default_one() {
    let authority = Authority::new();
    let backend = Backend::named("b").await;
    let default = authority.issue(&["corrupt.org", "swapped.org"]);
    let good = with_certificate(route("good.org", "s"), &authority.issue(&["good.org"]));
    let corrupt =
        Pair { chain: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----".into(), key: "x".into() };
    let swapped = Pair { key: authority.issue(&["x"]).key, ..authority.issue(&["swapped.org"]) };
    let routes = vec![
        with_certificate(route("corrupt.org", "s"), &corrupt),
        with_certificate(route("swapped.org", "s"), &swapped),
        good,
    ];
    let rig = Rig::with(with_default(&default), routes, vec![members("s", &[backend.address])]).await;
    for name in ["good.org", "corrupt.org", "swapped.org"] {
        assert_eq!(authority.get(rig.https(), name).await, ok("b"), "{name}");
    }
}

#[tokio::test]
async fn g13_a_client_that_says_nothing_is_dropped() {
    let limits = Limits { tls_handshake: Duration::from_millis(100), ..Limits::default() };
    let rig = Rig::with(Settings { limits, ..settings() }, vec![], vec![]).await;
    assert!(Client::connect(rig.https()).await.is_closed().await);
}

#[tokio::test]
async fn sessions_are_resumed_on_any_worker() {
    let authority = Authority::new();
    let backend = Backend::named("b").await;
    let routes = vec![with_certificate(route("a.org", "s"), &authority.issue(&["a.org"]))];
    let rig = Rig::start(routes, vec![members("s", &[backend.address])]).await;
    for version in rustls::ALL_VERSIONS {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]);
        let builder = builder.expect("a version").with_root_certificates(Arc::clone(&authority.roots));
        let connector = TlsConnector::from(Arc::new(builder.with_no_client_auth()));
        let mut resumed = 0;
        for _ in 0..20 {
            let stream = TcpStream::connect(rig.https()).await.expect("the router listens");
            let name = ServerName::try_from("a.org").expect("a name");
            let stream = within(connector.connect(name, stream)).await.expect("a handshake");
            resumed += usize::from(stream.get_ref().1.handshake_kind() == Some(rustls::HandshakeKind::Resumed));
            assert_eq!(Client::new(stream).get("a.org", "/").await.text(), "b");
        }
        assert_eq!(resumed, 19, "{version:?}");
    }
}

#[tokio::test]
async fn d7_upgrades_work_over_https() {
    let authority = Authority::new();
    let backend = Backend::scripted(async |mut backend| {
        backend.head_of_request().await;
        backend.send("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nhello").await;
        backend.rest().await;
    })
    .await;
    let routes = vec![with_certificate(route("a.org", "s"), &authority.issue(&["a.org"]))];
    let rig = Rig::start(routes, vec![members("s", &[backend.address])]).await;
    let mut client = authority.https(rig.https(), "a.org").await.expect("a handshake");
    client.send("GET / HTTP/1.1\r\nHost: a.org\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n").await;
    assert_eq!(client.head().await.status, 101);
    assert_eq!(client.bytes(5).await, b"hello");
}

#[tokio::test]
async fn c10_c11_http2_sees_trailers_and_truncation() {
    let authority = Authority::new();
    let backend = Backend::scripted(async |mut backend| {
        let head = backend.head_of_request().await;
        let end = if head.starts_with("GET /whole") { "0\r\nX-Sum: 42\r\n\r\n" } else { "" };
        backend.send(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n{end}")).await;
    })
    .await;
    let routes = vec![with_certificate(route("a.org", "s"), &authority.issue(&["a.org"]))];
    let rig = Rig::start(routes, vec![members("s", &[backend.address])]).await;
    let stream = authority.connect(rig.https(), "a.org", &["h2"], rustls::ALL_VERSIONS).await.expect("a handshake");
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = within(handshake).await.expect("HTTP/2");
    let _driver = tokio::spawn(connection);
    for (path, sum) in [("whole", Some("42")), ("cut", None)] {
        let request = Request::builder().version(Version::HTTP_2).uri(format!("https://a.org/{path}"));
        let request = request.body(Full::<Bytes>::default()).expect("a request");
        let response = within(sender.send_request(request)).await.expect("a response");
        let body = within(response.into_body().collect()).await;
        let trailer = body.as_ref().ok().and_then(|body| body.trailers()?.get("x-sum")?.to_str().ok());
        assert_eq!((body.is_ok(), trailer), (sum.is_some(), sum));
    }
}

#[tokio::test]
async fn an_idle_http2_connection_ends_and_a_busy_one_does_not() {
    let authority = Authority::new();
    let backend = Backend::scripted(async |mut backend| {
        backend.head_of_request().await;
        // Longer than the limit on idle clients; a real time, because it is what is measured.
        tokio::time::sleep(Duration::from_millis(600)).await;
        backend.send("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nb").await;
    })
    .await;
    let limits = Limits { idle: Duration::from_millis(200), ..Limits::default() };
    let routes = vec![with_certificate(route("a.org", "s"), &authority.issue(&["a.org"]))];
    let services = vec![members("s", &[backend.address])];
    let rig = Rig::with(Settings { limits, ..settings() }, routes, services).await;
    let stream = authority.connect(rig.https(), "a.org", &["h2"], rustls::ALL_VERSIONS).await.expect("a handshake");
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = within(handshake).await.expect("HTTP/2");
    let driver = tokio::spawn(connection);
    let request = Request::builder().uri("https://a.org/").body(Empty::<Bytes>::new()).expect("a request");
    let response = within(sender.send_request(request)).await.expect("a response");
    assert_eq!(within(response.into_body().collect()).await.expect("a body").to_bytes(), "b");
    within(driver).await.expect("it ends").expect("it ends well");
}

#[tokio::test]
async fn h1_the_proxy_header_comes_before_tls() {
    let authority = Authority::new();
    let backend = Backend::named("b").await;
    let routes = vec![with_certificate(route("a.org", "s"), &authority.issue(&["a.org"]))];
    let settings = Settings { proxy_protocol: true, ..settings() };
    let rig = Rig::with(settings, routes, vec![members("s", &[backend.address])]).await;
    let mut stream = TcpStream::connect(rig.https()).await.expect("the router listens");
    let header = b"PROXY TCP4 1.1.1.123 20.2.2.2 1000 2000\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut stream, header).await.expect("the router reads");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().expect("versions");
    let config = builder.with_root_certificates(Arc::clone(&authority.roots)).with_no_client_auth();
    let name = ServerName::try_from("a.org").expect("a name");
    let stream = within(TlsConnector::from(Arc::new(config)).connect(name, stream)).await.expect("a handshake");
    assert_eq!(Client::new(stream).get("a.org", "/").await.text(), "b");
    assert_eq!(backend.last().header("x-forwarded-for"), "1.1.1.123");
}
