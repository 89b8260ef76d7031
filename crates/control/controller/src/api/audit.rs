//! A line for each request that says who did what (spec controller-api section 3.7).

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use flynn_types::error::{ApiError, ErrorCode};
use http_body_util::{BodyExt as _, Limited};
use serde_json::Value;
use tracing::info;

use crate::auth::Identity;
use crate::error::Error;

/// Longest JSON body in bytes.
const MAX_BODY: usize = 1_000_000;
const REDACTED: &str = "[redacted]";
/// Parts of names of variables whose values are nobody's business.
const SECRET_VARIABLES: [&str; 5] = ["key", "token", "pass", "secret", "url"];
/// Fields whose values never are.
const SECRET_FIELDS: [&str; 3] = ["key", "tls_key", "account_key"];

/// Answers the request and writes the line.
pub(super) async fn answer(identity: Identity, request: Request, next: Next) -> Response {
    let text = |headers: &HeaderMap, name: &str| {
        headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    let user_agent = text(request.headers(), "user-agent");
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let is_json = text(request.headers(), header::CONTENT_TYPE.as_str()).contains("application/json");
    let (request, body) = if is_json {
        let (parts, body) = request.into_parts();
        let Ok(collected) = Limited::new(body, MAX_BODY).collect().await else {
            let text = format!("the request body is longer than {MAX_BODY} bytes");
            return Error::from(ApiError::new(ErrorCode::BodyTooBig, text)).into_response();
        };
        let bytes: Bytes = collected.to_bytes();
        let told = told(&path, &bytes);
        (Request::from_parts(parts, Body::from(bytes)), told)
    } else {
        (request, String::new())
    };
    let response = next.run(request).await;
    let (auth_id, auth_user, status) = (identity.id, identity.user, response.status().as_u16());
    info!(%method, path, auth_id, auth_user, user_agent, status, body, "request audited");
    response
}

/// A body without what is secret; nothing of one that is no JSON.
fn told(path: &str, body: &[u8]) -> String {
    let Ok(mut value) = serde_json::from_slice::<Value>(body) else { return String::new() };
    // Addresses and configurations of providers and sinks hold passwords.
    let whole = ["/providers", "/sinks"].iter().any(|begin| path.starts_with(begin));
    redact(&mut value, if whole { &["url", "config"] } else { &[] });
    value.to_string()
}

fn redact(value: &mut Value, more: &[&str]) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| redact(item, more)),
        Value::Object(fields) => {
            for (name, value) in fields {
                match value {
                    Value::Null => {}
                    value if more.contains(&name.as_str()) => *value = REDACTED.into(),
                    Value::String(_) if SECRET_FIELDS.contains(&name.as_str()) => *value = REDACTED.into(),
                    Value::Object(variables) if name == "env" => redact_env(variables),
                    value => redact(value, more),
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn redact_env(variables: &mut serde_json::Map<String, Value>) {
    for (name, value) in variables {
        let name = name.to_ascii_lowercase();
        if SECRET_VARIABLES.iter().any(|part| name.contains(part)) {
            *value = REDACTED.into();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_secret_is_not_told() {
        let env = json!({ "PORT": "80", "DATABASE_URL": "SECRET", "Api_Token": "SECRET", "PASSWORD": "SECRET" });
        let release = json!({ "env": env, "processes": { "web": { "env": env, "args": ["a"] } } });
        let route = json!({ "tls_key": "SECRET", "certificate": { "cert": "C", "key": "SECRET" }, "domain": "a.org" });
        let sink = json!({ "kind": "syslog", "config": { "url": "SECRET" } });
        for (path, body, kept) in [
            ("/releases", release, r#""args":["a"]"#),
            ("/apps/a/routes", route, r#""cert":"C""#),
            ("/sinks", sink, r#""kind":"syslog""#),
            ("/providers", json!({ "name": "pg", "url": "http://u:SECRET@pg" }), r#""name":"pg""#),
        ] {
            let told = told(path, body.to_string().as_bytes());
            assert!(!told.contains("SECRET") && told.contains(kept), "{told}");
        }
        assert_eq!(told("/apps", b"{"), "");
    }
}
