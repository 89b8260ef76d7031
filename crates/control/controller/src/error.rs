//! What goes wrong, and how it is answered.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use flynn_http::Failure;
use flynn_types::error::{ApiError, ErrorCode};

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a request is not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// 404 without a body: existing clients take that, and nothing else, for an object that does not exist (T2).
    #[error("not found")]
    NotFound,
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        Self::Api(failure.0)
    }
}

/// 400 about a field.
pub(crate) fn invalid(field: &str, text: impl AsRef<str>) -> Error {
    ApiError::validation(field, text.as_ref()).into()
}

impl Error {
    /// The answer, or `None` for the one without a body.
    pub(crate) fn api(self) -> Option<ApiError> {
        match self {
            Self::NotFound => None,
            Self::Api(error) => Some(error),
            Self::Database(sqlx::Error::RowNotFound) => None,
            Self::Database(error) => Some(of_database(&error)),
        }
    }

    /// Whether the database refused because of the constraint or index of this name.
    pub(crate) fn is_constraint(&self, name: &str) -> bool {
        matches!(self, Self::Database(sqlx::Error::Database(err)) if err.constraint() == Some(name))
    }
}

/// T21: what users got wrong is theirs, and only what may pass is tried again.
fn of_database(error: &sqlx::Error) -> ApiError {
    let sqlx::Error::Database(database) = error else {
        return match error {
            sqlx::Error::Io(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed => ApiError::unavailable(format!("the database cannot be reached: {error}")),
            other => ApiError::internal(format!("the database's answer cannot be used: {other}")),
        };
    };
    let code = database.code().unwrap_or_default();
    let said = database.message();
    match &*code {
        "23505" => ApiError::new(ErrorCode::ObjectExists, said),
        "23502" | "23503" | "23514" | "22001" | "22003" | "22021" | "22P05" | "54000" | "P0001" => {
            ApiError::validation("", said)
        }
        // An operator's work, but nothing of the request is wrong: it succeeds once there is space again.
        "53100" => ApiError::unavailable(format!("the database's disk is full: {said}")),
        // Serialization failures, read-only after a failover, a lock or a statement that took too long.
        "40001" | "40P01" | "25006" | "25P03" | "55P03" | "57014" => {
            ApiError::unavailable(format!("the database is not ready: {said}"))
        }
        // Of a connection that is older than a change of the schema (`database::SchemaChange`).
        "0A000" if said.contains("cached plan") => ApiError::unavailable("the database's schema has just changed"),
        // Nothing left of what the server needs, a server that goes down or comes up, a disk that fails.
        code if ["53", "57P", "58"].iter().any(|class| code.starts_with(class)) => {
            ApiError::unavailable(format!("the database is not ready: {said}"))
        }
        code if code.starts_with("08") => ApiError::unavailable(format!("the database's connection broke: {said}")),
        code => ApiError::internal(format!("the database failed with {code}: {said}")),
    }
}

impl IntoResponse for Error {
    fn into_response(self) -> Response {
        if let Self::Database(err) = &self {
            tracing::debug!(%err, "the database refused");
        }
        match self.api() {
            Some(error) => answer(error),
            None => StatusCode::NOT_FOUND.into_response(),
        }
    }
}

/// Errors of app-scoped tokens have a status that no other server of ours uses.
fn answer(error: ApiError) -> Response {
    let forbidden = matches!(&error.code, ErrorCode::Other(code) if code == "forbidden");
    if forbidden { (StatusCode::FORBIDDEN, axum::Json(error)).into_response() } else { Failure(error).into_response() }
}
