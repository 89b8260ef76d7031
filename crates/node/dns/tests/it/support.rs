//! A server, a registry to fill, upstreams that count, and clients.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use flynn_dns::{Directory, DnsConfig, DnsServer, Instance, ServiceView};
use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::rdata::A;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

pub(crate) fn patience() -> Duration {
    flynn_patience::seconds(20)
}

#[derive(Default)]
pub(crate) struct Registry {
    pub(crate) services: Mutex<BTreeMap<String, ServiceView>>,
    pub(crate) incomplete: bool,
}

impl Directory for Registry {
    fn service(&self, name: &str) -> Option<ServiceView> {
        self.services.lock().unwrap().get(name).cloned()
    }

    fn is_complete(&self) -> bool {
        !self.incomplete
    }
}

impl Registry {
    pub(crate) fn with(self, service: &str, addrs: &[&str]) -> Self {
        let instances: Vec<Instance> = addrs.iter().map(|addr| instance("tcp", addr)).collect();
        let leader = instances.first().cloned().map(Arc::new);
        let view = ServiceView { instances: instances.into(), leader };
        self.services.lock().unwrap().insert(service.to_owned(), view);
        self
    }
}

pub(crate) fn instance(proto: &str, addr: &str) -> Instance {
    Instance::from(&flynn_types::discoverd::Instance::new(proto, addr, BTreeMap::new()))
}

pub(crate) fn start(registry: Registry, upstreams: Vec<SocketAddr>) -> (DnsServer, SocketAddr) {
    let listen = vec![(Ipv4Addr::LOCALHOST, 0).into()];
    let server = DnsServer::start(DnsConfig { listen, upstreams, ..DnsConfig::default() }, Arc::new(registry)).unwrap();
    let addr = server.local_addrs()[0];
    (server, addr)
}

pub(crate) fn query(name: &str, rtype: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), rtype));
    message
}

pub(crate) fn with_edns(mut message: Message, payload: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload);
    message.edns = Some(edns);
    message
}

pub(crate) async fn raw_udp(server: SocketAddr, packet: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    socket.connect(server).await.unwrap();
    socket.send(packet).await.unwrap();
    let mut buffer = vec![0; 65535];
    let len = timeout(patience(), socket.recv(&mut buffer)).await.expect("answer in time").unwrap();
    buffer.truncate(len);
    buffer
}

pub(crate) async fn udp(server: SocketAddr, message: &Message) -> Message {
    let answer = Message::from_vec(&raw_udp(server, &message.to_vec().unwrap()).await).unwrap();
    assert_eq!(answer.metadata.id, message.metadata.id);
    answer
}

pub(crate) async fn tcp(server: SocketAddr, message: &Message) -> Message {
    let mut stream = TcpStream::connect(server).await.unwrap();
    let packet = message.to_vec().unwrap();
    stream.write_u16(packet.len() as u16).await.unwrap();
    stream.write_all(&packet).await.unwrap();
    let len = timeout(patience(), stream.read_u16()).await.expect("answer in time").unwrap();
    let mut answer = vec![0; len.into()];
    stream.read_exact(&mut answer).await.unwrap();
    Message::from_vec(&answer).unwrap()
}

pub(crate) fn texts(records: &[Record]) -> Vec<String> {
    let mut texts: Vec<String> = records.iter().map(|record| format!("{} {}", record.name, record.data)).collect();
    texts.sort();
    texts
}

/// A resolver that answers every question with its own address, and remembers how it was asked.
pub(crate) struct Upstream {
    pub(crate) addr: SocketAddr,
    pub(crate) asked: Arc<Mutex<Vec<&'static str>>>,
    tasks: tokio::task::JoinSet<()>,
}

impl Upstream {
    pub(crate) async fn start(answer: Ipv4Addr, ttl: u32, code: hickory_proto::op::ResponseCode) -> Self {
        let (socket, listener) = loop {
            let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
            if let Ok(listener) = TcpListener::bind(socket.local_addr().unwrap()).await {
                break (socket, listener);
            }
        };
        let addr = socket.local_addr().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let respond = move |packet: &[u8]| {
            let query = Message::from_vec(packet).unwrap();
            let mut message = Message::response(query.metadata.id, query.metadata.op_code);
            message.metadata.response_code = code;
            message.metadata.recursion_available = true;
            message.edns = query.edns.clone();
            let question = query.queries[0].clone();
            if code == hickory_proto::op::ResponseCode::NoError {
                message.add_answer(Record::from_rdata(question.name().clone(), ttl, RData::A(A(answer))));
            }
            message.add_query(question);
            message.to_vec().unwrap()
        };
        let mut tasks = tokio::task::JoinSet::new();
        let log = Arc::clone(&asked);
        tasks.spawn(async move {
            let mut buffer = vec![0; 4096];
            while let Ok((len, client)) = socket.recv_from(&mut buffer).await {
                log.lock().unwrap().push("udp");
                let _ = socket.send_to(&respond(&buffer[..len]), client).await;
            }
        });
        let log = Arc::clone(&asked);
        tasks.spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                log.lock().unwrap().push("tcp");
                let len = stream.read_u16().await.unwrap();
                let mut packet = vec![0; len.into()];
                stream.read_exact(&mut packet).await.unwrap();
                let answer = respond(&packet);
                stream.write_u16(answer.len() as u16).await.unwrap();
                stream.write_all(&answer).await.unwrap();
            }
        });
        Self { addr, asked, tasks }
    }

    pub(crate) fn asked(&self) -> Vec<&'static str> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) async fn stop(mut self) -> SocketAddr {
        self.tasks.shutdown().await;
        self.addr
    }
}

/// An address that swallows what it gets.
pub(crate) async fn silent() -> (UdpSocket, SocketAddr) {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let addr = socket.local_addr().unwrap();
    (socket, addr)
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}
