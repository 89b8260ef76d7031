//! Becoming a standby, and staying with its upstream (spec appliances section 5.5).

use std::time::Duration;

use flynn_types::discoverd::Instance;
use flynn_types::error::with_causes;
use flynn_types::sirenia::{Config, PeerId, Role};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::configuration::{Mode, Source};
use crate::database::{LOOK, Postgres, Work};
use crate::error::PostgresError;
use crate::judgement::{Verdict, judge};
use crate::lsn::{At, Lsn};
use crate::sql::{History, Sql, options};

/// Between two looks at a standby that is not attached to its upstream.
const ATTEND: Duration = Duration::from_secs(1);
/// So many looks at one that is, but receives nothing, until its log is compared with the upstream's again.
const SILENT_LOOKS: u32 = 15;
/// How long the start of a standby waits for its upstream. Without it, it starts too.
const UPSTREAM_LIMIT: Duration = Duration::from_secs(5);
/// What has to be free on a standby's volume: three files of log.
const MIN_SPACE: u64 = 48 << 20;
/// How long a process that receives the log may take to end by itself.
const RECEIVER_LIMIT: Duration = Duration::from_millis(500);

impl Postgres {
    pub(crate) async fn follow(&self, work: &mut Work, config: &Config) -> Result<(), PostgresError> {
        let mode = Mode::Standby { source: Some(self.source(config)?) };
        if self.running().is_some() && work.mode.as_ref() == Some(&mode) {
            self.run_as(work, &mode).await?; // at most for tunables: the same upstream interrupts nothing
            return self.serve_downstream(config).await;
        }
        work.applied = None;
        if !matches!(work.mode, Some(Mode::Standby { .. })) {
            self.stop_server().await?; // a primary, or nobody knows what
        }
        if !self.folder.has_database() {
            self.attach(work, config).await?;
            return self.serve_downstream(config).await;
        }
        self.start_standby(work).await?;
        self.serve_downstream(config).await?;
        let attached = tokio::time::timeout(UPSTREAM_LIMIT, self.look_and_attach(work, config)).await;
        let reason = match attached {
            Ok(Ok(Verdict::Follow)) => return Ok(()),
            // Not limited: it may take hours.
            Ok(Ok(Verdict::Copy(_))) => {
                self.attach(work, config).await?;
                return self.serve_downstream(config).await;
            }
            Ok(Ok(Verdict::Wait(reason))) => reason,
            Ok(Err(err)) => with_causes(&err),
            Err(_) => format!("no answer in {} s", UPSTREAM_LIMIT.as_secs()),
        };
        // A sync has to be there although its upstream is gone; `attend` goes on trying.
        info!(reason, "the upstream cannot be followed yet");
        Ok(())
    }

    /// A standby that receives nothing.
    async fn start_standby(&self, work: &mut Work) -> Result<(), PostgresError> {
        if self.running().is_none() && !self.folder.is_standby() {
            self.folder.make_standby()?;
        }
        let detached = Mode::Standby { source: None };
        if self.running().is_some() && work.mode.as_ref() == Some(&detached) {
            return Ok(());
        }
        self.run_as(work, &detached).await
    }

    /// Compares the own log with the upstream's, and follows it if it continues the own one.
    async fn look_and_attach(&self, work: &mut Work, config: &Config) -> Result<Verdict, PostgresError> {
        let verdict = self.compare(work, config).await?;
        if verdict == Verdict::Follow {
            self.run_as(work, &Mode::Standby { source: Some(self.source(config)?) }).await?;
            info!(upstream = %self.upstream_id(config)?, "following");
        }
        Ok(verdict)
    }

    async fn compare(&self, work: &mut Work, config: &Config) -> Result<Verdict, PostgresError> {
        let own = match self.folder.has_database() {
            true => {
                self.start_standby(work).await?;
                let mut sql = self.sql().await?;
                self.end_reception(&mut sql).await?;
                let own = sql.history().await?;
                sql.close().await;
                Some(own)
            }
            false => None,
        };
        let (theirs, oldest) = self.look_at_upstream(config).await?;
        Ok(judge(own.as_ref(), &theirs, oldest))
    }

    /// Follows the upstream, with a copy of its data where that is needed.
    async fn attach(&self, work: &mut Work, config: &Config) -> Result<(), PostgresError> {
        match self.look_and_attach(work, config).await? {
            Verdict::Follow => Ok(()),
            Verdict::Wait(reason) => Err(PostgresError::Upstream(reason)),
            Verdict::Copy(reason) => {
                info!(reason, upstream = %self.upstream_id(config)?, "copying the upstream's data");
                self.copy(work, config).await
            }
        }
    }

    async fn copy(&self, work: &mut Work, config: &Config) -> Result<(), PostgresError> {
        let source = self.source(config)?;
        work.mode = None;
        self.stop_server().await?;
        self.folder.remove_draft()?;
        let draft = self.folder.draft();
        // Of another name than the peer's: what a copy has received is no acknowledgement.
        let conninfo = Source { password: String::new(), ..source.clone() }.conninfo(Some("flynn-copy"));
        self.programs
            .run("pg_basebackup", |command| {
                command.env("PGPASSWORD", &source.password).arg("--pgdata").arg(&draft).arg("--dbname").arg(conninfo);
                command
                    .args(["--wal-method=stream", "--checkpoint=fast", "--no-password"])
                    .arg("--slot")
                    .arg(&source.slot);
            })
            .await?;
        self.folder.install(true)?;
        self.run_as(work, &Mode::Standby { source: Some(source) }).await?;
        info!("the copy is complete");
        Ok(())
    }

    /// What the upstream has, if it is the upstream who answers, and where the oldest log begins that it can send.
    async fn look_at_upstream(&self, config: &Config) -> Result<(History, Lsn), PostgresError> {
        let source = self.source(config)?;
        let wanted = self.upstream_id(config)?;
        let offline = |err| PostgresError::UpstreamOffline { id: wanted.clone(), err };
        let options = options(&source.host, source.port).password(&source.password);
        let mut sql = Sql::connect(&options).await.map_err(offline)?;
        let name = sql.text("SHOW cluster_name").await.map_err(offline)?.unwrap_or_default();
        if name != wanted.0 {
            return Err(PostgresError::Stranger { wanted, found: name });
        }
        let slot = format!("SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '{}')", source.slot);
        if !sql.truth(&slot).await.map_err(offline)? {
            return Err(PostgresError::Upstream(format!("the upstream {wanted} does not know yet that it is ours")));
        }
        let theirs = sql.history().await.map_err(offline)?;
        let oldest = sql.oldest_log().await.map_err(offline)?;
        sql.close().await;
        Ok((theirs, oldest))
    }

    /// Receives nothing any more, and has replayed all that was received. The server's settings name no upstream.
    pub(crate) async fn end_reception(&self, sql: &mut Sql) -> Result<(), PostgresError> {
        // One round of the process that replays: afterwards it has seen the settings, and starts no receiver.
        self.round_of_replay(sql).await?;
        let begin = Instant::now();
        while let Some(pid) =
            sql.text("SELECT pid::text FROM pg_stat_activity WHERE backend_type = 'walreceiver'").await?
        {
            if begin.elapsed() > RECEIVER_LIMIT
                && let Some(pid) = pid.parse().ok().and_then(Pid::from_raw)
            {
                let _ = kill_process(pid, Signal::TERM); // an error: it is gone
            }
            tokio::time::sleep(LOOK).await;
        }
        self.round_of_replay(sql).await?;
        let idle = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'startup' AND \
                    wait_event = 'RecoveryRetrieveRetryInterval')";
        while !sql.truth(idle).await? {
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Has replay pause and go on: it reads settings before it pauses, and looks for more log before it waits again.
    async fn round_of_replay(&self, sql: &mut Sql) -> Result<(), PostgresError> {
        sql.execute("SELECT pg_wal_replay_pause()").await?;
        while sql.text("SELECT pg_get_wal_replay_pause_state()").await?.as_deref() != Some("paused") {
            tokio::time::sleep(LOOK).await;
        }
        sql.execute("SELECT pg_wal_replay_resume()").await?;
        Ok(())
    }

    pub(crate) async fn close_standby(&self, work: &mut Work, sql: &mut Sql) -> Result<At, PostgresError> {
        self.run_as(work, &Mode::Standby { source: None }).await?;
        self.end_reception(sql).await?;
        Ok(sql.position().await?)
    }

    /// Has a slot for the downstream, and for nobody else.
    pub(crate) async fn serve_downstream(&self, config: &Config) -> Result<(), PostgresError> {
        let wanted = config.downstream.as_ref().map(|downstream| slot(&self.id, &self.key.peer(downstream)));
        let mut sql = self.sql().await?;
        sql.serve_only(wanted.as_deref()).await?;
        sql.close().await;
        Ok(())
    }

    /// Keeps a standby with its upstream, until its volume is full. To be polled beside the peer.
    pub(crate) async fn attend(&self) -> PostgresError {
        let mut silent = 0;
        loop {
            tokio::time::sleep(ATTEND).await;
            let Ok(mut work) = self.work.try_lock() else { continue };
            // Whoever else wants the server has precedence, also over a copy that is under way.
            let attended = tokio::select! {
                () = self.wanted() => continue,
                attended = self.attend_once(&mut work, &mut silent) => attended,
            };
            match attended {
                Ok(()) => {}
                Err(full @ PostgresError::Full { .. }) => return full,
                Err(err) => warn!(err = with_causes(&err), "the upstream cannot be followed, it is tried again"),
            }
        }
    }

    /// Whether a standby could go on writing its log. A sync that cannot, but stays, blocks every commit.
    pub(crate) fn has_space(&self) -> Result<(), PostgresError> {
        let free = self.folder.free()?;
        if free < MIN_SPACE {
            return Err(PostgresError::Full { free_mb: free >> 20, needed_mb: MIN_SPACE >> 20 });
        }
        Ok(())
    }

    async fn attend_once(&self, work: &mut Work, silent: &mut u32) -> Result<(), PostgresError> {
        let standby = |config: &&Config| matches!(config.role, Role::Sync | Role::Async);
        let Some(config) = work.applied.as_ref().filter(standby).cloned() else { return Ok(()) };
        self.has_space()?;
        if self.running().is_some() && matches!(work.mode, Some(Mode::Standby { source: Some(_) })) {
            let mut sql = self.sql().await?;
            let receives =
                sql.truth("SELECT EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming')").await?;
            sql.close().await;
            *silent = if receives { 0 } else { *silent + 1 };
            if *silent < SILENT_LOOKS {
                return Ok(());
            }
        }
        *silent = 0;
        self.attach(work, &config).await?;
        self.serve_downstream(&config).await
    }

    fn upstream<'a>(&self, config: &'a Config) -> Result<&'a Instance, PostgresError> {
        config.upstream.as_ref().ok_or(PostgresError::MissingUpstream)
    }

    fn upstream_id(&self, config: &Config) -> Result<PeerId, PostgresError> {
        Ok(self.key.peer(self.upstream(config)?))
    }

    fn source(&self, config: &Config) -> Result<Source, PostgresError> {
        let upstream = self.upstream(config)?;
        let (host, port) = upstream.host_port().ok_or_else(|| PostgresError::Address(upstream.addr.clone()))?;
        Ok(Source {
            host: host.to_owned(),
            port,
            password: self.settings.password.clone(),
            slot: slot(&self.key.peer(upstream), &self.id),
        })
    }
}

/// Name of the slot that a peer keeps for its downstream. Slots are no part of the replicated data: only the peer meant
/// has it, so that a standby can never stream from whoever else answers at an address.
fn slot(upstream: &PeerId, downstream: &PeerId) -> String {
    // A name has 63 characters at most, and only these.
    let part = |id: &PeerId| {
        id.0.to_ascii_lowercase().chars().filter(char::is_ascii_alphanumeric).take(28).collect::<String>()
    };
    format!("flynn_{}_{}", part(upstream), part(downstream))
}

#[cfg(test)]
mod tests {
    use super::slot;
    use flynn_types::sirenia::PeerId;

    #[test]
    fn a_slot_is_of_two_peers_in_one_direction() {
        let [one, other] = ["51e965c4-ea70-41d9-90d4-e6216c071f8e", "51E965C4-ea70-41d9-90d4-000000000000"];
        let name = |up: &str, down: &str| slot(&PeerId(up.into()), &PeerId(down.into()));
        assert_eq!(name(one, other), "flynn_51e965c4ea7041d990d4e6216c07_51e965c4ea7041d990d400000000");
        assert_eq!(name(one, other).len(), 63);
        assert_ne!(name(one, other), name(other, one));
    }
}
