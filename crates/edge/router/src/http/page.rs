//! Responses that the router makes itself (spec router section 13): text, HTML for people, JSON for programs. Pure.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};

use crate::guard::Refusal;
use crate::headers::X_REQUEST_ID;

/// Path of the health check, on hosts that no route has.
pub(crate) const HEALTH_PATH: &str = "/.well-known/flynn-router/health";

/// Seconds after which a client of a route in maintenance may ask again.
const MAINTENANCE_RETRY: &str = "120";

/// Why the router answers itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    NoRoute,
    /// No backend, none that can be reached, or one that did not answer in time or as HTTP demands.
    Unavailable,
    /// The route's operator wants no requests to reach its backends.
    Maintenance,
    /// The client went away, or its body could not be read.
    ClientGone,
    /// The body is longer than the route allows.
    BodyTooLarge,
    /// The body does not come, or hardly.
    BodyTooSlow,
    NoTunnels,
    Refused(Refusal),
    /// `OPTIONS *`
    OptionsOfRouter,
    Healthy,
    Unhealthy,
}

impl Reason {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::Unavailable | Self::Maintenance | Self::Unhealthy => StatusCode::SERVICE_UNAVAILABLE,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::ClientGone => StatusCode::from_u16(499).expect("499 is a status"),
            Self::NoTunnels => StatusCode::METHOD_NOT_ALLOWED,
            Self::Refused(Refusal::HeadTooLarge) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Refused(_) => StatusCode::BAD_REQUEST,
            Self::OptionsOfRouter | Self::Healthy => StatusCode::OK,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::NoRoute => "Not Found\n",
            Self::Unavailable => "Service Unavailable\n",
            Self::Maintenance => "Down for maintenance\n",
            Self::BodyTooLarge => "Content Too Large\n",
            Self::BodyTooSlow => "Request Timeout\n",
            Self::ClientGone | Self::OptionsOfRouter => "",
            Self::NoTunnels => "Method Not Allowed\n",
            Self::Refused(Refusal::NoHost) => "400 Bad Request: missing required Host header",
            Self::Refused(Refusal::HeadTooLarge) => "431 Request Header Fields Too Large",
            Self::Refused(Refusal::Malformed(_)) => "400 Bad Request",
            Self::Healthy => "ok\n",
            Self::Unhealthy => "unavailable\n",
        }
    }

    /// Code and message for programs, and the sentence for people.
    fn words(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::NoRoute => Some(("not_found", "no app is routed at this address")),
            Self::Unavailable => Some(("service_unavailable", "the app is not answering right now")),
            Self::Maintenance => Some(("maintenance", "the app is down for maintenance and will be back soon")),
            Self::BodyTooLarge => Some(("validation_error", "the request's body is larger than the app takes")),
            Self::BodyTooSlow => Some(("validation_error", "the request's body came too slowly")),
            Self::NoTunnels => Some(("validation_error", "this server opens no tunnels")),
            Self::Refused(Refusal::NoHost) => Some(("validation_error", "the request has no Host header")),
            Self::Refused(Refusal::HeadTooLarge) => Some(("validation_error", "the request's headers are too large")),
            Self::Refused(Refusal::Malformed(what)) => Some(("validation_error", what)),
            Self::ClientGone | Self::OptionsOfRouter | Self::Healthy | Self::Unhealthy => None,
        }
    }

    /// Whether the connection ends with this response.
    fn closes(self) -> bool {
        matches!(self, Self::Refused(_) | Self::NoTunnels | Self::ClientGone | Self::BodyTooLarge | Self::BodyTooSlow)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Text,
    Html,
    Json,
}

/// What the client asks for by name; text where it takes anything.
fn format(accept: Option<&HeaderValue>) -> Format {
    let ranges = accept.and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let mut best = (0.0, Format::Text);
    for range in ranges.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let format = match parts.next() {
            Some("text/plain") => Format::Text,
            Some("text/html") => Format::Html,
            Some("application/json") => Format::Json,
            _ => continue,
        };
        let quality = parts.find_map(|part| part.strip_prefix("q=")?.parse::<f32>().ok()).unwrap_or(1.0);
        if quality > best.0 {
            best = (quality, format);
        }
    }
    best.1
}

/// Makes the response to a client with this `Accept`. `unavailable` is the operator's page for services that cannot answer.
pub(crate) fn page(
    reason: Reason,
    accept: Option<&HeaderValue>,
    request_id: &HeaderValue,
    unavailable: Option<&Bytes>,
) -> Response<Bytes> {
    let format = format(accept);
    let (kind, body) = match (reason.words(), format, unavailable) {
        (Some((code, message)), Format::Json, _) => {
            let retry = matches!(reason, Reason::Unavailable | Reason::Maintenance);
            let id = request_id.to_str().unwrap_or_default();
            let json = serde_json::json!({"code": code, "message": message, "retry": retry, "request_id": id});
            ("application/json", Bytes::from(json.to_string()))
        }
        (_, _, Some(page)) if reason == Reason::Unavailable => ("text/html; charset=utf-8", page.clone()),
        (Some((_, message)), Format::Html, _) => {
            ("text/html; charset=utf-8", html(reason.status(), message, request_id.to_str().unwrap_or_default()).into())
        }
        _ => ("text/plain; charset=utf-8", Bytes::from_static(reason.text().as_bytes())),
    };
    let mut response = Response::new(body);
    *response.status_mut() = reason.status();
    let length = response.body().len();
    let headers = response.headers_mut();
    if length > 0 {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    headers.insert(X_REQUEST_ID, request_id.clone());
    if reason == Reason::Maintenance {
        headers.insert(RETRY_AFTER, HeaderValue::from_static(MAINTENANCE_RETRY));
    }
    if reason.closes() {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// A small page. Nothing in it comes from the client but the id, which has only letters, digits and `+/=-`.
fn html(status: StatusCode, message: &str, request_id: &str) -> String {
    let title = status.canonical_reason().unwrap_or("Error");
    format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>{title}</title>\
         <style>body{{font:16px/1.5 system-ui,sans-serif;max-width:32em;margin:20vh auto;padding:0 1em}}\
         small{{color:#666}}</style>\
         <h1>{title}</h1><p>Sorry, {message}.</p><p><small>{} · request {request_id}</small></p></html>\n",
        status.as_u16()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(reason: Reason, accept: &'static str, custom: Option<&Bytes>) -> (u16, String, String) {
        let accept = HeaderValue::from_static(accept);
        let response = page(reason, Some(&accept), &HeaderValue::from_static("the-id"), custom);
        assert_eq!(response.headers()[CONTENT_LENGTH], response.body().len().to_string().as_str());
        assert_eq!(response.headers()[X_REQUEST_ID], "the-id");
        let kind = response.headers().get(CONTENT_TYPE).map_or("", |kind| kind.to_str().unwrap()).to_owned();
        (response.status().as_u16(), kind, String::from_utf8(response.into_body().to_vec()).unwrap())
    }

    #[test]
    fn f1_f8_programs_that_ask_for_nothing_get_the_texts_of_old() {
        let text = "text/plain; charset=utf-8".to_owned();
        for accept in ["", "*/*", "text/plain", "image/png"] {
            assert_eq!(made(Reason::NoRoute, accept, None), (404, text.clone(), "Not Found\n".into()));
            let unavailable = (503, text.clone(), "Service Unavailable\n".into());
            assert_eq!(made(Reason::Unavailable, accept, None), unavailable);
        }
        let (status, _, body) = made(Reason::Refused(Refusal::NoHost), "", None);
        assert_eq!((status, &*body), (400, "400 Bad Request: missing required Host header"));
        assert_eq!(made(Reason::ClientGone, "", None), (499, String::new(), String::new()));
    }

    #[test]
    fn people_get_html_and_programs_json_with_the_request_id() {
        let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";
        let (_, kind, body) = made(Reason::NoRoute, browser, None);
        assert!(kind.starts_with("text/html") && body.contains("the-id"), "{body}");
        let (_, kind, body) = made(Reason::Unavailable, "text/html;q=0.1, application/json", None);
        let json: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            (kind.as_str(), &json["code"], &json["retry"], &json["request_id"]),
            ("application/json", &"service_unavailable".into(), &true.into(), &"the-id".into(),)
        );
    }

    #[test]
    fn f6_the_operators_page_is_for_unavailable_services_only() {
        let custom = Bytes::from_static(b"<h1>soon</h1>");
        let unavailable = (503, "text/html; charset=utf-8".to_owned(), "<h1>soon</h1>".to_owned());
        assert_eq!(made(Reason::Unavailable, "", Some(&custom)), unavailable);
        assert_eq!(made(Reason::NoRoute, "", Some(&custom)).2, "Not Found\n");
    }
}
