//! The database of a peer.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use flynn_sirenia::FenceFailure;
use flynn_types::error::with_causes;
use flynn_types::sirenia::{Config, DatabaseInfo, IdKey, PeerId, Role, Tunables};
use sqlx::postgres::PgConnectOptions;
use tokio::sync::{MutexGuard, watch};
use tokio::time::Instant;
use tracing::warn;

use crate::account::Account;
use crate::configuration::{Configuration, Mode};
use crate::error::PostgresError;
use crate::folder::{Folder, FolderError};
use crate::lsn::At;
use crate::programs::Programs;
use crate::server::Server;
use crate::sql::{Sql, options};
use crate::tunables;

/// Longest time for the processes of a volume's last server to end: those of a server that was killed notice soon.
const VOLUME_LIMIT: Duration = Duration::from_secs(30);
/// Longest time until a running server has read its files again.
const RELOAD_LIMIT: Duration = Duration::from_secs(15);
/// Settings of connections that administer the own server.
const ADMINISTRATOR: [(&str, &str); 3] =
    [("default_transaction_read_only", "off"), ("synchronous_commit", "local"), ("statement_timeout", "120s")];
/// Between two looks at what is waited for.
pub(crate) const LOOK: Duration = Duration::from_millis(20);

/// Where and as whom a server runs.
#[derive(Clone)]
pub struct Settings {
    /// The volume.
    pub volume: PathBuf,
    /// Address of the server; all addresses in a container of its own.
    pub listen: IpAddr,
    pub port: u16,
    /// Of the role `flynn`.
    pub password: String,
    /// Who runs the server, if not the user of this process.
    pub account: Option<Account>,
}

/// A PostgreSQL server as a database that [`flynn_sirenia::Peer`] drives.
pub struct Postgres {
    pub(crate) settings: Settings,
    pub(crate) id: PeerId,
    pub(crate) key: IdKey,
    pub(crate) folder: Folder,
    pub(crate) programs: Programs,
    server: Mutex<Option<Arc<Server>>>,
    /// Held by whatever changes the server.
    pub(crate) work: tokio::sync::Mutex<Work>,
    /// How many wait for that.
    waiting: watch::Sender<usize>,
    crashed: watch::Sender<Option<ExitStatus>>,
}

/// What is known of the server that runs, or will.
#[derive(Default)]
pub(crate) struct Work {
    /// What it was made last, as long as that is certain.
    pub(crate) applied: Option<Config>,
    /// The mode in force, as long as that is certain.
    pub(crate) mode: Option<Mode>,
    tunables: Tunables,
    /// Whether the server has yet to read them.
    tuned: bool,
    /// Number of the last configuration file.
    edition: u64,
}

struct Waiting<'a>(&'a watch::Sender<usize>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|waiting| *waiting -= 1);
    }
}

impl Postgres {
    /// A database that does not run. Only one peer at a time has a volume; the end of the last one is waited for.
    ///
    /// # Errors
    /// When the volume is in use or PostgreSQL is missing.
    pub async fn open(settings: Settings, id: PeerId, key: IdKey) -> Result<Self, PostgresError> {
        let deadline = Instant::now() + VOLUME_LIMIT;
        let folder = loop {
            match Folder::open(&settings.volume, settings.account) {
                Err(FolderError::Busy { .. }) if Instant::now() < deadline => tokio::time::sleep(LOOK).await,
                other => break other?,
            }
        };
        let programs = Programs::newest(settings.account)?;
        // Numbers that the last process did not use.
        let work = Work { edition: u64::from(rand::random::<u32>()) << 16, ..Work::default() };
        let ((crashed, _), (waiting, _)) = (watch::channel(None), watch::channel(0));
        let work = tokio::sync::Mutex::new(work);
        Ok(Self { settings, id, key, folder, programs, server: Mutex::default(), work, waiting, crashed })
    }

    /// Whether the volume has, or had, a database.
    pub fn has_data(&self) -> bool {
        self.folder.has_database() || self.folder.had_database()
    }

    /// Waits for an end of the server that nobody asked for.
    pub async fn crashed(&self) -> ExitStatus {
        let mut crashed = self.crashed.subscribe();
        let status = crashed.wait_for(Option::is_some).await.map(|status| *status);
        // The sender is here: it never goes first.
        status.ok().flatten().unwrap_or_default()
    }

    /// The right to change the server, before [`Self::attend`], which gives it up.
    pub(crate) async fn work(&self) -> MutexGuard<'_, Work> {
        self.waiting.send_modify(|waiting| *waiting += 1);
        let _no_longer = Waiting(&self.waiting);
        self.work.lock().await
    }

    /// Waits until somebody waits for [`Self::work`].
    pub(crate) async fn wanted(&self) {
        let _ = self.waiting.subscribe().wait_for(|waiting| *waiting > 0).await; // the sender is here
    }

    pub(crate) fn running(&self) -> Option<Arc<Server>> {
        let server = self.server.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        server.filter(|server| server.is_running())
    }

    fn observer(&self) -> PgConnectOptions {
        let any = self.settings.listen.is_unspecified();
        let host = if any { IpAddr::from([127, 0, 0, 1]) } else { self.settings.listen };
        options(&host.to_string(), self.settings.port).username("postgres")
    }

    /// A connection to the own server that may change everything, and whose commits wait for nobody.
    pub(crate) async fn sql(&self) -> Result<Sql, PostgresError> {
        self.sql_in("postgres").await
    }

    pub(crate) async fn sql_in(&self, database: &str) -> Result<Sql, PostgresError> {
        Ok(Sql::connect(&self.observer().database(database).options(ADMINISTRATOR)).await?)
    }

    /// Makes the server be in the mode: starts it, or has it read its settings again.
    pub(crate) async fn run_as(&self, work: &mut Work, mode: &Mode) -> Result<(), PostgresError> {
        if let Some(server) = self.running() {
            server.ready().await?; // if a start was given up half way
            if work.mode.as_ref() == Some(mode) && !work.tuned {
                return Ok(());
            }
            return self.reload_everywhere(work, mode).await;
        }
        work.mode = None;
        self.write_configuration(work, mode)?;
        let server = Arc::new(Server::spawn(&self.programs, &self.folder, self.crashed.clone())?);
        *self.server.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(server.clone());
        server.ready().await?;
        (work.mode, work.tuned) = (Some(mode.clone()), false);
        Ok(())
    }

    pub(crate) async fn stop_server(&self) -> Result<(), PostgresError> {
        if let Some(server) = self.running() {
            server.stop().await?;
        }
        Ok(())
    }

    /// Writes what the server reads when it starts.
    fn write_configuration(&self, work: &mut Work, mode: &Mode) -> Result<(), PostgresError> {
        work.edition += 1;
        let configuration = Configuration {
            listen: self.settings.listen,
            port: self.settings.port,
            id: &self.id,
            mode,
            tunables: &work.tunables.data,
            edition: work.edition,
        };
        let at = |name: &str| self.folder.database().join(name);
        self.folder.write(&at("pg_hba.conf"), &configuration.access())?;
        // Read after ours: what somebody set here could undo what keeps commits.
        self.folder.write(&at("postgresql.auto.conf"), "")?;
        self.folder.write(&at("postgresql.conf"), &configuration.text())?;
        Ok(())
    }

    /// Makes a running server read new settings; they are in force when this is ready, in new processes of it at least.
    pub(crate) async fn reload(&self, work: &mut Work, mode: &Mode) -> Result<(), PostgresError> {
        work.mode = None;
        self.write_configuration(work, mode)?;
        let mut sql = self.sql().await?;
        let wanted = work.edition.to_string();
        let deadline = Instant::now() + RELOAD_LIMIT;
        sql.execute("SELECT pg_reload_conf()").await?;
        while sql.text("SHOW flynn.edition").await?.as_ref() != Some(&wanted) {
            if Instant::now() > deadline {
                return Err(PostgresError::Settings);
            }
            tokio::time::sleep(LOOK).await;
        }
        sql.close().await;
        (work.mode, work.tuned) = (Some(mode.clone()), false);
        Ok(())
    }

    /// The same, and all processes of the server have been told: it answers a second signal when it is done with the
    /// first.
    pub(crate) async fn reload_everywhere(&self, work: &mut Work, mode: &Mode) -> Result<(), PostgresError> {
        self.reload(work, mode).await?;
        self.reload(work, mode).await
    }

    async fn make(&self, config: &Config) -> Result<(), PostgresError> {
        let mut work = self.work().await;
        let wanted = config.tunables.clone().unwrap_or_default();
        let tuned = wanted != work.tunables;
        if tuned {
            for (name, value) in tunables::refused(&wanted.data) {
                warn!(name, value, "this tunable cannot have this value: its default stays in force");
            }
            (work.tunables, work.applied, work.tuned) = (wanted, None, true);
        }
        self.make_role(&mut work, config).await?;
        if tuned && self.needs_restart().await? {
            self.stop_server().await?;
            (work.applied, work.mode) = (None, None);
            self.make_role(&mut work, config).await?;
        }
        work.applied = Some(config.clone());
        Ok(())
    }

    async fn make_role(&self, work: &mut Work, config: &Config) -> Result<(), PostgresError> {
        match config.role {
            Role::Primary => self.lead(work, config).await,
            Role::Sync | Role::Async => self.follow(work, config).await,
            _ => {
                (work.applied, work.mode) = (None, None);
                self.stop_server().await
            }
        }
    }

    /// Whether settings changed that are in force only after a start.
    async fn needs_restart(&self) -> Result<bool, PostgresError> {
        if self.running().is_none() {
            return Ok(false);
        }
        let mut sql = self.sql().await?;
        let pending = sql.truth("SELECT EXISTS (SELECT FROM pg_settings WHERE pending_restart)").await?;
        sql.close().await;
        Ok(pending)
    }

    async fn describe(&self) -> Result<DatabaseInfo, PostgresError> {
        // As a client connects: an administrator's connection may always write.
        let mut sql = Sql::connect(&self.observer()).await?;
        let mut info = DatabaseInfo { xlog: sql.position().await?.to_string(), ..DatabaseInfo::default() };
        info.user_exists = sql.truth("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'flynn')").await?;
        info.read_write = sql.text("SHOW transaction_read_only").await?.as_deref() == Some("off");
        sql.close().await;
        Ok(info)
    }
}

#[async_trait]
impl flynn_sirenia::Database<At> for Postgres {
    async fn configure(&self, config: &Config) -> Result<(), String> {
        self.make(config).await.map_err(|err| with_causes(&err))
    }

    async fn fence(&self, at_least: &At) -> Result<At, FenceFailure<At>> {
        if self.running().is_none() {
            return Err(FenceFailure::Offline);
        }
        self.close(at_least).await
    }

    async fn caught_up(&self, config: &Config) -> Result<(), String> {
        self.downstream_has_all(config).await.map_err(|err| with_causes(&err))
    }

    async fn open(&self) -> Result<(), String> {
        self.accept_writes().await.map_err(|err| with_causes(&err))
    }

    async fn info(&self) -> DatabaseInfo {
        if self.running().is_none() {
            return DatabaseInfo::default();
        }
        let known = self.describe().await.unwrap_or_else(|err| {
            tracing::debug!(err = with_causes(&err), "the server cannot be asked");
            DatabaseInfo::default()
        });
        DatabaseInfo { running: true, ..known }
    }
}
