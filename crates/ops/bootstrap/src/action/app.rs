//! Apps at the controller.

use flynn_controller_client::Client as Controller;
use flynn_types::controller::{App, Formation};
use flynn_types::image::Artifact;
use serde::Deserialize;

use super::Outcome;
use super::jobs::Known;
use super::resource;
use crate::error::{Doing as _, Result, wrong};
use crate::manifest::Step;
use crate::run::Run;

/// Makes an app that runs already known to the controller.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct AddApp {
    /// What differs from the app of the step, such as its strategy.
    app: App,
    from_step: String,
}

impl AddApp {
    pub(super) async fn run(self, step: &Step, run: &mut Run) -> Result<Outcome> {
        if run.state.is_done(&step.id) {
            return Outcome::secret(&run.state.data::<Known>(&step.id)?);
        }
        let mut known: Known = run.state.data(&self.from_step)?;
        let App { strategy, deploy_timeout, meta, .. } = self.app;
        if !strategy.is_empty() {
            known.app.strategy = strategy;
        }
        if deploy_timeout != 0 {
            known.app.deploy_timeout = deploy_timeout;
        }
        known.app.meta.extend(meta);
        let controller = run.controller().await?;
        create(&mut known, &controller).await?;
        resource::record(&known, &controller).await?;
        let formation = Formation {
            app_id: known.app.id.clone(),
            release_id: known.release.id.clone(),
            processes: known.processes.clone(),
            ..Formation::default()
        };
        controller.put_formation(&formation).await.doing(|| format!("set the formation of app {}", known.app.name))?;
        current(&known, &controller).await?;
        Outcome::secret(&known)
    }
}

/// Creates app, artifacts and release, or finds those of an earlier run.
pub(crate) async fn create(known: &mut Known, controller: &Controller) -> Result<()> {
    let name = known.app.name.clone();
    match controller.create_app(&App { release_id: String::new(), ..known.app.clone() }).await {
        Ok(_) => {}
        Err(err) if err.status() == Some(409) => {
            let found = controller.app(&name).await.doing(|| format!("find app {name}"))?;
            if found.is_none_or(|app| app.id != known.app.id) {
                return Err(wrong(format!("the controller has another app of the name {name}")));
            }
        }
        Err(err) => return Err(err).doing(|| format!("create app {name}")),
    }
    for artifact in &mut known.artifacts {
        // Apps of the same image share one.
        let created = controller.create_artifact(artifact).await;
        artifact.id = created.doing(|| format!("create an artifact of app {name}"))?.id;
    }
    known.release.artifact_ids = known.artifacts.iter().map(|artifact| artifact.id.clone()).collect();
    match controller.create_release(&known.release).await {
        Err(err) if err.status() == Some(409) => Ok(()),
        created => created.map(drop).doing(|| format!("create the release of app {name}")),
    }
}

pub(crate) async fn current(known: &Known, controller: &Controller) -> Result<()> {
    let set = controller.set_app_release(&known.app.id, &known.release.id).await;
    set.doing(|| format!("set the release of app {}", known.app.name))
}

/// Makes an image known to the controller.
#[derive(Deserialize)]
pub(crate) struct CreateArtifact {
    artifact: Artifact,
}

impl CreateArtifact {
    pub(super) async fn run(self, _: &Step, run: &mut Run) -> Result<Outcome> {
        let created = run.controller().await?.create_artifact(&self.artifact).await;
        let created = created.doing(|| format!("create the artifact {}", self.artifact.uri))?;
        let data = serde_json::to_value(created).doing(|| "write down the artifact".into())?;
        Ok(Outcome { data, ..Outcome::nothing() })
    }
}
