//! How soon a changed route is served, and what changes cost requests.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use flynn_harness::wait_until;

use super::SECONDS;
use super::load::Load;
use super::peers::{Peers, free_port, prepare, router, write_routes};
use crate::table::{Series, Table};

/// Routes beside the one that changes.
const ROUTES: [usize; 2] = [10, 10_000];
const CHANGES: usize = 40;
/// A change is to be served within so many milliseconds.
const GOAL_MS: f64 = 50.0;
/// Pause between changes under load.
const PAUSE: Duration = Duration::from_millis(100);

/// Changes a route again and again, and asks until the answer is the new one.
pub(crate) fn visible(table: &mut Table) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    prepare(folder.path())?;
    let backends = [answering("one")?, answering("two")?];
    for count in ROUTES {
        let file = folder.path().join("routes.json");
        let routes = |round: usize| {
            let mut routes: Vec<_> = others(count);
            routes.push(serde_json::json!({"domain": "changing.example.com", "service": format!("s{}", round % 2)}));
            let services = serde_json::json!({
                "s0": {"instances": [format!("127.0.0.1:{}", backends[0])]},
                "s1": {"instances": [format!("127.0.0.1:{}", backends[1])]},
            });
            serde_json::json!({"routes": routes, "services": services})
        };
        write_routes(&file, &routes(0))?;
        let (http, https) = (free_port()?, free_port()?);
        let _router = router(folder.path(), &file, http, https)?;
        let mut client =
            wait_until(Duration::from_secs(20), "the router listens", || TcpStream::connect(("127.0.0.1", http)))?;
        let mut times = Series::default();
        for round in 1..=CHANGES {
            write_routes(&file, &routes(round))?;
            let (begin, wanted) = (Instant::now(), ["one", "two"][round % 2]);
            while ask(&mut client)? != wanted {
                ensure!(begin.elapsed() < Duration::from_secs(20), "change {round} is not served");
            }
            times.push_ms(begin.elapsed());
        }
        table.bound(&format!("a change among {count} routes is served, worst (ms)"), times.quantile(1.0), GOAL_MS);
        table.note(
            &format!("a change among {count} routes is served, median (ms)"),
            &format!("{:.1}", times.median()),
            "-",
        );
    }
    Ok(())
}

/// Load on one route while others change ten times per second.
pub(crate) fn under_load(peers: &Peers, table: &mut Table) -> anyhow::Result<()> {
    let proxy = peers.proxies.last().context("ours is the last")?;
    let url = proxy.url(false, "/100");
    let run = || Load::KeepAlive.run(&url, proxy.process(), SECONDS, &peers.folder);
    peers.change_routes(&others(1000))?;
    let quiet = run()?;
    let stop = AtomicBool::new(false);
    let busy = std::thread::scope(|scope| {
        let changing = scope.spawn(|| {
            let mut round = 0;
            while !stop.load(Ordering::Relaxed) {
                round += 1;
                peers.change_routes(&others(1000 + round % 2))?;
                std::thread::sleep(PAUSE);
            }
            anyhow::Ok(())
        });
        let busy = run();
        stop.store(true, Ordering::Relaxed);
        changing.join().map_err(|_| anyhow::anyhow!("the changes panicked"))??;
        busy
    })?;
    ensure!(quiet.failed + busy.failed == 0, "{} requests failed", quiet.failed + busy.failed);
    let figures = |run: &super::Run| format!("{:.0}/s, {:.2} / {:.2} ms", run.per_second, run.p50_ms, run.p99_ms);
    let what = "1,000 routes, 10 changes per second: rate, p50 / p99";
    table.note(what, &figures(&busy), &format!("without changes {}", figures(&quiet)));
    Ok(())
}

fn others(count: usize) -> Vec<serde_json::Value> {
    (0..count).map(|number| serde_json::json!({"domain": format!("{number}.example.com"), "service": "s0"})).collect()
}

/// A backend that says the same to everybody. It ends with this program.
fn answering(text: &'static str) -> anyhow::Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut head = [0; 4096];
                // Requests of this client come one after another, each in one piece.
                while stream.read(&mut head).is_ok_and(|count| count > 0) {
                    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
                    if stream.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    Ok(port)
}

fn ask(client: &mut TcpStream) -> anyhow::Result<String> {
    client.write_all(b"GET / HTTP/1.1\r\nHost: changing.example.com\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    loop {
        let count = client.read(&mut piece)?;
        ensure!(count > 0, "the router ended the connection");
        answer.extend_from_slice(&piece[..count]);
        // Each answer has three letters.
        if let Some(end) = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n")
            && answer.len() == end + 7
        {
            return Ok(String::from_utf8_lossy(&answer[end + 4..]).into_owned());
        }
    }
}
