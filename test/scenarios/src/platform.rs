//! A cluster with everything above the daemon: database, controller, scheduler, router and the rest.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use flynn_harness::{Cluster, ClusterOptions, wait_until};
use flynn_image::{Config, Silent};
use flynn_types::controller::{App, Deployment, ExpandedFormation, Job, JobState, Release};
use flynn_types::image::Artifact;
use http::{Method, Request, StatusCode, header};
use serde_json::{Value, json};

use crate::{block_on, image};

/// The cluster's domain.
const DOMAIN: &str = "demo.localhost";
/// Key of the cluster's API.
const KEY: &str = "0123456789abcdef0123456789abcdef";
/// How long a change of a formation may take.
pub const CHANGE: Duration = Duration::from_secs(60);
/// Largest answer that is read.
const MAX_ANSWER: usize = 16 << 20;

/// A bootstrapped cluster.
#[derive(Debug)]
pub struct Platform {
    pub cluster: Cluster,
}

/// What an HTTP server said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: StatusCode,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

impl Platform {
    /// Starts hosts and makes them a cluster.
    pub fn up(options: ClusterOptions) -> anyhow::Result<Self> {
        let platform = Self::hosts(options)?;
        platform.bootstrap()?;
        Ok(platform)
    }

    /// Starts hosts only.
    pub fn hosts(options: ClusterOptions) -> anyhow::Result<Self> {
        Self::build_images()?;
        Ok(Self { cluster: crate::cluster(options)? })
    }

    /// Builds what [`Platform::bootstrap`] would build else.
    pub fn build_images() -> anyhow::Result<()> {
        images().map(drop)
    }

    /// Runs `flynn-host bootstrap` to its end; gives what it printed.
    pub fn bootstrap(&self) -> anyhow::Result<String> {
        let output = self.bootstrap_command()?.output().context("run flynn-host bootstrap")?;
        let printed = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "bootstrap failed:\n{printed}\n{}", self.cluster.logs());
        Ok(printed)
    }

    /// `flynn-host bootstrap` with all that it needs.
    pub fn bootstrap_command(&self) -> anyhow::Result<Command> {
        let host = self.cluster.host(0);
        let peers: Vec<_> = self.cluster.hosts().map(|host| host.ip().to_string()).collect();
        let mut command = host.command_in("flynn-host")?;
        command.args(["bootstrap", "--min-hosts", &peers.len().to_string(), "--peer-ips", &peers.join(",")]);
        command.arg("--images").arg(images()?).arg("--state").arg(self.cluster.dir().join("bootstrap.json"));
        command.env("CLUSTER_DOMAIN", DOMAIN).env("CONTROLLER_KEY", KEY);
        Ok(command)
    }

    /// Asks a name of the cluster through the router of its first host.
    pub fn get(&self, name: &str, path: &str) -> anyhow::Result<Answer> {
        self.ask(&Self::domain(name), Method::GET, path, None)
    }

    /// The domain of a name.
    pub fn domain(name: &str) -> String {
        format!("{name}.{DOMAIN}")
    }

    /// Asks the controller, through the router.
    pub fn api(&self, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Answer> {
        self.ask(&Self::domain("controller"), method, path, body)
    }

    /// Asks the controller for something that it must answer.
    pub fn call(&self, method: Method, path: &str, body: Value) -> anyhow::Result<Value> {
        let body = Some(body).filter(|body| !body.is_null());
        let answer = self.api(method.clone(), path, body.as_ref())?;
        ensure!(answer.status == StatusCode::OK, "{method} {path}: {} {}", answer.status, answer.text());
        if answer.body.is_empty() { Ok(Value::Null) } else { Ok(serde_json::from_slice(&answer.body)?) }
    }

    fn ask(&self, host: &str, method: Method, path: &str, body: Option<&Value>) -> anyhow::Result<Answer> {
        use base64::prelude::{BASE64_STANDARD, Engine as _};
        let url = self.cluster.host(0).url(80)?;
        let authorization = format!("Basic {}", BASE64_STANDARD.encode(format!(":{KEY}")));
        let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
        let request = Request::builder()
            .method(method)
            .uri(format!("{url}{path}"))
            .header(header::HOST, host)
            .header(header::AUTHORIZATION, authorization)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .body(body)?;
        let client = flynn_http::Client::new(&url);
        let answer = block_on(client.send_as_is(request, MAX_ANSWER))?;
        Ok(Answer { status: answer.status(), body: answer.into_body() })
    }

    /// Creates an app.
    pub fn create_app(&self, name: &str) -> anyhow::Result<App> {
        Ok(serde_json::from_value(self.call(Method::POST, "/apps", json!({"name": name}))?)?)
    }

    /// Creates a release of an app whose type `web` runs a shell script in busybox, with port 8080 as service `<app>-web`.
    pub fn release(&self, app: &App, script: &str) -> anyhow::Result<Release> {
        self.release_of(app, image::busybox(), Self::web(app, script))
    }

    /// The process type `web` of [`Platform::release`].
    pub fn web(app: &App, script: &str) -> Value {
        let service = format!("{}-web", app.name);
        let check = json!({"type": "http", "interval": 100_000_000, "threshold": 1, "kill_down": false});
        json!({
            "args": ["/bin/sh", "-c", script],
            "ports": [{"port": 8080, "proto": "tcp", "service": {"name": service, "create": true, "check": check}}],
            "service": service,
        })
    }

    /// Creates a release of this image and type `web`.
    pub fn release_of(&self, app: &App, image: &Artifact, process: Value) -> anyhow::Result<Release> {
        let artifact = self.call(Method::POST, "/artifacts", serde_json::to_value(image)?)?;
        let artifact: Artifact = serde_json::from_value(artifact)?;
        let other = json!({"args": ["/bin/sh", "-c", "sleep 1000"]});
        let release = json!({
            "app_id": app.id,
            "artifacts": [artifact.id],
            "processes": {"web": process, "other": other},
        });
        Ok(serde_json::from_value(self.call(Method::POST, "/releases", release)?)?)
    }

    /// Makes a release the current one without a deployment.
    pub fn set_release(&self, app: &App, release: &Release) -> anyhow::Result<()> {
        self.call(Method::PUT, &format!("/apps/{}/release", app.id), json!({"id": release.id})).map(drop)
    }

    /// Scales a type of a release and waits until the scheduler says that it is done.
    pub fn scale(&self, app: &App, release: &Release, kind: &str, count: usize) -> anyhow::Result<()> {
        let path = format!("/apps/{}/formations/{}", app.id, release.id);
        self.call(Method::PUT, &path, json!({"processes": {kind: count}}))?;
        wait_until(CHANGE, &format!("{kind} of {} is scaled to {count}", app.name), || {
            let formation = self.call(Method::GET, &format!("{path}?expand=true"), Value::Null);
            let formation = formation.map_err(|err| format!("{err:#}"))?;
            let formation: ExpandedFormation = serde_json::from_value(formation).map_err(|err| err.to_string())?;
            if formation.pending_scale_request.is_none() {
                return Ok(());
            }
            let jobs = self.jobs(app).map_err(|err| format!("{err:#}"))?;
            Err(jobs
                .iter()
                .map(|job| format!("{} {:?} {:?}; ", job.kind, job.state, job.host_error))
                .collect::<String>())
        })
    }

    /// Starts the deployment of a release.
    pub fn begin_deploy(&self, app: &App, release: &Release) -> anyhow::Result<Deployment> {
        let begun = self.call(Method::POST, &format!("/apps/{}/deploy", app.id), json!({"id": release.id}))?;
        Ok(serde_json::from_value(begun)?)
    }

    /// Waits for the end of a deployment; gives its status.
    pub fn wait_deployed(&self, deployment: &Deployment, limit: Duration) -> anyhow::Result<String> {
        wait_until(limit, "the deployment ends", || {
            let now = self.call(Method::GET, &format!("/deployments/{}", deployment.id), Value::Null);
            let now = now.map_err(|err| format!("{err:#}"))?;
            match now["status"].as_str() {
                Some(status @ ("complete" | "failed")) => Ok(status.to_owned()),
                _ => Err(now.to_string()),
            }
        })
    }

    /// Waits until an app answers with this text.
    pub fn wait_answer(&self, name: &str, text: &str, limit: Duration) -> anyhow::Result<()> {
        wait_until(limit, &format!("{name} answers {text}"), || {
            let answer = self.get(name, "/").map_err(|err| format!("{err:#}"))?;
            let seen = (answer.status, answer.text().trim().to_owned());
            if seen == (StatusCode::OK, text.to_owned()) { Ok(()) } else { Err(format!("{seen:?}")) }
        })
    }

    /// Waits until the status service finds all components healthy.
    pub fn wait_healthy(&self, limit: Duration) -> anyhow::Result<()> {
        wait_until(limit, "the cluster is healthy", || {
            let answer = self.get("status", "/").map_err(|err| format!("{err:#}"))?;
            if answer.status == StatusCode::OK { Ok(()) } else { Err(format!("{} {}", answer.status, answer.text())) }
        })
    }

    /// How many jobs of a release are up.
    pub fn up_jobs(&self, app: &App, release: &Release) -> anyhow::Result<usize> {
        let jobs = self.jobs(app)?;
        Ok(jobs.iter().filter(|job| job.release_id == release.id && job.state == Some(JobState::Up)).count())
    }

    /// Jobs of an app as the controller has them.
    pub fn jobs(&self, app: &App) -> anyhow::Result<Vec<Job>> {
        let jobs = self.call(Method::GET, &format!("/apps/{}/jobs", app.id), Value::Null)?;
        Ok(serde_json::from_value(jobs)?)
    }
}

/// The script of a web server for [`Platform::release`] whose answer is this text.
pub fn server(text: &str) -> String {
    format!("mkdir /www && echo {text} > /www/index.html && echo serving {text} && exec httpd -f -p 8080 -h /www")
}

/// The folder of the system images' artifacts, with our programs as they are now.
fn images() -> anyhow::Result<&'static Path> {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    if let Some(folder) = FOLDER.get() {
        return Ok(folder);
    }
    let program = flynn_harness::system_program()?;
    let programs = tempfile::tempdir().context("create a folder for programs")?;
    let mut strip = Command::new("strip");
    strip.arg("--strip-debug").arg("-o").arg(programs.path().join("flynn-system")).arg(&program);
    let stripped = strip.status().context("run strip")?;
    ensure!(stripped.success(), "strip {} failed", program.display());
    let config = Config { programs_dir: Some(programs.path().to_owned()), ..image::config() };
    let builder = flynn_image::Builder::new(config);
    for name in ["flynn-system", "postgres"] {
        builder.build(name, &Silent).with_context(|| format!("build image {name}"))?;
    }
    let artifact = builder.artifact_path("flynn-system")?;
    Ok(FOLDER.get_or_init(|| artifact.parent().expect("a file has a folder").to_owned()))
}
