//! Asking components.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use flynn_discoverd_client::{Client as Discoverd, DiscoverdError};
use flynn_http::Client;
use flynn_types::discoverd::Instance;
use flynn_types::status::{Health, Status, StatusBody};
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use http::{Request, header};
use tracing::debug;

use crate::components::{Component, Who};

/// How long a component may take, and discovery in front of it (spec operations section 13.1).
const PATIENCE: Duration = Duration::from_secs(2);
/// Most instances of a component that are asked.
const INSTANCES: usize = 5;
/// Longest answer in bytes.
const ANSWER: usize = 1 << 20;
/// Metadata of instances that want a key.
const KEY: &str = "AUTH_KEY";

/// The condition of all components and of the cluster.
pub(crate) async fn cluster(components: &'static [Component], discoverd: &Discoverd, version: &str) -> Status {
    let asked = components.iter().map(|component| async move { (component, ask(*component, discoverd.clone()).await) });
    let told = join_all(asked).await;
    let healthy = told.iter().all(|(component, status)| component.optional || status.is_healthy());
    let detail: BTreeMap<_, _> = told.into_iter().map(|(component, status)| (component.name, status)).collect();
    let status = Status::new(if healthy { Health::Healthy } else { Health::Unhealthy }, version);
    Status { detail: serde_json::to_value(detail).ok(), ..status }
}

/// A healthy answer, or else any, or else that there is none.
async fn ask(component: Component, discoverd: Discoverd) -> Status {
    let found = tokio::time::timeout(PATIENCE, instances(component, &discoverd)).await;
    let instances = match found {
        Ok(Ok(instances)) => instances,
        Ok(Err(err)) => {
            debug!(component = component.name, %err, "discovery does not tell where a component is");
            return Status::unreachable();
        }
        Err(_) => return Status::unreachable(),
    };
    let asked = instances.into_iter().take(INSTANCES).map(move |instance| ask_instance(component, instance));
    let mut answers = std::pin::pin!(futures_util::stream::iter(asked).buffer_unordered(INSTANCES));
    let mut unhealthy = None;
    while let Some(answer) = answers.next().await {
        match answer {
            Some(status) if status.is_healthy() => return status,
            other => unhealthy = other.or(unhealthy),
        }
    }
    unhealthy.unwrap_or_else(Status::unreachable)
}

async fn instances(component: Component, discoverd: &Discoverd) -> Result<Vec<Instance>, DiscoverdError> {
    match component.who {
        Who::Any => discoverd.instances(component.service).await,
        Who::Leader => Ok(discoverd.leader(component.service).await?.into_iter().collect()),
    }
}

async fn ask_instance(component: Component, instance: Instance) -> Option<Status> {
    let (host, registered) = instance.addr.rsplit_once(':')?;
    let port = component.port.map_or_else(|| registered.to_owned(), |port| port.to_string());
    let base = format!("http://{host}:{port}");
    let mut request = Request::get(format!("{base}/.well-known/status"));
    if let Some(key) = instance.meta.get(KEY) {
        let encoded = base64::prelude::BASE64_STANDARD.encode(format!(":{key}"));
        request = request.header(header::AUTHORIZATION, format!("Basic {encoded}"));
    }
    let client = Client::new(&base).with_timeout(PATIENCE).with_connect_patience(Duration::ZERO);
    let answer = client.send_as_is(request.body(Bytes::new()).ok()?, ANSWER).await;
    let answer =
        answer.inspect_err(|err| debug!(component = component.name, %err, "a component does not answer")).ok()?;
    let told = serde_json::from_slice::<StatusBody>(answer.body()).ok().map(|body| body.data);
    // The code counts: what says that it is well and answers 500 is not.
    let health = if answer.status() == 200 { Health::Healthy } else { Health::Unhealthy };
    match told {
        Some(status) if !status.is_healthy() => Some(status),
        Some(status) => Some(Status { status: health, ..status }),
        None => Some(Status { status: health, version: None, detail: None }),
    }
}
