//! Takes the steps.

use std::time::Duration;

use flynn_controller_client::Client as Controller;
use serde_json::Value;

use crate::action::{Action, Outcome};
use crate::cluster::Cluster;
use crate::error::{Doing as _, Result, words, wrong};
use crate::manifest::{Manifest, Step};
use crate::report::Report;
use crate::state::State;
use crate::template::Renderer;
use crate::{Error, Options};

/// How long a controller may take to be found again.
const CONTROLLER_LIMIT: Duration = Duration::from_secs(30);
/// Steps of this action make the keys of the controller, when they say so.
const KEY_ACTION: &str = "gen-random";

/// What steps work with.
pub(crate) struct Run {
    pub(crate) options: Options,
    pub(crate) cluster: Cluster,
    pub(crate) state: State,
    pub(crate) report: Report,
    /// Id of the step that made the controller's key.
    pub(crate) key_step: Option<String>,
    var: fn(&str) -> Option<String>,
}

/// Takes all steps of the manifest, or goes on where an earlier run was interrupted.
///
/// # Errors
/// What failed, and where. Everything done so far is kept, and the next run goes on from there.
pub async fn bootstrap(
    manifest: Manifest,
    options: Options,
    mut report: Report,
    var: fn(&str) -> Option<String>,
) -> Result<(), Error> {
    Options::check_min_hosts(options.min_hosts)?;
    let state = State::open(&options.state)?;
    let manifest = match &options.steps {
        Some(ids) => manifest.only(ids)?,
        None => manifest,
    };
    let online = Step { id: "online-hosts".into(), action: "check".into(), fields: serde_json::Map::new() };
    report.start(&online);
    let cluster = Cluster::find(&options).await.inspect_err(|err| report.error(&online, &words(err)))?;
    let mut run = Run { options, cluster, state, report, key_step: None, var };
    run.refuse_a_foreign_cluster().await.inspect_err(|err| run.report.error(&online, &words(err)))?;
    for step in manifest.steps {
        run.take(&step).await.inspect_err(|err| run.report.error(&step, &words(err)))?;
    }
    Ok(())
}

impl Run {
    async fn take(&mut self, step: &Step) -> Result<()> {
        self.report.start(step);
        let mut fields = step.fields.clone();
        let ips = self.cluster.ips();
        Renderer::new(self.state.all_data(), &ips, self.options.singleton, self.var).fields(&mut fields);
        if step.action == KEY_ACTION && fields.get("controller_key") == Some(&Value::Bool(true)) {
            self.key_step = Some(step.id.clone());
        }
        let action = Action::parse(&step.action, Value::Object(fields))?;
        let Outcome { data, shown, secret } = action.run(step, self).await?;
        self.state.finish(&step.id, data.clone())?;
        let hidden = secret && !self.options.show_secrets;
        self.report.done(step, (!hidden).then_some(&data), shown.as_deref());
        Ok(())
    }

    /// A cluster that another bootstrap made would be broken by a second set of secrets.
    async fn refuse_a_foreign_cluster(&self) -> Result<()> {
        if !self.state.is_new() {
            return Ok(());
        }
        let meta = self.cluster.discoverd.meta("postgres").await;
        let exists = match meta {
            Ok(meta) => meta.is_some_and(|meta| meta.data.is_some()),
            Err(err) if err.is_not_found() => false,
            Err(err) => return Err(err).doing(|| "ask discovery whether there is a cluster already".into()),
        };
        if !exists {
            return Ok(());
        }
        let path = self.options.state.display();
        Err(wrong(format!(
            "these hosts are a cluster already, and {path} knows nothing of it: bootstrap where it was begun, or give its state file"
        )))
    }

    /// The variable of the environment.
    pub(crate) fn var(&self, name: &str) -> Option<String> {
        (self.var)(name).filter(|value| !value.is_empty())
    }

    pub(crate) fn info(&mut self, step: &Step, text: &str) {
        self.report.info(step, text);
    }

    /// How many of a process there shall be.
    pub(crate) fn count(&self, count: i64) -> i64 {
        if self.options.singleton { count.min(1) } else { count }
    }

    /// The key of the cluster's controller.
    pub(crate) fn controller_key(&self) -> Result<String> {
        let step = self.key_step.as_deref().unwrap_or("controller-key");
        let made: crate::action::Made = self.state.data(step)?;
        Ok(made.data)
    }

    pub(crate) async fn controller(&self) -> Result<Controller> {
        let key = self.controller_key()?;
        let base = self.cluster.resolved("http://controller.discoverd", CONTROLLER_LIMIT).await?;
        Ok(Controller::new(&base, &key))
    }
}
