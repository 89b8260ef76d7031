//! Schedulers that were replaced start and stop nothing any more.
//!
//! A scheduler sends the term in which it leads. Whoever lists the jobs in a term has seen everything that earlier ones
//! started: a start in an earlier term is finished before, or refused after. Terms are forgotten with the daemon; a leader
//! lists the jobs again twice a minute.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method};
use axum::middleware::Next;
use axum::response::Response;
use flynn_http::Failure;
use flynn_types::error::{ApiError, ErrorCode};
use flynn_types::host::TERM_HEADER;
use tokio::sync::RwLock;

/// The highest term seen.
#[derive(Clone, Default)]
pub(super) struct Fence(Arc<RwLock<u64>>);

/// Lets requests without a term through, and those whose term is not over.
pub(super) async fn check(State(Fence(seen)): State<Fence>, request: Request, next: Next) -> Result<Response, Failure> {
    let Some(term) = term(request.headers()) else { return Ok(next.run(request).await) };
    if *seen.read().await < term {
        let mut seen = seen.write().await; // after the starts that are under way
        *seen = (*seen).max(term);
    }
    let current = seen.read().await;
    if term < *current {
        let text = format!("the scheduler that leads in term {term} was replaced by that of term {}", *current);
        let detail = serde_json::json!({ "term": *current });
        return Err(ApiError::new(ErrorCode::Conflict, text).with_detail(detail).into());
    }
    // Only starts are waited for by a later term: a stop takes as long as the job, and does no harm.
    let held = (request.method() == Method::PUT).then_some(current);
    let response = next.run(request).await;
    drop(held);
    Ok(response)
}

fn term(headers: &HeaderMap) -> Option<u64> {
    headers.get(TERM_HEADER)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use axum::Router;
    use axum::body::Body;
    use axum::routing::get;
    use tower_service::Service as _;

    use super::*;

    async fn status(router: &mut Router, method: Method, term: Option<u64>) -> u16 {
        let mut request = Request::builder().method(method).uri("/host/jobs");
        if let Some(term) = term {
            request = request.header(TERM_HEADER, term);
        }
        router.call(request.body(Body::empty()).unwrap()).await.unwrap().status().as_u16()
    }

    #[tokio::test]
    async fn an_earlier_term_is_refused_once_a_later_one_was_seen() {
        let layer = axum::middleware::from_fn_with_state(Fence::default(), check);
        let mut router = Router::new().route("/host/jobs", get(async || "").put(async || "")).layer(layer);
        for (method, term, expected) in [
            (Method::PUT, Some(3), 200),
            (Method::PUT, Some(2), 409),
            (Method::GET, Some(5), 200),
            (Method::PUT, Some(3), 409),
            (Method::GET, Some(3), 409),
            (Method::PUT, None, 200),
            (Method::PUT, Some(5), 200),
        ] {
            assert_eq!(status(&mut router, method.clone(), term).await, expected, "{method} {term:?}");
        }
    }

    #[tokio::test]
    async fn a_later_term_waits_for_a_start_that_is_under_way() {
        let (begun, go) = (Arc::new(tokio::sync::Notify::new()), Arc::new(tokio::sync::Notify::new()));
        let (told, held) = (begun.clone(), go.clone());
        let start = async move || {
            told.notify_one();
            held.notified().await;
            "started"
        };
        let layer = axum::middleware::from_fn_with_state(Fence::default(), check);
        let router = Router::new().route("/host/jobs", get(async || "").put(start)).layer(layer);
        let mut first = router.clone();
        let starting = tokio::spawn(async move { status(&mut first, Method::PUT, Some(1)).await });
        begun.notified().await;
        let mut second = router.clone();
        let mut listing = tokio::spawn(async move { status(&mut second, Method::GET, Some(2)).await });
        let early = tokio::time::timeout(std::time::Duration::from_millis(100), &mut listing).await;
        assert!(early.is_err(), "the start would be missing in the list");
        go.notify_one();
        assert_eq!((starting.await.unwrap(), listing.await.unwrap()), (200, 200));
    }
}
