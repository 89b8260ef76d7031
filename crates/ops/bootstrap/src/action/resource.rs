//! Resources that providers make, the providers themselves, and routes.

use std::collections::BTreeMap;
use std::time::Duration;

use flynn_controller_client::Client as Controller;
use flynn_types::controller::{Provider, Resource};
use flynn_types::router::{Certificate, Route};
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::json;
use uuid::Uuid;

use super::jobs::Known;
use super::{Outcome, key};
use crate::cluster::{self, PAUSE};
use crate::error::{Doing as _, Result, wrong};
use crate::manifest::Step;
use crate::run::Run;

/// How long a provider may take to be there, and then to make something.
const PROVIDER_LIMIT: Duration = Duration::from_secs(120);
/// How long the controller may take to be there again.
const CONTROLLER_LIMIT: Duration = Duration::from_secs(10);

/// A resource, made or about to be.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Provisioned {
    pub(crate) provider: Provider,
    /// With an external id once it is made.
    pub(crate) resource: Resource,
}

impl Provisioned {
    pub(crate) fn planned(provider: Provider) -> Self {
        let resource = Resource { id: Uuid::new_v4().to_string(), ..Resource::default() };
        Self { provider, resource }
    }
}

/// A provider's answer.
#[derive(Deserialize)]
struct Answer {
    id: String,
    #[serde(default)]
    env: Option<BTreeMap<String, String>>,
}

/// Makes what is not made yet; the release gets its environment. An interruption between a provider's answer and the
/// moment when it is written down leaves one resource behind that nobody uses.
pub(crate) async fn provision(known: &mut Known, step: &Step, run: &mut Run) -> Result<()> {
    for index in 0..known.resources.len() {
        if known.resources[index].resource.external_id.is_empty() {
            let Provider { name, url, .. } = known.resources[index].provider.clone();
            let made = cluster::wait(PROVIDER_LIMIT, || async {
                let address = run.cluster.resolved(&url, PAUSE).await?;
                let client = flynn_http::Client::new(&address).with_timeout(PROVIDER_LIMIT);
                let made = client.send_json::<_, Answer>(Method::POST, "", &json!({})).await;
                made.doing(|| format!("ask the provider at {url}"))
            });
            let made = made.await.doing(|| format!("make a resource of provider {name} for app {}", known.app.name))?;
            let resource = &mut known.resources[index].resource;
            (resource.external_id, resource.env) = (made.id, made.env.unwrap_or_default());
            let env = resource.env.clone();
            known.release.env.extend(env);
            run.state.plan(&step.id, &known)?;
        }
    }
    Ok(())
}

/// Tells the controller of an app's resources.
pub(crate) async fn record(known: &Known, controller: &Controller) -> Result<()> {
    for Provisioned { provider, resource } in &known.resources {
        let provider = ensure_provider(provider, controller).await?;
        let resource =
            Resource { provider_id: provider.id.clone(), apps: vec![known.app.id.clone()], ..resource.clone() };
        controller.put_resource(&resource).await.doing(|| format!("record a resource of app {}", known.app.name))?;
    }
    Ok(())
}

async fn ensure_provider(provider: &Provider, controller: &Controller) -> Result<Provider> {
    let name = &provider.name;
    match controller.create_provider(provider).await {
        Err(err) if err.status() == Some(409) => {
            let found = controller.provider(name).await.doing(|| format!("find provider {name}"))?;
            found.ok_or_else(|| wrong(format!("another provider than {name} has the address {}", provider.url)))
        }
        created => created.doing(|| format!("create provider {name}")),
    }
}

/// Registers a provider.
#[derive(Deserialize)]
pub(crate) struct AddProvider {
    name: String,
    url: String,
}

impl AddProvider {
    pub(super) async fn run(self, step: &Step, run: &mut Run) -> Result<Outcome> {
        if run.state.is_done(&step.id) {
            return Ok(Outcome::nothing());
        }
        let provider = Provider { name: self.name, url: self.url, ..Provider::default() };
        ensure_provider(&provider, &run.controller().await?).await?;
        Ok(Outcome::nothing())
    }
}

/// Adds a route to an app.
#[derive(Deserialize)]
pub(crate) struct AddRoute {
    app_step: String,
    #[serde(default)]
    cert_step: String,
    #[serde(flatten)]
    route: Route,
}

impl AddRoute {
    pub(super) async fn run(self, step: &Step, run: &mut Run) -> Result<Outcome> {
        if run.state.is_done(&step.id) {
            return Ok(Outcome::nothing());
        }
        let known: Known = run.state.data(&self.app_step)?;
        let mut route = self.route;
        if !self.cert_step.is_empty() {
            let made: key::Certificate = run.state.data(&self.cert_step)?;
            route.certificate = Some(Certificate { cert: made.cert, key: made.key, ..Certificate::default() });
        }
        let run = &*run;
        let added = cluster::wait(CONTROLLER_LIMIT, || async {
            let controller = run.controller().await?;
            let routes = controller.app_routes(&known.app.id).await.doing(|| "list routes".into())?;
            let same = |it: &Route| it.kind == route.kind && it.domain == route.domain && it.service == route.service;
            if routes.iter().any(same) {
                return Ok(());
            }
            let created = controller.create_route(&known.app.id, &route).await;
            created.map(drop).doing(|| format!("add a route for {}", route.domain))
        });
        added.await.map(|()| Outcome::nothing())
    }
}
