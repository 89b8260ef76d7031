//! Tells other systems of job events (spec flynn-host section 4.9).

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use flynn_http::Client;
use flynn_types::host::{JobEvent, JobEventKind, JobStatus, Webhook, WebhookEvent, WebhookJob, metadata};
use http::Method;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::host::Host;

/// Events that wait; more are dropped.
const QUEUE: usize = 256;
const TIMEOUT: Duration = Duration::from_secs(5);
const RETRIES: u32 = 2;
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// Sends events until `stop`.
pub(crate) async fn run(host: Arc<Host>, stop: CancellationToken) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let deliver = deliver_all(Arc::clone(&host), receiver);
    let collect = collect(host, sender);
    stop.run_until_cancelled(async { tokio::join!(deliver, collect) }).await;
}

async fn collect(host: Arc<Host>, queue: mpsc::Sender<WebhookEvent>) {
    let mut events = host.runner().book.subscribe();
    loop {
        let event = match events.recv().await {
            Ok(event) => event,
            Err(RecvError::Lagged(missed)) => {
                warn!(missed, "events come faster than webhooks can be told");
                continue;
            }
            Err(RecvError::Closed) => return,
        };
        if !host.settings().get().webhooks.is_empty() && queue.try_send(describe(&event, host.id().as_str())).is_err() {
            warn!(job_id = event.job_id, "too many events wait for webhooks, dropping one");
        }
    }
}

async fn deliver_all(host: Arc<Host>, mut queue: mpsc::Receiver<WebhookEvent>) {
    while let Some(event) = queue.recv().await {
        let settings = host.settings().get();
        futures_util::future::join_all(settings.webhooks.iter().map(|webhook| deliver(webhook, &event))).await;
    }
}

async fn deliver(webhook: &Webhook, event: &WebhookEvent) {
    let client = Client::new(&webhook.url).with_timeout(TIMEOUT).with_headers(&webhook.headers);
    for attempt in 0..=RETRIES {
        let Err(err) = client.put_json(Method::POST, "", event).await else { return };
        let final_answer = err.status().is_some_and(|status| status < 500);
        if final_answer || attempt == RETRIES {
            debug!(webhook_id = webhook.id, %err, "webhook was not delivered");
            return;
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// What others are told: never environment, arguments or mounts.
fn describe(event: &JobEvent, host: &str) -> WebhookEvent {
    let active = &event.job;
    let (code, severity, description) = match (event.event, active.status) {
        (JobEventKind::Create, _) => ("H10", "info", "job created"),
        (JobEventKind::Start, _) => ("H11", "info", "job started"),
        (JobEventKind::Stop, JobStatus::Crashed) if active.error.is_some() => ("H21", "error", "job ran out of memory"),
        (JobEventKind::Stop, JobStatus::Crashed) => ("H13", "error", "job crashed"),
        (JobEventKind::Stop, _) => ("H12", "info", "job stopped"),
        (JobEventKind::Error, _) => ("H14", "error", "job failed"),
        (JobEventKind::Cleanup, _) => ("H15", "info", "job cleaned up"),
    };
    let meta = |key: &str| active.job.meta(key).to_owned();
    WebhookEvent {
        event_id: uuid::Uuid::new_v4().to_string(),
        timestamp: Utc::now().into(),
        host_id: host.to_owned(),
        code: code.into(),
        description: description.into(),
        severity: severity.into(),
        job_id: event.job_id.clone(),
        app_id: meta(metadata::APP),
        process_type: meta(metadata::TYPE),
        release_id: meta(metadata::RELEASE),
        metadata: active.job.metadata.clone(),
        job: Some(WebhookJob {
            id: event.job_id.clone(),
            host_id: active.host_id.clone(),
            internal_ip: active.internal_ip.clone(),
            status: active.status,
            created_at: active.created_at,
            started_at: active.started_at,
            ended_at: active.ended_at,
            exit_status: active.exit_status,
            error: active.error.clone(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flynn_types::host::ActiveJob;

    #[test]
    fn no_secret_of_a_job_reaches_a_webhook() {
        let mut job = ActiveJob { status: JobStatus::Crashed, ..ActiveJob::default() };
        job.job.config.env.insert("PASSWORD".into(), "hunter2".into());
        job.job.config.args = vec!["--key=hunter2".into()];
        let event = describe(&JobEvent { event: JobEventKind::Stop, job_id: "h-1".into(), job }, "h");
        assert_eq!(event.code, "H13");
        assert!(!serde_json::to_string(&event).unwrap().contains("hunter2"));
    }
}
