//! A real ACME server for tests: Pebble, of the makers of Let's Encrypt, with its DNS server, from Debian's package
//! `pebble` (script/setup installs it). All on loopback; every name resolves to 127.0.0.1.

#![forbid(unsafe_code)]

use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// How long the programs may take to start.
const START: Duration = Duration::from_secs(30);

/// Sets of ports that are tried.
const TRIES: usize = 5;

/// How the server behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it verifies HTTP-01.
    pub http_port: u16,
    /// Where it verifies TLS-ALPN-01.
    pub https_port: u16,
    /// Life of its certificates.
    pub validity: Duration,
    /// Of a hundred good nonces, so many are refused.
    pub bad_nonces: u8,
}

impl Options {
    /// A server that verifies at these ports, and gives certificates for 90 days.
    pub fn new(http_port: u16, https_port: u16) -> Self {
        let validity = Duration::from_secs(90 * 24 * 3600);
        Self { http_port, https_port, validity, bad_nonces: 5 }
    }
}

/// A running server, which ends when this is dropped. It forgets everything then.
pub struct Pebble {
    folder: tempfile::TempDir,
    /// Of ACME, of management, and of DNS.
    ports: [u16; 3],
    options: Options,
    dns: Option<Program>,
    server: Option<Program>,
    log: Arc<Mutex<Vec<String>>>,
}

/// A program that is killed when the test ends.
struct Program(Child);

impl Program {
    fn runs(&mut self) -> bool {
        self.0.try_wait().is_ok_and(|ended| ended.is_none())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Pebble {
    /// Starts the server and waits until it answers.
    ///
    /// # Panics
    /// When the package is missing, or a program does not start.
    pub fn start(options: Options) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        make_certificate(folder.path());
        let mut this = Self { folder, ports: [0; 3], options, dns: None, server: None, log: Arc::default() };
        for _ in 0..TRIES {
            this.ports = [free_port(), free_port(), free_port()];
            this.resolve();
            if this.serve() {
                return this;
            }
            // Somebody took a port in the meantime.
        }
        panic!("pebble does not start: {:?}", this.log());
    }

    fn resolve(&mut self) {
        let mut command = Command::new("pebble-challtestsrv");
        command.args(["-dns01", &format!("127.0.0.1:{}", self.ports[2])]);
        command.args(["-management", &format!("127.0.0.1:{}", free_port())]);
        command.args([
            "-http01",
            "",
            "-https01",
            "",
            "-tlsalpn01",
            "",
            "-defaultIPv4",
            "127.0.0.1",
            "-defaultIPv6",
            "",
        ]);
        let started = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let started = started.expect("pebble-challtestsrv starts: script/setup installs the package `pebble`");
        self.dns = Some(Program(started));
    }

    /// Starts the server and waits until it listens; false when one of the programs ends instead.
    fn serve(&mut self) -> bool {
        let [port, management, dns] = self.ports;
        let file = |name: &str| self.folder.path().join(name);
        let config = serde_json::json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{management}"),
            "certificate": file("server.pem"),
            "privateKey": file("server.key"),
            "httpPort": self.options.http_port,
            "tlsPort": self.options.https_port,
            "certificateValidityPeriod": self.options.validity.as_secs(),
        }});
        std::fs::write(file("config.json"), config.to_string()).expect("the folder is ours");
        let mut command = Command::new("pebble");
        command.arg("-config").arg(file("config.json")).args(["-dnsserver", &format!("127.0.0.1:{dns}")]);
        command.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_WFE_NONCEREJECT", self.options.bad_nonces.to_string());
        // Each order is verified anew: tests count on it.
        command.env("PEBBLE_AUTHZREUSE", "0");
        let mut server = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("pebble starts");
        let (lines, log) = (BufReader::new(server.stdout.take().expect("it is piped")), Arc::clone(&self.log));
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                log.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        self.server = Some(Program(server));
        let begin = Instant::now();
        // Somebody else may have taken a port, and answer there until ours has found out: only ours has the certificate.
        let urls = [format!("https://localhost:{port}/dir"), format!("https://localhost:{management}/roots/0")];
        while !urls.iter().all(|url| self.get(url).is_some()) {
            if !self.server.iter_mut().chain(&mut self.dns).all(Program::runs) {
                return false;
            }
            assert!(begin.elapsed() < START, "pebble does not listen: {:?}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
        self.server.iter_mut().chain(&mut self.dns).all(Program::runs)
    }

    /// URL of its directory.
    pub fn directory(&self) -> String {
        format!("https://localhost:{}/dir", self.ports[0])
    }

    /// PEM file of the authority that its own certificate is from.
    pub fn server_root(&self) -> PathBuf {
        self.folder.path().join("root.pem")
    }

    /// PEM of the root of the certificates that it issues.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn issuer_root(&self) -> String {
        let url = format!("https://localhost:{}/roots/0", self.ports[1]);
        self.get(&url).expect("the root is told")
    }

    /// What this server, and no other, answers; `None` when it does not.
    fn get(&self, url: &str) -> Option<String> {
        let output = Command::new("curl").args(["-sf", "--cacert"]).arg(self.server_root()).arg(url).output();
        let output = output.expect("curl starts: script/setup installs it");
        output.status.success().then(|| String::from_utf8(output.stdout).expect("text"))
    }

    /// What it has logged.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Number of log lines with this in them.
    pub fn logged(&self, part: &str) -> usize {
        self.log().iter().filter(|line| line.contains(part)).count()
    }

    /// Starts the server anew at the same port. It knows nothing of what was before, and is another authority.
    ///
    /// # Panics
    /// When somebody took its port.
    pub fn restart(&mut self) {
        self.stop();
        assert!(self.serve(), "pebble does not start again: {:?}", self.log());
    }

    /// Orders that were placed. Requests are more: those with a nonce that it refuses come again.
    pub fn orders(&self) -> usize {
        self.logged("orders in the db")
    }

    /// Ends the server, as a power cut would. Its port refuses connections then.
    pub fn stop(&mut self) {
        self.server = None;
    }
}

/// An authority, and a certificate for `localhost` by it.
fn make_certificate(folder: &Path) {
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate");
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).expect("parameters");
    // A subject like that of its issuer would look self-signed.
    params.distinguished_name.push(DnType::CommonName, "localhost");
    let certificate = params.signed_by(&key, &issuer).expect("a certificate");
    for (name, text) in
        [("root.pem", issuer.pem()), ("server.pem", certificate.pem()), ("server.key", key.serialize_pem())]
    {
        std::fs::write(folder.join(name), text).expect("the folder is ours");
    }
}

/// A port that nobody uses now, for TCP and UDP.
fn free_port() -> u16 {
    loop {
        let port =
            TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port();
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}
