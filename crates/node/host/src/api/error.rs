//! From errors to answers: one match per error type, no catch-all.

use flynn_http::Failure;
use flynn_types::error::with_causes;
use flynn_types::error::{ApiError, ErrorCode};

use crate::jobs::{RecordError, StopError, StopFailure};
use crate::store::StoreError;

/// The answer for an error.
pub(super) fn failure<E: IntoApi>(err: E) -> Failure {
    err.into_api().into()
}

pub(super) trait IntoApi {
    fn into_api(self) -> ApiError;
}

impl IntoApi for RecordError {
    fn into_api(self) -> ApiError {
        match self {
            Self::Refused(refused) => ApiError::conflict(refused.to_string()),
            Self::Store(_) => ApiError::new(ErrorCode::ServiceUnavailable, self.to_string()).retryable(),
        }
    }
}

impl IntoApi for StopFailure {
    fn into_api(self) -> ApiError {
        match self {
            Self::State(StopError::Unknown) => ApiError::object_not_found(self.to_string()),
            Self::State(StopError::AlreadyStopped) | Self::NoContainer => ApiError::conflict(self.to_string()),
            Self::Call(reason) => ApiError::internal(reason),
        }
    }
}

impl IntoApi for flynn_volume::VolumeError {
    fn into_api(self) -> ApiError {
        ApiError::new(self.code(), with_causes(&self))
    }
}

impl IntoApi for flynn_logmux::SinkError {
    fn into_api(self) -> ApiError {
        if self.is_invalid_request() {
            ApiError::validation("", &with_causes(&self))
        } else {
            ApiError::new(ErrorCode::ServiceUnavailable, with_causes(&self)).retryable()
        }
    }
}

impl IntoApi for StoreError {
    fn into_api(self) -> ApiError {
        ApiError::new(ErrorCode::ServiceUnavailable, with_causes(&self)).retryable()
    }
}
