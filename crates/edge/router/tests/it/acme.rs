//! Automatic certificates, from a real ACME server.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flynn_acme::store::Store as _;
use flynn_acme::store::folder::FolderStore;
use flynn_acme::{ChallengeKind, Engine, Managed, Pace, Settings};
use flynn_pebble::{Options, Pebble};
use flynn_router::source::acme;
use flynn_types::router::Route;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::backend::Backend;
use crate::rig::{LIMIT, Refusing, Rig, members, route, within};
use crate::tls::Trust;

const DOMAIN: &str = "shop.example.com";

/// A route whose certificate is automatic.
fn automatic(domain: &str) -> Route {
    Route { managed_certificate_domain: domain.into(), ..route(domain, "s") }
}

/// A router with one backend and these routes.
async fn router(routes: Vec<Route>) -> (Rig, Backend) {
    let backend = Backend::named("app").await;
    (Rig::start(routes, vec![members("s", &[backend.address])]).await, backend)
}

/// A server that verifies at this router.
fn pebble(rig: &Rig) -> Pebble {
    Pebble::start(Options::new(rig.http().port(), rig.https().port()))
}

fn settings(pebble: &Pebble) -> Settings {
    let root = CertificateDer::from_pem_file(pebble.server_root()).expect("a root");
    Settings {
        directory: pebble.directory(),
        email: Some("operator@example.com".into()),
        roots: Some(vec![root]),
        challenges: vec![ChallengeKind::Http01, ChallengeKind::TlsAlpn01],
        // Of minutes become fractions of a second.
        pace: Pace { first_retry: Duration::from_millis(500), ..Pace::default() },
    }
}

/// The engine of a router.
struct Orders {
    engine: Engine,
    follow: JoinHandle<()>,
}

impl Orders {
    async fn start(rig: &Rig, settings: Settings, folder: &Path) -> Self {
        let store = FolderStore::open(folder.to_owned()).await.expect("the folder is ours");
        let engine = Engine::start(settings, Arc::new(store), rig.serving.automatic_domains(), &rig.metrics);
        let follow = tokio::spawn(acme::follow(engine.view(), rig.serving.changes()));
        Self { engine, follow }
    }

    async fn stop(self) {
        within(self.engine.stop()).await;
        within(self.follow).await.expect("it ends with the engine");
    }
}

fn trust(pebble: &Pebble) -> Trust {
    Trust::new(CertificateDer::from_pem_slice(pebble.issuer_root().as_bytes()).expect("a root"))
}

/// Waits until this is so.
async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = tokio::time::Instant::now() + LIMIT * flynn_patience::factor() * 2;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(tokio::time::Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until a client that trusts only this server gets the app's answer over HTTPS.
async fn served(pebble: &Pebble, address: SocketAddr, domain: &str) {
    let trust = trust(pebble);
    let mut last = String::new();
    let served = until("the certificate is served", async || {
        let answer = trust.get(address, domain).await;
        last = format!("{answer:?}");
        (answer.as_deref() == Ok("200 app")).then_some(())
    });
    served.await;
}

/// What the folder has of a domain.
async fn kept(folder: &Path, domain: &str) -> Option<Managed> {
    let store = FolderStore::open(folder.to_owned()).await.expect("the folder is ours");
    let contents = store.read().await.expect("the folder is ours");
    contents.certificates.get(&domain.parse().expect("a domain")).map(|managed| Managed::clone(managed))
}

#[tokio::test]
async fn o1_a_route_gets_its_certificate_by_http_without_a_restart() {
    let (rig, _backend) = router(vec![automatic(DOMAIN)]).await;
    let pebble = pebble(&rig);
    let folder = tempfile::tempdir().expect("a folder");
    let orders_of = Orders::start(&rig, settings(&pebble), folder.path()).await;
    served(&pebble, rig.https(), DOMAIN).await;
    let managed = kept(folder.path(), DOMAIN).await.expect("it is kept");
    let issued = managed.issued.clone().expect("it is issued");
    assert_eq!((issued.challenge, managed.order, managed.failure), (ChallengeKind::Http01, None, None));
    assert_eq!(pebble.orders(), 1);
    let expiry = rig.metric("flynn_router_managed_certificate_expiry_timestamp_seconds{domain=\"shop.example.com\"} ");
    assert_eq!(expiry, Some(issued.not_after.timestamp() as f64));
    assert_eq!(rig.metric("flynn_router_acme_certificates_issued_total "), Some(1.0));
    // Its challenge is over, and a route that comes later is served too.
    rig.set(automatic("other.example.com")).await;
    served(&pebble, rig.https(), "other.example.com").await;
    orders_of.stop().await;
}

#[tokio::test]
async fn o1_a_certificate_is_got_by_tls_where_that_is_wished() {
    let (rig, _backend) = router(vec![automatic(DOMAIN)]).await;
    let pebble = pebble(&rig);
    let folder = tempfile::tempdir().expect("a folder");
    let settings = Settings { challenges: vec![ChallengeKind::TlsAlpn01, ChallengeKind::Http01], ..settings(&pebble) };
    let orders_of = Orders::start(&rig, settings, folder.path()).await;
    served(&pebble, rig.https(), DOMAIN).await;
    let issued = kept(folder.path(), DOMAIN).await.and_then(|managed| managed.issued).expect("it is issued");
    assert_eq!((issued.challenge, pebble.orders()), (ChallengeKind::TlsAlpn01, 1));
    // Without a pending challenge the protocol is none of ours.
    let handshake = trust(&pebble).connect(rig.https(), DOMAIN, &["acme-tls/1"], rustls::ALL_VERSIONS).await;
    assert!(handshake.is_err());
    orders_of.stop().await;
}

#[tokio::test]
async fn where_one_challenge_fails_the_other_one_is_tried_at_once() {
    let (rig, _backend) = router(vec![automatic(DOMAIN)]).await;
    let nobody = Refusing::new();
    let pebble = Pebble::start(Options::new(nobody.address().port(), rig.https().port()));
    let folder = tempfile::tempdir().expect("a folder");
    let pace = Pace { first_retry: Duration::from_secs(3600), ..Pace::default() };
    let orders_of = Orders::start(&rig, Settings { pace, ..settings(&pebble) }, folder.path()).await;
    served(&pebble, rig.https(), DOMAIN).await;
    let managed = kept(folder.path(), DOMAIN).await.expect("it is kept");
    assert_eq!(managed.issued.expect("it is issued").challenge, ChallengeKind::TlsAlpn01);
    assert_eq!((managed.failure, pebble.orders()), (None, 2), "{:#?}", pebble.log());
    orders_of.stop().await;
}

#[tokio::test]
async fn o3_a_failed_order_is_told_and_tried_again_after_a_pause() {
    let (rig, _backend) = router(vec![automatic(DOMAIN)]).await;
    // At first nobody listens where the authority asks; later the router does.
    let port = Refusing::new();
    let address = port.address();
    let pebble = Pebble::start(Options::new(address.port(), rig.https().port()));
    let folder = tempfile::tempdir().expect("a folder");
    let only_http = Settings { challenges: vec![ChallengeKind::Http01], ..settings(&pebble) };
    let orders_of = Orders::start(&rig, only_http, folder.path()).await;
    let failure = until("two orders have failed", async || {
        kept(folder.path(), DOMAIN).await?.failure.filter(|failure| failure.count >= 2)
    })
    .await;
    for part in [DOMAIN, "http-01", "refused"] {
        assert!(failure.last_error.contains(part), "{failure:?}");
    }
    assert_eq!(failure.problem.as_deref(), Some("urn:ietf:params:acme:error:connection"));
    let pause = (failure.retry_at - failure.last_error_at).num_milliseconds();
    assert!((900..=1000 * 2_i64.pow(failure.count - 2)).contains(&pause), "the pause has doubled: {failure:?}");
    let failures = rig.metric("flynn_router_acme_order_failures_total ");
    assert!(failures >= Some(2.0), "{failures:?}");
    assert!(rig.get(DOMAIN).await.contains("app"), "plain HTTP is served all the time");
    drop(port);
    let forward = forward(address, rig.http()).await;
    served(&pebble, rig.https(), DOMAIN).await;
    assert_eq!(kept(folder.path(), DOMAIN).await.expect("it is kept").failure, None);
    forward.abort();
    orders_of.stop().await;
}

/// Passes connections on.
async fn forward(from: SocketAddr, to: SocketAddr) -> JoinHandle<()> {
    let listener = TcpListener::bind(from).await.expect("the port is free again");
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let Ok(mut server) = TcpStream::connect(to).await else { continue };
            let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
        }
    })
}

#[tokio::test]
async fn an_authority_that_is_away_or_has_forgotten_us_is_asked_again() {
    let (rig, _backend) = router(vec![automatic(DOMAIN)]).await;
    let mut pebble = pebble(&rig);
    let folder = tempfile::tempdir().expect("a folder");
    pebble.stop();
    let orders_of = Orders::start(&rig, settings(&pebble), folder.path()).await;
    let failure =
        until("an order has failed", async || kept(folder.path(), DOMAIN).await?.failure.filter(|f| f.count >= 1))
            .await;
    assert!(failure.last_error.contains(&pebble.directory()), "{failure:?}");
    pebble.restart();
    served(&pebble, rig.https(), DOMAIN).await;
    // It loses all accounts, and gives certificates of another root.
    pebble.restart();
    rig.set(automatic("other.example.com")).await;
    served(&pebble, rig.https(), "other.example.com").await;
    orders_of.stop().await;
}

#[tokio::test]
async fn o3_a_certificate_is_renewed_while_requests_are_served() {
    let (rig, _backend) = router(vec![automatic(DOMAIN)]).await;
    let validity = Duration::from_secs(12);
    let pebble = Pebble::start(Options { validity, ..Options::new(rig.http().port(), rig.https().port()) });
    let folder = tempfile::tempdir().expect("a folder");
    let orders_of = Orders::start(&rig, settings(&pebble), folder.path()).await;
    served(&pebble, rig.https(), DOMAIN).await;
    let (trust, mut seen, mut requests) = (trust(&pebble), BTreeSet::new(), 0);
    let mut open = trust.https(rig.https(), DOMAIN).await.expect("the certificate is good");
    until("three certificates were served", async || {
        // Each is a handshake of its own that fails when the certificate has ended.
        let stream = trust.connect(rig.https(), DOMAIN, &["http/1.1"], rustls::ALL_VERSIONS).await;
        let stream = stream.expect("the certificate is good");
        seen.insert(stream.get_ref().1.peer_certificates().expect("there is one")[0].to_vec());
        assert_eq!(crate::client::Client::new(stream).get(DOMAIN, "/").await.text(), "app");
        assert_eq!(open.get(DOMAIN, "/").await.text(), "app", "a connection that was open goes on");
        requests += 1;
        (seen.len() == 3).then_some(())
    })
    .await;
    assert!(requests > 100, "{requests}");
    orders_of.stop().await;
}

#[tokio::test]
async fn two_routers_with_one_folder_order_once_and_both_serve() {
    let (one, _backend) = router(vec![automatic(DOMAIN), automatic("b.example.com")]).await;
    let (two, _backend2) = router(vec![automatic(DOMAIN), automatic("b.example.com")]).await;
    // The authority asks the first one, also while the second one orders.
    let pebble = pebble(&one);
    let folder = tempfile::tempdir().expect("a folder");
    let second = Orders::start(&two, settings(&pebble), folder.path()).await;
    let leads = async |rig: &Rig| (rig.metric("flynn_router_acme_orders_here ") == Some(1.0)).then_some(());
    until("the second one orders", async || leads(&two).await).await;
    let first = Orders::start(&one, settings(&pebble), folder.path()).await;
    for domain in [DOMAIN, "b.example.com"] {
        served(&pebble, one.https(), domain).await;
        served(&pebble, two.https(), domain).await;
    }
    assert_eq!(pebble.orders(), 2);
    assert_eq!(one.metric("flynn_router_acme_orders_total "), Some(0.0));
    // The other one takes over.
    second.stop().await;
    until("the first one orders", async || leads(&one).await).await;
    one.set(automatic("c.example.com")).await;
    served(&pebble, one.https(), "c.example.com").await;
    first.stop().await;
}

#[tokio::test]
async fn o4_o5_a_route_that_goes_and_comes_back_has_its_certificate_at_once() {
    let (rig, _backend) = router(vec![automatic(DOMAIN)]).await;
    let pebble = pebble(&rig);
    let folder = tempfile::tempdir().expect("a folder");
    let orders_of = Orders::start(&rig, settings(&pebble), folder.path()).await;
    served(&pebble, rig.https(), DOMAIN).await;
    let trust = trust(&pebble);
    rig.remove("shop.example.com/").await;
    assert!(trust.get(rig.https(), DOMAIN).await.is_err(), "nobody has the name");
    let gone = async || rig.metric("flynn_router_managed_certificate_expiry_timestamp_seconds{domain").is_none();
    until("its figures are gone", async || gone().await.then_some(())).await;
    rig.set(automatic(DOMAIN)).await;
    assert_eq!(trust.get(rig.https(), DOMAIN).await, Ok("200 app".into()));
    // Without the wish the route has the certificate of its own, or none.
    let manual = crate::tls::Authority::new();
    let own = crate::tls::with_certificate(route(DOMAIN, "s"), &manual.issue(&[DOMAIN]));
    rig.set(own.clone()).await;
    assert_eq!(manual.get(rig.https(), DOMAIN).await, Ok("200 app".into()));
    rig.set(Route { managed_certificate_domain: DOMAIN.into(), ..own }).await;
    assert_eq!(trust.get(rig.https(), DOMAIN).await, Ok("200 app".into()));
    assert_eq!(pebble.orders(), 1);
    // A domain that never got one is forgotten with its route.
    orders_of.stop().await;
}

#[tokio::test]
async fn another_authority_gives_another_certificate_and_until_then_the_old_one_is_served() {
    let (rig, _backend) = router(vec![automatic(DOMAIN)]).await;
    let (old, mut new) = (pebble(&rig), pebble(&rig));
    let folder = tempfile::tempdir().expect("a folder");
    let orders_of = Orders::start(&rig, settings(&old), folder.path()).await;
    served(&old, rig.https(), DOMAIN).await;
    orders_of.stop().await;
    new.stop();
    let other = Settings { email: None, ..settings(&new) };
    let orders_of = Orders::start(&rig, other, folder.path()).await;
    until("an order has failed", async || kept(folder.path(), DOMAIN).await?.failure).await;
    served(&old, rig.https(), DOMAIN).await;
    new.restart();
    served(&new, rig.https(), DOMAIN).await;
    orders_of.stop().await;
}

#[tokio::test]
async fn o2_challenges_of_others_reach_the_app() {
    let (rig, backend) = router(vec![automatic(DOMAIN), route("plain.example.com", "s")]).await;
    let pebble = pebble(&rig);
    let folder = tempfile::tempdir().expect("a folder");
    let orders_of = Orders::start(&rig, settings(&pebble), folder.path()).await;
    served(&pebble, rig.https(), DOMAIN).await;
    for host in [DOMAIN, "plain.example.com"] {
        assert_eq!(rig.get_path(host, "/.well-known/acme-challenge/of-the-app").await, "200 app");
        assert_eq!(backend.last().target, "/.well-known/acme-challenge/of-the-app");
    }
    orders_of.stop().await;
}

#[tokio::test]
async fn a_name_that_cannot_be_ordered_harms_no_other() {
    let names = ["*.example.com", "10.0.0.1", "localhost", DOMAIN];
    let routes = names.map(|name| Route { id: name.into(), ..automatic(name) });
    let (rig, _backend) = router(routes.to_vec()).await;
    let pebble = pebble(&rig);
    let folder = tempfile::tempdir().expect("a folder");
    let orders_of = Orders::start(&rig, settings(&pebble), folder.path()).await;
    served(&pebble, rig.https(), DOMAIN).await;
    assert_eq!(pebble.orders(), 1);
    orders_of.stop().await;
}
