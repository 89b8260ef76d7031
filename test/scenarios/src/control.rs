//! The control plane beside a host's daemon: a controller on a real PostgreSQL, and schedulers, as programs.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use flynn_harness::{Host, Program, system_program, wait_until};
use flynn_http::{Client, ClientError};
use flynn_test_postgres::Database;
use flynn_types::controller::{App, Formation, Job, JobState, Release, ScaleRequest};
use http::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{block_on, busybox};

const KEY: &str = "scenario-key";
const CONTROLLER_PORT: u16 = 3000;
/// Of the first scheduler; others follow.
const SCHEDULER_PORT: u16 = 3100;
/// Longest that something may take which the control plane does by itself.
const LIMIT: Duration = Duration::from_secs(60);

/// A controller in a host's network, and what it takes to start more.
pub struct ControlPlane<'a> {
    host: Host<'a>,
    program: PathBuf,
    database: Database,
    controller: Option<Program>,
}

/// An app with one release of the busybox image.
pub struct Deployed {
    pub app: App,
    pub release: Release,
}

impl<'a> ControlPlane<'a> {
    /// Starts a controller on an empty database.
    pub fn start(host: Host<'a>) -> anyhow::Result<Self> {
        let (program, database) = (system_program()?, block_on(Database::empty()));
        let mut plane = Self { host, program, database, controller: None };
        plane.start_controller()?;
        Ok(plane)
    }

    /// Starts the controller, again on the same database, and waits until it answers.
    pub fn start_controller(&mut self) -> anyhow::Result<()> {
        let options = self.database.options();
        let socket = options.get_socket().context("the database has a folder")?.display().to_string();
        let vars = BTreeMap::from([
            ("PGHOST", socket),
            ("PGUSER", options.get_username().to_owned()),
            ("PGDATABASE", options.get_database().unwrap_or_default().to_owned()),
        ]);
        self.controller = Some(self.component("controller", "controller", CONTROLLER_PORT, vars)?);
        wait_until(LIMIT, "the controller answers", || self.get::<Value>("/.well-known/status").map(drop))
    }

    /// `kill -9` of the controller.
    pub fn kill_controller(&mut self) {
        self.controller = None;
    }

    /// Starts a scheduler; numbers count from 0.
    pub fn scheduler(&self, number: u16) -> anyhow::Result<Program> {
        let name = format!("scheduler{number}");
        self.component(&name, "scheduler", SCHEDULER_PORT + number, BTreeMap::new())
    }

    fn component(
        &self,
        name: &str,
        command: &str,
        port: u16,
        mut vars: BTreeMap<&str, String>,
    ) -> anyhow::Result<Program> {
        let ip = self.host.ip();
        vars.extend([
            ("AUTH_KEY", KEY.to_owned()),
            ("DISCOVERD", format!("http://{ip}:1111")),
            ("EXTERNAL_IP", ip.to_string()),
            ("PORT", port.to_string()),
            ("PATH", "/usr/bin:/bin".to_owned()),
        ]);
        vars.extend(std::env::var("RUST_LOG").ok().map(|filter| ("RUST_LOG", filter)));
        self.host.start_program(name, &self.program, &[command], &vars)
    }

    fn client(&self) -> Client {
        let url = self.host.url(CONTROLLER_PORT).expect("the harness forwards ports");
        Client::new(&url).with_basic_auth(KEY)
    }

    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        block_on(self.client().get_json(path))
    }

    fn send<T: DeserializeOwned>(&self, method: Method, path: &str, body: &impl Serialize) -> anyhow::Result<T> {
        block_on(self.client().send_json(method.clone(), path, body)).with_context(|| format!("{method} {path}"))
    }

    /// What a scheduler knows, by `GET /debug/state`.
    pub fn state_of(&self, number: u16) -> Result<Value, ClientError> {
        let url = self.host.url(SCHEDULER_PORT + number).expect("the harness forwards ports");
        block_on(Client::new(&url).get_json("/debug/state"))
    }

    /// Waits until a scheduler leads.
    pub fn wait_leads(&self, number: u16) -> anyhow::Result<()> {
        wait_until(LIMIT, &format!("scheduler {number} leads"), || match self.state_of(number) {
            Ok(state) if state["is_leader"] == json!(true) => Ok(()),
            other => Err(format!("{other:?}")),
        })
    }

    /// An app whose process types run these shell scripts; more of a type as JSON.
    pub fn deploy(&self, name: &str, types: &[(&str, &str, Value)]) -> anyhow::Result<Deployed> {
        let app: App = self.send(Method::POST, "/apps", &json!({ "name": name }))?;
        let artifact: Value = self.send(Method::POST, "/artifacts", busybox())?;
        let process = |script: &str, more: &Value| {
            let mut process = json!({ "args": ["/bin/sh", "-c", script] });
            process.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
            process
        };
        let processes: BTreeMap<_, _> =
            types.iter().map(|(kind, script, more)| (*kind, process(script, more))).collect();
        let release = json!({ "app_id": app.id, "artifacts": [artifact["id"]], "processes": processes });
        let release = self.send(Method::POST, "/releases", &release)?;
        Ok(Deployed { app, release })
    }

    /// Asks for these counts, and gives the scale request.
    pub fn scale(&self, deployed: &Deployed, counts: &[(&str, i64)]) -> anyhow::Result<ScaleRequest> {
        let counts: BTreeMap<_, _> = counts.iter().copied().collect();
        self.request(deployed, &json!({ "state": "pending", "new_processes": counts }))
    }

    /// Makes a scale request.
    pub fn request(&self, deployed: &Deployed, request: &Value) -> anyhow::Result<ScaleRequest> {
        self.send(Method::PUT, &format!("/apps/{}/scale/{}", deployed.app.id, deployed.release.id), request)
    }

    /// Sets the formation, as older clients do.
    pub fn put_formation(&self, deployed: &Deployed, counts: &[(&str, i64)]) -> anyhow::Result<Formation> {
        let path = format!("/apps/{}/formations/{}", deployed.app.id, deployed.release.id);
        let counts: BTreeMap<_, _> = counts.iter().copied().collect();
        self.send(Method::PUT, &path, &json!({ "processes": counts }))
    }

    /// All jobs of an app as the controller knows them.
    pub fn jobs(&self, deployed: &Deployed) -> Result<Vec<Job>, ClientError> {
        self.get(&format!("/apps/{}/jobs", deployed.app.id))
    }

    /// Waits until the controller says that so many jobs of a type are up, and no other is on its way; gives them.
    pub fn wait_up(&self, deployed: &Deployed, kind: &str, count: usize) -> anyhow::Result<Vec<Job>> {
        self.wait_jobs(deployed, &format!("{count} {kind} jobs are up"), |jobs| {
            let active: Vec<_> = jobs.iter().filter(|job| job.kind == kind && is_active(job)).collect();
            let up = active.iter().all(|job| job.state == Some(JobState::Up));
            (up && active.len() == count).then(|| active.into_iter().cloned().collect())
        })
    }

    /// Waits until the jobs of an app are as wanted.
    pub fn wait_jobs<T>(
        &self,
        deployed: &Deployed,
        what: &str,
        mut look: impl FnMut(&[Job]) -> Option<T>,
    ) -> anyhow::Result<T> {
        wait_until(LIMIT, what, || {
            let jobs = self.jobs(deployed).map_err(|err| err.to_string())?;
            look(&jobs).ok_or_else(|| jobs.iter().map(line).collect::<Vec<_>>().join("; "))
        })
    }

    /// Waits until the last event of a scale request says that it is complete.
    pub fn wait_scaled(&self, deployed: &Deployed, request: &ScaleRequest) -> anyhow::Result<()> {
        let path = format!("/events?app_id={}&object_types=scale_request&object_id={}", deployed.app.id, request.id);
        wait_until(LIMIT, "the scale request is complete", || {
            let events: Value = self.get(&path).map_err(|err| err.to_string())?;
            let newest = &events[0]["data"]["state"];
            if *newest == json!("complete") { Ok(()) } else { Err(events.to_string()) }
        })
    }
}

/// Whether the job is not over.
pub fn is_active(job: &Job) -> bool {
    job.state.is_some_and(|state| !state.is_terminal())
}

fn line(job: &Job) -> String {
    let state = job.state.map_or("none", JobState::as_str);
    format!("{} {} {state} on {:?} {:?} {:?}", job.kind, job.uuid, job.host_id, job.exit_status, job.host_error)
}
