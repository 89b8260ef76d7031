//! One host as its clients see it.

use std::time::Duration;

use anyhow::{Context as _, bail};
use flynn_discoverd_client::Client as Discoverd;
use flynn_harness::leaks::Inventory;
use flynn_harness::{Host, wait_until};
use flynn_host_client::{Client, ClientError};
use flynn_types::host::attach::{self, Frame};
use flynn_types::host::{ActiveJob, AttachRequest, HostStatus, Job, JobStatus};

use crate::{block_on, shell};

/// Longest that something may take that nothing disturbs.
pub const SETTLING: Duration = Duration::from_secs(30);

/// A host with the clients of its APIs.
#[derive(Clone, Copy, Debug)]
pub struct Node<'a> {
    pub host: Host<'a>,
}

/// What a job wrote.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    pub stdout: Vec<String>,
    pub stderr: Vec<String>,
    /// Exit status, of an output that was followed to its end.
    pub exit: Option<i32>,
}

impl<'a> Node<'a> {
    pub fn of(host: Host<'a>) -> Self {
        Self { host }
    }

    /// The client of port 1113; goes through the harness, so it works from outside of the host and when that is cut off.
    pub fn api(&self) -> Client {
        Client::new(&self.host.url(1113).expect("the harness forwards ports"), None).expect("the harness gives URLs")
    }

    /// The client of port 1111. Only for reads, which every host answers itself: a write may be sent on to an address that
    /// is not known outside of the hosts.
    pub fn discoverd(&self) -> Discoverd {
        Discoverd::from_list(&self.host.url(1111).expect("the harness forwards ports")).expect("the harness gives URLs")
    }

    pub fn status(&self) -> Result<HostStatus, ClientError> {
        block_on(self.api().status())
    }

    /// Asks for the job to be run, again while the host says that it is busy.
    pub fn add(&self, job: &Job) -> anyhow::Result<()> {
        let api = self.api();
        wait_until(SETTLING, "the job is accepted", || match block_on(api.add_job(job)) {
            Err(ClientError::Status { status: 429, error }) => Err(error.message),
            other => Ok(other),
        })?
        .with_context(|| format!("add job {}", job.id))
    }

    /// Runs a job and waits until it does.
    pub fn run(&self, job: &Job) -> anyhow::Result<ActiveJob> {
        self.add(job)?;
        self.wait_status(&job.id, JobStatus::Running, SETTLING)
    }

    /// Runs a job to its end.
    pub fn run_to_end(&self, job: &Job) -> anyhow::Result<(ActiveJob, Output)> {
        self.add(job)?;
        let ended = self.wait_end(&job.id, SETTLING)?;
        let output = if ended.status == JobStatus::Failed { Output::default() } else { self.output(&job.id)? };
        Ok((ended, output))
    }

    pub fn job(&self, id: &str) -> Result<ActiveJob, ClientError> {
        block_on(self.api().job(id))
    }

    /// Waits for a status, and fails at once when the job has ended in another.
    pub fn wait_status(&self, id: &str, status: JobStatus, limit: Duration) -> anyhow::Result<ActiveJob> {
        let found = wait_until(limit, &format!("job {id} is {}", status.as_str()), || match self.job(id) {
            Ok(job) if job.status == status || !job.status.is_active() => Ok(job),
            Ok(job) => Err(format!("{} (waits for {:?})", job.status.as_str(), job.waiting_for)),
            Err(err) => Err(err.to_string()),
        })?;
        if found.status != status {
            bail!("job {id} is {}, not {}: {:?}", found.status.as_str(), status.as_str(), found.error);
        }
        Ok(found)
    }

    /// Waits until the job has ended, however.
    pub fn wait_end(&self, id: &str, limit: Duration) -> anyhow::Result<ActiveJob> {
        wait_until(limit, &format!("job {id} has ended"), || match self.job(id) {
            Ok(job) if !job.status.is_active() => Ok(job),
            Ok(job) => Err(format!("{} (waits for {:?})", job.status.as_str(), job.waiting_for)),
            Err(err) => Err(err.to_string()),
        })
    }

    /// Stops a job that may have ended already.
    pub fn stop(&self, id: &str) -> anyhow::Result<()> {
        match block_on(self.api().stop_job(id)) {
            Err(err) if err.status() != Some(409) => Err(err).with_context(|| format!("stop job {id}")),
            _ => self.wait_end(id, SETTLING).map(drop),
        }
    }

    /// What the job has written so far.
    pub fn output(&self, id: &str) -> anyhow::Result<Output> {
        self.attach(id, attach::FLAG_LOGS, SETTLING)
    }

    /// Everything the job writes until it ends.
    pub fn follow(&self, id: &str, limit: Duration) -> anyhow::Result<Output> {
        self.attach(id, attach::FLAG_LOGS | attach::FLAG_STREAM, limit)
    }

    fn attach(&self, id: &str, flags: u8, limit: Duration) -> anyhow::Result<Output> {
        let flags = attach::FLAG_STDOUT | attach::FLAG_STDERR | flags;
        let request = AttachRequest { job_id: id.to_owned(), flags, height: 0, width: 0 };
        let api = self.api();
        let mut output = Output::default();
        let read = async {
            let (_sender, mut receiver) = api.attach_existing(&request).await?;
            while let Some(frame) = receiver.next().await? {
                match frame {
                    Frame::Data { stream: attach::STREAM_STDOUT, payload } => push(&mut output.stdout, &payload),
                    Frame::Data { stream: attach::STREAM_STDERR, payload } => push(&mut output.stderr, &payload),
                    Frame::Exit(status) => output.exit = Some(status),
                    Frame::Error(reason) => bail!("the host says {reason:?}"),
                    _ => {}
                }
            }
            Ok(())
        };
        let read = block_on(async { tokio::time::timeout(limit * flynn_patience::factor(), read).await });
        let seen = (output.stdout.len(), output.stderr.len());
        read.with_context(|| format!("the output of {id} does not end; so far {seen:?} lines"))??;
        Ok(output)
    }

    /// Waits until the job has written a line that `wanted` accepts.
    pub fn wait_line(&self, id: &str, what: &str, wanted: impl Fn(&str) -> bool) -> anyhow::Result<Output> {
        wait_until(SETTLING, &format!("job {id} writes {what}"), || match self.output(id) {
            Ok(output) if output.stdout.iter().chain(&output.stderr).any(|line| wanted(line)) => Ok(output),
            Ok(output) => Err(format!("{output:?}")),
            Err(err) => Err(format!("{err:#}")),
        })
    }

    /// What the host holds once it has run a job: its first one mounts the image's layers and makes the parents of all
    /// control groups, which stay.
    pub fn baseline(&self) -> anyhow::Result<Inventory> {
        let fresh = self.host.inventory()?;
        let job = shell(self.host, "true");
        self.run_to_end(&job)?;
        wait_until(SETTLING, "the first job has left", || {
            let now = self.host.inventory().map_err(|err| vec![err.to_string()])?;
            let mut more = now.beyond(&fresh);
            let stays = |line: &str| line.contains("/layers/") || line.starts_with("control group ");
            more.retain(|line| line.contains(&job.id) || !stays(line));
            if more.is_empty() { Ok(now) } else { Err(more) }
        })
    }

    /// Waits until nothing is here that was not there before.
    pub fn wait_no_leaks(&self, before: &Inventory) -> anyhow::Result<()> {
        wait_until(SETTLING, &format!("nothing is left on {}", self.host.id()), || {
            let now = self.host.inventory().map_err(|err| vec![err.to_string()])?;
            let mut more = now.beyond(before);
            // After a power cut the host itself is in another one.
            let namespaces = |inventory: &Inventory| inventory.network_namespaces.len();
            more.retain(|line| !line.starts_with("network namespace ") || namespaces(&now) > namespaces(before));
            // A script that goes on has another of these each time; one that was left behind is seen by its control group.
            more.retain(|line| !(line.starts_with("process ") && line.contains(" sleep 0.")));
            if more.is_empty() { Ok(()) } else { Err(more) }
        })
    }
}

fn push(lines: &mut Vec<String>, payload: &[u8]) {
    if !payload.is_empty() {
        lines.push(String::from_utf8_lossy(payload).trim_end_matches('\n').to_owned());
    }
}
