//! The router beside nginx and HAProxy from Debian: one worker each, the same headers, the same backend, in turns.
//!
//! Every case prints requests per second, the 50th and 99th percentile and processor time per request. Goals are the
//! router's own; HAProxy is shown for comparison.

mod changes;
mod load;
mod memory;
mod peers;
mod thousands;

use anyhow::ensure;
use load::{Load, Run};
use peers::{Peers, Proxy};

use crate::table::{Series, Table};

/// Seconds of each run.
const SECONDS: u32 = 4;

/// A case, its load, what of the proxy it goes to, and how many times nginx's rate is the goal.
const CASES: [(&str, Load, Target, Option<f64>); 6] = [
    ("HTTP, 100 B", Load::KeepAlive, Target { tls: false, path: "/100" }, Some(1.0)),
    ("HTTP, 10 KB", Load::KeepAlive, Target { tls: false, path: "/10k" }, Some(1.0)),
    ("HTTPS, 100 B", Load::KeepAlive, Target { tls: true, path: "/100" }, Some(0.95)),
    ("new TLS connections", Load::NewConnections, Target { tls: true, path: "/100" }, Some(0.9)),
    ("HTTP/2, 100 B", Load::Http2, Target { tls: true, path: "/100" }, None),
    ("HTTP/2, 10 KB", Load::Http2, Target { tls: true, path: "/10k" }, None),
];

struct Target {
    tls: bool,
    path: &'static str,
}

pub(crate) fn measure(rounds: usize, table: &mut Table) -> anyhow::Result<()> {
    let peers = Peers::start()?;
    // First: memory that a load has left behind would hide what a connection costs.
    memory::websockets(&peers, table)?;
    for (name, load, target, goal) in &CASES {
        let mut results: Vec<Results> = peers.proxies.iter().map(|_| Results::default()).collect();
        for _ in 0..rounds.min(5) {
            for (proxy, results) in peers.proxies.iter().zip(&mut results) {
                let url = proxy.url(target.tls, target.path);
                results.push(&load.run(&url, proxy.process(), SECONDS, &peers.folder)?)?;
            }
        }
        tell(table, name, &peers.proxies, &results, *goal);
    }
    changes::visible(table)?;
    changes::under_load(&peers, table)?;
    thousands::measure(&peers, rounds, table)
}

#[derive(Default)]
struct Results {
    rate: Series,
    p50: Series,
    p99: Series,
    cpu: Series,
}

impl Results {
    fn push(&mut self, run: &Run) -> anyhow::Result<()> {
        ensure!(run.failed == 0, "{} requests failed", run.failed);
        self.rate.push(run.per_second);
        self.p50.push(run.p50_ms);
        self.p99.push(run.p99_ms);
        self.cpu.push(run.cpu_us);
        Ok(())
    }

    fn latencies(&self) -> String {
        format!("{:.2} / {:.2} ms, {:.1} µs", self.p50.median(), self.p99.median(), self.cpu.median())
    }
}

/// Ours is the last proxy.
fn tell(table: &mut Table, name: &str, proxies: &[Proxy], results: &[Results], goal: Option<f64>) {
    let Some((ours, others)) = results.split_last() else { return };
    for (proxy, theirs) in proxies.iter().zip(others) {
        let goal = goal.filter(|_| proxy.name == "nginx");
        table.compare_rate(&format!("{name}: requests per second"), &ours.rate, proxy.name, &theirs.rate, goal);
        let theirs = format!("{} {}", proxy.name, theirs.latencies());
        table.note(&format!("{name}: p50 / p99, CPU per request"), &ours.latencies(), &theirs);
    }
}
