//! `flynn-system blobstore` as a program: a violent end in the middle of an upload leaves the old content.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use flynn_test_postgres::Database;

/// Ended with the test.
struct Program {
    child: Child,
    port: u16,
}

impl Program {
    fn start(database: &Database, backend: &str, folder: &Path) -> Self {
        let options = database.options();
        let socket = options.get_socket().expect("a folder").to_str().expect("a path of ours");
        let port = TcpListener::bind("127.0.0.1:0").expect("bind").local_addr().expect("an address").port();
        let child = Command::new(env!("CARGO_BIN_EXE_flynn-system"))
            .arg("blobstore")
            .env_clear()
            .envs([("PGHOST", socket), ("PGUSER", "flynn"), ("BACKEND", backend)])
            .env("PGDATABASE", options.get_database().expect("a name"))
            .env("LOCAL_PATH", folder)
            .env("PORT", port.to_string())
            .spawn()
            .expect("start flynn-system");
        let program = Self { child, port };
        let limit = flynn_patience::seconds(60);
        flynn_patience::until("the blob store answers", limit, Duration::from_millis(20), || {
            program.request("GET /.well-known/status HTTP/1.0\r\n\r\n")?.contains("healthy").then_some(())
        });
        program
    }

    fn request(&self, text: &str) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.write_all(text.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer)
    }

    /// SIGKILL.
    fn kill(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn b13_a_violent_end_in_the_middle_of_an_upload_leaves_the_old_content() {
    for backend in ["postgres", "local"] {
        let (database, folder) = (Database::empty().await, tempfile::tempdir().expect("a folder"));
        let mut program = Program::start(&database, backend, folder.path());
        let put = |content: &str| format!("PUT /f HTTP/1.0\r\ncontent-length: {}\r\n\r\n{content}", content.len());
        let stored = program.request(&put("old")).expect("an answer");
        assert!(stored.starts_with("HTTP/1.0 200"), "{stored}");
        let mut upload = TcpStream::connect(("127.0.0.1", program.port)).expect("connect");
        upload.write_all(b"PUT /f HTTP/1.1\r\nhost: x\r\ncontent-length: 9000000\r\n\r\n").expect("write");
        upload.write_all(&vec![b'x'; 8_000_000]).expect("write");
        program.kill();
        let program = Program::start(&database, backend, folder.path());
        let answer = program.request("GET /f HTTP/1.0\r\n\r\n").expect("an answer");
        assert!(answer.starts_with("HTTP/1.0 200") && answer.ends_with("\r\n\r\nold"), "{backend}: {answer}");
        let stored = program.request(&put("new")).expect("an answer");
        assert!(stored.starts_with("HTTP/1.0 200"), "{backend}: {stored}");
        let answer = program.request("GET /f HTTP/1.0\r\n\r\n").expect("an answer");
        assert!(answer.ends_with("\r\n\r\nnew"), "{backend}: {answer}");
    }
}

#[test]
fn mistakes_in_variables_are_told() {
    for (name, value, message) in [
        ("PGHOST", "", "neither FLYNN_POSTGRES nor PGHOST says where the database is"),
        ("PORT", "x", "PORT is no port"),
        ("BACKEND", "tape", "unknown backend \"tape\" for tape"),
        ("BACKEND", "s3", "the backend s3 needs bucket"),
        ("DEFAULT_BACKEND", "x", "unknown default backend \"x\""),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_flynn-system"))
            .arg("blobstore")
            .env_clear()
            .env("PGHOST", "/nowhere")
            .env(name, value)
            .output()
            .expect("start flynn-system");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && told.contains(message), "{name}={value:?}: {told}");
    }
}
