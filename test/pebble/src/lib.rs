//! A real ACME server for tests: Pebble, of the makers of Let's Encrypt, with its DNS server, from Debian's package
//! `pebble` (script/setup installs it). All on loopback; every name resolves to 127.0.0.1.

#![forbid(unsafe_code)]

use std::io::{BufRead as _, BufReader};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

/// How long the programs may take to start.
const START: Duration = Duration::from_secs(30);

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
    /// It does not verify.
    pub trusts_all: bool,
}

impl Options {
    /// A server that verifies at these ports, and gives certificates for 90 days.
    pub fn new(http_port: u16, https_port: u16) -> Self {
        let validity = Duration::from_secs(90 * 24 * 3600);
        Self { http_port, https_port, validity, bad_nonces: 5, trusts_all: false }
    }
}

/// A running server, which ends when this is dropped. It forgets everything then.
pub struct Pebble {
    folder: tempfile::TempDir,
    port: u16,
    management: u16,
    options: Options,
    dns: Program,
    dns_port: u16,
    server: Option<Program>,
    log: Arc<Mutex<Vec<String>>>,
}

/// A program that is killed when the test ends.
struct Program(Child);

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
        let dns_port = free_port();
        let dns = Command::new("pebble-challtestsrv")
            .args(["-dns01", &format!("127.0.0.1:{dns_port}"), "-management", &format!("127.0.0.1:{}", free_port())])
            .args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("pebble-challtestsrv starts: script/setup installs the package `pebble`");
        let (port, management) = (free_port(), free_port());
        let mut this =
            Self { folder, port, management, options, dns: Program(dns), dns_port, server: None, log: Arc::default() };
        this.serve();
        this
    }

    fn serve(&mut self) {
        let file = |name: &str| self.folder.path().join(name);
        let config = serde_json::json!({"pebble": {
            "listenAddress": format!("127.0.0.1:{}", self.port),
            "managementListenAddress": format!("127.0.0.1:{}", self.management),
            "certificate": file("server.pem"),
            "privateKey": file("server.key"),
            "httpPort": self.options.http_port,
            "tlsPort": self.options.https_port,
            "certificateValidityPeriod": self.options.validity.as_secs(),
        }});
        std::fs::write(file("config.json"), config.to_string()).expect("the folder is ours");
        let mut command = Command::new("pebble");
        command.arg("-config").arg(file("config.json")).args(["-dnsserver", &format!("127.0.0.1:{}", self.dns_port)]);
        command.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_WFE_NONCEREJECT", self.options.bad_nonces.to_string());
        // Each order is verified anew: tests count on it.
        command.env("PEBBLE_AUTHZREUSE", "0");
        if self.options.trusts_all {
            command.env("PEBBLE_VA_ALWAYS_VALID", "1");
        }
        let mut server = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("pebble starts");
        let (lines, log) = (BufReader::new(server.stdout.take().expect("it is piped")), Arc::clone(&self.log));
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                log.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        self.server = Some(Program(server));
        let begin = Instant::now();
        for port in [self.port, self.management] {
            while TcpStream::connect(("127.0.0.1", port)).is_err() {
                assert!(begin.elapsed() < START, "pebble does not listen: {:?}", self.log());
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    /// URL of its directory.
    pub fn directory(&self) -> String {
        format!("https://localhost:{}/dir", self.port)
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
        let url = format!("https://localhost:{}/roots/0", self.management);
        let output = Command::new("curl").args(["-sf", "--cacert"]).arg(self.server_root()).arg(url).output();
        let output = output.expect("curl starts: script/setup installs it");
        assert!(output.status.success(), "the root is told");
        String::from_utf8(output.stdout).expect("PEM")
    }

    /// What it has logged.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Number of log lines with this in them.
    pub fn logged(&self, part: &str) -> usize {
        self.log().iter().filter(|line| line.contains(part)).count()
    }

    /// Process ids of its programs.
    pub fn pids(&self) -> Vec<u32> {
        self.server.iter().map(|server| server.0.id()).chain([self.dns.0.id()]).collect()
    }

    /// Starts the server anew at the same port. It knows nothing of what was before, and is another authority.
    pub fn restart(&mut self) {
        self.stop();
        self.serve();
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
