//! `flynn-system controller` as a program: it brings up an empty database, serves, and ends when it is told to. And
//! `flynn-system router` with it.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use flynn_test_postgres::Database;

/// Ended with the test.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Program {
    fn ends_when_told(&mut self) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("run kill").success());
        let ended = eventually("the program does not end", || self.0.try_wait().expect("wait"));
        assert!(ended.success(), "{ended}");
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("it is bound").port()
}

fn controller(database: &Database, port: u16) -> Program {
    let options = database.options();
    let socket = options.get_socket().expect("a folder").to_str().expect("a path of ours");
    let started = Command::new(env!("CARGO_BIN_EXE_flynn-system"))
        .arg("controller")
        .env_clear()
        .envs([("AUTH_KEY", "key"), ("PGHOST", socket), ("PGUSER", "flynn")])
        .env("PGDATABASE", options.get_database().expect("a name"))
        .env("PORT", port.to_string())
        .spawn();
    Program(started.expect("start flynn-system"))
}

/// The status that a router answers with for a host; `None` while nothing listens.
fn asked(port: u16, host: &str) -> Option<u16> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    write!(stream, "GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.split_whitespace().nth(1)?.parse().ok()
}

/// The status and body of an answer; `None` while nothing listens.
fn request(port: u16, head: &str, body: &str) -> Option<(String, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let length = body.len();
    let head = format!("{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Basic OmtleQ==\r\n");
    write!(stream, "{head}content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.lines().next()?.to_owned(), body.to_owned()))
}

/// Looks until there is something.
fn eventually<T>(what: &str, look: impl FnMut() -> Option<T>) -> T {
    flynn_patience::until(what, flynn_patience::seconds(60), Duration::from_millis(20), look)
}

#[tokio::test]
async fn the_controller_serves_an_empty_database_and_ends_when_told() {
    let database = Database::empty().await;
    let port = free_port();
    let mut program = controller(&database, port);
    let (status, app) = eventually("the API does not answer", || request(port, "POST /apps", r#"{"name":"shop"}"#));
    assert!(status.contains("200") && app.contains(r#""name":"shop""#), "{status} {app}");
    let (_, status) = request(port, "GET /.well-known/status", "").expect("an answer");
    assert!(status.contains("healthy"), "{status}");
    program.ends_when_told();
}

#[tokio::test]
async fn a_router_serves_the_controllers_routes_and_without_it_those_it_knew() {
    let (database, folder) = (Database::empty().await, tempfile::tempdir().expect("a folder"));
    let port = free_port();
    let mut controller = controller(&database, port);
    let (_, app) = eventually("the API does not answer", || request(port, "POST /apps", r#"{"name":"shop"}"#));
    let app: serde_json::Value = serde_json::from_str(&app).expect("an app");
    let create = format!("POST /apps/{}/routes", app["id"].as_str().expect("an id"));
    let (kept, url) = (folder.path().join("routes.json"), format!("http://127.0.0.1:{port}"));
    let http = free_port();
    // As the releases of existing clusters start it.
    let ports = [http, free_port()].map(|port| port.to_string());
    let [http_port, https_port] = &ports;
    let start = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flynn-system"));
        command.args(["router", "-http-port", http_port, &format!("-https-port={https_port}")]);
        command.args(["-tcp-range-start", "3000", "-tcp-range-end", "3500"]).env_clear();
        command.envs([("CONTROLLER_URL", &*url), ("CONTROLLER_KEY", "key"), ("LISTEN_IP", "127.0.0.1")]);
        command.envs([("COOKIE_KEY", "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc="), ("PROXY_PROTOCOL", "")]);
        command.env("ROUTES_KEPT", &kept).env("PORT", free_port().to_string());
        Program(command.spawn().expect("start flynn-system"))
    };
    let mut router = start();
    let is_routed = |host: &str| (asked(http, host)? == 503).then_some(());
    request(port, &create, r#"{"type":"http","domain":"a.org","service":"s"}"#).expect("a route");
    eventually("the route is not served", || is_routed("a.org"));
    assert_eq!(asked(http, "b.org"), Some(404));
    eventually("the route is not kept", || std::fs::read_to_string(&kept).ok()?.contains("a.org").then_some(()));
    for program in [&mut router, &mut controller] {
        program.ends_when_told();
    }
    let mut router = start();
    eventually("what was known is not served", || is_routed("a.org"));
    let _controller = self::controller(&database, port);
    eventually("the controller does not answer again", || {
        request(port, &create, r#"{"type":"http","domain":"b.org","service":"s"}"#)
    });
    eventually("a new route is not served", || is_routed("b.org"));
    router.ends_when_told();
}

#[test]
fn a_router_that_waits_for_a_controller_ends_when_told() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_flynn-system"));
    command.arg("router").env_clear().stderr(Stdio::piped());
    command.envs([("CONTROLLER_URL", "http://127.0.0.1:1"), ("CONTROLLER_KEY", "key")]);
    command.env("COOKIE_KEY", "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=");
    let mut router = Program(command.spawn().expect("start flynn-system"));
    let log = BufReader::new(router.0.stderr.take().expect("it is piped"));
    let mut lines = log.lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("not followed")), "it says what it waits for");
    router.ends_when_told();
}

#[test]
fn mistakes_in_variables_are_told_by_their_name() {
    for (name, value) in
        [("AUTH_KEY", ""), ("NAME_SEED", "xyz"), ("ACCESS_TOKEN_KEY", "x"), ("PORT", "x"), ("PGHOST", "")]
    {
        let right = [("AUTH_KEY", "key"), ("PGHOST", "/nowhere")];
        let output = Command::new(env!("CARGO_BIN_EXE_flynn-system"))
            .arg("controller")
            .env_clear()
            .envs(right)
            .env(name, value)
            .output()
            .expect("start flynn-system");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && told.contains(name), "{name}={value:?}: {told}");
    }
}
