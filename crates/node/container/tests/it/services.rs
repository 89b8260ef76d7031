//! Registration with discoverd and health checks, in containers that share the host's network.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use flynn_container::ContainerSpec;
use flynn_types::discoverd::{Instance, instance_id};
use flynn_types::host::{HealthCheck, Port, Service};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;

use crate::support::{Job, Sandbox, eventually};

/// A request as a server got it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Got {
    method: String,
    path: String,
    host: String,
    body: String,
}

type Answer = Arc<dyn Fn(&Got) -> (u16, String) + Send + Sync>;

/// A small HTTP server on a port of its own, until it is dropped.
struct Server {
    port: u16,
    got: Arc<Mutex<Vec<(Instant, Got)>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn start(answer: impl Fn(&Got) -> (u16, String) + Send + Sync + 'static) -> Self {
        Self::serve(TcpListener::bind("127.0.0.1:0").await.unwrap(), None, Arc::new(answer))
    }

    fn serve(listener: TcpListener, tls: Option<tokio_rustls::TlsAcceptor>, answer: Answer) -> Self {
        let port = listener.local_addr().unwrap().port();
        let got: Arc<Mutex<Vec<_>>> = Arc::default();
        let log = Arc::clone(&got);
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (log, answer, tls) = (Arc::clone(&log), Arc::clone(&answer), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        Some(tls) => match tls.accept(stream).await {
                            Ok(stream) => exchange(stream, &log, &answer).await,
                            Err(_) => None,
                        },
                        None => exchange(stream, &log, &answer).await,
                    }
                });
            }
        });
        Self { port, got, task }
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn got(&self) -> Vec<Got> {
        self.got.lock().unwrap().iter().map(|(_, got)| got.clone()).collect()
    }

    fn count(&self, method: &str) -> usize {
        self.got().iter().filter(|got| got.method == method).count()
    }

    async fn until(&self, what: &str, condition: impl Fn(&[Got]) -> bool) {
        eventually(what, || {
            let got = self.got();
            if condition(&got) { Ok(()) } else { Err(got) }
        })
        .await;
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    log: &Mutex<Vec<(Instant, Got)>>,
    answer: &Answer,
) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await.ok()?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.trim().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let len = headers.get("content-length").and_then(|len| len.parse().ok()).unwrap_or(0);
    let mut body = vec![0; len];
    stream.read_exact(&mut body).await.ok()?;
    let host = headers.remove("host").unwrap_or_default();
    let got = Got { method, path, host, body: String::from_utf8(body).unwrap() };
    log.lock().unwrap().push((Instant::now(), got.clone()));
    let (status, text) = answer(&got);
    let location = if status == 307 { format!("location: {text}\r\n") } else { String::new() };
    let head = format!("HTTP/1.1 {status} X\r\n{location}content-length: {}\r\nconnection: close\r\n\r\n", text.len());
    stream.write_all(format!("{head}{text}").as_bytes()).await.ok()?;
    stream.shutdown().await.ok()
}

async fn discoverd() -> Server {
    Server::start(|_| (200, String::new())).await
}

/// A port that nobody uses: it was free a moment ago.
fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn with_service(
    mut spec: ContainerSpec,
    port: u16,
    discoverd: &[&Server],
    check: Option<HealthCheck>,
) -> ContainerSpec {
    let service = Service { name: "web".into(), create: true, check };
    spec.init.ports = vec![Port { port, proto: "tcp".into(), service: Some(service) }];
    spec.init.discoverd = discoverd.iter().map(|server| server.url()).collect();
    spec.init.external_ip = "127.0.0.1".into();
    spec.init.env.insert("FLYNN_APP_NAME".into(), "shop".into());
    spec.init.env.insert("SECRET".into(), "x".into());
    spec
}

fn check(kind: &str) -> HealthCheck {
    HealthCheck { kind: kind.into(), interval: Some(Duration::from_millis(50)), ..HealthCheck::default() }
}

const IDLE: &str = "trap 'echo told to stop; exit 0' TERM; echo ready; while :; do sleep 1 & wait $!; done";

fn registration(port: u16) -> String {
    format!("/services/web/instances/{}", instance_id("tcp", &format!("127.0.0.1:{port}")))
}

async fn end(job: Job) {
    job.container.kill().await.unwrap();
    job.ended().await;
}

#[tokio::test]
async fn a_service_is_registered_kept_alive_and_withdrawn_before_the_job_is_told_to_stop() {
    let sandbox = Sandbox::new();
    let discoverd = discoverd().await;
    let job = sandbox.run(with_service(sandbox.shell(IDLE), 4711, &[&discoverd], None)).await;
    job.wrote("ready").await;
    discoverd.until("a heartbeat", |got| got.iter().filter(|got| got.path == registration(4711)).count() >= 2).await;
    let got = discoverd.got();
    assert_eq!((got[0].method.as_str(), got[0].path.as_str()), ("PUT", "/services/web"));
    assert_eq!(got[0].body, r#"{"leader_type":"oldest"}"#);
    let instance: Instance = serde_json::from_str(&got[1].body).unwrap();
    let meta = BTreeMap::from([("FLYNN_APP_NAME".to_owned(), "shop".to_owned())]);
    assert_eq!(instance, Instance::new("tcp", "127.0.0.1:4711", meta));
    let at = |index: usize| discoverd.got.lock().unwrap()[index].0;
    assert!(at(2) - at(1) > Duration::from_millis(2900), "{:?}", at(2) - at(1));

    // The job goes on without its service, and a stop has nothing left to withdraw.
    job.container.deregister().await.unwrap();
    assert_eq!(
        discoverd.got().last().map(|got| (got.method.clone(), got.path.clone())),
        Some(("DELETE".into(), registration(4711)))
    );
    let before = discoverd.got().len();
    job.container.stop().await.unwrap();
    let ended = job.ended().await;
    assert_eq!((ended.status(), ended.stdout.as_str()), (0, "ready\ntold to stop\n"));
    assert_eq!(discoverd.got().len(), before, "it did not come back");
}

#[tokio::test]
async fn a_stop_withdraws_the_service_first() {
    let sandbox = Sandbox::new();
    let seen = sandbox.path().to_owned();
    // Whether the job had been told to stop when its service was withdrawn.
    let told = Arc::new(Mutex::new(None));
    let note = Arc::clone(&told);
    let discoverd = Server::start(move |got| {
        if got.method == "DELETE" {
            let stdout =
                std::fs::read_dir(&seen).unwrap().flatten().map(|entry| crate::support::output(&entry.path(), 1));
            *note.lock().unwrap() = Some(stdout.collect::<String>().contains("told to stop"));
        }
        (200, String::new())
    })
    .await;
    let job = sandbox.run(with_service(sandbox.shell(IDLE), 4711, &[&discoverd], None)).await;
    job.wrote("ready").await;
    discoverd.until("the registration", |got| got.len() >= 2).await;
    job.container.stop().await.unwrap();
    assert_eq!(job.ended().await.status(), 0);
    assert_eq!(*told.lock().unwrap(), Some(false));
}

#[tokio::test]
async fn a_job_that_ends_by_itself_is_withdrawn() {
    let sandbox = Sandbox::new();
    let discoverd = discoverd().await;
    let mut spec = with_service(sandbox.shell("read line; exit 3"), 4711, &[&discoverd], None);
    spec.init.open_stdin = true;
    let job = sandbox.create(spec).await;
    let stdin = job.container.take_stdin().await.unwrap();
    job.container.resume().await.unwrap();
    discoverd.until("the registration", |got| got.len() >= 2).await;
    drop(stdin);
    assert_eq!(job.ended().await.status(), 3);
    assert_eq!(discoverd.count("DELETE"), 1);
}

#[tokio::test]
async fn a_server_that_is_down_or_sends_elsewhere_is_no_obstacle() {
    let sandbox = Sandbox::new();
    let leader = discoverd().await;
    let url = leader.url();
    let follower = Server::start(move |got| (307, format!("{url}{}", got.path))).await;
    let mut spec = with_service(sandbox.shell(IDLE), 4711, &[&follower], None);
    spec.init.discoverd.insert(0, format!("http://127.0.0.1:{}", free_port()));
    let job = sandbox.run(spec).await;
    leader.until("the registration", |got| got.iter().any(|got| got.path == registration(4711))).await;
    assert!(leader.got().iter().all(|got| got.method == "PUT" && !got.body.is_empty()));
    end(job).await;
    assert_eq!(leader.count("DELETE"), 1);
}

#[tokio::test]
async fn without_discoverd_the_job_runs_and_ends_as_ever() {
    let sandbox = Sandbox::new();
    let mut spec = with_service(sandbox.shell(IDLE), 4711, &[], None);
    spec.init.discoverd = vec![format!("http://127.0.0.1:{}", free_port())];
    let job = sandbox.run(spec).await;
    job.wrote("ready").await;
    job.container.stop().await.unwrap();
    assert_eq!(job.ended().await.stdout, "ready\ntold to stop\n");
}

#[tokio::test]
async fn a_checked_port_is_registered_when_it_opens_and_withdrawn_when_it_closes() {
    let sandbox = Sandbox::new();
    let discoverd = discoverd().await;
    let port = free_port();
    let job = sandbox.run(with_service(sandbox.shell(IDLE), port, &[&discoverd], Some(check("tcp")))).await;
    job.wrote("ready").await;
    assert_eq!(discoverd.got(), []);
    let app = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    discoverd.until("the registration", |got| got.iter().any(|got| got.path == registration(port))).await;
    drop(app);
    discoverd.until("the withdrawal", |got| got.last().is_some_and(|got| got.method == "DELETE")).await;
    let _app = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
    discoverd.until("the return", |got| got.last().is_some_and(|got| got.method == "PUT")).await;
    end(job).await;
    assert_eq!(discoverd.count("DELETE"), 2);
}

#[tokio::test]
async fn an_http_check_looks_at_status_host_and_content() {
    let sandbox = Sandbox::new();
    let discoverd = discoverd().await;
    let status = Arc::new(Mutex::new((503, "all well".to_owned())));
    let answer = Arc::clone(&status);
    let app = Server::start(move |_| answer.lock().unwrap().clone()).await;
    let wanted = HealthCheck {
        path: "/health?x=1".into(),
        host: "shop.test".into(),
        body_match: "well".into(),
        ..check("http")
    };
    let job = sandbox.run(with_service(sandbox.shell(IDLE), app.port, &[&discoverd], Some(wanted))).await;
    app.until("some checks", |got| got.len() > 3).await;
    let padding = "x".repeat(5120);
    *status.lock().unwrap() = (200, format!("{padding}well"));
    let so_far = app.got().len();
    app.until("some checks", |got| got.len() > so_far + 3).await;
    assert_eq!(discoverd.got(), [], "neither the status nor content beyond the limit counts");
    *status.lock().unwrap() = (200, "all well".to_owned());
    discoverd.until("the registration", |got| !got.is_empty()).await;
    let first = app.got()[0].clone();
    assert_eq!((first.method.as_str(), first.path.as_str(), first.host.as_str()), ("GET", "/health?x=1", "shop.test"));
    end(job).await;
}

#[tokio::test]
async fn an_https_check_accepts_any_certificate() {
    let sandbox = Sandbox::new();
    let discoverd = discoverd().await;
    let certified = rcgen::generate_simple_self_signed(vec!["shop.test".into()]).unwrap();
    let key = tokio_rustls::rustls::pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der()).unwrap();
    let tls = tokio_rustls::rustls::ServerConfig::builder_with_provider(Arc::new(
        tokio_rustls::rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()
    .unwrap()
    .with_no_client_auth()
    .with_single_cert(vec![certified.cert.der().clone()], key)
    .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let app = Server::serve(listener, Some(Arc::new(tls).into()), Arc::new(|_| (200, String::new())));
    let job = sandbox.run(with_service(sandbox.shell(IDLE), app.port, &[&discoverd], Some(check("https")))).await;
    discoverd.until("the registration", |got| !got.is_empty()).await;
    end(job).await;
}

#[tokio::test]
async fn a_job_that_does_not_come_up_in_time_is_killed() {
    let sandbox = Sandbox::new();
    let discoverd = discoverd().await;
    let check = HealthCheck { kill_down: true, start_timeout: Some(Duration::from_millis(300)), ..check("tcp") };
    let job = sandbox.run(with_service(sandbox.shell(IDLE), free_port(), &[&discoverd], Some(check))).await;
    let ended = job.ended().await;
    assert_eq!(ended.status(), 137, "that is no requested stop");
    assert!(ended.init_log.contains("health check"), "{}", ended.init_log);
    assert_eq!(discoverd.got(), []);
}
