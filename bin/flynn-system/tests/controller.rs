//! `flynn-system controller` as a program: it brings up an empty database, serves, and ends when it is told to.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command};
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
    let options = database.options();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let socket = options.get_socket().expect("a folder").to_str().expect("a path of ours");
    let started = Command::new(env!("CARGO_BIN_EXE_flynn-system"))
        .arg("controller")
        .env_clear()
        .envs([("AUTH_KEY", "key"), ("PGHOST", socket), ("PGUSER", "flynn")])
        .env("PGDATABASE", options.get_database().expect("a name"))
        .env("PORT", port.to_string())
        .spawn();
    let mut program = Program(started.expect("start flynn-system"));
    let (status, app) = eventually("the API does not answer", || request(port, "POST /apps", r#"{"name":"shop"}"#));
    assert!(status.contains("200") && app.contains(r#""name":"shop""#), "{status} {app}");
    let (_, status) = request(port, "GET /.well-known/status", "").expect("an answer");
    assert!(status.contains("healthy"), "{status}");
    let pid = program.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().expect("run kill").success());
    let ended = eventually("the program does not end", || program.0.try_wait().expect("wait"));
    assert!(ended.success(), "{ended}");
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
