//! Answers per second of our server and of `dnsmasq` for the same record: the same client asks both in turn.
//!
//! `cargo run --release -p flynn-dns --example bench_dns [rounds] [seconds per round]`

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "an example reports to whoever runs it")]

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use flynn_dns::{Directory, DnsConfig, DnsServer, Instance, ServiceView};

/// Queries under way at once.
const WINDOW: usize = 64;

struct OneService(ServiceView);

impl Directory for OneService {
    fn service(&self, name: &str) -> Option<ServiceView> {
        (name == "web").then(|| self.0.clone())
    }
}

fn main() {
    let mut args = std::env::args().skip(1);
    let first = args.next();
    if first.as_deref() == Some("serve") {
        return serve(args.next().and_then(|port| port.parse().ok()).expect("port"));
    }
    let rounds: usize = first.and_then(|text| text.parse().ok()).unwrap_or(7);
    let seconds: f64 = args.next().and_then(|text| text.parse().ok()).unwrap_or(2.0);
    let (ours, theirs) = (free_port(), free_port());
    let exe = std::env::current_exe().expect("path of this program");
    let _ours = Guard(Command::new(exe).args(["serve", &ours.port().to_string()]).spawn().expect("start our server"));
    let dnsmasq = Command::new("dnsmasq")
        .args(["--keep-in-foreground", "--conf-file=/dev/null", "--no-resolv", "--no-hosts", "--bind-interfaces"])
        .args(["--listen-address=127.0.0.1", "--host-record=web.discoverd,10.0.0.1", "--user=root", "--pid-file"])
        .arg(format!("--port={}", theirs.port()))
        .stderr(Stdio::null())
        .spawn();
    let _theirs = match dnsmasq {
        Ok(child) => Guard(child),
        Err(err) => return eprintln!("start dnsmasq: {err}: install the package dnsmasq-base"),
    };
    let mut results: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for _ in 0..rounds {
        for (name, addr) in [("flynn-dns", ours), ("dnsmasq", theirs)] {
            results.entry(name).or_default().push(measure(addr, Duration::from_secs_f64(seconds)));
        }
    }
    println!("answers per second, {rounds} rounds of {seconds} s, {WINDOW} queries under way: median (least to most)");
    for (name, mut rates) in results {
        rates.sort_by(f64::total_cmp);
        let (least, median, most) = (rates[0], rates[rates.len() / 2], rates[rates.len() - 1]);
        println!("{name:<10} {median:>9.0}  ({least:.0} to {most:.0})");
    }
}

fn serve(port: u16) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("runtime");
    runtime.block_on(async {
        let instance = flynn_types::discoverd::Instance::new("tcp", "10.0.0.1:80", BTreeMap::new());
        let view = ServiceView { instances: [Instance::from(&instance)].into(), leader: None };
        let config = DnsConfig { listen: vec![(Ipv4Addr::LOCALHOST, port).into()], ..DnsConfig::default() };
        let _server = DnsServer::start(config, Arc::new(OneService(view))).expect("start server");
        std::future::pending::<()>().await;
    });
}

fn measure(addr: SocketAddr, time: Duration) -> f64 {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("bind client");
    socket.connect(addr).expect("connect client");
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("set timeout");
    let mut query = vec![0, 0, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    query.extend_from_slice(b"\x03web\x09discoverd\0\0\x01\0\x01");
    let mut buffer = [0; 1500];
    let mut id = 0u16;
    let mut ask = || {
        id = id.wrapping_add(1);
        query[..2].copy_from_slice(&id.to_be_bytes());
        let _ = socket.send(&query); // refused while the server starts
    };
    let (mut answers, mut begin) = (0u64, None::<Instant>);
    loop {
        match socket.recv(&mut buffer) {
            Ok(len) => {
                assert_eq!(&buffer[len - 4..len], [10, 0, 0, 1], "the answer is the address");
                answers += 1;
                ask();
            }
            Err(_) => (0..WINDOW).for_each(|_| ask()), // at the start, and after a loss
        }
        let begin = *begin.get_or_insert_with(Instant::now);
        if begin.elapsed() >= time {
            return answers as f64 / begin.elapsed().as_secs_f64();
        }
    }
}

fn free_port() -> SocketAddr {
    UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr()).expect("free port")
}

/// Ends its process when dropped.
struct Guard(Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
