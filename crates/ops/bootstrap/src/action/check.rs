//! Checks before and after, and last words.

use std::time::Duration;

use flynn_types::discoverd::{ServiceConfig, ServiceMeta};
use flynn_types::host::Port;
use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use tokio::time::Instant;

use super::Outcome;
use crate::cluster::PAUSE;
use crate::error::{Doing as _, Result, words, wrong};
use crate::manifest::Step;
use crate::run::Run;

/// Variables that must be set.
#[derive(Deserialize)]
pub(crate) struct RequireEnv {
    #[serde(default)]
    vars: Vec<String>,
}

impl RequireEnv {
    pub(super) async fn run(self, _: &Step, run: &mut Run) -> Result<Outcome> {
        let missing: Vec<_> = self.vars.into_iter().filter(|name| run.var(name).is_none()).collect();
        if missing.is_empty() {
            return Ok(Outcome::nothing());
        }
        Err(wrong(format!("Missing required environment variable(s): {}", missing.join(", "))))
    }
}

/// Ports that must be free on every host.
#[derive(Deserialize)]
pub(crate) struct ResourceCheck {
    #[serde(default)]
    ports: Vec<Port>,
}

impl ResourceCheck {
    /// Not again once it was found: the ports are taken then, by what this bootstrap started.
    pub(super) async fn run(self, step: &Step, run: &mut Run) -> Result<Outcome> {
        if run.state.is_done(&step.id) {
            return Ok(Outcome::nothing());
        }
        let hosts = &run.cluster.hosts;
        let answers = join_all(hosts.iter().map(|host| host.client.check_resources(&self.ports))).await;
        let refused = hosts.iter().zip(answers).filter_map(|(host, answer)| {
            let err = answer.err()?;
            Some(format!("host {}: {}", host.id, flynn_types::error::with_causes(&err)))
        });
        let refused: Vec<_> = refused.collect();
        if refused.is_empty() {
            return Ok(Outcome::nothing());
        }
        Err(wrong(format!("conflicts detected:\n{}", refused.join("\n"))))
    }
}

/// Whether all services are healthy.
#[derive(Deserialize)]
pub(crate) struct StatusCheck {
    url: String,
    /// Seconds.
    #[serde(default)]
    timeout: Option<u64>,
}

const STATUS_TIMEOUT: u64 = 60;

impl StatusCheck {
    pub(super) async fn run(self, step: &Step, run: &mut Run) -> Result<Outcome> {
        let deadline = Instant::now() + Duration::from_secs(self.timeout.unwrap_or(STATUS_TIMEOUT));
        loop {
            let unhealthy = match self.look(run).await {
                Ok(unhealthy) if unhealthy.is_empty() => return Ok(Outcome::text("all services healthy")),
                Ok(unhealthy) => format!("unhealthy services: {}", unhealthy.join(", ")),
                Err(err) => words(&err),
            };
            if Instant::now() + PAUSE >= deadline {
                run.info(step, &unhealthy);
                return Ok(Outcome::nothing());
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Names of the services that are not healthy.
    async fn look(&self, run: &Run) -> Result<Vec<String>> {
        let url = run.cluster.resolved(&self.url, PAUSE).await?;
        let client = flynn_http::Client::new(&url);
        let request = http::Request::get(&url).body(bytes::Bytes::new()).doing(|| format!("ask {url}"))?;
        let answer = client.send_as_is(request, 1 << 20).await.doing(|| format!("ask {url}"))?;
        if answer.status() == http::StatusCode::OK {
            return Ok(Vec::new());
        }
        let body: Value = serde_json::from_slice(answer.body()).doing(|| format!("read the answer of {url}"))?;
        let Some(Value::Object(services)) = body.pointer("/data/detail") else {
            return Err(wrong(format!("{url} answers {}", answer.status())));
        };
        let healthy = |status: &Value| status.get("status").and_then(Value::as_str) == Some("healthy");
        Ok(services.iter().filter(|(_, status)| !healthy(status)).map(|(name, _)| name.clone()).collect())
    }
}

/// Lets hosts repair the cluster.
#[derive(Deserialize)]
pub(crate) struct ClusterMonitor {
    #[serde(default)]
    enabled: bool,
}

const MONITOR: &str = "cluster-monitor";

impl ClusterMonitor {
    pub(super) async fn run(self, _: &Step, run: &mut Run) -> Result<Outcome> {
        let discoverd = &run.cluster.discoverd;
        match discoverd.add_service(MONITOR, &ServiceConfig::default()).await {
            Err(err) if !err.is_conflict() => return Err(err).doing(|| format!("create the service {MONITOR}")),
            _ => {}
        }
        let text = json!({"enabled": self.enabled, "hosts": run.cluster.hosts.len()}).to_string();
        let current = discoverd.meta(MONITOR).await.ok().flatten();
        let mut meta = ServiceMeta::default();
        meta.index = current.map_or(0, |meta| meta.index);
        meta.data = Some(RawValue::from_string(text).doing(|| "write metadata".into())?);
        discoverd.set_meta(MONITOR, &meta).await.doing(|| format!("write the metadata of {MONITOR}"))?;
        Ok(Outcome::nothing())
    }
}

/// Says something, and after the last step how to use the cluster.
#[derive(Deserialize)]
pub(crate) struct Log {
    #[serde(default)]
    output: String,
}

impl Log {
    pub(super) async fn run(self, _: &Step, run: &mut Run) -> Result<Outcome> {
        if let Some(rest) = self.output.strip_prefix('\n') {
            run.report.plain("");
            run.report.plain(rest);
            return Ok(Outcome::nothing());
        }
        Ok(Outcome::text(self.output))
    }
}
