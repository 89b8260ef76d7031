//! What steps do.

mod app;
mod check;
mod deploy;
mod jobs;
mod key;
mod resource;
mod secret;
mod wait;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::error::{Doing as _, Result, wrong};
use crate::manifest::Step;
use crate::run::Run;

pub(crate) use key::pin;
pub(crate) use secret::Made;

/// What a step made.
pub(crate) struct Outcome {
    /// For later steps.
    pub(crate) data: Value,
    /// For people.
    pub(crate) shown: Option<String>,
    /// Whether `data` holds what not everybody may see.
    pub(crate) secret: bool,
}

impl Outcome {
    /// Nothing that is of use later.
    fn nothing() -> Self {
        Self { data: json!({}), shown: None, secret: false }
    }

    fn text(shown: impl Into<String>) -> Self {
        Self { shown: Some(shown.into()), ..Self::nothing() }
    }

    fn secret(data: &impl serde::Serialize) -> Result<Self> {
        let data = serde_json::to_value(data).doing(|| "write down what was made".into())?;
        Ok(Self { data, shown: None, secret: true })
    }
}

macro_rules! actions {
    ($($name:literal => $variant:ident($kind:ty),)*) => {
        /// All actions of manifests.
        pub(crate) const NAMES: &[&str] = &[$($name),*];

        pub(crate) enum Action {
            $($variant(Box<$kind>),)*
        }

        impl Action {
            /// # Errors
            /// The fields are not those of the action.
            pub(crate) fn parse(name: &str, fields: Value) -> Result<Self> {
                match name {
                    $($name => decode(name, fields).map(Self::$variant),)*
                    _ => Err(wrong(format!("bootstrap: unknown action {name:?}"))),
                }
            }

            pub(crate) async fn run(self, step: &Step, run: &mut Run) -> Result<Outcome> {
                match self {
                    $(Self::$variant(action) => Box::pin(action.run(step, run)).await,)*
                }
            }
        }
    };
}

actions! {
    "add-app" => AddApp(app::AddApp),
    "add-provider" => AddProvider(resource::AddProvider),
    "add-route" => AddRoute(resource::AddRoute),
    "cluster-monitor" => ClusterMonitor(check::ClusterMonitor),
    "create-artifact" => CreateArtifact(app::CreateArtifact),
    "deploy-app" => DeployApp(deploy::DeployApp),
    "gen-random" => GenRandom(secret::GenRandom),
    "gen-tls-cert" => GenTlsCert(key::GenTlsCert),
    "log" => Log(check::Log),
    "require-env" => RequireEnv(check::RequireEnv),
    "resource-check" => ResourceCheck(check::ResourceCheck),
    "run-app" => RunApp(jobs::RunApp),
    "scale-app" => ScaleApp(deploy::ScaleApp),
    "sirenia-wait" => SireniaWait(wait::SireniaWait),
    "status-check" => StatusCheck(check::StatusCheck),
    "wait" => Wait(wait::Wait),
    "wait-hosts" => WaitHosts(wait::WaitHosts),
}

fn decode<T: for<'a> Deserialize<'a>>(name: &str, fields: Value) -> Result<Box<T>> {
    serde_json::from_value(fields).map(Box::new).doing(|| format!("read the fields of action {name}"))
}
