//! Power fails and comes back (goal G6): nobody types a command.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use flynn_discoverd_client::Revision;
use flynn_harness::{Cluster, ClusterOptions, Host, repeats, wait_until};
use flynn_scenarios::{Node, block_on, cluster, formed, networked, registers, seeded, shell, subnets, with_volume};
use flynn_types::discoverd::ServiceConfig;
use flynn_types::host::{ActiveJob, Job};
use rand::seq::SliceRandom as _;

/// Longest until a cluster without power is whole again.
const RECOVERY: Duration = Duration::from_secs(120);
const DOCUMENT: &str = "before-the-power-cut";

/// Writes the document from inside a host, as a client there would.
fn write(host: Host<'_>, all: &[Host<'_>], expected: u64, value: u64) -> anyhow::Result<Revision<u64>> {
    let client = registers::client_on(host, all).with_patience(Duration::from_secs(10));
    host.in_network(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            client.add_service(DOCUMENT, &ServiceConfig::default()).await?;
            Ok(client.document(DOCUMENT).compare_and_set(expected, value).await?)
        })
    })?
}

fn read(node: Node<'_>) -> Result<Option<Revision<u64>>, String> {
    block_on(node.discoverd().document(DOCUMENT).read()).map_err(|err| err.to_string())
}

/// A job that notes each of its starts on its volume.
fn note_starts(node: Node<'_>) -> Job {
    let volume = block_on(node.api().create_volume("default", None)).unwrap();
    let mut job = with_volume(
        shell(node.host, "echo start >> /data/starts; wc -l < /data/starts; exec sleep 100000"),
        &volume.id,
    );
    job.resurrect = true;
    job
}

/// The one running job of a host that has seen so many starts.
fn resurrected(node: Node<'_>, volume: &str, starts: usize) -> Result<ActiveJob, String> {
    let jobs = block_on(node.api().jobs(false)).map_err(|err| err.to_string())?;
    let ours = jobs.into_values().filter(|job| job.job.config.volumes.iter().any(|bound| bound.volume == volume));
    let (mut active, ended): (Vec<_>, Vec<_>) = ours.partition(|job| job.status.is_active());
    let (Some(job), true) = (active.pop(), active.is_empty()) else {
        let ended: Vec<_> = ended.iter().map(|job| (&job.job.id, job.status, &job.error)).collect();
        return Err(format!("{}: not one job runs; ended: {ended:?}", node.host.id()));
    };
    let output = node.output(&job.job.id).map_err(|err| format!("{err:#}"))?.stdout;
    // A job that ran, but was not yet recorded as running when the power went, starts again under its old id.
    if output.last() == Some(&starts.to_string()) {
        Ok(job)
    } else {
        Err(format!("{}: {output:?}, not {starts} starts", node.host.id()))
    }
}

/// Another host's gateway answers over the overlay.
fn overlay_works(cluster: &Cluster) -> Result<(), String> {
    for (index, from) in cluster.hosts().enumerate() {
        let to = cluster.host((index + 1) % cluster.len());
        let status = Node::of(to).status().map_err(|err| err.to_string())?;
        let subnet = status.network.map(|network| network.subnet).unwrap_or_default();
        let url = format!("http://{}:5002/ping", subnet.split('/').next().unwrap_or_default());
        let output = from.exec(["curl", "-sf", "--max-time", "1", &url]).map_err(|err| err.to_string())?;
        if !output.status.success() {
            return Err(format!("{} does not reach {url}", from.id()));
        }
    }
    Ok(())
}

/// All three at once, back in a random order, every second time with other addresses. A leader, the hosts' subnets, what
/// was written before, and the jobs that are to be resurrected with their volumes: all are there again.
#[test]
#[expect(clippy::print_stderr, reason = "the recovery times are a result")]
fn three_hosts_come_back_from_a_power_cut_alone() {
    let mut random = seeded("power_fails");
    let cluster = cluster(ClusterOptions { hosts: 3, ..ClusterOptions::default() }).unwrap();
    let nodes: Vec<_> = cluster.hosts().map(Node::of).collect();
    let hosts: Vec<_> = cluster.hosts().collect();
    let before: Vec<_> = nodes.iter().map(|node| node.baseline().unwrap()).collect();
    let mut written = write(hosts[0], &hosts, 0, 1).unwrap();
    let jobs: Vec<_> = nodes.iter().map(|node| note_starts(*node)).collect();
    for (node, job) in nodes.iter().zip(&jobs) {
        node.run(job).unwrap();
    }
    let leases = subnets(nodes[0]).unwrap();
    assert_eq!(leases.len(), 3, "{leases:?}");
    let own: Vec<_> = nodes.iter().map(|node| node.status().unwrap().network.unwrap().subnet).collect();
    for round in 1..=repeats().div_ceil(3) {
        cluster.kill_all().unwrap();
        if round % 2 == 1 {
            let last = u8::try_from(50 + 10 * round).unwrap();
            cluster.change_addresses(&[0, 1, 2].map(|host| Ipv4Addr::new(10, 99, 0, last + host))).unwrap();
        }
        let mut order = [0, 1, 2];
        order.shuffle(&mut random);
        let begin = Instant::now();
        cluster.start_in_order(&order).unwrap();
        let answering = begin.elapsed();
        formed(&cluster, 3, RECOVERY.saturating_sub(begin.elapsed())).unwrap();
        let led = begin.elapsed();
        assert_eq!(read(nodes[order[0]]).unwrap(), Some(written.clone()), "round {round}, order {order:?}");
        let next = written.value + 1;
        written = write(hosts[order[1]], &hosts, written.index, next).unwrap();
        networked(&cluster, RECOVERY.saturating_sub(begin.elapsed())).unwrap();
        for (node, subnet) in nodes.iter().zip(&own) {
            assert_eq!(node.status().unwrap().network.unwrap().subnet, *subnet, "round {round}");
        }
        for node in &nodes {
            wait_until(
                RECOVERY.saturating_sub(begin.elapsed()),
                "everybody sees the new document and the same leases",
                || {
                    let (document, seen) = (read(*node)?, subnets(*node).map_err(|err| err.to_string())?);
                    if document.as_ref() == Some(&written) && seen == leases {
                        Ok(())
                    } else {
                        Err(format!("{document:?} {seen:?}"))
                    }
                },
            )
            .unwrap();
        }
        for (node, job) in nodes.iter().zip(&jobs) {
            let (limit, volume) = (RECOVERY.saturating_sub(begin.elapsed()), &job.config.volumes[0].volume);
            wait_until(limit, "the job runs again with its volume", || resurrected(*node, volume, round + 1)).unwrap();
        }
        wait_until(RECOVERY.saturating_sub(begin.elapsed()), "containers' networks are joined", || {
            overlay_works(&cluster)
        })
        .unwrap();
        eprintln!(
            "round {round} {order:?}: APIs after {answering:.1?}, leader {led:.1?}, everything {:.1?}",
            begin.elapsed()
        );
    }
    for ((node, job), before) in nodes.iter().zip(&jobs).zip(&before) {
        let active = block_on(node.api().jobs(true)).unwrap();
        for id in active.keys() {
            node.stop(id).unwrap();
        }
        block_on(node.api().destroy_volume(&job.config.volumes[0].volume)).unwrap();
        node.wait_no_leaks(before).unwrap();
    }
    cluster.down().unwrap();
}

/// A single host is a cluster, too.
#[test]
fn one_host_comes_back_from_many_power_cuts() {
    let cluster = cluster(ClusterOptions::default()).unwrap();
    let node = Node::of(cluster.host(0));
    let job = note_starts(node);
    node.run(&job).unwrap();
    let mut written = write(node.host, &[], 0, 1).unwrap();
    let subnet = node.status().unwrap().network.unwrap().subnet;
    for round in 1..=repeats() {
        cluster.kill_all().unwrap();
        cluster.start_in_order(&[0]).unwrap();
        formed(&cluster, 1, RECOVERY).unwrap();
        networked(&cluster, RECOVERY).unwrap();
        assert_eq!(read(node).unwrap(), Some(written.clone()), "round {round}");
        assert_eq!(node.status().unwrap().network.unwrap().subnet, subnet, "round {round}");
        let (index, next) = (written.index, written.value + 1);
        written = write(node.host, &[], index, next).unwrap();
        let volume = &job.config.volumes[0].volume;
        wait_until(RECOVERY, "the job runs again with its volume", || resurrected(node, volume, round + 1)).unwrap();
    }
    cluster.down().unwrap();
}
