//! The status service on a real discoverd, with components that answer as they are told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use flynn_discoverd::{Config as DiscoverdConfig, Discoverd};
use flynn_discoverd_client::{Client, Registration};
use flynn_status::{COMPONENTS, Component, Config, Who, serve};
use flynn_types::discoverd::Instance;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::AbortOnDropHandle;

struct Cluster {
    client: Client,
    _discoverd: Discoverd,
    _folder: tempfile::TempDir,
}

impl Cluster {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let config = DiscoverdConfig {
            register: false,
            ..DiscoverdConfig::new("h1", address, folder.path().join("raft.redb"), Vec::new())
        };
        let discoverd = Discoverd::start(config, vec![listener]).await.unwrap();
        let client = Client::from_list(&format!("http://{address}")).unwrap();
        Self { client: client.with_patience(flynn_patience::seconds(30)), _discoverd: discoverd, _folder: folder }
    }

    /// A component that answers every request with these bytes, or never.
    async fn component(&self, service: &str, answer: Option<String>) -> Peer {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let meta = BTreeMap::from([("AUTH_KEY".to_owned(), "k".to_owned())]);
        let registration = self.client.register(service, Instance::new("http", &address.to_string(), meta));
        assert!(registration.wait(flynn_patience::seconds(30)).await);
        let (heads, asked) = tokio::sync::mpsc::channel(100);
        let serving = tokio::spawn(async move {
            let mut open = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut head = [0; 4096];
                let length = stream.read(&mut head).await.unwrap_or(0);
                heads.send(String::from_utf8_lossy(&head[..length]).into_owned()).await.unwrap();
                if let Some(answer) = &answer {
                    let _ = stream.write_all(answer.as_bytes()).await;
                } else {
                    open.push(stream);
                }
            }
        });
        Peer { registration, asked, _serving: AbortOnDropHandle::new(serving) }
    }

    async fn status(&self, change: impl FnOnce(&mut Config)) -> Service {
        let mut config = Config::new(self.client.clone(), None);
        (config.components, config.kept, config.version) = (PARTS, Duration::ZERO, "v1".to_owned());
        change(&mut config);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let serving = AbortOnDropHandle::new(tokio::spawn(serve(config, listener, shutdown.clone())));
        Service { address, _serving: serving, _shutdown: shutdown.drop_guard() }
    }
}

const PART: Component = Component { name: "web", service: "web", who: Who::Any, port: None, optional: false };
const PARTS: &[Component] = &[
    PART,
    Component { name: "leads", service: "leads", who: Who::Leader, ..PART },
    Component { name: "extra", service: "extra-api", optional: true, ..PART },
];

struct Peer {
    registration: Registration,
    /// Heads of requests.
    asked: tokio::sync::mpsc::Receiver<String>,
    _serving: AbortOnDropHandle<()>,
}

struct Service {
    address: SocketAddr,
    _serving: AbortOnDropHandle<std::io::Result<()>>,
    _shutdown: DropGuard,
}

impl Service {
    async fn get(&self, head: &str) -> (u16, String, Value) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        stream.write_all(format!("{head}connection: close\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        let reading = stream.read_to_string(&mut answer);
        tokio::time::timeout(flynn_patience::seconds(30), reading).await.expect("an answer in time").unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let code = head.split(' ').nth(1).unwrap().parse().unwrap();
        (code, head.to_ascii_lowercase(), serde_json::from_str(body).unwrap_or(Value::Null))
    }
}

fn answer(code: u16, body: &str) -> Option<String> {
    Some(format!("HTTP/1.1 {code} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()))
}

fn healthy() -> Option<String> {
    answer(200, r#"{"data":{"status":"healthy","version":"v9"}}"#)
}

#[tokio::test]
async fn g4_a_required_component_that_is_down_is_named_and_an_optional_one_does_not_count() {
    let cluster = Cluster::start().await;
    let service = cluster.status(|_| {}).await;
    let (code, _, body) = service.get("GET / HTTP/1.1\r\n").await;
    let nothing = json!({"status": "unhealthy"});
    assert_eq!((code, &body["data"]["detail"]["web"]), (500, &nothing));

    let mut web = cluster.component("web", healthy()).await;
    let leads = cluster.component("leads", healthy()).await;
    let _second = cluster.component("leads", answer(500, "broken")).await;
    let (code, _, body) = service.get("GET /any/path HTTP/1.1\r\n").await;
    let well = json!({"status": "healthy", "version": "v9"});
    let detail = json!({"web": well, "leads": well, "extra": nothing});
    assert_eq!((code, body), (200, json!({"data": {"status": "healthy", "version": "v1", "detail": detail}})));
    // Components that register a key are asked with it.
    let head = web.asked.recv().await.unwrap().to_ascii_lowercase();
    assert!(
        head.starts_with("get /.well-known/status http/1.1") && head.contains("authorization: basic oms="),
        "{head}"
    );

    // The leader counts, not another instance.
    leads.registration.deregister().await;
    let (code, _, body) = service.get("GET / HTTP/1.1\r\n").await;
    assert_eq!((code, &body["data"]["detail"]["leads"]), (500, &nothing));
    assert_eq!(body["data"]["detail"]["web"], well);
}

#[tokio::test]
async fn components_that_hang_or_talk_nonsense_are_unhealthy_and_hold_nobody_up() {
    let cluster = Cluster::start().await;
    let _web = cluster.component("web", None).await;
    let _extra = cluster.component("extra-api", answer(200, "well, well")).await;
    let _leads = cluster.component("leads", Some("nonsense\r\n\r\n".to_owned())).await;
    let service = cluster.status(|_| {}).await;
    let (code, _, body) = service.get("GET / HTTP/1.1\r\n").await;
    let detail = &body["data"]["detail"];
    assert_eq!(
        (code, &detail["web"], &detail["leads"]),
        (500, &json!({"status": "unhealthy"}), &json!({"status": "unhealthy"}))
    );
    // Nothing is told but by the code.
    assert_eq!(detail["extra"], json!({"status": "healthy"}));
}

#[tokio::test]
async fn one_healthy_instance_is_enough_and_many_requests_ask_once() {
    let cluster = Cluster::start().await;
    let mut ill = cluster.component("web", answer(500, r#"{"data":{"status":"unhealthy","version":"v9"}}"#)).await;
    let _well = cluster.component("web", healthy()).await;
    let _leads = cluster.component("leads", healthy()).await;
    let service = cluster.status(|config| config.kept = Duration::from_secs(3600)).await;
    for _ in 0..20 {
        let (code, _, body) = service.get("GET / HTTP/1.1\r\n").await;
        assert_eq!((code, &body["data"]["status"]), (200, &json!("healthy")));
    }
    ill.asked.close();
    let mut asked = 0;
    while ill.asked.recv().await.is_some() {
        asked += 1;
    }
    assert!(asked <= 1, "{asked}");
}

#[tokio::test]
async fn g4_public_addresses_need_the_key_and_browsers_are_welcome() {
    let cluster = Cluster::start().await;
    let service = cluster.status(|config| config.key = Some("secret".to_owned())).await;
    let (code, head, _) = service.get("GET / HTTP/1.1\r\nx-forwarded-for: 8.8.8.8\r\n").await;
    assert!(code == 401 && head.contains("access-control-allow-origin: *"), "{head}");
    let (code, ..) = service.get("GET /?key=secret HTTP/1.1\r\nx-forwarded-for: 8.8.8.8\r\n").await;
    assert_eq!(code, 500);
    let (code, ..) = service.get("GET / HTTP/1.1\r\n").await;
    assert_eq!(code, 500, "a private address");
    let (code, head, _) = service.get("OPTIONS / HTTP/1.1\r\norigin: http://dashboard\r\n").await;
    assert!(code == 200 && head.contains("access-control-allow-headers: authorization"), "{head}");
    let (code, ..) = service.get("POST / HTTP/1.1\r\ncontent-length: 0\r\n").await;
    assert_eq!(code, 405);
}

#[test]
fn the_list_is_that_of_the_specification_without_what_is_not_there_yet() {
    let names: Vec<_> =
        COMPONENTS.iter().filter(|component| !component.optional).map(|component| component.name).collect();
    assert_eq!(
        names,
        [
            "blobstore",
            "controller",
            "controller-scheduler",
            "controller-worker",
            "discoverd",
            "flannel",
            "logaggregator",
            "postgres",
            "router"
        ]
    );
}
