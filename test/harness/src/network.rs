//! Addresses, the bridge between the hosts, and who hears whom.
//!
//! In the hub's namespace each host has a port `h<index>` on the bridge `lan`, and the nftables set `cut` holds the pairs
//! (from port, to port) whose frames are dropped: a partition is one set update, and can be in one direction only.

use std::io::Write as _;
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};

use anyhow::Context as _;

use crate::process::ProcessId;

/// Address of host 0; the next have the following ones. The hub is the first address of the network.
pub(crate) fn default_address(index: usize) -> anyhow::Result<Ipv4Addr> {
    let last = u8::try_from(index + 11).ok().filter(|last| *last < 255).context("a cluster has at most 243 hosts")?;
    Ok(Ipv4Addr::new(10, 99, 0, last))
}

const HUB: &str = "10.99.0.1/24";

/// Runs a program in the network namespace of a process, feeding it `input`.
fn run_in(namespace: ProcessId, program: &[&str], input: &str) -> anyhow::Result<()> {
    let mut child = Command::new("nsenter")
        .arg(format!("--net={}", namespace.proc("ns/net").display()))
        .args(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("run nsenter")?;
    child.stdin.take().context("nsenter has an input")?.write_all(input.as_bytes()).context("write to nsenter")?;
    let output = child.wait_with_output().context("wait for nsenter")?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{} with {input:?}: {}", program.join(" "), said.trim());
    Ok(())
}

fn ip(namespace: ProcessId, commands: &str) -> anyhow::Result<()> {
    run_in(namespace, &["ip", "-batch", "-"], commands)
}

fn nft(hub: ProcessId, commands: &str) -> anyhow::Result<()> {
    run_in(hub, &["nft", "-f", "-"], commands)
}

fn port(index: usize) -> String {
    format!("h{index}")
}

/// Makes the bridge.
pub(crate) fn set_up_hub(hub: ProcessId) -> anyhow::Result<()> {
    ip(hub, &format!("link set lo up\nlink add lan type bridge\naddr add {HUB} dev lan\nlink set lan up\n"))?;
    nft(
        hub,
        "table bridge partitions {
            set cut { type ifname . ifname; }
            chain forward { type filter hook forward priority 0; policy accept; iifname . oifname @cut drop; }
        }",
    )
    .context("this kernel lacks nftables for bridges")
}

/// Plugs a host in, as `eth0`.
pub(crate) fn plug(hub: ProcessId, index: usize, host: ProcessId, address: Ipv4Addr) -> anyhow::Result<()> {
    let port = port(index);
    // The port of a host that was killed goes some time after its namespace; there may be none.
    let _ = ip(hub, &format!("link del {port}\n"));
    ip(
        hub,
        &format!(
            "link add {port} type veth peer name eth0 netns {}\nlink set {port} master lan\nlink set {port} up\n",
            host.pid
        ),
    )
    .context("connect the host to the bridge")?;
    ip(
        host,
        &format!(
            "link set lo up\naddr add {address}/24 brd + dev eth0\nlink set eth0 up\nroute add default via 10.99.0.1\n"
        ),
    )
    .context("configure the host's network")
}

pub(crate) fn unplug(hub: ProcessId, index: usize) {
    // Fails when the kernel was faster.
    let _ = ip(hub, &format!("link del {}\n", port(index)));
}

/// Gives a running host another address.
pub(crate) fn readdress(host: ProcessId, from: Ipv4Addr, to: Ipv4Addr) -> anyhow::Result<()> {
    let commands =
        format!("addr add {to}/24 brd + dev eth0\naddr del {from}/24 dev eth0\nroute replace default via 10.99.0.1\n");
    ip(host, &commands).context("change the host's address")
}

/// Drops what goes from one host to another, for all these pairs.
pub(crate) fn cut(hub: ProcessId, pairs: &[(usize, usize)]) -> anyhow::Result<()> {
    elements(hub, "add", pairs)
}

/// Lets everything through again between these pairs.
pub(crate) fn heal(hub: ProcessId, pairs: &[(usize, usize)]) -> anyhow::Result<()> {
    // An element that is not in the set cannot be deleted, but can be added first.
    elements(hub, "add", pairs)?;
    elements(hub, "delete", pairs)
}

/// Lets everything through again.
pub(crate) fn heal_all(hub: ProcessId) -> anyhow::Result<()> {
    nft(hub, "flush set bridge partitions cut\n")
}

fn elements(hub: ProcessId, verb: &str, pairs: &[(usize, usize)]) -> anyhow::Result<()> {
    if pairs.is_empty() {
        return Ok(());
    }
    let pairs: Vec<_> = pairs.iter().map(|(from, to)| format!("{} . {}", port(*from), port(*to))).collect();
    nft(hub, &format!("{verb} element bridge partitions cut {{ {} }}\n", pairs.join(", ")))
}
