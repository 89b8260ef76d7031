//! Discovery on three nodes: how soon a registration is seen elsewhere, and what many instances cost.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use flynn_discoverd_client::Client;
use flynn_harness::{Cluster, HostState};
use flynn_types::discoverd::{EventKind, Instance, ServiceConfig};

use crate::fixture::{self, cluster, runtime};
use crate::table::{Series, Table};

const REGISTRATIONS: usize = 500;
const INSTANCES: usize = 10_000;
/// Clients of each host between which its instances are divided.
const BEATERS: usize = 50;
/// Spec discoverd-and-network 9.2.
const HEARTBEAT: Duration = Duration::from_secs(5);
const MEASURED: Duration = Duration::from_secs(20);

pub(crate) fn measure(_rounds: usize, table: &mut Table) -> anyhow::Result<()> {
    let cluster = cluster(3)?;
    let delays = runtime().block_on(delays(&cluster))?;
    table.note("registration seen on another node, ms, median", &format!("{:.1}", delays.median()), "-");
    table.bound("registration seen on another node, ms, 99th percentile", delays.quantile(0.99), 20.0);
    let share = runtime().block_on(cost(&cluster))?;
    table.bound("10,000 instances kept alive: most of a core that a daemon takes, %", share, 10.0);
    cluster.down()
}

fn client(cluster: &Cluster, host: usize) -> anyhow::Result<Client> {
    Ok(Client::from_list(&cluster.host(host).url(1111)?)?)
}

/// Index of the consensus leader: others would send a writer from outside on to an address that is only known inside.
async fn leader(cluster: &Cluster) -> anyhow::Result<usize> {
    let address = client(cluster, 0)?.raft_leader().await?;
    let found = cluster.hosts().position(|host| address.contains(&format!("{}:", host.ip())));
    found.with_context(|| format!("the leader {address} is no host of the cluster"))
}

fn instance(number: usize) -> Instance {
    let addr = format!("10.0.{}.{}:{}", number / 250 % 250, number % 250 + 1, 1000 + number / 62_500);
    Instance::new("tcp", &addr, BTreeMap::new())
}

async fn delays(cluster: &Cluster) -> anyhow::Result<Series> {
    let leader = leader(cluster).await?;
    let (writer, reader) = (client(cluster, leader)?, client(cluster, (leader + 1) % cluster.len())?);
    writer.add_service("bench", &ServiceConfig::default()).await?;
    let mut watch = reader.watch("bench");
    while watch.next().await.kind != EventKind::Current {}
    let mut delays = Series::default();
    for number in 0..REGISTRATIONS {
        let instance = instance(number);
        let begin = Instant::now();
        let seen = async {
            loop {
                let event = watch.next().await;
                if event.kind == EventKind::Up && event.instance.is_some_and(|up| up.id == instance.id) {
                    return begin.elapsed();
                }
            }
        };
        let both = async { tokio::join!(writer.put_instance("bench", &instance), seen) };
        let (put, seen) =
            tokio::time::timeout(Duration::from_secs(10), both).await.context("a registration is not seen")?;
        put?;
        delays.push_ms(seen);
    }
    writer.remove_service("bench").await?;
    Ok(delays)
}

/// Most of one core that any of the daemons takes, in percent. The instances are divided between the hosts; as containers
/// do, they beat at their own node's address in the cluster network, from inside of the host.
async fn cost(cluster: &Cluster) -> anyhow::Result<f64> {
    let writer = client(cluster, leader(cluster).await?)?;
    writer.add_service("many", &ServiceConfig::default()).await?;
    let mut beating = Vec::new();
    for (index, host) in cluster.hosts().enumerate() {
        let status = fixture::client(host)?.status().await?;
        let subnet = status.network.context("the host has no network")?.subnet;
        let gateway = subnet.split('/').next().unwrap_or_default();
        let mut command = host.command_in(std::env::current_exe()?)?;
        command.arg(format!("--beat=http://{gateway}:1111")).arg(format!("--first={index}"));
        command.arg(format!("--step={}", cluster.len()));
        beating.push(tokio::process::Command::from(command).kill_on_drop(true).spawn()?);
    }
    let all = async {
        loop {
            let known = writer.instances("many").await.map_or(0, |instances| instances.len());
            if known == INSTANCES {
                return;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), all).await.context("not all instances are registered in time")?;
    let (before, begin) = (processor_times(cluster)?, Instant::now());
    tokio::time::sleep(MEASURED).await; // the span that is measured: twice as long as a lease
    let elapsed = begin.elapsed().as_secs_f64();
    let after = processor_times(cluster)?;
    let left = writer.instances("many").await?.len();
    anyhow::ensure!(left == INSTANCES, "{left} of {INSTANCES} instances are left");
    drop(beating);
    let shares = before.iter().zip(&after).map(|(before, after)| (after - before) / elapsed * 100.0);
    Ok(shares.fold(0.0, f64::max))
}

/// Keeps a share of the instances alive until it is killed: those from the first on, in steps.
pub(crate) async fn beat(url: &str, first: usize, step: usize) -> anyhow::Result<()> {
    let mut beaters = tokio::task::JoinSet::new();
    for beater in 0..BEATERS {
        let client = Client::from_list(url)?;
        let own: Vec<_> = (first..INSTANCES).step_by(step).skip(beater).step_by(BEATERS).map(instance).collect();
        beaters.spawn(async move {
            let mut ticks = tokio::time::interval(HEARTBEAT / u32::try_from(own.len()).unwrap_or(u32::MAX));
            loop {
                for instance in &own {
                    ticks.tick().await;
                    let _ = client.put_instance("many", instance).await; // what is missing at the end is counted
                }
            }
        });
    }
    beaters.join_next().await;
    anyhow::bail!("a client ended")
}

/// Seconds of processor time of each host's daemon.
fn processor_times(cluster: &Cluster) -> anyhow::Result<Vec<f64>> {
    let hosts = cluster.hosts().map(|host| {
        let HostState::Running(pids) = host.state() else { anyhow::bail!("{} has no daemon", host.id()) };
        let mut ticks = 0.0;
        for pid in pids {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
            let fields = stat.rsplit_once(')').context("no stat")?.1.split_whitespace().skip(11).take(2);
            ticks += fields.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>();
        }
        Ok(ticks / 100.0) // USER_HZ, fixed at 100 for programs
    });
    hosts.collect()
}
