//! Tells other systems of job events (spec flynn-host section 4.9).

use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use flynn_http::Client;
use flynn_types::host::{ActiveJob, JobEvent, JobEventKind, JobStatus, Webhook, WebhookEvent, WebhookJob, metadata};
use flynn_types::id::JobId;
use http::Method;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::host::Host;

/// Events that wait; more are dropped.
const QUEUE: usize = 256;
const TIMEOUT: Duration = Duration::from_secs(5);
const RETRIES: u32 = 2;
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How long the daemon's end may be delayed by telling of it.
const FAREWELL: Duration = Duration::from_secs(2);

/// Sees every event from its beginning on.
pub(crate) struct Hooks {
    host: Arc<Host>,
    events: broadcast::Receiver<Arc<JobEvent>>,
    warnings: broadcast::Receiver<JobId>,
}

impl Hooks {
    pub(crate) fn begin(host: &Arc<Host>) -> Self {
        let (events, warnings) = (host.runner().book.subscribe(), host.runner().memory_warnings.subscribe());
        Self { host: Arc::clone(host), events, warnings }
    }

    /// Delivers events until `stop`.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let host = Arc::clone(&self.host);
        let (sender, receiver) = mpsc::channel(QUEUE);
        enqueue(&host, &sender, of_daemon(&host, "D10", "daemon started"));
        let deliver = deliver_all(Arc::clone(&host), receiver);
        stop.run_until_cancelled(async { tokio::join!(deliver, self.collect(sender)) }).await;
        let farewell = of_daemon(&host, "D11", "daemon ends");
        let _ = tokio::time::timeout(FAREWELL, deliver_once(&host, &farewell)).await; // who does not listen now is not waited for
    }

    async fn collect(mut self, queue: mpsc::Sender<WebhookEvent>) {
        let id = self.host.id().as_str().to_owned();
        loop {
            let received = tokio::select! {
                event = self.events.recv() => event.map(|event| describe(&event, &id)),
                job = self.warnings.recv() => job.map(|job| self.of_memory(&job)),
            };
            match received {
                Ok(event) => enqueue(&self.host, &queue, event),
                Err(RecvError::Lagged(missed)) => warn!(missed, "events come faster than webhooks can be told"),
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn of_memory(&self, id: &JobId) -> WebhookEvent {
        let job = self.host.runner().book.get(id).unwrap_or_default();
        let text = "job is about to use up its memory";
        of_job(id.as_str(), &job, self.host.id().as_str(), ("H20", "warning", text))
    }
}

fn enqueue(host: &Host, queue: &mpsc::Sender<WebhookEvent>, event: WebhookEvent) {
    if !host.settings().get().webhooks.is_empty() && queue.try_send(event).is_err() {
        warn!("too many events wait for webhooks, dropping one");
    }
}

async fn deliver_all(host: Arc<Host>, mut queue: mpsc::Receiver<WebhookEvent>) {
    while let Some(event) = queue.recv().await {
        deliver_once(&host, &event).await;
    }
}

async fn deliver_once(host: &Host, event: &WebhookEvent) {
    let settings = host.settings().get();
    futures_util::future::join_all(settings.webhooks.iter().map(|webhook| deliver(webhook, event))).await;
}

async fn deliver(webhook: &Webhook, event: &WebhookEvent) {
    let client = Client::new(&webhook.url).with_timeout(TIMEOUT).with_headers(&webhook.headers);
    for attempt in 0..=RETRIES {
        let Err(err) = client.put_json(Method::POST, "", event).await else { return };
        let refused = err.status().is_some_and(|status| status < 500);
        if refused || attempt == RETRIES {
            debug!(webhook_id = webhook.id, %err, "webhook was not delivered");
            return;
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

fn describe(event: &JobEvent, host: &str) -> WebhookEvent {
    let what = match (event.event, event.job.status) {
        (JobEventKind::Create, _) => ("H10", "info", "job created"),
        (JobEventKind::Start, _) => ("H11", "info", "job started"),
        (JobEventKind::Stop, JobStatus::Crashed) if event.job.error.is_some() => {
            ("H21", "error", "job ran out of memory")
        }
        (JobEventKind::Stop, JobStatus::Crashed) => ("H13", "error", "job crashed"),
        (JobEventKind::Stop, _) => ("H12", "info", "job stopped"),
        (JobEventKind::Error, _) => ("H14", "error", "job failed"),
        (JobEventKind::Cleanup, _) => ("H15", "info", "job cleaned up"),
    };
    of_job(&event.job_id, &event.job, host, what)
}

fn of_daemon(host: &Host, code: &str, description: &str) -> WebhookEvent {
    WebhookEvent {
        event_id: uuid::Uuid::new_v4().to_string(),
        timestamp: Utc::now().into(),
        host_id: host.id().to_string(),
        code: code.into(),
        description: description.into(),
        severity: "info".into(),
        ..WebhookEvent::default()
    }
}

/// What others are told: never environment, arguments or mounts.
fn of_job(id: &str, active: &ActiveJob, host: &str, (code, severity, description): (&str, &str, &str)) -> WebhookEvent {
    let meta = |key: &str| active.job.meta(key).to_owned();
    WebhookEvent {
        event_id: uuid::Uuid::new_v4().to_string(),
        timestamp: Utc::now().into(),
        host_id: host.to_owned(),
        code: code.into(),
        description: description.into(),
        severity: severity.into(),
        job_id: id.to_owned(),
        app_id: meta(metadata::APP),
        process_type: meta(metadata::TYPE),
        release_id: meta(metadata::RELEASE),
        metadata: active.job.metadata.clone(),
        job: Some(WebhookJob {
            id: id.to_owned(),
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
