//! Bodies with something wrong in every field of every endpoint, made from the API's own description: each is refused
//! with the field's name, and none is answered as a mistake of ours.

use std::collections::BTreeMap;

use axum::http::Method;
use flynn_types::controller::{Deployment, Volume};
use serde_json::{Map, Value, json};
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::fixture::{Answer, Controller, KEY, authorization, manifest};

/// What an endpoint must make of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It is the client's mistake, and the field is named.
    Refused,
    /// Whatever it makes of it: no mistake of ours.
    Answered,
}

/// Values for a field of this description.
fn values(schema: &Value) -> Vec<(Value, Verdict)> {
    use Verdict::{Answered, Refused};
    let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
    let mut values = vec![(Value::Null, Answered)];
    let mut wrong = |list: &[Value]| values.extend(list.iter().map(|value| (value.clone(), Refused)));
    match schema["type"].as_str() {
        Some("string") if schema["format"] == "date-time" => {
            wrong(&[json!("yesterday"), json!(""), json!(5), json!({}), json!([]), deep]);
        }
        Some("string") => {
            let longest = usize::try_from(schema["maxLength"].as_u64().expect("a limit")).expect("small");
            wrong(&[json!(5), json!(1.5), json!(true), json!([]), json!({}), json!(["a"]), deep]);
            wrong(&[json!("a\0b"), json!("x".repeat(longest + 1))]);
            let odd = ["", "ünï 😀 \u{202e}\u{feff}", "'; DROP TABLE apps; --", "../../etc/passwd"];
            values.extend(odd.map(|text| (json!(text), Answered)));
            values.push((json!("😀".repeat(longest.min(2000) / 4)), Answered));
        }
        Some("integer") => {
            wrong(&[json!("5"), json!(1.5), json!(true), json!([]), json!({}), json!(1e300), json!(u64::MAX), deep]);
            for (limit, beyond) in [("minimum", -1), ("maximum", 1)] {
                let limit = schema[limit].as_i64().expect("a limit");
                values.push((json!(limit), Answered));
                if let Some(beyond) = limit.checked_add(beyond) {
                    values.push((json!(beyond), Refused));
                }
            }
            values.extend([json!(-1), json!(0)].map(|value| (value, Answered)));
        }
        Some("boolean") => wrong(&[json!("true"), json!(1), json!([]), json!({}), deep]),
        Some("array") => wrong(&[json!("a"), json!(5), json!({}), json!(true)]),
        Some("object") => wrong(&[json!("a"), json!(5), json!([]), json!(true)]),
        // Whatever it is, it is stored; but not everything can be.
        None => values.extend([(deep, Refused), (json!({ "a": "\0" }), Refused), (json!({ "\0": 1 }), Refused)]),
        Some(other) => panic!("an unknown type: {other}"),
    }
    values
}

/// All values in place of a field, each with the path that names it.
fn variants(schema: &Value, path: &str) -> Vec<(Value, Verdict, String)> {
    let mut all: Vec<_> =
        values(schema).into_iter().map(|(value, verdict)| (value, verdict, path.to_owned())).collect();
    let mut nest = |inner: &Value, name: &str, wrap: &dyn Fn(Value) -> Value| {
        let inner = variants(inner, &format!("{path}.{name}"));
        all.extend(inner.into_iter().map(|(value, verdict, path)| (wrap(value), verdict, path)));
    };
    if let Some(items) = schema.get("items") {
        nest(items, "0", &|value| json!([value]));
    }
    if let Some(values) = schema.get("additionalProperties") {
        nest(values, "web", &|value| json!({ "web": value }));
    }
    for (name, field) in schema["properties"].as_object().unwrap_or(&Map::new()) {
        nest(field, name, &|value| json!({ name: value }));
    }
    if schema.get("additionalProperties").is_some() {
        all.push((json!({ "a\0b": {} }), Verdict::Refused, path.to_owned()));
    }
    all
}

/// A provider that makes everything.
async fn provider() -> (String, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let make = || async { axum::Json(json!({ "id": uuid::Uuid::new_v4(), "env": {} })) };
    let serving = axum::serve(listener, axum::Router::new().fallback(make));
    (url, AbortOnDropHandle::new(tokio::spawn(async move { serving.await.unwrap() })))
}

/// For each endpoint with a body: its path, and a body that is fine.
async fn endpoints(controller: &Controller, provider: &str) -> BTreeMap<(String, String), (String, Value)> {
    let app = controller.app("shop").await;
    let release = controller.release(&app, &["web"]).await;
    controller.post("/apps/shop/deploy", &json!({ "id": release.id })).await.json::<Deployment>();
    let (app, release) = (app.id, release.id);
    controller.post("/providers", &json!({ "name": "made", "url": provider })).await.json::<Value>();
    let enable = json!({ "enabled": true, "contact_email": "a@example.com", "terms_of_service_agreed": true });
    controller.put("/acme/config", &enable).await.json::<Value>();
    let route = json!({ "type": "http", "domain": "a.example.com", "service": "shop-web" });
    let id = controller.post("/apps/shop/routes", &route).await.json::<Value>()["id"].as_str().unwrap().to_owned();
    let managed = json!({ "type": "http", "domain": "m.example.com", "service": "m", "managed_certificate_domain": "m.example.com" });
    controller.post("/apps/shop/routes", &managed).await.json::<Value>();
    let certificate =
        controller.get("/managed-certificates").await.json::<Value>()[0]["id"].as_str().unwrap().to_owned();
    let fresh = || uuid::Uuid::new_v4().to_string();
    let volume: Volume = Volume { id: fresh(), host_id: "h1".into(), ..Volume::default() };
    let process = json!({ "args": ["a"] });
    let list = [
        ("post", "/apps", "/apps".to_owned(), json!({})),
        ("post", "/apps/{app}", "/apps/shop".into(), json!({})),
        ("post", "/apps/{app}/meta", "/apps/shop/meta".into(), json!({})),
        (
            "post",
            "/artifacts",
            "/artifacts".into(),
            json!({ "type": "flynn", "uri": "http://example.com/a", "manifest": manifest() }),
        ),
        ("post", "/releases", "/releases".into(), json!({ "app_id": app, "processes": { "web": process } })),
        ("put", "/apps/{app}/release", "/apps/shop/release".into(), json!({ "id": release })),
        ("post", "/apps/{app}/deploy", "/apps/shop/deploy".into(), json!({ "id": release })),
        ("put", "/apps/{app}/formations/{release}", format!("/apps/shop/formations/{release}"), json!({})),
        (
            "put",
            "/apps/{app}/scale/{release}",
            format!("/apps/shop/scale/{release}"),
            json!({ "state": "pending", "new_processes": { "web": 1 } }),
        ),
        ("post", "/apps/{app}/jobs", "/apps/shop/jobs".into(), json!({ "release": release })),
        (
            "put",
            "/apps/{app}/jobs/{job}",
            "/apps/shop/jobs/x".into(),
            json!({ "uuid": fresh(), "app": app, "release": release, "state": "up" }),
        ),
        ("post", "/providers", "/providers".into(), json!({ "name": "other", "url": "http://127.0.0.1:9/other" })),
        ("post", "/providers/{provider}/resources", "/providers/made/resources".into(), json!({})),
        (
            "put",
            "/providers/{provider}/resources/{id}",
            format!("/providers/made/resources/{}", fresh()),
            json!({ "external_id": "e" }),
        ),
        (
            "post",
            "/apps/{app}/routes",
            "/apps/shop/routes".into(),
            json!({ "type": "http", "domain": "b.example.com", "service": "b" }),
        ),
        ("put", "/apps/{app}/routes/{kind}/{id}", format!("/apps/shop/routes/http/{id}"), route),
        ("post", "/sinks", "/sinks".into(), json!({ "kind": "syslog", "config": {} })),
        ("put", "/volumes/{id}", format!("/volumes/{}", volume.id), serde_json::to_value(&volume).unwrap()),
        ("put", "/domain", "/domain".into(), json!({ "old_domain": "example.com", "domain": "example.net" })),
        (
            "put",
            "/managed-certificates/{id}",
            format!("/managed-certificates/{certificate}"),
            json!({ "status": "failed" }),
        ),
        ("put", "/acme/config", "/acme/config".into(), enable),
    ];
    list.into_iter().map(|(method, path, url, body)| ((method.into(), path.to_owned()), (url, body))).collect()
}

/// What is wrong with an answer.
fn fault(answer: &Answer, verdict: Verdict, path: &str, asked: &str) -> Option<String> {
    let said = answer.text();
    let status = answer.status.as_u16();
    // There is no host to run it on.
    let no_host = status == 503 && asked.starts_with("post /apps/{app}/jobs ");
    if status >= 500 && !no_host {
        return Some(format!("{asked}: {status} {said}"));
    }
    let field = path.trim_start_matches('.');
    let refused = (400..500).contains(&status) && said.contains(field);
    (verdict == Verdict::Refused && !refused)
        .then(|| format!("{asked}: {field} is not refused by name: {status} {said:.200}"))
}

#[tokio::test]
async fn bad_values_in_any_field_are_refused_by_name() {
    let (provider, _providing) = provider().await;
    let controller = Controller::start_with(|config| config.default_route_domain = "example.com".into()).await;
    let endpoints = endpoints(&controller, &provider).await;
    let description: Value = controller.get("/openapi.json").await.json();
    let (mut seen, mut sent, mut faults) = (0, 0, Vec::new());
    for (path, operations) in description["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let Some(body) = operation.get("requestBody") else {
                assert!(
                    !["post", "put"].contains(&method.as_str()) || BODILESS.contains(&path.as_str()),
                    "{method} {path}"
                );
                continue;
            };
            seen += 1;
            let (url, fine) = &endpoints[&(method.clone(), path.clone())];
            let verb: Method = method.to_uppercase().parse().unwrap();
            let fields = body["content"]["application/json"]["schema"]["properties"].as_object().unwrap();
            for (field, schema) in fields {
                // The path's word counts.
                if method == "put" && path.contains("/routes/") && field == "type" {
                    continue;
                }
                for (value, verdict, at) in variants(schema, &format!(".{field}")) {
                    let mut body = fine.clone();
                    body[field] = value;
                    let answer = controller.send(verb.clone(), url, &body).await;
                    let shown: String = body.to_string().chars().take(300).collect();
                    faults.extend(fault(&answer, verdict, &at, &format!("{method} {path} {shown}")));
                    sent += 1;
                }
                let mut body = fine.clone();
                body.as_object_mut().unwrap().remove(field);
                let answer = controller.send(verb.clone(), url, &body).await;
                faults.extend(fault(&answer, Verdict::Answered, "", &format!("{method} {path} without {field}")));
            }
            let authorization = authorization(KEY);
            let headers = [("authorization", &*authorization), ("content-type", "application/json")];
            let nested = "[".repeat(100_000);
            for text in ["", "[]", "5", "\"x\"", "{", "{\"a\":", "\u{0}", "{}{", "NaN", &nested] {
                let answer = controller.raw(verb.clone(), url, &headers, text).await;
                faults.extend(fault(&answer, Verdict::Answered, "", &format!("{method} {path} {text:.20}")));
            }
        }
    }
    assert!(faults.is_empty(), "{} of {sent}:\n{}", faults.len(), faults.join("\n"));
    assert_eq!(seen, endpoints.len(), "an endpoint is described without what it takes");
    assert!(sent > 2000, "only {sent} bodies were sent");
    controller.get("/.well-known/status").await.json::<Value>();
}

/// Endpoints that take no body.
const BODILESS: [&str; 3] =
    ["/apps/{app}/gc", "/apps/{app}/volumes/{id}/decommission", "/providers/{provider}/resources/{id}/apps/{app}"];

#[tokio::test]
async fn odd_paths_and_queries_are_no_mistake_of_ours() {
    let controller = Controller::start().await;
    let app = controller.app("shop").await;
    let description: Value = controller.get("/openapi.json").await.json();
    let long = "x".repeat(6000);
    let odd =
        ["%00", "%ff", "%F0%9F%98%80", "..", "%2e%2e%2f", "'", "shop", &app.id, &long, "-1", "9223372036854775808"];
    for (path, operations) in description["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            for value in odd {
                let url = path.split('/').map(|part| if part.starts_with('{') { value } else { part });
                let url = url.collect::<Vec<_>>().join("/");
                let body = if ["get", "delete"].contains(&method.as_str()) { Value::Null } else { json!({}) };
                let (method, headers): (Method, _) = (method.to_uppercase().parse().unwrap(), authorization(KEY));
                let headers = [
                    ("authorization", &*headers),
                    ("content-type", "application/json"),
                    ("accept", "application/json"),
                ];
                let answer = controller.raw(method.clone(), &url, &headers, &body.to_string()).await;
                let status = answer.status.as_u16();
                // Without discovery there are no hosts, no logs and no backups.
                let lacks_others = ["/hosts", "stats", "/log", "/backup"].iter().any(|part| path.contains(part));
                assert!(status < 500 || lacks_others, "{method} {url:.100}: {status} {}", answer.text());
            }
        }
    }
    for query in [
        "count=x",
        "count=-1",
        "count=99999999999999999999",
        "before_id=%00",
        "since_id=-9",
        "app_id=%00",
        "object_types=%00,x",
        "object_id=%00",
        "object_types=",
        "count=0&past=maybe",
    ] {
        for path in ["/events", "/volumes", "/sinks", "/formations", "/managed-certificates"] {
            let answer = controller.get(&format!("{path}?{query}&since=%00")).await;
            assert!(answer.status.as_u16() < 500, "{path}?{query}: {} {}", answer.status, answer.text());
        }
    }
    controller.get("/.well-known/status").await.json::<Value>();
}
