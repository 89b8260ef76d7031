//! An error as an answer.

use std::fmt;

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use flynn_types::error::ApiError;

/// An [`ApiError`] that handlers return: its status and its JSON body.
#[derive(Clone, Debug, PartialEq)]
pub struct Failure(pub ApiError);

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Failure {}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if status.is_server_error() {
            tracing::warn!(code = self.0.code.as_str(), message = self.0.message, "request failed");
        }
        (status, axum::Json(self.0)).into_response()
    }
}
