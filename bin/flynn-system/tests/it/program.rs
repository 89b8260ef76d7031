//! The program's start, its mistakes, its end.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use rustix::process::Signal;

use crate::rig::{Program, command, connect, free_port, only_supervises, until};

#[test]
fn k11_a_request_at_the_time_of_sigterm_is_finished_and_the_program_ends_well() {
    let backend = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let folder = tempfile::tempdir().expect("a folder");
    let routes = folder.path().join("routes.json");
    let address = backend.local_addr().expect("it is bound");
    let text = format!(
        r#"{{"routes": [{{"domain": "*", "service": "s"}}], "services": {{"s": {{"instances": ["{address}"]}}}}}}"#
    );
    std::fs::write(&routes, text).expect("the folder is ours");
    let (http, https) = (free_port(), free_port());
    let arguments = ["--http-port", &http.to_string(), "--https-port", &https.to_string(), "--api-port", "0"];
    let mut program = Program::start(&mut command(&routes, &arguments));

    let mut client = connect(http);
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("the router reads");
    let (mut taken, _) = backend.accept().expect("the request comes");
    let mut line = String::new();
    BufReader::new(&taken).read_line(&mut line).expect("a request line");
    assert_eq!(line, "GET / HTTP/1.1\r\n");
    program.signal(Signal::TERM);
    // The port closes at once: the router is draining.
    until("the router stops listening", || TcpStream::connect(("127.0.0.1", http)).err());
    taken.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone").expect("the router reads");
    let mut answer = String::new();
    client.read_to_string(&mut answer).expect("the connection ends well");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\ndone"), "{answer}");
    assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
    assert_eq!(program.wait(), 0);
}

/// Reads requests, notes each with its body, and answers `{}`, as discoverd does to a registration. With a withdrawal it
/// notes whether the router still listens.
fn note_requests(stream: &TcpStream, http: u16, notes: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let begin = head.len();
            if reader.read_line(&mut head)? == 0 {
                return Ok(());
            }
            let line = head[begin..].to_ascii_lowercase();
            length = line.strip_prefix("content-length:").map_or(length, |text| text.trim().parse().expect("a length"));
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let listens = TcpStream::connect(("127.0.0.1", http)).is_ok();
        let request = head.lines().next().unwrap_or_default();
        let note = format!("{request} {} listening={listens}", String::from_utf8_lossy(&body));
        notes.lock().expect("no panic").push(note);
        let mut stream = stream;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")?;
    }
}

#[test]
fn k10_the_router_is_registered_while_it_serves() {
    let discovery = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let servers = format!("http://{}", discovery.local_addr().expect("it is bound"));
    let folder = tempfile::tempdir().expect("a folder");
    let routes = folder.path().join("routes.json");
    std::fs::write(&routes, "{}").expect("the folder is ours");
    let (http, https, api) = (free_port(), free_port(), free_port());
    let notes = Arc::new(Mutex::new(Vec::new()));
    let written = Arc::clone(&notes);
    std::thread::spawn(move || {
        for stream in discovery.incoming().flatten() {
            let written = Arc::clone(&written);
            std::thread::spawn(move || note_requests(&stream, http, &written));
        }
    });
    let arguments =
        ["--http-port", &http.to_string(), "--https-port", &https.to_string(), "--api-port", &api.to_string()];
    let mut command = command(&routes, &arguments);
    command.env("DISCOVERD", servers).env("EXTERNAL_IP", "10.0.0.9").env("FLYNN_JOB_ID", "host1-5f2c");
    let mut program = Program::start(&mut command);
    let noted = |method: &str, service: &str| {
        let start = format!("{method} /services/{service}/instances/");
        until(&format!("{start} comes"), || {
            notes.lock().expect("no panic").iter().find(|note| note.starts_with(&start)).cloned()
        })
    };
    for (service, port) in [("router-api", api), ("router-http", http)] {
        let note = noted("PUT", service);
        assert!(note.contains(&format!("10.0.0.9:{port}")) && note.contains("host1-5f2c"), "{note}");
        assert!(note.ends_with("listening=true"), "{note}");
    }
    // Who replaces it is registered in its place.
    program.signal(Signal::USR2);
    until("another process serves", || only_supervises(program.pid()).then_some(()));
    let withdrawn = notes.lock().expect("no panic").iter().any(|note| note.starts_with("DELETE "));
    assert!(!withdrawn, "a router that was replaced withdraws nothing");
    program.signal(Signal::TERM);
    for service in ["router-api", "router-http"] {
        let note = noted("DELETE", service);
        assert!(note.ends_with("listening=true"), "it is withdrawn before the port closes: {note}");
    }
    assert_eq!(program.wait(), 0);
}

#[test]
fn l1_l2_l5_mistakes_end_the_program_with_a_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let (good, bad) = (folder.path().join("good.json"), folder.path().join("bad.json"));
    std::fs::write(&good, "{}").expect("the folder is ours");
    std::fs::write(&bad, "{").expect("the folder is ours");
    for (routes, name, value) in [
        (&good, "COOKIE_KEY", ""),
        (&good, "COOKIE_KEY", "AAAA"),
        (&good, "DEFAULT_HTTPS_PORT", "0"),
        (&good, "ADDITIONAL_HTTP_PORTS", "x"),
        (&bad, "bad.json", ""),
    ] {
        let mut program = Program::start(command(routes, &[]).env(name, value).stderr(Stdio::piped()));
        let mut said = String::new();
        program.child.stderr.take().expect("it is piped").read_to_string(&mut said).expect("text");
        assert_eq!(program.wait(), 1, "{said}");
        assert!(said.contains(name), "{name} is named: {said}");
    }
}
