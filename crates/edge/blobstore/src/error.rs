//! What can go wrong, and how it is answered.

use std::io;

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use uuid::Uuid;

use crate::path::InvalidPath;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("there is no such file")]
    NotFound,
    #[error("there is a file of that name already")]
    Exists,
    #[error("the file has {size} bytes, so nothing can be appended at {offset}")]
    Offset { size: i64, offset: i64 },
    #[error("Blobstore-Offset is no offset: {0:?}")]
    InvalidOffset(String),
    #[error(transparent)]
    Path(#[from] InvalidPath),
    #[error("the backend {0:?} of the file is not configured")]
    UnknownBackend(String),
    #[error("the client broke off")]
    Body(#[source] axum::Error),
    #[error("the client sent nothing for {0} s")]
    Silent(u64),
    #[error("ask the database")]
    Database(#[from] sqlx::Error),
    #[error("use the content {object}")]
    Content {
        object: String,
        #[source]
        err: io::Error,
    },
    #[error("use the object {object} of the store")]
    Object {
        object: Uuid,
        #[source]
        err: object_store::Error,
    },
    #[error("the object {object} has {stored} bytes at the store, and {size} were sent")]
    Shortened { object: Uuid, size: u64, stored: u64 },
    #[error("the content of {name} is shorter than what was recorded")]
    Damaged { name: String },
}

impl Error {
    fn status(&self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Path(_) => StatusCode::BAD_REQUEST,
            // Offsets and names too: existing clients know nothing else (spec build-and-deploy section 11.1).
            Self::Exists
            | Self::Offset { .. }
            | Self::InvalidOffset(_)
            | Self::UnknownBackend(_)
            | Self::Body(_)
            | Self::Silent(_)
            | Self::Database(_)
            | Self::Content { .. }
            | Self::Object { .. }
            | Self::Shortened { .. }
            | Self::Damaged { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        let status = self.status();
        let text = match status {
            StatusCode::NOT_FOUND => "NotFound",
            StatusCode::BAD_REQUEST => "Bad Request",
            _ => "Internal Server Error",
        };
        if status.is_server_error() {
            let reason = flynn_types::error::with_causes(&self);
            tracing::warn!(reason, "request failed");
        }
        (status, text).into_response()
    }
}
