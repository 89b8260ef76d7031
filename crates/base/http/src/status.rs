//! The answer to `GET /.well-known/status`.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use flynn_types::status::{Status, StatusBody};

/// 200 or 500 with the status as indented JSON and a line feed (spec build-and-deploy section 1.3).
pub fn status(status: &Status) -> Response {
    let code = if status.is_healthy() { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
    let body = serde_json::to_string_pretty(&StatusBody { data: status }).unwrap_or_default();
    (code, [(header::CONTENT_TYPE, "application/json")], body + "\n").into_response()
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[tokio::test]
    async fn a_status_is_indented_json_with_a_code_that_fits() {
        let answer = status(&Status::healthy("v1"));
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()[header::CONTENT_TYPE]),
            (200, &"application/json".parse().unwrap())
        );
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(body, "{\n  \"data\": {\n    \"status\": \"healthy\",\n    \"version\": \"v1\"\n  }\n}\n");
        assert_eq!(status(&Status::unreachable()).status().as_u16(), 500);
    }
}
