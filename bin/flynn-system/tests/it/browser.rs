//! A browser's WebSocket through the router. Needs Chromium, which is large: `script/test-clients` installs and runs it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::process::{Command, Stdio};
use std::sync::mpsc;

use crate::backend::Backend;
use crate::rig::{Program, Router, limit, until};

/// Tells the path `/said/…` what it got back.
const PAGE: &str = "<script>
const socket = new WebSocket(`wss://${location.host}/socket/`);
socket.onopen = () => socket.send('hello');
socket.onmessage = event => fetch('/said/' + event.data);
socket.onerror = () => fetch('/said/error');
</script>";

/// Serves the page, and tells the paths that are asked for.
fn serve_page() -> (std::net::SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let (told, paths) = mpsc::channel();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let told = told.clone();
            std::thread::spawn(move || {
                let mut reader = BufReader::new(&stream);
                let mut path = None;
                let mut line = String::new();
                while reader.read_line(&mut line).is_ok_and(|count| count > 0) {
                    path = path.or_else(|| line.split(' ').nth(1).map(str::to_owned));
                    if line == "\r\n" {
                        let head = format!("Content-Type: text/html\r\nContent-Length: {}", PAGE.len());
                        let _ = write!(&stream, "HTTP/1.1 200 OK\r\n{head}\r\n\r\n{PAGE}");
                        let _ = told.send(path.take().unwrap_or_default());
                    }
                    line.clear();
                }
            });
        }
    });
    (address, paths)
}

#[test]
fn d1_a_browser_talks_over_a_websocket() {
    let echo = Backend::start("backend 1");
    let (page, paths) = serve_page();
    let router = Router::start(&[&echo], &[]);
    router.write(&serde_json::json!({
        "routes": [{"domain": "*", "service": "page"}, {"domain": "*", "path": "/socket/", "service": "echo"}],
        "services": {"page": {"instances": [page]}, "echo": {"instances": [echo.address()]}},
    }));
    until("the routes are served", || router.get().contains("WebSocket").then_some(()));
    let profile = tempfile::tempdir().expect("a folder");
    let _browser = Program::start(
        Command::new("chromium")
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
            .args(["--ignore-certificate-errors", "--disable-background-networking"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(format!("https://localhost:{}/", router.https))
            .stdout(Stdio::null())
            .stderr(Stdio::null()),
    );
    let end = std::time::Instant::now() + limit() * 2;
    loop {
        let left = end.saturating_duration_since(std::time::Instant::now());
        let path = paths.recv_timeout(left).unwrap_or_else(|err| panic!("{err}; {}", router.log()));
        // The page itself is asked for too.
        if let Some(said) = path.strip_prefix("/said/") {
            assert_eq!(said, "hello");
            return;
        }
    }
}
