use flynn_types::controller::{App, EventType};
use flynn_types::router::Route;
use serde_json::{Value, json};

use crate::fixture::{Answer, Controller, data};

/// A certificate and its key.
fn pair() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(["shop.example.com".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

async fn controller() -> (Controller, App) {
    let controller = Controller::start_with(|config| {
        config.ports.http = vec![8080];
        config.ports.https = vec![8443];
    })
    .await;
    let app = controller.app("shop").await;
    (controller, app)
}

fn http(domain: &str, path: &str) -> Value {
    json!({ "type": "http", "service": "shop-web", "domain": domain, "path": path })
}

impl Controller {
    async fn route(&self, route: &Value) -> Answer {
        self.post("/apps/shop/routes", route).await
    }
}

fn path(route: &Route) -> String {
    let kind = if route.domain.is_empty() { "tcp" } else { "http" };
    format!("/apps/shop/routes/{kind}/{}", route.id)
}

#[tokio::test]
async fn m1_m2_m8_m10_routes_come_and_go() {
    let (controller, app) = controller().await;
    controller.app("other").await;
    let tcp: Route = controller.route(&json!({ "type": "tcp", "service": "foo" })).await.json();
    assert!(tcp.port == 3000 && tcp.created_at.is_set() && !tcp.leader);
    let http: Route = controller
        .route(&json!({ "type": "http", "service": "shop-web", "domain": "a.org", "parent_ref": "x" }))
        .await
        .json();
    assert_eq!((http.path.as_str(), http.sticky, http.parent_ref), ("/", false, format!("controller/apps/{}", app.id)));
    for route in [&tcp, &controller.get("/apps/shop/routes").await.json::<Vec<Route>>()[0]] {
        assert_eq!(controller.get(&path(route)).await.json::<Route>(), *route);
    }
    assert!(controller.get("/apps/other/routes").await.json::<Vec<Route>>().is_empty());
    assert_eq!(controller.get("/routes").await.json::<Vec<Route>>()[1], tcp);
    for wrong in [
        format!("/apps/other/routes/tcp/{}", tcp.id),
        format!("/apps/shop/routes/http/{}", tcp.id),
        "/apps/shop/routes/tcp/x".into(),
        format!("/apps/shop/routes/udp/{}", tcp.id),
    ] {
        controller.get(&wrong).await.not_found();
        controller.delete(&wrong).await.not_found();
    }
    controller.delete(&path(&tcp)).await.empty();
    controller.get(&path(&tcp)).await.not_found();
    let events = controller.events("route,route_deletion").await;
    let kinds: Vec<_> = events.iter().map(|event| event.object_type.unwrap()).collect();
    assert_eq!(kinds, [EventType::Route, EventType::Route, EventType::RouteDeletion]);
    assert_eq!((&events[2].object_id, &events[2].app_id, &data(&events[2])["type"]), (&tcp.id, &app.id, &json!("tcp")));
    let types = "type Enum error. The data must be equal to one of these values [http tcp].";
    controller.route(&json!({ "type": "udp", "service": "x" })).await.error(400, types);
    controller.route(&json!({ "type": "http", "domain": "x.org" })).await.error(400, "service must not be empty");
    controller.route(&json!({ "type": "http", "service": "x" })).await.error(400, "domain must not be empty");
}

#[tokio::test]
async fn m3_m4_m13_certificates_are_checked_kept_and_removed() {
    let (controller, _) = controller().await;
    let ((cert, key), (_, other_key)) = (pair(), pair());
    let mut route = http("a.org", "");
    (route["tls_cert"], route["tls_key"]) = (json!(format!("\n{cert}\n")), json!(key));
    let created: Route = controller.route(&route).await.json();
    let certificate = created.certificate.clone().unwrap();
    assert_eq!((certificate.cert.as_str(), certificate.key.as_str()), (cert.trim(), key.trim()));
    assert!(!certificate.id.is_empty() && certificate.created_at.is_set() && certificate.routes.is_empty());
    let same = json!({ "type": "http", "service": "shop-web", "domain": "b.org", "certificate": { "cert": cert, "key": key } });
    assert_eq!(controller.route(&same).await.json::<Route>().certificate.unwrap().id, certificate.id);
    for (cert, key, reason) in [
        (cert.as_str(), other_key.as_str(), "tls: private key does not match public key"),
        ("", &key, "tls: failed to find any PEM data in certificate input"),
        (&cert, "x", "tls: failed to find any PEM data in key input"),
    ] {
        let route = json!({ "type": "http", "service": "s", "domain": "c.org", "tls_cert": cert, "tls_key": key });
        controller.route(&route).await.error(400, &format!("Certificate invalid: {reason}"));
    }
    // H9: nothing said keeps it, null removes it.
    let put = async |fields: Value| {
        let mut route = http("a.org", "/");
        route.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        controller.put(&path(&created), &route).await.json::<Route>()
    };
    assert_eq!(put(json!({ "sticky": true })).await.certificate, Some(certificate.clone()));
    let events = controller.events("route").await;
    assert_eq!(data(events.last().unwrap())["certificate"]["id"], certificate.id);
    assert_eq!(put(json!({ "certificate": null })).await.certificate, None);
    assert_eq!(controller.get(&path(&created)).await.json::<Route>().certificate, None);
}

#[tokio::test]
async fn m5_m6_m7_paths_and_ports_are_unique_and_complete() {
    let (controller, _) = controller().await;
    let root: Route = controller.route(&http("a.org", "")).await.json();
    let (bar, baz): (Route, Route) =
        (controller.route(&http("a.org", "/bar/")).await.json(), controller.route(&http("A.org", "/baz")).await.json());
    assert_eq!((bar.path.as_str(), baz.path.as_str()), ("/bar/", "/baz/"));
    for (domain, path, reason) in [
        ("a.org", "noslash/", "the path must begin with a slash"),
        ("b.org", "/valid/", "a path needs a route for / of the same domain"),
    ] {
        let error = controller.route(&http(domain, path)).await.error(400, "Invalid route");
        assert_eq!(error.detail.unwrap()["reason"], reason);
    }
    for duplicate in [http("a.org", "/"), http("A.ORG.", ""), http("a.org", "/baz")] {
        let error = controller.route(&duplicate).await.error(409, "Duplicate route");
        assert_eq!(error.code.as_str(), "conflict");
    }
    let dependent = "Route has dependent routes";
    controller.delete(&path(&root)).await.error(400, dependent);
    controller.put(&path(&root), &http("a.org", "/other/")).await.error(400, dependent);
    controller.put(&path(&bar), &http("a.org", "/baz/")).await.error(409, "Duplicate route");
    for route in [&bar, &baz, &root] {
        controller.delete(&path(route)).await.empty();
    }
    for port in [80, 443, 8080] {
        let tcp = json!({ "type": "tcp", "service": "x", "port": port });
        controller.route(&tcp).await.error(409, "Port reserved for HTTP/HTTPS traffic");
    }
    let last: Route = controller.route(&json!({ "type": "tcp", "service": "x", "port": 65535 })).await.json();
    assert_eq!(last.port, 65535);
    controller.route(&json!({ "type": "tcp", "service": "x", "port": 65535 })).await.error(409, "Duplicate route");
    let port = async |port: u16| {
        controller.route(&json!({ "type": "http", "service": "x", "domain": "p.org", "port": port })).await
    };
    assert_eq!(port(8080).await.json::<Route>().port, 8080);
    port(8443).await.error(400, "Port not reserved for HTTP traffic");
}

#[tokio::test]
async fn m9_m14_to_m16_updates_replace_what_may_change() {
    let (controller, app) = controller().await;
    controller.app("other").await;
    let create = async |drains: Option<bool>, service: &str, domain: &str| {
        let mut route = json!({ "type": "http", "service": service, "domain": domain, "sticky": true, "leader": true });
        if let Some(drains) = drains {
            route["drain_backends"] = json!(drains);
        }
        controller.route(&route).await
    };
    let first: Route = create(Some(true), "one", "a.org").await.json();
    assert!(create(None, "one", "b.org").await.json::<Route>().drain_backends, "it follows the service's others");
    assert!(!create(None, "two", "c.org").await.json::<Route>().drain_backends);
    create(Some(false), "one", "d.org").await.error(400, "Invalid route");
    let update =
        json!({ "service": "two", "domain": "a.org", "parent_ref": "controller/apps/x", "drain_backends": true });
    let changed: Route = controller.put(&path(&first), &update).await.json();
    assert_eq!((changed.service.as_str(), changed.sticky, changed.leader), ("two", false, false));
    assert_eq!((changed.parent_ref, changed.drain_backends), (format!("controller/apps/{}", app.id), false));
    assert!(changed.updated_at > first.updated_at);
    controller.put(&path(&first), &json!({ "service": "two", "domain": "z.org" })).await.not_found();
    controller.put(&format!("/apps/other/routes/http/{}", first.id), &update).await.not_found();
}

#[tokio::test]
async fn m17_ports_of_deleted_routes_are_given_again() {
    let (controller, _) = controller().await;
    let tcp = json!({ "type": "tcp", "service": "foo" });
    let kept: Route = controller.route(&tcp).await.json();
    for _ in 0..3 {
        let next: Route = controller.route(&tcp).await.json();
        assert_eq!((kept.port, next.port), (3000, 3001));
        controller.delete(&path(&next)).await.empty();
    }
    let mut sql = controller.database.connect().await;
    let fill = "INSERT INTO tcp_routes (parent_ref, service, port, drain_backends) SELECT 'x', 'foo', port, false FROM generate_series(3001, 3500) port";
    sqlx::query(fill).execute(&mut sql).await.unwrap();
    controller.route(&tcp).await.error(409, "No TCP ports available");
}

#[tokio::test]
async fn p4_new_apps_have_a_default_route() {
    let controller = Controller::start_with(|config| config.default_route_domain = "cluster.example.com".into()).await;
    controller.app("shop").await;
    controller.post("/apps", &json!({ "name": "system", "meta": { "flynn-system-app": "true" } })).await;
    let routes: Vec<Route> = controller.get("/routes").await.json();
    assert_eq!((routes.len(), routes[0].domain.as_str()), (1, "shop.cluster.example.com"));
    assert_eq!((routes[0].service.as_str(), routes[0].drain_backends), ("shop-web", true));
}

#[tokio::test]
async fn h11_to_h13_automatic_certificates_are_ordered_and_linked() {
    use flynn_types::acme::{AcmeConfig, ManagedCertificate, ManagedCertificateStatus};
    let (controller, _) = controller().await;
    let mut route = http("a.org", "");
    route["managed_certificate_domain"] = json!("a.org");
    let disabled =
        "ACME/Let's Encrypt is not enabled. Run 'flynn-host acme configure' and 'flynn-host acme enable' first.";
    controller.route(&route).await.error(400, disabled);
    let configure = async |config: Value| controller.put("/acme/config", &config).await;
    configure(json!({ "enabled": true }))
        .await
        .error(400, "contact_email contact email is required when enabling ACME");
    let full =
        json!({ "enabled": true, "contact_email": "a@b.c", "terms_of_service_agreed": true, "account_key": "SECRET" });
    let config: AcmeConfig = configure(full).await.json();
    assert!(config.enabled && config.has_account_key && config.account_key.is_empty());
    assert!(controller.get("/acme/config").await.json::<AcmeConfig>().account_key.is_empty());
    let mut stream = controller.stream::<ManagedCertificate>("/managed-certificates?since=1970-01-01T00:00:00Z").await;
    assert_eq!(stream.next().await, ManagedCertificate::default());
    let created: Route = controller.route(&route).await.json();
    assert_eq!((created.managed_certificate_domain.as_str(), &created.certificate), ("a.org", &None));
    let pending = stream.next().await;
    assert_eq!((pending.status, &pending.route_id), (ManagedCertificateStatus::Pending, &created.id));
    let (cert, key) = pair();
    let issued = json!({ "domain": "a.org", "status": "issued", "cert": cert, "key": key, "expires_at": "2100-01-01T00:00:00Z" });
    let certificate = format!("/managed-certificates/{}", pending.id);
    let stored: ManagedCertificate = controller.put(&certificate, &issued).await.json();
    assert_eq!(stored.status, ManagedCertificateStatus::Issued);
    assert_eq!(stream.next().await, stored);
    assert_eq!(controller.get(&certificate).await.json::<ManagedCertificate>(), stored);
    let linked: Route = controller.get(&path(&created)).await.json();
    assert_eq!(linked.certificate.unwrap().cert, cert.trim());
    let wrong = json!({ "domain": "a.org", "status": "issued", "cert": cert, "key": pair().1 });
    controller
        .put(&certificate, &wrong)
        .await
        .error(400, "Certificate invalid: tls: private key does not match public key");
    controller.get("/managed-certificates/x").await.not_found();
    // A route that is made anew has it at once.
    controller.delete(&path(&created)).await.empty();
    let again: Route = controller.route(&route).await.json();
    assert_eq!(again.certificate.unwrap().cert, cert.trim());
}
