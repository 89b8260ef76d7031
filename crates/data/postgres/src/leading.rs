//! Becoming the primary, taking writes, and ceasing to acknowledge them (spec appliances sections 5.4 and 5.6).

use std::time::Duration;

use flynn_sirenia::FenceFailure;
use flynn_types::error::with_causes;
use flynn_types::sirenia::{ClusterState, Config};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::configuration::{Acknowledged, Mode};
use crate::database::{LOOK, Postgres, Work};
use crate::error::PostgresError;
use crate::lsn::At;
use crate::programs::ProgramError;
use crate::setup;
use crate::sql::{Sql, SqlError};

/// Between two looks at how far the downstream is.
const CATCH_UP_LOOK: Duration = Duration::from_millis(100);
/// Longest time for a commit of ours to get to its wait, which shows that a fence holds.
const PROBE_LIMIT: Duration = Duration::from_secs(10);

impl Postgres {
    pub(crate) async fn lead(&self, work: &mut Work, config: &Config) -> Result<(), PostgresError> {
        let cluster = config.state.as_ref().ok_or(PostgresError::NoState)?;
        let initial = initial_position(cluster)?;
        let acknowledged = match &config.downstream {
            Some(sync) => Acknowledged::By(self.key.peer(sync)),
            None if cluster.singleton => Acknowledged::Alone,
            None => return Err(PostgresError::MissingDownstream),
        };
        if self.leads_so(work, cluster, &acknowledged) {
            return Ok(());
        }
        work.applied = None;
        self.lead_silently(work, cluster, &initial, &acknowledged).await?;
        let mut sql = self.sql().await?;
        // First: what comes after it is of this generation.
        sql.begin_generation(cluster.generation, initial.offset).await?;
        setup::roles(&mut sql, &self.settings.password).await?;
        sql.close().await;
        setup::template(&mut self.sql_in("template1").await?).await?;
        self.serve_downstream(config).await?;
        let keeps_on =
            work.mode.as_ref() == Some(&Mode::Primary { acknowledged: acknowledged.clone(), writable: true });
        self.run_as(work, &Mode::Primary { acknowledged, writable: keeps_on }).await?;
        info!(generation = cluster.generation, "leading");
        Ok(())
    }

    /// Whether nothing needs to change: the same generation, with the same sync.
    fn leads_so(&self, work: &Work, cluster: &ClusterState, acknowledged: &Acknowledged) -> bool {
        let same_generation = work.applied.as_ref().is_some_and(|applied| {
            applied.role == flynn_types::sirenia::Role::Primary
                && applied.state.as_ref().is_some_and(|state| state.generation == cluster.generation)
        });
        let same_sync = matches!(&work.mode, Some(Mode::Primary { acknowledged: now, .. }) if now == acknowledged);
        self.running().is_some() && same_generation && same_sync
    }

    /// A primary whose log has all that the generation begins with, and which acknowledges nothing that the sync does
    /// not have.
    async fn lead_silently(
        &self,
        work: &mut Work,
        cluster: &ClusterState,
        initial: &At,
        acknowledged: &Acknowledged,
    ) -> Result<(), PostgresError> {
        if !self.folder.has_database() {
            self.make_database(cluster, initial).await?;
        }
        if self.running().is_none() && self.folder.is_standby() {
            self.run_as(work, &Mode::Standby { source: None }).await?;
        }
        // A primary that goes on as before, with other tunables, needs no pause.
        let unchanged = matches!(&work.mode, Some(Mode::Primary { acknowledged: now, .. }) if now == acknowledged);
        let at_first = match acknowledged {
            Acknowledged::Alone => Acknowledged::Alone,
            _ => Acknowledged::Never,
        };
        let silent = Mode::Primary { acknowledged: at_first, writable: false };
        if self.running().is_none() {
            self.run_as(work, &silent).await?;
        }
        let mut sql = self.sql().await?;
        if sql.in_recovery().await? {
            let own = self.close_standby(work, &mut sql).await?;
            demand(&own, initial)?;
            self.run_as(work, &silent).await?;
            info!("promoting the server");
            if !sql.truth("SELECT pg_promote(true, 100)").await? {
                return Err(PostgresError::NotPromoted);
            }
        } else if !unchanged {
            self.run_as(work, &silent).await?;
        }
        let own = sql.position().await?;
        sql.close().await;
        if let Err(behind) = demand(&own, initial) {
            self.stop_server().await?;
            return Err(behind);
        }
        Ok(())
    }

    /// The first database of a new cluster.
    async fn make_database(&self, cluster: &ClusterState, initial: &At) -> Result<(), PostgresError> {
        if self.folder.had_database() {
            return Err(PostgresError::DatabaseLost);
        }
        if cluster.generation > 1 || *initial != At::default() {
            return Err(PostgresError::EmptyVolume);
        }
        info!("making a new database");
        self.folder.remove_draft()?;
        let made = match self.initdb("en_US.UTF-8").await {
            Err(ProgramError::Failed { words, .. }) if words.contains("invalid locale name") => {
                warn!("there is no locale en_US.UTF-8: databases sort by bytes");
                self.folder.remove_draft()?;
                self.initdb("C.UTF-8").await
            }
            other => other,
        };
        made?;
        Ok(self.folder.install(false)?)
    }

    async fn initdb(&self, locale: &str) -> Result<(), ProgramError> {
        let draft = self.folder.draft();
        let initdb = self.programs.run("initdb", |command| {
            command.arg("--pgdata").arg(&draft).args(["--username=postgres", "--encoding=UTF8", "--no-instructions"]);
            command.arg("--locale").arg(locale).args(["--auth=trust", "--data-checksums"]);
        });
        initdb.await
    }

    pub(crate) async fn accept_writes(&self) -> Result<(), PostgresError> {
        let mut work = self.work().await;
        match work.mode.clone() {
            Some(Mode::Primary { writable: true, .. }) => Ok(()),
            Some(Mode::Primary { acknowledged, .. }) if acknowledged != Acknowledged::Never => {
                self.run_as(&mut work, &Mode::Primary { acknowledged, writable: true }).await?;
                info!("taking writes");
                Ok(())
            }
            _ => Err(PostgresError::NoPrimary),
        }
    }

    /// Waits until the downstream has on disk what the server has now.
    pub(crate) async fn downstream_has_all(&self, config: &Config) -> Result<(), PostgresError> {
        let Some(downstream) = &config.downstream else { return Ok(()) };
        let id = self.key.peer(downstream);
        let mut sql = self.sql().await?;
        let target = sql.end().await?;
        let name = sql.literal(&id.0).await?;
        let reached = format!(
            "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE application_name = {name} AND state = 'streaming' \
             AND flush_lsn >= '{target}')"
        );
        while !sql.truth(&reached).await? {
            tokio::time::sleep(CATCH_UP_LOOK).await;
        }
        sql.close().await;
        Ok(())
    }

    /// Ceases to acknowledge, or to receive. See [`flynn_sirenia::Effect::Fence`].
    pub(crate) async fn close(&self, at_least: &At) -> Result<At, FenceFailure<At>> {
        let mut work = self.work().await;
        let failed = |err: PostgresError| FenceFailure::Failed(with_causes(&err));
        let mut sql = self.sql().await.map_err(failed)?;
        let position = sql.position().await.map_err(|err| failed(err.into()))?;
        if position < *at_least {
            return Err(FenceFailure::Behind(position));
        }
        work.applied = None;
        let standby = sql.in_recovery().await.map_err(|err| failed(err.into()))?;
        let closed = match standby {
            true => self.close_standby(&mut work, &mut sql).await,
            false => self.close_primary(&mut work, &mut sql).await,
        };
        let closed = closed.map_err(failed)?;
        sql.close().await;
        Ok(closed)
    }

    async fn close_primary(&self, work: &mut Work, sql: &mut Sql) -> Result<At, PostgresError> {
        self.reload_everywhere(work, &Mode::Primary { acknowledged: Acknowledged::Never, writable: false }).await?;
        // Those that serve standbys may not have looked at the settings yet; new ones do when they begin.
        let senders = sql.texts("SELECT pid::text FROM pg_stat_replication").await?;
        for pid in &senders {
            sql.execute(format!("SELECT pg_terminate_backend({pid}, 10000)")).await?;
        }
        self.prove_silence(sql).await?;
        Ok(sql.position().await?)
    }

    /// Sees a commit wait that began after the change of settings: until the server's processes know of it, commits may
    /// still be acknowledged as before.
    async fn prove_silence(&self, sql: &mut Sql) -> Result<(), PostgresError> {
        let deadline = Instant::now() + PROBE_LIMIT;
        while Instant::now() < deadline {
            let mut probe = self.sql().await?;
            probe.execute("SET synchronous_commit = on").await?;
            let pid = probe.text("SELECT pg_backend_pid()::text").await?.unwrap_or_default();
            let waits =
                format!("SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = {pid} AND wait_event = 'SyncRep')");
            let commit = probe.execute("SELECT pg_logical_emit_message(true, 'flynn', 'fence')");
            let waiting = async {
                while !sql.truth(&waits).await? {
                    tokio::time::sleep(LOOK).await;
                }
                Ok::<_, SqlError>(())
            };
            let proved = tokio::select! {
                committed = commit => committed.map(|()| false)?,
                waited = waiting => waited.map(|()| true)?,
            };
            sql.execute(format!("SELECT pg_terminate_backend({pid}, 10000)")).await?;
            if proved {
                return Ok(());
            }
        }
        Err(PostgresError::NotSilent)
    }
}

fn demand(own: &At, initial: &At) -> Result<(), PostgresError> {
    if own < initial {
        return Err(PostgresError::Behind { own: own.clone(), needed: initial.clone() });
    }
    Ok(())
}

/// Where the generation begins.
fn initial_position(cluster: &ClusterState) -> Result<At, PostgresError> {
    if cluster.init_wal.is_empty() {
        return Ok(At::default());
    }
    Ok(cluster.init_wal.parse()?)
}
