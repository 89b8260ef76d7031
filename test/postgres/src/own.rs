//! A server of a test's own, for faults that other tests must not see.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sqlx::Connection as _;
use sqlx::postgres::{PgConnectOptions, PgConnection};

use super::{ACCOUNT, USER, folder, programs};

/// What a server has.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub connections: u32,
    /// Size of the file system that its data is on. This takes root.
    pub disk_mb: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 60, disk_mb: None }
    }
}

/// A server that may be killed, started again, and run out of space. It ends with the test, however that ends: the file
/// system of limited size is in the mount namespace of the server's holder, and goes with it.
#[derive(Debug)]
pub struct OwnServer {
    folder: PathBuf,
    orders: std::process::ChildStdin,
    ordered: u32,
}

impl OwnServer {
    /// # Panics
    ///
    /// Says what is missing when the server cannot be started.
    pub async fn start(limits: Limits) -> Self {
        let (programs, folder) = (programs(), folder());
        let data = folder.join("data");
        std::fs::create_dir(&data).expect("make a folder");
        let root = nix::unistd::Uid::effective().is_root();
        let as_account = |holder: &mut Command| {
            if root {
                let account = nix::unistd::User::from_name(ACCOUNT).ok().flatten().expect("the account exists");
                nix::unistd::chown(&data, Some(account.uid), Some(account.gid)).expect("give the folder away");
                let id = |what: &str| format!("--{what}={ACCOUNT}");
                holder.args(["setpriv", &id("reuid"), &id("regid"), "--init-groups"]);
            }
        };
        let mut holder = Command::new("setsid");
        if let Some(size) = limits.disk_mb {
            assert!(root, "a disk of limited size takes root");
            // The folder goes when the file system is no longer in it, which the server's user cannot see to.
            let mount = format!(
                r#"trap '' HUP INT TERM
                mount -t tmpfs -o size={size}m,mode=0777 tmpfs "$0" && "$@"
                cd /; umount "$0"; rm -rf "${{0%/data}}""#
            );
            holder.args(["unshare", "--mount", "sh", "-c", &mount]).arg(&data);
        }
        as_account(&mut holder);
        holder.args(["sh", "-c", include_str!("own.sh"), "own"]).arg(&programs).arg(&folder).arg(USER);
        holder.arg(limits.connections.to_string()).current_dir(&folder);
        holder.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let orders = holder.spawn().expect("start setsid").stdin.take().expect("it was asked for");
        let server = Self { folder, orders, ordered: 0 };
        server.ready().await;
        server
    }

    /// How to connect to it.
    pub fn options(&self) -> PgConnectOptions {
        PgConnectOptions::new().socket(&self.folder).username(USER).database("postgres")
    }

    /// The socket that it listens on.
    pub fn socket(&self) -> PathBuf {
        self.folder.join(".s.PGSQL.5432")
    }

    /// Waits until it takes connections.
    pub async fn ready(&self) {
        let deadline = Instant::now() + flynn_patience::seconds(60);
        while let Err(err) = PgConnection::connect_with(&self.options()).await {
            let log = || std::fs::read_to_string(self.folder.join("log")).unwrap_or_default();
            assert!(!self.folder.join("failed").exists(), "PostgreSQL does not start:\n{}", log());
            assert!(Instant::now() < deadline, "PostgreSQL is not ready in time: {err}\n{}", log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// All its processes are killed.
    pub async fn kill(&mut self) {
        self.order("kill").await;
    }

    /// Starts it, if it does not run.
    pub async fn start_again(&mut self) {
        self.order("start").await;
    }

    /// Nothing is left of its disk.
    pub async fn fill_disk(&mut self) {
        self.order("fill").await;
    }

    /// There is space again.
    pub async fn free_disk(&mut self) {
        self.order("free").await;
    }

    async fn order(&mut self, order: &str) {
        writeln!(self.orders, "{order}").expect("the server's holder lives");
        self.ordered += 1;
        let done = || std::fs::read_to_string(self.folder.join("orders")).unwrap_or_default();
        let deadline = Instant::now() + flynn_patience::seconds(60);
        while done().trim() != self.ordered.to_string() {
            assert!(Instant::now() < deadline, "{order} is not done in time");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
