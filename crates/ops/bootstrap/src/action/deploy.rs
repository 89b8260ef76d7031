//! Apps that the scheduler starts.

use std::time::Duration;

use flynn_controller_client::Client as Controller;
use flynn_types::controller::{Formation, Job, Processes};
use serde::Deserialize;
use tokio::time::Instant;

use super::Outcome;
use super::app;
use super::jobs::{Known, Parts};
use super::resource;
use crate::cluster::PAUSE;
use crate::error::{Doing as _, Result, wrong};
use crate::manifest::Step;
use crate::run::Run;

/// How long the scheduler may take (spec operations section 4.3).
const SCALE_LIMIT: Duration = Duration::from_secs(300);

/// Creates an app and starts it.
#[derive(Deserialize)]
pub(crate) struct DeployApp {
    #[serde(flatten)]
    parts: Parts,
}

impl DeployApp {
    pub(super) async fn run(self, step: &Step, run: &mut Run) -> Result<Outcome> {
        if run.state.is_done(&step.id) {
            return Outcome::secret(&run.state.data::<Known>(&step.id)?);
        }
        let mut known = match run.state.planned(&step.id)? {
            Some(known) => known,
            None => Known::new(self.parts, run),
        };
        run.state.plan(&step.id, &known)?;
        resource::provision(&mut known, step, run).await?;
        let controller = run.controller().await?;
        app::create(&mut known, &controller).await?;
        resource::record(&known, &controller).await?;
        app::current(&known, &controller).await?;
        scale(&known, known.processes.clone(), &controller).await?;
        Outcome::secret(&known)
    }
}

/// Changes how many jobs of an app run.
#[derive(Deserialize)]
pub(crate) struct ScaleApp {
    app_step: String,
    #[serde(default)]
    processes: Processes,
    /// Whether to wait until they do; without a scheduler nobody starts them.
    #[serde(default)]
    wait: bool,
}

impl ScaleApp {
    pub(super) async fn run(self, step: &Step, run: &mut Run) -> Result<Outcome> {
        if run.state.is_done(&step.id) {
            return Ok(Outcome::nothing());
        }
        let known: Known = run.state.data(&self.app_step)?;
        let processes: Processes = self.processes.into_iter().map(|(kind, count)| (kind, run.count(count))).collect();
        let controller = run.controller().await?;
        if self.wait {
            scale(&known, processes, &controller).await?;
        } else {
            put(&known, processes, &controller).await?;
        }
        Ok(Outcome::nothing())
    }
}

async fn put(known: &Known, processes: Processes, controller: &Controller) -> Result<()> {
    let formation = Formation {
        app_id: known.app.id.clone(),
        release_id: known.release.id.clone(),
        processes,
        ..Formation::default()
    };
    controller.put_formation(&formation).await.doing(|| format!("scale app {}", known.app.name))
}

/// Scales and waits until the scheduler says that it is done.
async fn scale(known: &Known, processes: Processes, controller: &Controller) -> Result<()> {
    if processes.values().all(|count| *count == 0) {
        return Ok(());
    }
    put(known, processes, controller).await?;
    let (app, name) = (&known.app.id, &known.app.name);
    let deadline = Instant::now() + SCALE_LIMIT;
    loop {
        let formation = controller.formation(app, &known.release.id).await;
        let formation = formation.doing(|| format!("ask for the formation of app {name}"));
        match formation {
            Ok(Some(formation)) if formation.pending_scale_request.is_none() => return Ok(()),
            Ok(None) => return Err(wrong(format!("the formation of app {name} is gone"))),
            Ok(Some(_)) if Instant::now() + PAUSE >= deadline => {
                let jobs = controller.jobs(app).await.unwrap_or_default();
                let states: Vec<_> = jobs.iter().map(state).collect();
                let limit = SCALE_LIMIT.as_secs();
                return Err(wrong(format!("app {name} is not up after {limit} s: {}", states.join("; "))));
            }
            Err(err) if Instant::now() + PAUSE >= deadline => return Err(err),
            // A controller that is away comes back.
            Ok(Some(_)) | Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

fn state(job: &Job) -> String {
    let state = job.state.map_or("unknown", flynn_types::controller::JobState::as_str);
    let error = job.host_error.as_deref().map(|error| format!(" ({error})")).unwrap_or_default();
    format!("{} {} is {state}{error}", job.kind, job.uuid)
}
