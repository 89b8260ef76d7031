//! Clusters as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use flynn_harness::{Cluster, ClusterOptions, wait_until};
use flynn_types::id::HostId;

use crate::{Node, SETTLING, block_on};

/// Brings a cluster up and waits until it is one: everybody knows the same consensus leader, and has its network.
pub fn cluster(options: ClusterOptions) -> anyhow::Result<Cluster> {
    let voters = options.hosts.min(3);
    let cluster = Cluster::up(options)?;
    let ready = networked(&cluster, SETTLING).and_then(|()| formed(&cluster, voters, SETTLING));
    match ready {
        Ok(()) => Ok(cluster),
        Err(err) => Err(err.context(cluster.logs())),
    }
}

/// Waits until every running host has its network and discovery, and shows all of them as registered.
pub fn networked(cluster: &Cluster, limit: Duration) -> anyhow::Result<()> {
    for host in cluster.hosts().filter(|host| host.is_up()) {
        wait_until(limit, &format!("{} has its network", host.id()), || match Node::of(host).status() {
            Ok(status) if status.network.is_some() && status.discoverd.is_some() => Ok(()),
            Ok(status) => Err(format!("network {:?}, discoverd {:?}", status.network, status.discoverd)),
            Err(err) => Err(err.to_string()),
        })?;
    }
    let addresses = || cluster.hosts().filter(|host| host.is_up()).map(|host| format!("{}:1113", host.ip()));
    for host in cluster.hosts().filter(|host| host.is_up()) {
        wait_until(limit, &format!("{} knows all hosts", host.id()), || {
            let known = block_on(Node::of(host).discoverd().instances("flynn-host")).map_err(|err| err.to_string())?;
            let missing: Vec<_> = addresses().filter(|addr| known.iter().all(|known| known.addr != *addr)).collect();
            if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?} are missing")) }
        })?;
    }
    Ok(())
}

/// The consensus leader and members that a host knows.
fn consensus(node: Node<'_>) -> Result<(String, Vec<String>), String> {
    let client = node.discoverd().with_patience(Duration::ZERO);
    block_on(async {
        let leader = client.raft_leader().await.map_err(|err| format!("{}: leader: {err}", node.host.id()))?;
        let mut peers = client.raft_peers().await.map_err(|err| format!("{}: peers: {err}", node.host.id()))?;
        peers.sort();
        Ok((leader, peers))
    })
}

/// Address of the consensus leader that a host knows.
pub fn raft_leader(node: Node<'_>) -> Result<String, String> {
    consensus(node).map(|(leader, _)| leader)
}

/// The terms in which a node has led, after the daemons' logs.
pub fn elections(cluster: &Cluster) -> BTreeSet<u64> {
    let logs = cluster.hosts().map(|host| std::fs::read_to_string(host.dir().join("log/flynn-host.log")));
    let term = |line: &str| {
        let led = line.contains("msg=\"the cluster has a leader\"") && line.contains(" leads=true ");
        let term = line.split(" term=").nth(1)?.split_whitespace().next()?;
        if led { term.parse().ok() } else { None }
    };
    logs.flat_map(|log| log.unwrap_or_default().lines().filter_map(term).collect::<Vec<_>>()).collect()
}

/// Waits until every running host knows the same leader and so many members, all of them running.
pub fn formed(cluster: &Cluster, voters: usize, limit: Duration) -> anyhow::Result<()> {
    wait_until(limit, &format!("all hosts agree on a leader of {voters}"), || {
        let up: Vec<Node<'_>> = cluster.hosts().filter(|host| host.is_up()).map(Node::of).collect();
        let views = up.iter().map(|node| consensus(*node)).collect::<Result<Vec<_>, _>>()?;
        let running: Vec<String> = up.iter().map(|node| format!("{}:1111", node.host.ip())).collect();
        let same = views.windows(2).all(|pair| pair[0] == pair[1]);
        let well = views.iter().all(|(leader, peers)| {
            let is_running = |peer: &String| running.contains(&peer.trim_start_matches("http://").to_owned());
            peers.len() == voters && peers.iter().all(is_running) && is_running(leader)
        });
        if same && well { Ok(()) } else { Err(format!("{views:?}")) }
    })
}

/// Every host's subnet as the cluster's lease document has it.
pub fn subnets(node: Node<'_>) -> anyhow::Result<BTreeMap<HostId, String>> {
    let meta = block_on(node.discoverd().meta("flannel"))?;
    let text = meta.and_then(|meta| meta.data).map_or_else(|| "{}".to_owned(), |data| data.get().to_owned());
    let document: serde_json::Value = serde_json::from_str(&text)?;
    let subnets = document["subnets"].as_object().cloned().unwrap_or_default();
    let owned =
        subnets.into_iter().filter_map(|(subnet, entry)| Some((entry["HostID"].as_str()?.parse().ok()?, subnet)));
    Ok(owned.collect())
}
