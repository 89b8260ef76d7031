//! Measures three nodes in this process: the time from a registration at one node to the event on another node's stream,
//! how long writes pause when the leader goes, and the processor time that keeps 10,000 instances alive.
//!
//! `cargo run --release -p flynn-discoverd --example bench_discoverd [seconds]`

use std::io::Write as _;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use flynn_discoverd::{Config, Discoverd, Kinds};
use flynn_types::discoverd::{EventKind, Instance, ServiceConfig};
use tokio::net::TcpListener;

const INSTANCES: u16 = 10_000;
const ROUNDS: usize = 500;

fn instance(number: u16) -> Instance {
    let [high, low] = number.to_be_bytes();
    let meta = [("FLYNN_APP_NAME", "app"), ("FLYNN_JOB_ID", "host0-5f2c6f0e-8f2b-4a3e-9d0a-3f6f3c1f7b11")];
    Instance::new("tcp", &format!("100.100.{high}.{low}:8080"), meta.map(|(k, v)| (k.to_owned(), v.to_owned())).into())
}

fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// Processor time of this process so far.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().filter_map(|i| fields.get(*i)?.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10) // USER_HZ is 100
}

fn percentiles(mut times: Vec<Duration>) -> String {
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share).round() as usize];
    format!("p50 {:?}, p99 {:?}, max {:?} of {}", at(0.5), at(0.99), at(1.0), times.len())
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let seconds: u64 = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(20);
    let folder = tempfile::tempdir_in("/var/tmp")?;
    let mut listeners = Vec::new();
    for _ in 0..3 {
        listeners.push(TcpListener::bind("127.0.0.1:0").await?);
    }
    let addrs: Vec<SocketAddr> = listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
    let mut nodes = Vec::new();
    for (number, listener) in listeners.into_iter().enumerate() {
        let store = folder.path().join(format!("{number}.redb"));
        let mut config = Config::new(format!("h{number}"), addrs[number], store, addrs.clone());
        // The first of ten thousand must not expire before the last is registered; the work per heartbeat is the same.
        config.timing.ttl = Duration::from_secs(60);
        nodes.push(Discoverd::start(config, vec![listener]).await?);
    }
    let client = |n: usize| flynn_discoverd_client::Client::from_list(&addrs[n].to_string());
    while client(0)?.raft_peers().await?.len() < 3 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let leader = nodes[0].leader_addr().borrow().and_then(|l| addrs.iter().position(|a| *a == l)).unwrap_or(0);
    client(0)?.add_service("bench", &ServiceConfig::default()).await?;

    for (from, to) in [(leader, (leader + 1) % 3), ((leader + 1) % 3, (leader + 2) % 3)] {
        let mut stream = nodes[to].registry().subscribe("bench", Kinds::INSTANCES);
        let client = client(from)?;
        let mut times = Vec::new();
        for round in 0..ROUNDS {
            let instance = instance(u16::try_from(round)?);
            let begin = Instant::now();
            let (put, seen) = tokio::join!(client.put_instance("bench", &instance), async {
                loop {
                    let event = stream.next().await?;
                    let found = event.event.instance.as_ref().is_some_and(|i| i.id == instance.id);
                    if found && event.event.kind == EventKind::Up {
                        return Ok::<_, flynn_discoverd::Ended>(begin.elapsed());
                    }
                }
            });
            put?;
            times.push(seen?);
            client.remove_instance("bench", &instance.id).await?;
        }
        let role = |n: usize| if n == leader { "leader" } else { "follower" };
        say(&format!("registration at the {} to the stream of a {}: {}", role(from), role(to), percentiles(times)));
    }

    let begin = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for part in 0..64u16 {
        let client = client(usize::from(part) % 3)?;
        tasks.spawn(async move {
            for number in (part..INSTANCES).step_by(64) {
                client.put_instance("bench", &instance(number)).await?;
            }
            Ok::<_, flynn_discoverd_client::DiscoverdError>(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    say(&format!("{INSTANCES} registrations by 64 clients: {:?}", begin.elapsed()));

    let idle_before = processor_time();
    let mut tasks = tokio::task::JoinSet::new();
    let until = Instant::now() + Duration::from_secs(seconds);
    // every instance every 4 s, as the clients do it (5 s less 0 to 2 s), by 100 connections
    for part in 0..100u16 {
        let client = client(usize::from(part) % 3)?;
        tasks.spawn(async move {
            let mut beats = 0u64;
            let mut tick = tokio::time::interval(Duration::from_secs(4) * 100 / u32::from(INSTANCES));
            'beating: loop {
                for number in (part..INSTANCES).step_by(100) {
                    tick.tick().await;
                    if Instant::now() >= until {
                        break 'beating;
                    }
                    if client.put_instance("bench", &instance(number)).await.is_ok() {
                        beats += 1;
                    }
                }
            }
            beats
        });
    }
    let mut beats = 0;
    while let Some(done) = tasks.join_next().await {
        beats += done?;
    }
    let used = processor_time() - idle_before;
    let alive = nodes[leader].registry().instances("bench").len();
    say(&format!(
        "{alive} instances kept alive by {} heartbeats/s for {seconds} s: {:.1} % of a core for three nodes and all clients together",
        beats / seconds,
        used.as_secs_f64() / seconds as f64 * 100.0
    ));

    let mut pauses = Vec::new();
    for round in 0..5 {
        let leader = nodes[round % 3].leader_addr().borrow().and_then(|l| addrs.iter().position(|a| *a == l));
        let Some(leader) = leader else { continue };
        let others: Vec<String> =
            addrs.iter().enumerate().filter(|(n, _)| *n != leader).map(|(_, a)| a.to_string()).collect();
        let client = flynn_discoverd_client::Client::from_list(&others.join(","))?;
        nodes[leader].shutdown().await;
        let begin = Instant::now();
        client.add_service(&format!("after-{round}"), &ServiceConfig::default()).await?;
        pauses.push(begin.elapsed());
        let store = folder.path().join(format!("{leader}.redb"));
        let config = Config::new(format!("h{leader}"), addrs[leader], store, addrs.clone());
        let listener = TcpListener::bind(addrs[leader]).await?;
        nodes[leader] = Discoverd::start(config, vec![listener]).await?;
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    say(&format!("leader gone to the next acknowledged write: {}", percentiles(pauses)));
    for node in &nodes {
        node.shutdown().await;
    }
    Ok(())
}
