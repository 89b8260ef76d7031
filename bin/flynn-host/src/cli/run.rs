//! `run`, and the terminal side of attaching to a job.

use std::collections::VecDeque;
use std::io::{IsTerminal as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use flynn_host_client::{AttachReceiver, AttachSender, Client as HostClient};
use flynn_types::host::attach::{self, Frame};
use flynn_types::host::{AttachRequest, ContainerConfig, Job, Mount, VolumeBinding};
use flynn_types::id::{HostId, JobId};
use flynn_types::image::Artifact;
use flynn_types::resource::Resources;
use nix::sys::termios;
use rand::seq::IndexedRandom as _;
use tokio::io::AsyncReadExt as _;
use tokio::signal::unix::{SignalKind, signal};
use uuid::Uuid;

use super::Outcome;
use super::cluster::{Cluster, HostEntry};

/// Between a forwarded SIGINT or SIGTERM and SIGKILL.
const KILL_AFTER: Duration = Duration::from_secs(10);

#[derive(Args)]
pub(super) struct Run {
    /// Host to run on [default: any]
    #[arg(long)]
    host: Option<String>,
    /// Comma separated /host/path:/container/path, writeable
    #[arg(long, value_delimiter = ',', value_name = "MOUNTS")]
    bind: Vec<String>,
    /// Path of a volume that is deleted when the job ends
    #[arg(long, value_name = "PATH")]
    volume: Option<String>,
    /// Resource limits, such as memory=512MB,temp_disk=1G
    #[arg(long, value_name = "LIMITS", default_value = "")]
    limits: String,
    #[arg(long, value_name = "DIR", default_value = "")]
    workdir: String,
    /// Share the host's network
    #[arg(long)]
    hostnet: bool,
    /// Comma separated profiles
    #[arg(long, value_delimiter = ',', value_name = "PROFILES")]
    profiles: Vec<String>,
    /// Comma separated capabilities beyond the defaults
    #[arg(long, value_delimiter = ',', value_name = "CAPS")]
    extra_caps: Vec<String>,
    /// File with an image artifact, `-` for stdin
    artifact: String,
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

impl Run {
    pub(super) async fn run(self) -> Outcome {
        let artifact = self.read_artifact()?;
        let cluster = Cluster::connect()?;
        let host = match &self.host {
            Some(id) => cluster.host(id).await?,
            None => any_host(cluster.hosts().await?)?,
        };
        let tty = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
        let mut job = self.job(&host, &artifact, tty)?;
        if let Some(path) = &self.volume {
            let volume = host.client.create_volume("default", None).await.context("create the volume")?;
            let binding =
                VolumeBinding { target: path.clone(), volume: volume.id, writeable: true, delete_on_stop: true };
            job.config.volumes.push(binding);
        }
        let (height, width) = if tty { terminal_size() } else { (0, 0) };
        let flags = attach::FLAG_STDOUT | attach::FLAG_STDERR | attach::FLAG_STDIN | attach::FLAG_STREAM;
        let request = AttachRequest { job_id: job.id.clone(), flags, height, width };
        // Attach first: no output is lost.
        let (sender, receiver) = host.client.attach(&request).await.context("attach to the job")?;
        host.client.add_job(&job).await.context("start the job")?;
        let _raw = if tty { Some(RawTerminal::enter()?) } else { None };
        join(sender, receiver, tty).await
    }

    fn read_artifact(&self) -> anyhow::Result<Artifact> {
        let text = match self.artifact.as_str() {
            "" | "-" => std::io::read_to_string(std::io::stdin()).context("read the artifact from stdin")?,
            path => std::fs::read_to_string(path).with_context(|| format!("read artifact {path}"))?,
        };
        serde_json::from_str(&text).context("the artifact is not the JSON of an image artifact")
    }

    fn job(&self, host: &HostEntry, artifact: &Artifact, tty: bool) -> anyhow::Result<Job> {
        let id = JobId::new(&host.id.parse::<HostId>()?, Uuid::new_v4());
        let mountspecs = artifact.mountspecs();
        if mountspecs.is_empty() {
            bail!("the artifact has no layers: is it an image of type `flynn`?");
        }
        let mut config = ContainerConfig {
            args: self.command.clone(),
            tty,
            stdin: true,
            // Output goes to this terminal, not into a log.
            disable_log: true,
            working_dir: self.workdir.clone(),
            host_network: self.hostnet,
            ..ContainerConfig::default()
        };
        if tty {
            let (height, width) = terminal_size();
            let term = std::env::var("TERM").unwrap_or_else(|_| "xterm".into());
            let vars = [("COLUMNS", width.to_string()), ("LINES", height.to_string()), ("TERM", term)];
            config.env.extend(vars.map(|(name, value)| (name.to_owned(), value)));
        }
        for bind in &self.bind {
            let Some((target, location)) = bind.split_once(':') else {
                bail!("invalid bind {bind:?}: it must be /host:/container")
            };
            config.mounts.push(Mount {
                location: location.to_owned(),
                target: target.to_owned(),
                writeable: true,
                ..Mount::default()
            });
        }
        if !self.extra_caps.is_empty() {
            let mut capabilities: Vec<String> =
                flynn_container::DEFAULT_CAPABILITIES.iter().map(|c| (*c).to_owned()).collect();
            capabilities.extend(self.extra_caps.iter().cloned());
            config.linux_capabilities = Some(capabilities);
        }
        Ok(Job {
            id: id.to_string(),
            mountspecs,
            config,
            resources: if self.limits.is_empty() { Resources::default() } else { Resources::parse(&self.limits)? },
            profiles: self.profiles.clone(),
            ..Job::default()
        })
    }
}

fn any_host(hosts: Vec<HostEntry>) -> anyhow::Result<HostEntry> {
    let fit: Vec<usize> = (0..hosts.len()).filter(|n| !hosts[*n].instance.meta.contains_key("drain")).collect();
    let chosen = *fit.choose(&mut rand::rng()).ok_or_else(|| anyhow!("every host is draining"))?;
    hosts.into_iter().nth(chosen).ok_or_else(|| anyhow!("no hosts found"))
}

/// Height and width of the terminal in characters.
fn terminal_size() -> (u16, u16) {
    rustix::termios::tcgetwinsize(std::io::stdout()).map_or((24, 80), |size| (size.ws_row, size.ws_col))
}

/// The terminal in raw mode, restored when dropped.
struct RawTerminal {
    stdin: OwnedFd,
    before: termios::Termios,
}

impl RawTerminal {
    fn enter() -> anyhow::Result<Self> {
        let stdin = std::io::stdin().as_fd().try_clone_to_owned()?;
        let before = termios::tcgetattr(&stdin)?;
        let mut raw = before.clone();
        termios::cfmakeraw(&mut raw);
        termios::tcsetattr(&stdin, termios::SetArg::TCSADRAIN, &raw)?;
        Ok(Self { stdin, before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(&self.stdin, termios::SetArg::TCSADRAIN, &self.before); // nothing else can be done
    }
}

/// Joins this terminal (or these pipes) with an attached job; the outcome is the job's exit status.
async fn join(sender: AttachSender, mut receiver: AttachReceiver, tty: bool) -> Outcome {
    let input = tokio::spawn(forward(sender, tty));
    let outcome = loop {
        match receiver.next().await.context("the connection to the host broke")? {
            Some(Frame::Data { stream, payload }) => show(stream, &payload, true)?,
            Some(Frame::Exit(status)) => break Ok(ExitCode::from(u8::try_from(status & 0xff).unwrap_or(1))),
            Some(Frame::Error(reason)) => break Err(anyhow!("{reason}")),
            Some(_) => {}
            None => break Err(anyhow!("the host closed the connection before the job ended")),
        }
    };
    input.abort();
    outcome
}

fn show(stream: u8, payload: &[u8], split_stderr: bool) -> anyhow::Result<()> {
    if stream == attach::STREAM_STDOUT || !split_stderr {
        let mut out = std::io::stdout().lock();
        out.write_all(payload)?;
        out.flush()?;
    } else {
        std::io::stderr().write_all(payload)?;
    }
    Ok(())
}

/// Sends input, signals and changes of the terminal's size to the job.
async fn forward(mut sender: AttachSender, tty: bool) -> anyhow::Result<()> {
    let mut stdin = tokio::io::stdin();
    let (mut buffer, mut open) = (vec![0; 32 * 1024], true);
    let mut resized = signal(SignalKind::window_change())?;
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    let mut kill_at: Option<tokio::time::Instant> = None;
    loop {
        let kill = async {
            match kill_at {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let frame = tokio::select! {
            read = stdin.read(&mut buffer), if open => {
                let n = read.unwrap_or(0);
                open = n > 0;
                Frame::Data { stream: attach::STREAM_STDIN, payload: buffer[..n].to_vec() }
            }
            Some(()) = resized.recv(), if tty => {
                let (height, width) = terminal_size();
                Frame::Resize { height, width }
            }
            Some(()) = interrupted.recv() => {
                kill_at.get_or_insert_with(|| tokio::time::Instant::now() + KILL_AFTER);
                Frame::Signal(2)
            }
            Some(()) = terminated.recv() => {
                kill_at.get_or_insert_with(|| tokio::time::Instant::now() + KILL_AFTER);
                Frame::Signal(15)
            }
            () = kill => {
                kill_at = None;
                Frame::Signal(9)
            }
        };
        sender.send(frame).await?;
    }
}

/// The last lines of an output.
pub(super) struct Tail {
    lines: VecDeque<(u8, Vec<u8>)>,
    limit: usize,
}

impl Tail {
    pub(super) fn new(limit: usize) -> Self {
        Self { lines: VecDeque::new(), limit }
    }

    fn push(&mut self, stream: u8, line: Vec<u8>) {
        self.lines.push_back((stream, line));
        if self.lines.len() > self.limit {
            self.lines.pop_front();
        }
    }
}

/// Copies a job's output to this terminal, or keeps its tail and shows that at the end.
pub(super) async fn copy_output(
    host: &HostClient,
    job: &str,
    flags: u8,
    split_stderr: bool,
    mut tail: Option<Tail>,
) -> anyhow::Result<()> {
    let request = AttachRequest { job_id: job.to_owned(), flags, height: 0, width: 0 };
    let (_sender, mut receiver) = host.attach(&request).await.context("attach to the job")?;
    while let Some(frame) = receiver.next().await.context("the connection to the host broke")? {
        match (frame, &mut tail) {
            (Frame::Data { stream, payload }, Some(tail)) if !payload.is_empty() => tail.push(stream, payload),
            (Frame::Data { stream, payload }, None) => show(stream, &payload, split_stderr)?,
            (Frame::Error(reason), _) => bail!("{reason}"),
            (Frame::Exit(_), _) => break,
            _ => {}
        }
    }
    for (stream, line) in tail.map(|tail| tail.lines).unwrap_or_default() {
        show(stream, &line, split_stderr)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_keeps_the_last_lines() {
        let mut tail = Tail::new(2);
        for line in ["a", "b", "c"] {
            tail.push(1, line.into());
        }
        assert_eq!(tail.lines, [(1, b"b".to_vec()), (1, b"c".to_vec())]);
    }
}
