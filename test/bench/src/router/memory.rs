//! Memory of idle WebSockets.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use flynn_harness::wait_until;

use super::peers::{Peers, Proxy, connections};
use crate::table::Table;

/// WebSockets at once; fewer where the limit of open files is low.
const COUNT: usize = 10_000;
/// Goal of ours, in KB each.
const GOAL_KB: f64 = 10.0;

pub(crate) fn websockets(peers: &Peers, table: &mut Table) -> anyhow::Result<()> {
    let figures = peers.proxies.iter().map(each_kb).collect::<anyhow::Result<Vec<_>>>()?;
    let Some((ours, others)) = figures.split_last() else { return Ok(()) };
    table.bound("memory of an idle WebSocket (KB)", *ours, GOAL_KB);
    for (proxy, theirs) in peers.proxies.iter().zip(others) {
        let theirs = format!("{} {theirs:.2}", proxy.name);
        table.note("memory of an idle WebSocket (KB)", &format!("{ours:.2}"), &theirs);
    }
    Ok(())
}

/// What one more WebSocket costs a proxy.
fn each_kb(proxy: &Proxy) -> anyhow::Result<f64> {
    let count = COUNT.min(connections()?.saturating_sub(100));
    let before = resident_kb(proxy)?;
    let mut sockets = Vec::with_capacity(count);
    for number in 0..count {
        sockets.push(open(proxy.port()).with_context(|| format!("WebSocket {number} of {}", proxy.name))?);
    }
    // The last answers are on their way out: memory that goes away soon is not what an idle one costs.
    let mut last = resident_kb(proxy)?;
    wait_until(Duration::from_secs(20), "the memory is steady", || {
        let (now, before) = (resident_kb(proxy).map_err(|err| err.to_string())?, last);
        last = now;
        if (now - before).abs() < 100.0 { Ok(()) } else { Err(format!("{before} KB, then {now} KB")) }
    })?;
    for socket in sockets.iter_mut().step_by((count / 10).max(1)) {
        ping(socket)?;
    }
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    Ok((last - before) / count as f64)
}

fn open(port: u16) -> anyhow::Result<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let request = "GET /socket/ HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    stream.write_all(request.as_bytes())?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    ensure!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    Ok(stream)
}

/// A message there and back; the mask is of zeros.
fn ping(stream: &mut TcpStream) -> anyhow::Result<()> {
    stream.write_all(b"\x81\x84\0\0\0\0ping")?;
    let mut echo = [0; 6];
    stream.read_exact(&mut echo)?;
    ensure!(&echo == b"\x81\x04ping", "{echo:?} came back");
    Ok(())
}

pub(crate) fn resident_kb(proxy: &Proxy) -> anyhow::Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", proxy.process())).context("the proxy has ended")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no memory")?;
    line.trim().trim_end_matches(" kB").parse().context("read the memory of the proxy")
}
