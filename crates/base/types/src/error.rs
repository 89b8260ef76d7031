//! The error body of every HTTP API: `{"code","message","detail"?,"retry"}`.

use serde::{Deserialize, Serialize};

/// What went wrong, as clients match on it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ErrorCode {
    NotFound,
    ObjectNotFound,
    ObjectExists,
    Conflict,
    Validation,
    Syntax,
    BodyTooBig,
    Unauthorized,
    PreconditionFailed,
    RateLimited,
    ServiceUnavailable,
    Unknown,
    /// A code of a newer server.
    Other(String),
}

const CODES: [(ErrorCode, &str, u16); 12] = [
    (ErrorCode::NotFound, "not_found", 404),
    (ErrorCode::ObjectNotFound, "object_not_found", 404),
    (ErrorCode::ObjectExists, "object_exists", 409),
    (ErrorCode::Conflict, "conflict", 409),
    (ErrorCode::Validation, "validation_error", 400),
    (ErrorCode::Syntax, "syntax_error", 400),
    (ErrorCode::BodyTooBig, "request_body_too_big", 400),
    (ErrorCode::Unauthorized, "unauthorized", 401),
    (ErrorCode::PreconditionFailed, "precondition_failed", 412),
    (ErrorCode::RateLimited, "ratelimited", 429),
    (ErrorCode::ServiceUnavailable, "service_unavailable", 503),
    (ErrorCode::Unknown, "unknown_error", 500),
];

impl ErrorCode {
    /// The code on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Other(code) => code,
            known => CODES.iter().find(|(code, ..)| code == known).map_or("unknown_error", |(_, text, _)| text),
        }
    }

    /// The HTTP status that goes with the code.
    pub fn status(&self) -> u16 {
        CODES.iter().find(|(code, ..)| code == self).map_or(500, |(_, _, status)| *status)
    }
}

impl Serialize for ErrorCode {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for ErrorCode {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let known = CODES.iter().find(|(_, code, _)| *code == text).map(|(code, ..)| code.clone());
        Ok(known.unwrap_or(Self::Other(text)))
    }
}

/// An error as it travels in a response body.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    pub code: ErrorCode,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<serde_json::Value>,
    /// Whether the same request may succeed later without anybody's help.
    #[serde(default)]
    pub retry: bool,
}

impl ApiError {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), detail: None, retry: false }
    }

    /// `object_not_found`
    pub fn object_not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::ObjectNotFound, message)
    }

    /// `conflict`
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Conflict, message)
    }

    /// `validation_error` on a field: message `<field> <text>` and the field's name as detail. An empty field leaves
    /// the text alone and gives no detail.
    pub fn validation(field: &str, text: &str) -> Self {
        if field.is_empty() {
            return Self::new(ErrorCode::Validation, text);
        }
        Self {
            detail: Some(serde_json::json!({ "field": field })),
            ..Self::new(ErrorCode::Validation, format!("{field} {text}"))
        }
    }

    /// `syntax_error` with the one message that clients know.
    pub fn syntax() -> Self {
        Self::new(ErrorCode::Syntax, "The provided JSON input is invalid")
    }

    /// `service_unavailable`, worth a retry.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::ServiceUnavailable, message).retryable()
    }

    /// `unknown_error`: our mistake; the message is the real reason.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Unknown, message)
    }

    #[must_use]
    pub fn retryable(mut self) -> Self {
        self.retry = true;
        self
    }

    #[must_use]
    pub fn with_detail(mut self, detail: serde_json::Value) -> Self {
        self.detail = Some(detail);
        self
    }

    pub fn status(&self) -> u16 {
        self.code.status()
    }
}

/// An error and its causes in one line. A cause that the text before already holds (many errors print theirs) is not
/// repeated.
pub fn with_causes(err: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(err.source(), |err| err.source());
    causes.fold(err.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_bodies_have_exactly_the_keys_that_clients_expect() {
        let text = |e: &ApiError| serde_json::to_string(e).unwrap();
        assert_eq!(
            text(&ApiError::validation("mountspecs", "must be set")),
            r#"{"code":"validation_error","message":"mountspecs must be set","detail":{"field":"mountspecs"},"retry":false}"#
        );
        assert_eq!(
            text(&ApiError::unavailable("host is draining")),
            r#"{"code":"service_unavailable","message":"host is draining","retry":true}"#
        );
    }

    #[test]
    fn codes_of_newer_servers_survive_a_round_trip() {
        let body = r#"{"code":"teapot","message":"m","retry":true}"#;
        let error: ApiError = serde_json::from_str(body).unwrap();
        assert_eq!((serde_json::to_string(&error).unwrap().as_str(), error.status()), (body, 500));
    }

    #[test]
    fn causes_are_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("{text}")]
        struct Step {
            text: &'static str,
            source: Option<Box<Step>>,
        }
        let step = |text, source: Option<Step>| Step { text, source: source.map(Box::new) };
        let full = step("disk full", None);
        assert_eq!(with_causes(&full), "disk full");
        let write = step("cannot write /a: disk full", Some(full));
        assert_eq!(with_causes(&step("cannot start", Some(write))), "cannot start: cannot write /a: disk full");
    }
}
