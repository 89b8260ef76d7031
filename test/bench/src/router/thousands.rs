//! One route and certificate beside ten thousand: speed, memory, and how soon a changed route is served.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use flynn_harness::wait_until;
use serde_json::{Value, json};

use super::load::{Load, Run};
use super::memory::resident_kb;
use super::peers::{Proxy, write_routes};
use super::{Peers, Results, SECONDS};
use crate::table::{Series, Table};

/// Routes of each router, each with a certificate of its own.
const ROUTES: [usize; 2] = [1, 10_000];
/// A router with many routes is to be as fast as one with one, but for so much.
const GOAL: f64 = 0.95;
const LOADS: [(&str, Load, bool); 2] =
    [("HTTP", Load::KeepAlive, false), ("new TLS connections", Load::NewConnections, true)];
const CHANGES: usize = 10;
const START: Duration = Duration::from_secs(120);

struct Site {
    proxy: Proxy,
    file: PathBuf,
    routes: Vec<Value>,
}

impl Site {
    fn start(peers: &Peers, count: usize) -> anyhow::Result<Self> {
        // The load asks for `localhost`, the last of all.
        let names = (1..count).map(|number| format!("{number}.example.com")).chain(["localhost".to_owned()]);
        let routes = names.map(|name| {
            let made = rcgen::generate_simple_self_signed([name.clone()])?;
            let certificate = json!({"cert": made.cert.pem(), "key": made.signing_key.serialize_pem()});
            anyhow::Ok(json!({"domain": name, "service": "files", "certificate": certificate}))
        });
        let routes = routes.collect::<anyhow::Result<Vec<_>>>()?;
        let file = peers.folder.join(format!("{count}.json"));
        write(&file, &routes, peers.backend)?;
        let proxy = Proxy::ours(&peers.folder, &file)?;
        let this = Self { proxy, file, routes };
        wait_until(START, "the routes are served", || this.status().map_err(|err| err.to_string()))?;
        Ok(this)
    }

    /// The head of an answer for the route of the load.
    fn status(&self) -> anyhow::Result<String> {
        let mut client = TcpStream::connect(("127.0.0.1", self.proxy.port()))?;
        client.write_all(b"GET /100 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        client.read_to_string(&mut answer)?;
        ensure!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        Ok(answer)
    }

    /// Milliseconds until the route of the load answers otherwise, from the moment that the file is written.
    fn changed(&mut self, peers: &Peers) -> anyhow::Result<Series> {
        let mut times = Series::default();
        for round in 0..CHANGES {
            let is_there = round % 2 == 1;
            let last = self.routes.last_mut().context("there are routes")?;
            last["service"] = json!(if is_there { "files" } else { "nobody" });
            write(&self.file, &self.routes, peers.backend)?;
            let begin = Instant::now();
            while self.status().is_ok() != is_there {
                ensure!(begin.elapsed() < START, "change {round} is not served");
            }
            times.push_ms(begin.elapsed());
        }
        Ok(times)
    }
}

fn write(file: &Path, routes: &[Value], backend: u16) -> anyhow::Result<()> {
    let services = json!({"files": {"instances": [format!("127.0.0.1:{backend}")]}});
    write_routes(file, &json!({"routes": routes, "services": services}))
}

pub(crate) fn measure(peers: &Peers, rounds: usize, table: &mut Table) -> anyhow::Result<()> {
    let mut sites = ROUTES.iter().map(|count| Site::start(peers, *count)).collect::<anyhow::Result<Vec<_>>>()?;
    let [one, many] = sites.as_mut_slice() else { return Ok(()) };
    let (small, large) = (resident_kb(&one.proxy)?, resident_kb(&many.proxy)?);
    for (name, load, tls) in LOADS {
        let mut results = [Results::default(), Results::default()];
        for _ in 0..rounds.min(5) {
            for (site, results) in [&*one, &*many].into_iter().zip(&mut results) {
                let run: Run = load.run(&site.proxy.local_url(tls), site.proxy.process(), SECONDS, &peers.folder)?;
                results.push(&run)?;
            }
        }
        let [one, many] = &results;
        let what = format!("{name} with 10,000 routes and certificates");
        table.compare_rate(&format!("{what}: requests per second"), &many.rate, "one route", &one.rate, Some(GOAL));
        let theirs = format!("one route {}", one.latencies());
        table.note(&format!("{what}: p50 / p99, CPU per request"), &many.latencies(), &theirs);
    }
    #[expect(clippy::cast_precision_loss, reason = "a small number")]
    let each = (large - small) / (ROUTES[1] - ROUTES[0]) as f64;
    table.note(
        "memory with 10,000 routes and certificates (MB)",
        &format!("{:.1}, {each:.2} KB each", large / 1024.0),
        &format!("one route {:.1}", small / 1024.0),
    );
    let (few, many) = (one.changed(peers)?, many.changed(peers)?);
    table.note(
        "a change among 10,000 routes and certificates of a file is served, median / worst (ms)",
        &format!("{:.1} / {:.1}", many.median(), many.quantile(1.0)),
        &format!("one route {:.1} / {:.1}", few.median(), few.quantile(1.0)),
    );
    Ok(())
}
