use axum::http::{Method, StatusCode, header};
use serde_json::{Value, json};

use crate::fixture::{Controller, KEY, authorization};

#[tokio::test]
async fn a4_to_a7_credentials_come_before_everything_else() {
    let controller = Controller::start_with(|config| config.ca_cert = "PEM".into()).await;
    let (right, wrong) = (authorization(KEY), authorization("wrong"));
    let get = async |path: &str, headers: &[(&str, &str)]| controller.raw(Method::GET, path, headers, "").await;
    for (path, authorization, status, body) in [
        ("/apps", None, 401, ""),
        ("/apps", Some(&wrong), 401, ""),
        ("/apps", Some(&right), 200, "[]"),
        ("/nowhere", None, 401, ""),
        ("/nowhere", Some(&right), 404, "404 page not found\n"),
        ("/.well-known/status", None, 401, ""),
        ("/ping", None, 200, ""),
        ("/ca-cert", None, 200, "PEM"),
        ("/ca-cert", Some(&wrong), 401, ""),
        ("/ca-cert", Some(&"Bearer x".to_owned()), 200, "PEM"),
    ] {
        let headers: Vec<_> = authorization.iter().map(|value| ("authorization", value.as_str())).collect();
        let answer = get(path, &headers).await;
        assert_eq!((answer.status.as_u16(), &*answer.text()), (status, body), "{path} {authorization:?}");
        if status == 401 {
            assert!(
                !answer.headers.contains_key(header::CONTENT_TYPE) && !answer.headers.contains_key("www-authenticate")
            );
        }
    }
    assert_eq!(controller.get("/ca-cert").await.headers[header::CONTENT_TYPE], "application/x-x509-ca-cert");
    assert_eq!(controller.raw(Method::PATCH, "/ping", &[], "").await.status, StatusCode::OK);
    let status = controller.get("/.well-known/status").await;
    assert_eq!(status.json::<Value>(), json!({ "data": { "status": "healthy", "version": "dev" } }));
    assert!(status.text().ends_with("}\n"));
}

#[tokio::test]
async fn t6_t7_t9_requests_that_are_not_understood() {
    let controller = Controller::start().await;
    let authorization = authorization(KEY);
    let post = async |kind: &str, body: &str| {
        let headers = [("authorization", &*authorization), ("content-type", kind)];
        controller.raw(Method::POST, "/apps", &headers, body).await
    };
    post("text/plain", "{}").await.error(400, "Content-Type must be application/json");
    for malformed in ["", "{", r#"{"name":5}"#, "[]"] {
        let error = post("application/json", malformed).await.error(400, "The provided JSON input is invalid");
        assert_eq!(error.code.as_str(), "syntax_error");
    }
    // T8: what is unknown, and what follows, does not matter.
    post("application/json; charset=utf-8", r#"{"name":"one","unknown":1} more"#).await.json::<Value>();
    let moved = post_to(&controller, "/apps/?x=1").await;
    assert_eq!(
        (moved.status, moved.headers[header::LOCATION].to_str().unwrap()),
        (StatusCode::TEMPORARY_REDIRECT, "/apps?x=1")
    );
    assert_eq!(controller.get("//apps").await.status, StatusCode::MOVED_PERMANENTLY);
    assert_eq!(controller.delete("/apps").await.text(), "404 page not found\n");
}

async fn post_to(controller: &Controller, path: &str) -> crate::fixture::Answer {
    controller.post(path, &json!({})).await
}

#[tokio::test]
async fn browsers_are_told_what_they_may_do() {
    let controller =
        Controller::start_with(|config| config.cors_origins = Some(vec!["https://*.example.com".into()])).await;
    let options = async |origin| controller.raw(Method::OPTIONS, "/apps", &[("origin", origin)], "").await;
    let answer = options("https://dashboard.example.com").await;
    answer.empty();
    assert_eq!(answer.headers["access-control-allow-origin"], "https://dashboard.example.com");
    assert_eq!(answer.headers["access-control-allow-credentials"], "true");
    assert_eq!(options("https://evil.org").await.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn everything_is_refused_while_the_process_ends() {
    let controller = Controller::start().await;
    // A request that is kept busy holds its connection, over which the next one comes.
    controller.get("/apps").await;
    let mut stream = controller.stream::<Value>("/events").await;
    controller.shutdown.cancel();
    assert!(stream.outcome().await.is_none_or(|item| item.is_err()), "the stream ends");
}

#[tokio::test]
async fn the_api_describes_itself() {
    let controller = Controller::start().await;
    let description: Value = controller.get("/openapi.json").await.json();
    let paths = description["paths"].as_object().unwrap();
    assert_eq!(description["openapi"], "3.1.0");
    assert_eq!(
        paths["/apps/{app}/jobs/{job}"].as_object().unwrap().keys().collect::<Vec<_>>(),
        ["delete", "get", "put"]
    );
    let parameters = paths["/apps/{app}/jobs/{job}"]["get"]["parameters"].as_array().unwrap();
    assert_eq!((parameters.len(), &parameters[1]["name"]), (2, &json!("job")));
    assert!(paths.len() > 45, "{} paths", paths.len());
}
