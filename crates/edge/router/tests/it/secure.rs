//! Redirects to HTTPS, HSTS, kinds of keys, and sessions that routers share.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use flynn_router::{CookieKey, DefaultCertificate, Settings};
use flynn_types::router::{Hsts, Route};
use http::Response;
use http_body_util::Full;
use hyper::body::Bytes;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, HandshakeKind};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::backend::Backend;
use crate::client::Client;
use crate::rig::{Rig, members, route, settings, within};
use crate::tls::{Authority, Pair, with_certificate};

const HSTS: &str = "strict-transport-security";

#[tokio::test]
async fn a_route_sends_plain_requests_to_https() {
    let authority = Authority::new();
    let backend = Backend::named("b").await;
    let secure = Route { https_redirect: true, ..route("a.org", "s") };
    let routes = vec![with_certificate(secure.clone(), &authority.issue(&["a.org"])), route("b.org", "s")];
    let rig = Rig::start(routes, vec![members("s", &[backend.address])]).await;
    let https = rig.https().port();
    let mut client = rig.client().await;
    for (host, target, location) in
        [("a.org", "/x?y=z", "https://a.org/x?y=z".to_owned()), ("a.org:8080", "/", format!("https://a.org:{https}/"))]
    {
        let answer = client.get(host, target).await;
        assert_eq!((answer.status, answer.header("location")), (308, Some(&*location)));
        assert!(answer.header("x-request-id").is_some() && answer.header(HSTS).is_none());
    }
    let answer = client.ask("POST / HTTP/1.1\r\nHost: a.org\r\nContent-Length: 3\r\n\r\nabc").await;
    assert_eq!(answer.status, 308, "with its method and body, which come again");
    assert_eq!(client.get("b.org", "/").await.text(), "b", "the connection goes on, and the other route is served");
    assert_eq!(client.get("a.org", "/.well-known/acme-challenge/x").await.text(), "b", "not for authorities");
    assert_eq!(authority.get(rig.https(), "a.org").await, Ok("200 b".into()));
    let redirects = "flynn_router_requests_total{route=\"a.org/\",service=\"s\",class=\"3xx\"} ";
    assert_eq!(rig.metric(redirects), Some(3.0));
    // An additional port has no counterpart.
    rig.set(Route { id: "extra".into(), port: rig.extra_http().port(), ..secure }).await;
    assert_eq!(Client::connect(rig.extra_http()).await.get("a.org", "/").await.text(), "b");
}

#[tokio::test]
async fn hsts_is_said_over_https_and_once() {
    let authority = Authority::new();
    let backend = Backend::answering(|seen| {
        let response = Response::builder();
        let response = if seen.target == "/own" { response.header(HSTS, "max-age=1") } else { response };
        response.body(Full::new(Bytes::from_static(b"b"))).expect("a response")
    })
    .await;
    let hsts = Some(Hsts { max_age: 600, include_subdomains: true, preload: false });
    let pair = authority.issue(&["a.org", "down.org"]);
    let with = |domain, service| with_certificate(Route { hsts, ..route(domain, service) }, &pair);
    let routes = vec![with("a.org", "s"), with("down.org", "nobody")];
    let rig = Rig::start(routes, vec![members("s", &[backend.address])]).await;
    let said = async |name: &str, path: &str| {
        let answer = authority.https(rig.https(), name).await.expect("a handshake").get(name, path).await;
        let said: Vec<_> =
            answer.headers.into_iter().filter(|(name, _)| name == HSTS).map(|(_, value)| value).collect();
        (answer.status, said.join("|"))
    };
    assert_eq!(said("a.org", "/").await, (200, "max-age=600; includeSubDomains".into()));
    assert_eq!(said("a.org", "/own").await, (200, "max-age=1".into()));
    assert_eq!(said("down.org", "/").await, (503, "max-age=600; includeSubDomains".into()));
    assert_eq!(rig.client().await.get("a.org", "/").await.header(HSTS), None);
}

#[tokio::test]
async fn g10_the_leaf_is_presented_as_it_was_given_so_that_pins_hold() {
    let authority = Authority::new();
    let pair = authority.issue(&["controller.example.com"]);
    let given = CertificateDer::from_pem_slice(pair.chain.as_bytes()).expect("PEM");
    let rig = Rig::start(vec![with_certificate(route("controller.example.com", "s"), &pair)], vec![]).await;
    let handshake = authority.connect(rig.https(), "controller.example.com", &[], rustls::ALL_VERSIONS).await;
    let stream = handshake.expect("a handshake");
    // The client's pin is the hash of exactly these bytes.
    assert_eq!(stream.get_ref().1.peer_certificates().expect("there are some")[0], given);
}

fn openssl(arguments: &[&str], folder: &Path) {
    let output = Command::new("openssl").args(arguments).current_dir(folder).output().expect("openssl starts");
    assert!(output.status.success(), "openssl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A key made by openssl, and a certificate for `a.org` with it.
fn made_by_openssl(folder: &Path, generate: &[&str]) -> Pair {
    // The number of bits comes last.
    openssl(&[&generate[..1], &["-out", "key.pem"], &generate[1..]].concat(), folder);
    let subject = ["-subj", "/CN=a.org", "-addext", "subjectAltName=DNS:a.org", "-days", "2"];
    openssl(&[&["req", "-new", "-x509", "-key", "key.pem", "-out", "cert.pem"][..], &subject].concat(), folder);
    let text = |name| std::fs::read_to_string(folder.join(name)).expect("openssl wrote it");
    Pair { chain: text("cert.pem"), key: text("key.pem") }
}

#[tokio::test]
async fn g11_all_usual_keys_are_presented() {
    let folder = tempfile::tempdir().expect("a folder");
    let rig = Rig::start(vec![], vec![]).await;
    for (generate, begins) in [
        (&["genrsa", "-traditional", "2048"][..], "RSA PRIVATE KEY"),
        (&["genrsa", "3072"], "PRIVATE KEY"),
        (&["genrsa", "4096"], "PRIVATE KEY"),
        (&["ecparam", "-name", "prime256v1", "-genkey", "-noout"], "EC PRIVATE KEY"),
        (&["ecparam", "-name", "secp384r1", "-genkey", "-noout"], "EC PRIVATE KEY"),
        (&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"], "PRIVATE KEY"),
        (&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"], "PRIVATE KEY"),
        (&["genpkey", "-algorithm", "ed25519"], "PRIVATE KEY"),
        // With its parameters before it, as openssl writes it unless told.
        (&["ecparam", "-name", "prime256v1", "-genkey"], "EC PARAMETERS"),
    ] {
        let pair = made_by_openssl(folder.path(), generate);
        assert!(pair.key.starts_with(&format!("-----BEGIN {begins}-----")), "{generate:?}: {}", pair.key);
        rig.set(with_certificate(route("a.org", "s"), &pair)).await;
        let mut client = Command::new("openssl");
        client.args(["s_client", "-connect", &rig.https().to_string(), "-servername", "a.org", "-CAfile", "cert.pem"]);
        client.args(["-verify_return_error", "-verify_hostname", "a.org"]);
        client.current_dir(folder.path()).stdin(Stdio::null());
        let handshake = tokio::task::spawn_blocking(move || client.output().expect("openssl starts"));
        let output = within(handshake).await.expect("no panic");
        assert!(output.status.success(), "{generate:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn g11_a_pair_that_is_none_is_refused_with_words() {
    let authority = Authority::new();
    let pair = authority.issue(&["a.org"]);
    let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    for (chain, key, words) in [
        ("", &*pair.key, "holds none"),
        (&*pair.chain, "", "the key"),
        (&*pair.chain, encrypted, "encrypted"),
        (&*pair.chain, &*authority.issue(&["a.org"]).key, "does not belong to the certificate"),
        (&*pair.key, &*pair.key, "holds none"),
    ] {
        let err = DefaultCertificate::from_pem(chain, key).expect_err("it is no pair");
        assert!(err.to_string().contains(words), "{words}: {err}");
    }
}

/// How a connection to a router came about, by a client that has been at others.
async fn kind(connector: &TlsConnector, rig: &Rig) -> HandshakeKind {
    let stream = TcpStream::connect(rig.https()).await.expect("the router listens");
    let name = ServerName::try_from("a.org").expect("a name");
    let stream = within(connector.connect(name, stream)).await.expect("a handshake");
    let kind = stream.get_ref().1.handshake_kind().expect("it is over");
    // Tickets come behind the handshake.
    assert_eq!(Client::new(stream).get("a.org", "/").await.status, 200);
    kind
}

#[tokio::test]
async fn sessions_go_on_at_any_router_of_the_cluster_and_after_a_restart() {
    let authority = Authority::new();
    let backend = Backend::named("b").await;
    let pair = authority.issue(&["a.org"]);
    let start = async |settings: Settings| {
        let routes = vec![with_certificate(route("a.org", "s"), &pair)];
        Rig::with(settings, routes, vec![members("s", &[backend.address])]).await
    };
    let (one, two) = (start(settings()).await, start(settings()).await);
    let stranger = start(Settings { cookie_key: CookieKey::new(&[8; 32]), ..settings() }).await;
    for version in rustls::ALL_VERSIONS {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[version]);
        let builder = builder.expect("a version").with_root_certificates(Arc::clone(&authority.roots));
        let connector = TlsConnector::from(Arc::new(builder.with_no_client_auth()));
        assert_eq!(kind(&connector, &one).await, HandshakeKind::Full, "{version:?}");
        assert_eq!(kind(&connector, &two).await, HandshakeKind::Resumed, "{version:?}");
        let restarted = start(settings()).await;
        assert_eq!(kind(&connector, &restarted).await, HandshakeKind::Resumed, "{version:?}");
        assert_eq!(kind(&connector, &stranger).await, HandshakeKind::Full, "{version:?}: another key");
        within(restarted.serving.drain()).await;
    }
    openssl_resumes(&one, &two).await;
}

/// The same with openssl, whose sessions are files.
async fn openssl_resumes(one: &Rig, two: &Rig) {
    let folder = tempfile::tempdir().expect("a folder");
    let session = folder.path().join("session.pem");
    for version in ["-tls1_2", "-tls1_3"] {
        let connect = async |rig: &Rig, option: &'static str| {
            let mut command = tokio::process::Command::new("openssl");
            command.args(["s_client", version, "-ign_eof", "-servername", "a.org", "-connect"]);
            command.arg(rig.https().to_string()).arg(option).arg(&session);
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
            let mut child = command.spawn().expect("openssl starts");
            let mut stdin = child.stdin.take().expect("it is piped");
            let request = b"GET / HTTP/1.1\r\nHost: a.org\r\nConnection: close\r\n\r\n";
            tokio::io::AsyncWriteExt::write_all(&mut stdin, request).await.expect("openssl reads");
            let output = within(child.wait_with_output()).await.expect("openssl ends with the connection");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        assert!(connect(one, "-sess_out").await.contains("New, "), "{version}");
        let resumed = connect(two, "-sess_in").await;
        assert!(resumed.contains("Reused, "), "{version}: {resumed}");
    }
}
