//! What init asks of discoverd (spec discoverd-and-network, section 9).

use std::cell::Cell;
use std::time::Duration;

use bytes::Bytes;
use flynn_types::discoverd::ServiceConfig;
use flynn_types::error::{ApiError, ErrorCode};
use hyper::Method;

use super::http::{self, Request, Response, Url};

/// Longest time for one request.
const TIMEOUT: Duration = Duration::from_secs(5);
const MAX_REDIRECTS: usize = 10;
/// Most bytes of a response; what we are told is short.
const MAX_BODY: usize = 64 * 1024;
/// Where discoverd is when nobody says.
const DEFAULT: &str = "http://127.0.0.1:1111";

/// The servers' base URLs.
pub(super) fn endpoints(urls: &[String]) -> Result<Vec<Url>, String> {
    if urls.is_empty() {
        return Ok(vec![Url::parse(DEFAULT)?]);
    }
    urls.iter().map(|url| Url::parse(url).map_err(|err| format!("discoverd's address: {err}"))).collect()
}

#[derive(Debug)]
pub(super) struct Discoverd {
    endpoints: Vec<Url>,
    /// The one that answered last is asked first.
    preferred: Cell<usize>,
}

impl Discoverd {
    pub(super) fn new(endpoints: Vec<Url>) -> Self {
        Self { endpoints, preferred: Cell::new(0) }
    }

    /// Makes the service unless it is there.
    pub(super) async fn create(&self, service: &str) -> Result<(), String> {
        self.send(Method::PUT, &format!("/services/{service}"), json(&ServiceConfig::default())).await
    }

    /// Registers an instance, or says that it is still there.
    pub(super) async fn register(
        &self,
        service: &str,
        instance: &flynn_types::discoverd::Instance,
    ) -> Result<(), String> {
        self.send(Method::PUT, &format!("/services/{service}/instances/{}", instance.id), json(instance)).await
    }

    pub(super) async fn unregister(&self, service: &str, id: &str) -> Result<(), String> {
        self.send(Method::DELETE, &format!("/services/{service}/instances/{id}"), Bytes::new()).await
    }

    /// Tries one server after the other until one answers.
    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<(), String> {
        let count = self.endpoints.len();
        let first = self.preferred.get();
        let mut errors = Vec::new();
        for index in (0..count).map(|step| (first + step) % count) {
            let Some(endpoint) = self.endpoints.get(index) else { continue };
            let sending = follow(method.clone(), endpoint.at(path), body.clone());
            let outcome = match tokio::time::timeout(TIMEOUT, sending).await {
                Ok(Ok(response)) => judge(&response),
                Ok(Err(err)) => Err((err, true)),
                Err(_) => Err((format!("no answer within {} s", TIMEOUT.as_secs()), true)),
            };
            match outcome {
                Ok(()) => {
                    self.preferred.set(index);
                    return Ok(());
                }
                Err((err, elsewhere)) => {
                    errors.push(format!("{}: {err}", endpoint.authority));
                    if !elsewhere {
                        break;
                    }
                }
            }
        }
        Err(errors.join(", "))
    }
}

fn json(value: &impl serde::Serialize) -> Bytes {
    serde_json::to_vec(value).unwrap_or_default().into()
}

async fn follow(method: Method, mut url: Url, body: Bytes) -> Result<Response, String> {
    for _ in 0..=MAX_REDIRECTS {
        let request = Request { method: method.clone(), body: Some(body.clone()), ..Request::get(&url) };
        let response = http::send(request, MAX_BODY).await?;
        match &response.location {
            Some(location) if response.is_redirect() => url = Url::parse(location)?,
            _ => return Ok(response),
        }
    }
    Err(format!("more than {MAX_REDIRECTS} redirects"))
}

/// The error's text, and whether another server may know better.
fn judge(response: &Response) -> Result<(), (String, bool)> {
    match response.status {
        200..=299 => Ok(()),
        404 if !response.json => Ok(()), // an accident that clients have always taken for success
        status => match serde_json::from_slice::<ApiError>(&response.body) {
            Ok(err) if err.code == ErrorCode::ObjectExists => Ok(()),
            Ok(err) => Err((err.message, err.retry)),
            Err(_) => Err((format!("status {status}"), true)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_judged_by_their_code() {
        let answer = |status, body: &str| {
            judge(&Response { status, json: !body.is_empty(), location: None, body: body.into() })
                .map_err(|(_, elsewhere)| elsewhere)
        };
        for (name, got, expected) in [
            ("success", answer(200, ""), Ok(())),
            ("the service is there", answer(409, r#"{"code":"object_exists","message":"x"}"#), Ok(())),
            ("nobody to withdraw", answer(404, ""), Ok(())),
            ("no leader yet", answer(503, r#"{"code":"service_unavailable","message":"x","retry":true}"#), Err(true)),
            ("our mistake", answer(400, r#"{"code":"validation_error","message":"x"}"#), Err(false)),
            ("no API", answer(502, "<html>"), Err(true)),
        ] {
            assert_eq!(got, expected, "{name}");
        }
    }

    #[test]
    fn without_addresses_the_host_itself_is_asked() {
        assert_eq!(endpoints(&[]).unwrap()[0].address, "127.0.0.1:1111".parse().unwrap());
    }
}
