//! The proxies and their backend, on loopback.

use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use flynn_harness::wait_until;

/// nginx inherits headers into a location only when it sets none of its own.
const HEADERS: &str = "proxy_set_header Host $host; proxy_set_header X-Request-Id $request_id;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header X-Forwarded-Port $server_port; proxy_set_header X-Request-Start $msec;";
const START: Duration = Duration::from_secs(20);
/// 32 bytes of 7.
const COOKIE_KEY: &str = "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=";

/// A process that ends with its owner.
pub(crate) struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status(); // nginx ends its workers
        let _ = self.0.wait();
    }
}

pub(crate) struct Proxy {
    pub(crate) name: &'static str,
    http: u16,
    https: u16,
    running: Running,
}

impl Proxy {
    /// A router of ours with these routes.
    pub(crate) fn ours(folder: &Path, routes: &Path) -> anyhow::Result<Self> {
        let (http, https) = (free_port()?, free_port()?);
        Ok(Self { name: "flynn", http, https, running: router(folder, routes, http, https)? })
    }

    /// By a name, which clients tell in the handshake.
    pub(crate) fn local_url(&self, tls: bool) -> String {
        self.url(tls, "/100").replace("127.0.0.1", "localhost")
    }

    pub(crate) fn url(&self, tls: bool, path: &str) -> String {
        match tls {
            true => format!("https://127.0.0.1:{}{path}", self.https),
            false => format!("http://127.0.0.1:{}{path}", self.http),
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.http
    }

    /// The process that works: nginx's is a child of the one that was started.
    pub(crate) fn process(&self) -> u32 {
        let pid = self.running.0.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        children.split_whitespace().next().and_then(|child| child.parse().ok()).unwrap_or(pid)
    }
}

pub(crate) struct Peers {
    /// nginx, HAProxy, and ours last.
    pub(crate) proxies: Vec<Proxy>,
    pub(crate) folder: PathBuf,
    routes: PathBuf,
    pub(crate) backend: u16,
    websockets: u16,
    _backends: [Running; 2],
    _folder: tempfile::TempDir,
}

impl Peers {
    pub(crate) fn start() -> anyhow::Result<Self> {
        let temporary = tempfile::tempdir()?;
        let folder = temporary.path().to_owned();
        prepare(&folder)?;
        let (backend, websockets) = (free_port()?, free_port()?);
        let files =
            format!("server {{ listen 127.0.0.1:{backend}; root {}/www; open_file_cache max=8; }}", folder.display());
        let nginx_backend = nginx(&folder, "backend", &files)?;
        let echo =
            Command::new(example("backend")?).args(["echo", &websockets.to_string()]).stdout(Stdio::null()).spawn();
        let echo = Running(echo.context("start the backend of WebSockets: script/bench builds it")?);
        let routes = folder.join("routes.json");
        let mut this = Self {
            proxies: Vec::new(),
            folder,
            routes,
            backend,
            websockets,
            _backends: [nginx_backend, echo],
            _folder: temporary,
        };
        this.change_routes(&[])?;
        this.proxies = vec![this.nginx()?, this.haproxy()?, Proxy::ours(&this.folder, &this.routes)?];
        let ports = this.proxies.iter().flat_map(|proxy| [proxy.http, proxy.https]).chain([backend, websockets]);
        for port in ports {
            wait_until(START, &format!("port {port} is open"), || TcpStream::connect(("127.0.0.1", port)))
                .with_context(|| std::fs::read_to_string(this.folder.join("log")).unwrap_or_default())?;
        }
        Ok(this)
    }

    /// Writes the route file of ours, with more routes than the peers have.
    pub(crate) fn change_routes(&self, more: &[serde_json::Value]) -> anyhow::Result<()> {
        let mut routes = vec![
            serde_json::json!({"domain": "*", "service": "files"}),
            serde_json::json!({"domain": "*", "path": "/socket/", "service": "sockets"}),
        ];
        routes.extend_from_slice(more);
        let services = serde_json::json!({
            "files": {"instances": [format!("127.0.0.1:{}", self.backend)]},
            "sockets": {"instances": [format!("127.0.0.1:{}", self.websockets)]},
        });
        write_routes(&self.routes, &serde_json::json!({"routes": routes, "services": services}))
    }

    fn nginx(&self) -> anyhow::Result<Proxy> {
        let (http, https) = (free_port()?, free_port()?);
        let (backend, websockets, folder) = (self.backend, self.websockets, self.folder.display());
        let inside = format!(
            "upstream files {{ server 127.0.0.1:{backend}; keepalive 256; keepalive_requests 1000000000; }}
            ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
            proxy_http_version 1.1;
            server {{
                listen 127.0.0.1:{http}; listen 127.0.0.1:{https} ssl http2;
                location / {{ proxy_pass http://files; proxy_set_header Connection \"\"; {HEADERS} }}
                location /socket/ {{
                    proxy_pass http://127.0.0.1:{websockets}; proxy_read_timeout 600;
                    proxy_set_header Connection upgrade; proxy_set_header Upgrade $http_upgrade; {HEADERS}
                }}
            }}"
        );
        Ok(Proxy { name: "nginx", http, https, running: nginx(&self.folder, "nginx", &inside)? })
    }

    fn haproxy(&self) -> anyhow::Result<Proxy> {
        let (http, https) = (free_port()?, free_port()?);
        let (backend, websockets, folder) = (self.backend, self.websockets, self.folder.display());
        let connections = connections()?;
        let config = format!(
            "global
    nbthread 1
    maxconn {connections}
defaults
    mode http
    timeout connect 1s
    timeout client 300s
    timeout server 600s
    timeout tunnel 600s
frontend in
    bind 127.0.0.1:{http}
    bind 127.0.0.1:{https} ssl crt {folder}/pair.pem alpn h2,http/1.1
    option forwardfor
    unique-id-format %[uuid()]
    http-request set-header X-Request-Id %[unique-id]
    http-request set-header X-Forwarded-Proto %[ssl_fc,iif(https,http)]
    http-request set-header X-Forwarded-Port %[dst_port]
    http-request set-header X-Request-Start %[date()]
    use_backend sockets if {{ path_beg /socket/ }}
    default_backend files
backend files
    http-reuse always
    server one 127.0.0.1:{backend}
backend sockets
    server one 127.0.0.1:{websockets}
"
        );
        let path = self.folder.join("haproxy.cfg");
        std::fs::write(&path, config)?;
        let running = start(&self.folder, Command::new("haproxy").arg("-f").arg(&path))?;
        Ok(Proxy { name: "HAProxy", http, https, running })
    }
}

/// Starts a router with one worker.
pub(crate) fn router(folder: &Path, routes: &Path, http: u16, https: u16) -> anyhow::Result<Running> {
    let mut command = Command::new(program("flynn-system")?);
    command.args(["router", "--workers", "1", "--routes"]).arg(routes);
    for (name, port) in [("--http-port", http), ("--https-port", https), ("--api-port", free_port()?)] {
        command.args([name, &port.to_string()]);
    }
    command.arg("--tls-cert").arg(folder.join("cert.pem")).arg("--tls-key").arg(folder.join("key.pem"));
    start(folder, command.env("COOKIE_KEY", COOKIE_KEY).env("LISTEN_IP", "127.0.0.1"))
}

/// From one moment to the next, as an editor does.
pub(crate) fn write_routes(path: &Path, routes: &serde_json::Value) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, serde_json::to_vec(routes)?)?;
    Ok(std::fs::rename(&new, path)?)
}

/// How many connections a proxy may have, with two descriptors each.
pub(crate) fn connections() -> anyhow::Result<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits")?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).context("no limit of open files")?;
    let files: usize = line.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(usize::MAX);
    Ok((files / 2).saturating_sub(100).min(20_000))
}

pub(crate) fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Files to serve and a certificate.
pub(crate) fn prepare(folder: &Path) -> anyhow::Result<()> {
    // nginx's workers are another user.
    Command::new("chmod").arg("755").arg(folder).status()?;
    std::fs::create_dir(folder.join("www"))?;
    std::fs::write(folder.join("www/100"), "x".repeat(100))?;
    std::fs::write(folder.join("www/10k"), "x".repeat(10 * 1024))?;
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"])
        .args(["-subj", "/CN=localhost", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output()
        .context("run openssl")?;
    anyhow::ensure!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
    let pair = [std::fs::read(&cert)?, std::fs::read(&key)?].concat();
    Ok(std::fs::write(folder.join("pair.pem"), pair)?)
}

fn nginx(folder: &Path, name: &str, inside: &str) -> anyhow::Result<Running> {
    let place = folder.join(name);
    std::fs::create_dir(&place)?;
    let (place, connections) = (place.display(), 2 * connections()?);
    let config = format!(
        "worker_processes 1; daemon off; pid {place}/pid; error_log {place}/log;
        events {{ worker_connections {connections}; }}
        http {{
            access_log off; keepalive_requests 1000000000; keepalive_timeout 600;
            client_body_temp_path {place}/a; proxy_temp_path {place}/b; fastcgi_temp_path {place}/c;
            uwsgi_temp_path {place}/d; scgi_temp_path {place}/e;
            {inside}
        }}"
    );
    let path = folder.join(format!("{name}.conf"));
    std::fs::write(&path, config)?;
    start(folder, Command::new("nginx").arg("-c").arg(&path))
}

fn start(folder: &Path, command: &mut Command) -> anyhow::Result<Running> {
    let log = File::options().create(true).append(true).open(folder.join("log"))?;
    let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
    child.map(Running).with_context(|| format!("start {:?}", command.get_program()))
}

fn program(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    Ok(own.parent().context("this program has no folder")?.join(name))
}

fn example(name: &str) -> anyhow::Result<PathBuf> {
    program(&format!("examples/{name}"))
}
