//! A real PostgreSQL server for tests, from Debian's package.
//!
//! [`Database::create`] gives a test a database of its own. The first call in a process starts a server in a temporary
//! folder, on a Unix socket, as an unprivileged user; later ones share it. Databases are copies of a template, which the
//! caller prepares once. [`OwnServer`] is one that a test may break.
//!
//! **Invariant:** nothing stays, however the test ends: a shell of its own session holds the server and waits for the end
//! of the test's process, also for a violent one, then stops the server and removes the folder.

#![forbid(unsafe_code)]

mod own;

pub use own::{Limits, OwnServer};

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _};
use tokio::sync::OnceCell;

/// Who owns the databases; a superuser.
const USER: &str = "flynn";
/// Unprivileged user that Debian's package makes: PostgreSQL refuses to run as root.
const ACCOUNT: &str = "postgres";

/// A database for one test.
#[derive(Clone, Debug)]
pub struct Database {
    options: PgConnectOptions,
    name: String,
}

impl Database {
    /// A copy of the template, which `prepare` fills when it is needed for the first time in this process.
    ///
    /// # Panics
    ///
    /// Says what is missing when the server cannot be started.
    pub async fn create<F: Future<Output = ()>>(prepare: impl FnOnce(PgConnectOptions) -> F) -> Self {
        static TEMPLATE: OnceCell<()> = OnceCell::const_new();
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let server = Server::shared();
        TEMPLATE
            .get_or_init(|| async {
                server.administer("CREATE DATABASE template_of_tests").await;
                prepare(server.options("template_of_tests")).await;
            })
            .await;
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        server.administer(&format!("CREATE DATABASE {name} TEMPLATE template_of_tests")).await;
        Self { options: server.options(&name), name }
    }

    /// An empty database.
    pub async fn empty() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let server = Server::shared();
        let name = format!("empty_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        server.administer(&format!("CREATE DATABASE {name}")).await;
        Self { options: server.options(&name), name }
    }

    /// One that is there already.
    pub fn at(options: PgConnectOptions) -> Self {
        let name = options.get_database().expect("options that name a database").to_owned();
        Self { options, name }
    }

    /// How to connect to it.
    pub fn options(&self) -> PgConnectOptions {
        self.options.clone()
    }

    /// A connection to it.
    ///
    /// # Panics
    ///
    /// When the server refuses.
    pub async fn connect(&self) -> PgConnection {
        PgConnection::connect_with(&self.options).await.expect("connect to the test's database")
    }

    /// Cuts all connections to it, as a failing server would.
    pub async fn cut_connections(&self) {
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
            WHERE datname = $1 AND pid <> pg_backend_pid()";
        let mut connection = PgConnection::connect_with(&self.options.clone().database("postgres")).await;
        let connection = connection.as_mut().expect("connect to PostgreSQL");
        sqlx::query(cut).bind(&self.name).execute(connection).await.expect("cut connections");
    }
}

struct Server {
    /// Where the socket is.
    folder: PathBuf,
    /// Never written: its end, with this process, ends the server.
    _lifeline: std::process::ChildStdin,
}

impl Server {
    fn shared() -> &'static Self {
        static SERVER: OnceLock<Server> = OnceLock::new();
        static STARTING: Mutex<()> = Mutex::new(());
        let _one = STARTING.lock().expect("the server of the tests has started before");
        SERVER.get_or_init(Self::start)
    }

    fn start() -> Self {
        let programs = programs();
        let folder = folder();
        let root = nix::unistd::Uid::effective().is_root();
        let mut holder = Command::new("setsid");
        if root {
            let id = |what: &str| format!("--{what}={ACCOUNT}");
            holder.args(["setpriv", &id("reuid"), &id("regid"), "--init-groups"]);
        }
        holder.args(["sh", "-c", include_str!("hold.sh"), "hold"]).arg(&programs).arg(&folder).arg(USER);
        holder.current_dir(&folder).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let lifeline = holder.spawn().expect("start setsid").stdin.take().expect("it was asked for");
        let server = Self { folder, _lifeline: lifeline };
        server.wait();
        server
    }

    /// Waits until the server's socket is there.
    fn wait(&self) {
        let deadline = std::time::Instant::now() + flynn_patience::seconds(60);
        let ready = |folder: &Path| std::fs::read_to_string(folder.join("data/postmaster.pid")).unwrap_or_default();
        while !ready(&self.folder).contains("ready") {
            let log = || std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            assert!(!self.folder.join("failed").exists(), "PostgreSQL does not start:\n{}", log());
            assert!(std::time::Instant::now() < deadline, "PostgreSQL is not ready in time:\n{}", log());
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    fn options(&self, database: &str) -> PgConnectOptions {
        PgConnectOptions::new().socket(&self.folder).username(USER).database(database)
    }

    async fn administer(&self, sql: &str) {
        let mut connection =
            PgConnection::connect_with(&self.options("postgres")).await.expect("connect to PostgreSQL");
        connection.execute(AssertSqlSafe(sql)).await.unwrap_or_else(|err| panic!("{sql}: {err}"));
    }
}

/// A folder for a server: of its account's, and of nobody else's.
fn folder() -> PathBuf {
    let folder = tempfile::Builder::new().prefix("flynn-pg-").tempdir().expect("make a folder").keep();
    if nix::unistd::Uid::effective().is_root() {
        let account = nix::unistd::User::from_name(ACCOUNT).ok().flatten();
        let account = account.unwrap_or_else(|| panic!("there is no user {ACCOUNT}: run script/setup"));
        nix::unistd::chown(&folder, Some(account.uid), Some(account.gid)).expect("give the folder away");
    }
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).expect("close the folder");
    folder
}

/// Folder of the newest server's programs, which Debian does not put into the search path.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let number = |path: &Path| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok());
    let newest = versions.map(|entry| entry.path()).filter(|path| path.join("bin/initdb").exists());
    newest.max_by_key(|path| number(path)).expect("there is no PostgreSQL server: run script/setup").join("bin")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn databases_are_copies_of_the_template_and_apart() {
        let prepare = |options| async move {
            let mut connection = PgConnection::connect_with(&options).await.expect("connect");
            connection.execute("CREATE TABLE t (n int)").await.expect("create");
        };
        let (one, two) = (Database::create(prepare).await, Database::create(prepare).await);
        one.connect().await.execute("INSERT INTO t VALUES (1)").await.expect("insert");
        let count = async |database: &Database| {
            let mut connection = database.connect().await;
            sqlx::query_scalar::<_, i64>("SELECT count(*) FROM t").fetch_one(&mut connection).await.expect("count")
        };
        assert_eq!((count(&one).await, count(&two).await), (1, 0));
        let mut cut = one.connect().await;
        one.cut_connections().await;
        cut.execute("SELECT 1").await.expect_err("the connection is cut");
    }

    /// Runs this test again in a process that is killed, and sees the server go.
    #[test]
    fn nothing_stays_of_a_process_that_is_killed() {
        const MARKER: &str = "FLYNN_TEST_POSTGRES_CHILD";
        if let Ok(file) = std::env::var(MARKER) {
            std::fs::write(&file, Server::shared().folder.to_str().expect("a path of ours")).expect("write");
            std::fs::rename(&file, format!("{file}.done")).expect("rename");
            std::thread::sleep(std::time::Duration::from_secs(3600)); // until it is killed
        }
        let folder = tempfile::tempdir().expect("make a folder");
        let file = folder.path().join("server");
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "tests::nothing_stays_of_a_process_that_is_killed"])
            .env(MARKER, &file)
            .stdout(Stdio::null())
            .spawn()
            .expect("start this program");
        let deadline = std::time::Instant::now() + flynn_patience::seconds(60);
        let wait = |done: &dyn Fn() -> bool, what: &str| {
            while !done() {
                assert!(std::time::Instant::now() < deadline, "{what}");
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        };
        let written = folder.path().join("server.done");
        wait(&|| written.exists(), "the server of the other process does not start");
        let data = PathBuf::from(std::fs::read_to_string(written).expect("read"));
        assert!(data.exists());
        child.kill().expect("kill");
        child.wait().expect("wait");
        wait(&|| !data.exists(), "the server of a killed process stays");
    }
}
