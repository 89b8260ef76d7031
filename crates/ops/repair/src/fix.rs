//! `flynn-host fix`: the same at once, by an operator's command.

use std::time::Duration;

use flynn_types::error::with_causes;
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::error::{Error, Result};
use crate::patience::{Circumstances, Patience};
use crate::plan::missing;

/// Longest until everything runs: what the databases need, and the controller after them (spec flynn-host section 14).
const LIMIT: Duration = Duration::from_secs(300);
const PAUSE: Duration = Duration::from_secs(1);

/// How to fix a cluster.
#[derive(Clone, Copy, Debug)]
pub struct Fix {
    /// Hosts that must be there: with fewer, what is missing may be on one that is to come.
    pub min_hosts: usize,
    /// Only say what would be started.
    pub dry_run: bool,
}

/// Starts what is missing, until a controller is registered and a scheduler leads. Says what it does by `tell`.
///
/// # Errors
/// Too few hosts, parts that no host remembers, or not well within five minutes; says what is missing.
pub async fn fix(cluster: &Cluster, options: Fix, mut tell: impl FnMut(&str)) -> Result<()> {
    let deadline = Instant::now() + LIMIT;
    let mut patience = Patience::default();
    let mut said = String::new();
    loop {
        let view = cluster.look().await?;
        let (found, min_hosts) = (view.hosts.len(), options.min_hosts);
        if found < min_hosts {
            let mut text = format!("expected at least {min_hosts} hosts, but {found} found");
            view.silent.iter().for_each(|line| text += &format!("\n{line}"));
            return Err(Error::Wrong(text));
        }
        let missing = missing(&view);
        if let Some(lost) = missing.iter().find(|missing| missing.candidates.is_empty()) {
            return Err(Error::Wrong(format!("{} does not run, and no host remembers a job of it", lost.part)));
        }
        if view.controller && view.scheduler && missing.is_empty() {
            return Ok(());
        }
        let waits = missing.is_empty();
        for (part, start) in
            patience.due(missing, Instant::now(), Circumstances { now: true, ..Circumstances::default() })
        {
            let Some(start) = start else { continue };
            let (host, lost) = (&start.host, &start.job.job.id);
            if options.dry_run {
                tell(&format!("would start {part} on {host}, as {lost} was"));
                continue;
            }
            tell(&format!("starting {part} on {host}, as {lost} was"));
            if let Err(err) = cluster.start(&start).await {
                tell(&format!("{part} cannot be started: {}", with_causes(&err)));
            }
        }
        if options.dry_run {
            return Ok(());
        }
        let wanted = [(view.controller, "a controller"), (view.scheduler, "a scheduler that leads")];
        let wanted: Vec<_> = wanted.into_iter().filter(|(there, _)| !there).map(|(_, what)| what).collect();
        let now = format!("waiting for {}", wanted.join(" and "));
        if waits && said != now {
            tell(&now);
            said.clone_from(&now);
        }
        if Instant::now() + PAUSE >= deadline {
            return Err(Error::Wrong(format!("not well after {} s: still {now}", LIMIT.as_secs())));
        }
        tokio::time::sleep(PAUSE).await;
    }
}
