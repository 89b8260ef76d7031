//! `flynn-system router` with automatic certificates: killed at any time, it goes on where it was.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use flynn_pebble::{Options, Pebble};

const LIMIT: Duration = Duration::from_secs(60);
const DOMAIN: &str = "shop.example.com";

/// A program that is killed when the test ends early.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A route file, ports, an authority that asks at them, and a folder for certificates.
struct Place {
    folder: tempfile::TempDir,
    ports: [u16; 2],
    pebble: Pebble,
}

impl Place {
    fn new() -> Self {
        let ports = [free_port(), free_port()];
        let folder = tempfile::tempdir().expect("a folder");
        let routes = serde_json::json!({
            "routes": [{"domain": DOMAIN, "service": "s", "managed_certificate_domain": DOMAIN}],
        });
        std::fs::write(folder.path().join("routes.json"), routes.to_string()).expect("the folder is ours");
        let pebble = Pebble::start(Options { bad_nonces: 0, ..Options::new(ports[0], ports[1]) });
        Self { folder, ports, pebble }
    }

    fn certificates(&self) -> PathBuf {
        self.folder.path().join("acme")
    }

    fn router(&self) -> Program {
        let mut command = Command::new(env!("CARGO_BIN_EXE_flynn-system"));
        command.arg("router").arg("--routes").arg(self.folder.path().join("routes.json")).env_clear();
        command.env("COOKIE_KEY", "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=").env("LISTEN_IP", "127.0.0.1");
        command.args(["--http-port", &self.ports[0].to_string(), "--https-port", &self.ports[1].to_string()]);
        command.args(["--api-port", "0", "--workers", "1", "--acme-agree-tos"]);
        // Each setting in one of its two ways.
        command.arg("--acme-folder").arg(self.certificates()).args(["--acme-email", "operator@example.com"]);
        command.env("ACME_DIRECTORY", self.pebble.directory()).env("ACME_CA", self.pebble.server_root());
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Program(command.spawn().expect("the program starts"))
    }

    /// Whether curl, trusting the authority's root only, gets an answer over HTTPS: no backend is there, so it is 503.
    fn is_served(&self) -> bool {
        let root = self.folder.path().join("issuer.pem");
        std::fs::write(&root, self.pebble.issuer_root()).expect("the folder is ours");
        let url = format!("https://{DOMAIN}:{}/", self.ports[1]);
        let resolve = format!("{DOMAIN}:{}:127.0.0.1", self.ports[1]);
        let mut curl = Command::new("curl");
        curl.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--resolve", &resolve, "--cacert"])
            .arg(root)
            .arg(url);
        curl.output().expect("curl starts").stdout == b"503"
    }

    /// Each file of the folder is a whole one.
    fn check_files(&self) {
        for part in ["accounts", "certificates", "challenges", "wanted"] {
            for entry in std::fs::read_dir(self.certificates().join(part)).into_iter().flatten() {
                let path = entry.expect("the folder is ours").path();
                if path.extension().is_some_and(|kind| kind == "json") {
                    check_json(&path);
                }
                assert!(path.extension().is_none_or(|kind| kind != "damaged"), "{}", path.display());
            }
        }
    }
}

fn check_json(path: &Path) {
    let text = std::fs::read(path).expect("the folder is ours");
    let record: serde_json::Value = serde_json::from_slice(&text).expect("a whole record");
    if let Some(issued) = record.get("issued") {
        assert!(issued["chain"].as_str().is_some_and(|chain| chain.contains("END CERTIFICATE")), "{record}");
        assert!(issued["key"].as_str().is_some_and(|key| key.contains("END PRIVATE KEY")), "{record}");
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("it is bound").port()
}

/// Looks again and again, for a limited time.
fn until(what: &str, pause: Duration, mut look: impl FnMut() -> bool) {
    flynn_patience::until(what, LIMIT, pause, || look().then_some(()));
}

#[test]
fn o1_a_router_that_is_killed_between_any_two_steps_gets_its_certificate() {
    let place = Place::new();
    // What the authority logs, in the order of its coming: the router is killed when it has seen this.
    let steps = [
        "POST /sign-me-up",
        "POST /order-plz",
        "POST /chalZ/",
        "set VALID by completed challenge",
        "POST /finalize-order/",
        "POST /certZ/",
    ];
    for step in steps {
        let router = place.router();
        let before = place.pebble.logged(step);
        // A step that was taken already does not come again: then the certificate does.
        let seen = || place.pebble.logged(step) > before || place.pebble.logged("POST /certZ/") > 0;
        until(step, Duration::from_millis(1), seen);
        drop(router);
        place.check_files();
    }
    let router = place.router();
    until("the certificate is served", Duration::from_millis(100), || place.is_served());
    drop(router);
    let _router = place.router();
    until("the router listens", Duration::from_millis(1), || TcpStream::connect(("127.0.0.1", place.ports[1])).is_ok());
    assert!(place.is_served(), "the first connection after a restart finds the certificate");
    place.check_files();
    assert_eq!(
        place.pebble.logged("There are now 2 accounts"),
        0,
        "the account's key was kept before it was registered"
    );
    let orders = place.pebble.orders();
    assert!(orders <= 3, "open orders are taken up again: {orders}");
}
