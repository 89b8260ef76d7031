//! `ps`, `inspect`, `log`, `stop`, `signal`.

use std::collections::BTreeSet;
use std::process::ExitCode;

use anyhow::{anyhow, bail};
use chrono::Utc;
use clap::Args;
use flynn_template::{Missing, Scope, Template};
use flynn_types::host::{ActiveJob, metadata};
use serde_json::{Value, json};

use super::cluster::Cluster;
use super::table::{Table, age};
use super::{Outcome, print};

#[derive(Args)]
pub(super) struct Ps {
    /// Show jobs that have ended, too
    #[arg(short, long)]
    all: bool,
    /// Show only ids
    #[arg(short, long)]
    quiet: bool,
    /// Show each job by a template, such as '{{ .Job.ID }} {{ metadata "flynn-controller.app_name" }}'
    #[arg(short, value_name = "FORMAT")]
    format: Option<String>,
}

impl Ps {
    pub(super) async fn run(self) -> Outcome {
        let mut jobs = Cluster::connect()?.jobs(!self.all).await?;
        jobs.sort_by_key(|job| std::cmp::Reverse(job.created_at));
        if let Some(format) = &self.format {
            for job in &jobs {
                print(&format!("{}\n", shown(job, format)?));
            }
        } else if self.quiet {
            jobs.iter().for_each(|job| print(&format!("{}\n", job.job.id)));
        } else {
            print(&ps_table(&jobs).render());
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Fields that jobs have and their JSON leaves out when empty.
const OPTIONAL: [&str; 12] = [
    "status",
    "pid",
    "exitstatus",
    "error",
    "internalip",
    "forcestop",
    "id",
    "metadata",
    "env",
    "partition",
    "args",
    "resources",
];

/// The job by a template; `metadata "key"` is the value of a key of its metadata.
fn shown(job: &ActiveJob, format: &str) -> anyhow::Result<String> {
    let metadata = job.job.metadata.clone();
    let scope =
        Scope::new().missing(Missing::Error { optional: &OPTIONAL }).function("metadata", move |keys| match keys {
            [Value::String(key)] => Ok(metadata.get(key).cloned().unwrap_or_default().into()),
            _ => Err("takes a key in quotes".into()),
        });
    let mut view = serde_json::to_value(job)?;
    view["status"] = json!(job.status.as_str());
    Ok(Template::parse(format, &scope)?.render(&view, &scope)?)
}

fn ps_table(jobs: &[ActiveJob]) -> Table {
    let mut table = Table::with_header(&["ID", "STATE", "CREATED", "CONTROLLER APP", "CONTROLLER TYPE", "ERROR"]);
    for job in jobs {
        let created = age(job.created_at, Utc::now());
        let waiting = job.waiting_for.as_ref().map(|what| format!("waiting for {what}"));
        table.row([
            job.job.id.clone(),
            job.status.as_str().to_owned(),
            created,
            job.job.meta(metadata::APP_NAME).to_owned(),
            job.job.meta(metadata::TYPE).to_owned(),
            job.error.clone().or(waiting).unwrap_or_default(),
        ]);
    }
    table
}

#[derive(Args)]
pub(super) struct Inspect {
    /// Leave out the environment
    #[arg(long)]
    omit_env: bool,
    /// Comma separated variables whose values are hidden
    #[arg(long, value_name = "ENVS", value_delimiter = ',')]
    redact_env: Vec<String>,
    id: String,
}

impl Inspect {
    pub(super) async fn run(self) -> Outcome {
        let (_, job) = Cluster::connect()?.find_job(&self.id).await?;
        print(&self.table(&job).render());
        Ok(ExitCode::SUCCESS)
    }

    fn table(&self, job: &ActiveJob) -> Table {
        let mut table = Table::default();
        let mut row = |name: &str, value: String| table.row([name.to_owned(), value]);
        row("ID", job.job.id.clone());
        row("Args", job.job.config.args.join(" "));
        row("Status", job.status.as_str().to_owned());
        row("CreatedAt", job.created_at.to_string());
        row("StartedAt", job.started_at.to_string());
        row("EndedAt", job.ended_at.to_string());
        row("PID", job.pid.map(|pid| pid.to_string()).unwrap_or_default());
        row("ExitStatus", job.exit_status.map(|status| status.to_string()).unwrap_or_default());
        row("Error", job.error.clone().unwrap_or_default());
        row("IP Address", job.internal_ip.clone());
        for (index, spec) in job.job.mountspecs.iter().enumerate() {
            row(&format!("Mountspec[{index}]"), format!("{}:{} {}", spec.kind, spec.id, spec.url));
        }
        for binding in &job.job.config.volumes {
            row(&format!("Volume[{}]", binding.target), binding.volume.clone());
        }
        for (key, value) in &job.job.metadata {
            row(key, value.clone());
        }
        if !self.omit_env {
            let hidden: BTreeSet<&str> = self.redact_env.iter().map(String::as_str).collect();
            for (name, value) in &job.job.config.env {
                let value = if hidden.contains(name.as_str()) { "XXXREDACTEDXXX" } else { value };
                row(&format!("ENV[{name}]"), value.to_owned());
            }
        }
        table
    }
}

#[derive(Args)]
pub(super) struct Log {
    /// Show the log of the job's init, too
    #[arg(long)]
    init: bool,
    /// Wait for more until the job ends
    #[arg(short, long)]
    follow: bool,
    /// Show only the last lines
    #[arg(long, value_name = "N")]
    lines: Option<usize>,
    /// Keep the job's stderr apart from its stdout
    #[arg(long)]
    split_stderr: bool,
    id: String,
}

impl Log {
    pub(super) async fn run(self) -> Outcome {
        use flynn_types::host::attach;
        let (host, job) = Cluster::connect()?.find_job(&self.id).await?;
        let mut flags = attach::FLAG_STDOUT | attach::FLAG_STDERR | attach::FLAG_LOGS;
        if self.init {
            flags |= attach::FLAG_INIT_LOG;
        }
        if self.follow && self.lines.is_none() {
            flags |= attach::FLAG_STREAM;
        }
        let tail = self.lines.map(super::run::Tail::new);
        super::run::copy_output(&host, &job.job.id, flags, self.split_stderr, tail).await?;
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Args)]
pub(super) struct Stop {
    #[arg(required = true)]
    id: Vec<String>,
}

impl Stop {
    pub(super) async fn run(self) -> Outcome {
        let cluster = Cluster::connect()?;
        let mut failed = false;
        for id in &self.id {
            let stopped = match cluster.host_of(id).await {
                Ok(host) => host.stop_job(id).await.map_err(|err| anyhow!("{err}")),
                Err(err) => Err(err),
            };
            match stopped {
                Ok(()) => print(&format!("{id} stopped\n")),
                Err(err) => {
                    print(&format!("could not stop job {id}: {err:#}\n"));
                    failed = true;
                }
            }
        }
        if failed {
            bail!("could not stop all jobs");
        }
        Ok(ExitCode::SUCCESS)
    }
}

#[derive(Args)]
pub(super) struct Signal {
    id: String,
    /// Number of the signal
    signal: i32,
}

impl Signal {
    pub(super) async fn run(self) -> Outcome {
        let host = Cluster::connect()?.host_of(&self.id).await?;
        host.signal_job(&self.id, self.signal).await.map_err(|err| anyhow!("{err}"))?;
        print(&format!("sent signal {} to {} successfully\n", self.signal, self.id));
        Ok(ExitCode::SUCCESS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inspect_hides_exactly_what_it_is_told_to() {
        let mut job = ActiveJob::default();
        for name in ["A", "B", "AB"] {
            job.job.config.env.insert(name.into(), "secret".into());
        }
        let inspect = |omit_env, redact: &[&str]| {
            let redact_env = redact.iter().map(|name| (*name).to_owned()).collect();
            Inspect { omit_env, redact_env, id: String::new() }.table(&job).render()
        };
        let text = inspect(false, &["A", "B"]);
        assert_eq!((text.matches("XXXREDACTEDXXX").count(), text.matches("secret").count()), (2, 1));
        assert!(!inspect(true, &[]).contains("ENV["));
    }

    #[test]
    fn ps_has_the_columns_of_the_specification() {
        assert_eq!(ps_table(&[]).render(), "ID  STATE  CREATED  CONTROLLER APP  CONTROLLER TYPE  ERROR\n");
    }

    #[test]
    fn jobs_are_shown_by_field_and_metadata() {
        let job: ActiveJob = serde_json::from_value(json!({"host_id": "h", "status": 1,
            "job": {"id": "h-1", "metadata": {"flynn-controller.app_name": "web"}, "config": {}}}))
        .unwrap();
        for (format, text) in [
            ("{{ metadata \"flynn-controller.app_name\" }}:{{ .Job.ID }}", "web:h-1"),
            ("{{.HostID}} {{.Status}}", "h running"),
            ("{{ index .Job.Metadata \"flynn-controller.app_name\" }}", "web"),
            ("{{ metadata \"other\" }}.{{ .ExitStatus }}", "."),
        ] {
            assert_eq!(shown(&job, format).unwrap(), text, "{format}");
        }
        for bad in ["{{ .Job.ID", "{{ range .Job }}", "{{ .Nope }}", "{{ metadata }}"] {
            assert!(shown(&job, bad).is_err(), "{bad}");
        }
    }
}
