//! The program under test, and waiting for it.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::backend::Backend;
use crate::certificate::Certificate;

/// Longest wait for anything.
pub(crate) fn limit() -> Duration {
    flynn_patience::seconds(30)
}

/// Variable by which a program and all that it starts are known as one test's.
const MARK: &str = "FLYNN_TEST_PROGRAM";

/// A program that is killed when the test ends early, with all that it has started.
pub(crate) struct Program {
    pub(crate) child: Child,
    mark: String,
}

impl Drop for Program {
    fn drop(&mut self) {
        // A browser writes over its environment: children are found as such.
        for pid in descendants(self.pid()) {
            flynn_handover::signal_to(pid, Signal::KILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Successors of a process that has died are nobody's children: they are known by their mark. One that is killed
        // may just have started another, so that it is looked for until nobody is left.
        for _ in 0..500 {
            let left = marked(&self.mark);
            if left.is_empty() {
                return;
            }
            left.into_iter().for_each(|pid| flynn_handover::signal_to(pid, Signal::KILL));
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Program {
    pub(crate) fn start(command: &mut Command) -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let mark = format!("{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let child = command.env(MARK, &mark).spawn();
        let child = child.unwrap_or_else(|err| panic!("start {:?}: {err}", command.get_program()));
        Self { child, mark }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// By which [`marked`] finds it, and all that it has started.
    pub(crate) fn mark(&self) -> &str {
        &self.mark
    }

    pub(crate) fn signal(&self, signal: Signal) {
        flynn_handover::signal_to(self.pid(), signal);
    }

    /// The status that the program ends with by itself.
    pub(crate) fn wait(&mut self) -> i32 {
        let status = until("the program ends", || self.child.try_wait().expect("it is our child"));
        status.code().expect("it ends by itself")
    }
}

/// Processes that have this mark; one that has ended has none.
pub(crate) fn marked(mark: &str) -> Vec<u32> {
    let variable = format!("{MARK}={mark}");
    let processes = std::fs::read_dir("/proc").expect("Linux").flatten();
    let numbers = processes.filter_map(|process| process.file_name().to_str()?.parse::<u32>().ok());
    let is_marked = |pid: &u32| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|found| found == variable.as_bytes())
    };
    numbers.filter(is_marked).collect()
}

/// Whether a process that was replaced has nothing left to do but to wait for its children.
pub(crate) fn only_supervises(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.contains("supervise"))
}

/// Children of a process, and theirs.
pub(crate) fn descendants(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let children =
        lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>());
    children.flat_map(|child| std::iter::once(child).chain(descendants(child))).collect()
}

pub(crate) fn command(routes: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flynn-system"));
    command.args(["router", "--routes"]).arg(routes).args(arguments).env_clear();
    // 32 bytes of 7.
    command.env("COOKIE_KEY", "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=").env("LISTEN_IP", "127.0.0.1");
    command
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("it is bound").port()
}

/// Looks again and again, for a limited time.
pub(crate) fn until<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    flynn_patience::until(what, limit(), Duration::from_millis(10), look)
}

pub(crate) fn connect(port: u16) -> TcpStream {
    let stream = until("the router listens", || TcpStream::connect(("127.0.0.1", port)).ok());
    stream.set_read_timeout(Some(limit())).expect("a limit");
    stream
}

/// A router with a folder, a route file and ports of its own.
pub(crate) struct Router {
    pub(crate) program: Program,
    pub(crate) folder: TempDir,
    pub(crate) certificate: Certificate,
    pub(crate) http: u16,
    pub(crate) https: u16,
    api: u16,
    arguments: Vec<String>,
}

impl Router {
    /// Starts it and waits until it serves.
    pub(crate) fn start(backends: &[&Backend], arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let certificate = Certificate::new("localhost");
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).expect("the folder is ours");
            path.to_string_lossy().into_owned()
        };
        let (cert, key) = (file("cert.pem", &certificate.chain), file("key.pem", &certificate.key));
        let (http, https, api) = (free_port(), free_port(), free_port());
        let own = [("--http-port", http), ("--https-port", https), ("--api-port", api)];
        let mut all: Vec<String> = own.iter().flat_map(|(name, port)| [(*name).to_owned(), port.to_string()]).collect();
        all.extend(["--workers", "2", "--tls-cert", &cert, "--tls-key", &key].map(str::to_owned));
        all.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        write_routes(&folder.path().join("routes.json"), &routes(backends, &[]));
        let program = spawn(&folder, &all);
        let this = Self { program, folder, certificate, http, https, api, arguments: all };
        this.wait_until_it_serves();
        this
    }

    fn wait_until_it_serves(&self) {
        connect(self.http);
    }

    /// A second process with the same settings.
    pub(crate) fn again(&self) -> Program {
        spawn(&self.folder, &self.arguments)
    }

    /// What all processes have logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// How often something was logged.
    pub(crate) fn logged(&self, what: &str) -> usize {
        self.log().matches(what).count()
    }

    /// Replaces the process by SIGUSR2, and waits until its successor serves alone.
    pub(crate) fn replace(&self) {
        let before = self.logged("another process takes the connections");
        self.program.signal(Signal::USR2);
        until("the next process takes over", || {
            (self.logged("another process takes the connections") > before).then_some(())
        });
    }

    /// The answer to a request over a new connection.
    pub(crate) fn get(&self) -> String {
        let mut stream = connect(self.http);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").expect("the router reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the connection ends well");
        answer
    }

    /// Events of these kinds, of the process that serves.
    pub(crate) fn events(&self, kinds: &str) -> Events {
        let mut stream = connect(self.api);
        write!(stream, "GET /events?types={kinds} HTTP/1.1\r\nHost: router\r\n\r\n").expect("the router reads");
        Events(BufReader::new(stream))
    }

    pub(crate) fn write(&self, routes: &serde_json::Value) {
        write_routes(&self.routes_file(), routes);
    }

    pub(crate) fn routes_file(&self) -> PathBuf {
        self.folder.path().join("routes.json")
    }

    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.http))
    }

    pub(crate) fn tls_address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.https))
    }
}

/// Events of backends, as `backend-up 10.0.0.1:80`.
pub(crate) struct Events(BufReader<TcpStream>);

impl Events {
    pub(crate) fn next(&mut self) -> String {
        self.within(limit()).expect("an event comes")
    }

    /// The next event, if it comes in this time.
    pub(crate) fn within(&mut self, time: Duration) -> Option<String> {
        self.0.get_ref().set_read_timeout(Some(time)).expect("a limit");
        loop {
            let mut line = String::new();
            match self.0.read_line(&mut line) {
                Ok(length) => assert!(length > 0, "the stream goes on"),
                Err(err) if err.kind() == std::io::ErrorKind::WouldBlock => return None,
                Err(err) => panic!("{err}"),
            }
            if let Some(data) = line.strip_prefix("data: ") {
                let event: serde_json::Value = serde_json::from_str(data).expect("an event");
                let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
                return Some(format!("{} {}", text(&event["event"]), text(&event["backend"]["addr"])));
            }
        }
    }
}

fn spawn(folder: &TempDir, arguments: &[String]) -> Program {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let log = || File::options().create(true).append(true).open(folder.path().join("log")).expect("the folder is ours");
    let mut command = command(&folder.path().join("routes.json"), &arguments);
    command.stdout(Stdio::from(log())).stderr(Stdio::from(log()));
    Program::start(&mut command)
}

/// A catch-all route to these backends, and others.
pub(crate) fn routes(backends: &[&Backend], others: &[serde_json::Value]) -> serde_json::Value {
    let instances: Vec<String> = backends.iter().map(|backend| backend.address().to_string()).collect();
    routes_to(&instances, others)
}

pub(crate) fn routes_to(instances: &[String], others: &[serde_json::Value]) -> serde_json::Value {
    let mut routes = vec![serde_json::json!({"domain": "*", "service": "s"})];
    routes.extend_from_slice(others);
    serde_json::json!({"routes": routes, "services": {"s": {"instances": instances}}})
}

/// As an editor or a controller would: from one moment to the next.
pub(crate) fn write_routes(path: &Path, routes: &serde_json::Value) {
    let new = path.with_extension("new");
    std::fs::write(&new, routes.to_string()).expect("the folder is ours");
    std::fs::rename(&new, path).expect("the folder is ours");
}
