//! The host API on port 1113 (spec flynn-host section 4).

mod attach;
mod auth;
mod error;
mod jobs;
mod sinks;
mod stats;
mod status;
mod update;
mod volumes;
mod webhooks;

use std::sync::Arc;

use axum::Router;
use axum::routing::{get, post, put};

pub(crate) use auth::FailureLimit;

use crate::host::Host;

/// All endpoints.
pub(crate) fn router(host: Arc<Host>) -> Router {
    let open = Router::new().route("/host/status", get(status::get));
    let guarded = Router::new()
        .route("/host/jobs", get(jobs::list))
        .route("/host/jobs/{id}", get(jobs::get).put(jobs::add).delete(jobs::stop))
        .route("/host/jobs/{id}/signal/{signal}", put(jobs::signal))
        .route("/host/jobs/{id}/discoverd-deregister", put(jobs::deregister))
        .route("/attach", post(attach::attach))
        .route("/host/discoverd", post(status::configure_discoverd))
        .route("/host/network", post(status::configure_network))
        .route("/host/tags", post(status::set_tags))
        .route("/host/resource-check", post(status::check_resources))
        .route("/host/drain", put(status::drain).delete(status::undrain))
        .route("/host/update", post(update::update))
        .route("/host/stats", get(stats::host))
        .route("/host/jobs-stats", get(stats::jobs))
        .route("/host/jobs/{id}/stats", get(stats::job))
        .route("/host/webhooks", get(webhooks::list).post(webhooks::add))
        .route("/host/webhooks/{id}", axum::routing::delete(webhooks::remove))
        .route("/storage/providers", post(volumes::add_provider))
        .route("/storage/providers/{id}/volumes", post(volumes::create))
        .route("/storage/volumes", get(volumes::list))
        .route("/storage/volumes/{id}", get(volumes::get).delete(volumes::destroy))
        .route("/storage/volumes/{id}/snapshot", put(volumes::snapshot))
        .route("/storage/volumes/{id}/pull_snapshot", post(volumes::pull_snapshot))
        .route("/storage/volumes/{id}/send", get(volumes::send))
        .route("/storage/gc", post(volumes::collect_garbage))
        .route("/sinks", get(sinks::list))
        .route("/sinks/{id}", put(sinks::add).delete(sinks::remove))
        .route("/host/systemctl-restart", post(update::restart));
    flynn_http::with_text_fallbacks(open.merge(guard(guarded, &host))).with_state(host)
}

/// Lets only requests with the host's key through to these routes.
pub(crate) fn guard<S: Clone + Send + Sync + 'static>(router: Router<S>, host: &Arc<Host>) -> Router<S> {
    router.layer(axum::middleware::from_fn_with_state(Arc::clone(host), auth::require_key))
}
