//! Load by wrk and h2load, as everybody can repeat it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::table::Series;

/// Connections at once.
const CONNECTIONS: &str = "64";
/// Streams at once on each HTTP/2 connection, of which there are fewer.
const HTTP2: [&str; 4] = ["-c", "16", "-m", "16"];

#[derive(Clone, Copy)]
pub(crate) enum Load {
    KeepAlive,
    /// A handshake and a connection for each request.
    NewConnections,
    Http2,
}

/// What a run measured.
pub(crate) struct Run {
    pub(crate) per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    /// Processor time of the proxy per request.
    pub(crate) cpu_us: f64,
    pub(crate) failed: u64,
}

impl Load {
    /// Loads an address for so many seconds, and looks at the processor time of `process`.
    pub(crate) fn run(self, url: &str, process: u32, seconds: u32, folder: &Path) -> anyhow::Result<Run> {
        let before = cpu_seconds(process)?;
        let (mut run, count) = match self {
            Self::KeepAlive => wrk(url, seconds, &[])?,
            Self::NewConnections => wrk(url, seconds, &["-H", "Connection: close"])?,
            Self::Http2 => h2load(url, seconds, folder)?,
        };
        run.cpu_us = (cpu_seconds(process)? - before) * 1e6 / count;
        Ok(run)
    }
}

fn output(command: &mut Command) -> anyhow::Result<String> {
    let output = command.output().with_context(|| format!("run {:?}", command.get_program()))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{:?}: {text}{}", command.get_program(), String::from_utf8_lossy(&output.stderr));
    Ok(text)
}

fn wrk(url: &str, seconds: u32, more: &[&str]) -> anyhow::Result<(Run, f64)> {
    let text = output(
        Command::new("wrk")
            .args(["-t1", "-c", CONNECTIONS, "--latency", "-d", &format!("{seconds}s")])
            .args(more)
            .arg(url),
    )?;
    parse_wrk(&text).with_context(|| format!("wrk says something unknown: {text}"))
}

fn parse_wrk(text: &str) -> Option<(Run, f64)> {
    let words = |what: &str| text.lines().find(|line| line.trim_start().starts_with(what)).map(str::split_whitespace);
    let count: f64 =
        text.lines().find(|line| line.contains(" requests in "))?.split_whitespace().next()?.parse().ok()?;
    let per_second = words("Requests/sec:")?.nth(1)?.parse().ok()?;
    let percentile = |what: &str| milliseconds(words(what)?.nth(1)?);
    let non_2xx = words("Non-2xx").and_then(|mut words| words.next_back()?.parse().ok()).unwrap_or(0);
    // "Socket errors: connect 0, read 0, write 0, timeout 0"; there only when there are some.
    let broken = words("Socket errors:")
        .map_or(0, |words| words.filter_map(|word| word.trim_end_matches(',').parse::<u64>().ok()).sum());
    let run = Run {
        per_second,
        p50_ms: percentile("50%")?,
        p99_ms: percentile("99%")?,
        cpu_us: 0.0,
        failed: non_2xx + broken,
    };
    Some((run, count))
}

/// `1.23ms`, `45.00us`, `1.10s`
fn milliseconds(text: &str) -> Option<f64> {
    for (unit, factor) in [("us", 0.001), ("ms", 1.0), ("s", 1000.0)] {
        if let Some(number) = text.strip_suffix(unit).and_then(|number| number.parse::<f64>().ok()) {
            return Some(number * factor);
        }
    }
    None
}

fn h2load(url: &str, seconds: u32, folder: &Path) -> anyhow::Result<(Run, f64)> {
    let times = folder.join("h2load");
    let _ = std::fs::remove_file(&times); // h2load appends
    let text = output(
        Command::new("h2load")
            .args(["-t1", "--warm-up-time", "0", "-D", &seconds.to_string(), "--log-file"])
            .arg(&times)
            .args(HTTP2)
            .arg(url),
    )?;
    let failed = parse_h2load(&text).with_context(|| format!("h2load says something unknown: {text}"))?;
    // Lines of when, status and microseconds.
    let mut series = Series::default();
    let (mut count, mut wrong) = (0.0, 0);
    for line in std::fs::read_to_string(&times).context("read the times of h2load")?.lines() {
        let mut words = line.split_whitespace().skip(1);
        wrong += u64::from(words.next() != Some("200"));
        series.push(words.next().and_then(|word| word.parse::<f64>().ok()).context("a line of h2load")? / 1000.0);
        count += 1.0;
    }
    let (p50_ms, p99_ms) = (series.quantile(0.5), series.quantile(0.99));
    Ok((Run { per_second: count / f64::from(seconds), p50_ms, p99_ms, cpu_us: 0.0, failed: failed + wrong }, count))
}

/// Failed and errored requests, of `requests: 9 total, 9 started, 9 done, 9 succeeded, 0 failed, 0 errored, 0 timeout`.
fn parse_h2load(text: &str) -> Option<u64> {
    let line = text.lines().find(|line| line.starts_with("requests:"))?;
    let number = |what: &str| {
        let part = line.split(&[',', ':']).find(|part| part.trim().ends_with(what))?;
        part.split_whitespace().next()?.parse::<u64>().ok()
    };
    Some(number("failed")? + number("errored")? + number("timeout")?)
}

/// User and system time of a process so far.
fn cpu_seconds(process: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).context("the proxy has ended")?;
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|field| field.parse::<f64>().ok());
    // proc(5): fields 14 and 15, in hundredths of a second on every Linux.
    ticks(11).zip(ticks(12)).map(|(user, system)| (user + system) / 100.0).context("read processor times")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wrk_prints_is_understood() {
        let text = "Running 5s test @ http://x\n  1 threads and 64 connections\n  Thread Stats   Avg      Stdev     Max   +/- Stdev\n\
            \x20   Latency     1.20ms  100.00us   9.00ms   52.50%\n  Latency Distribution\n     50%    1.10ms\n     75%    1.30ms\n\
            \x20    90%    2.00ms\n     99%    8.50ms\n  1000 requests in 5.00s, 1.00MB read\n\
            \x20 Socket errors: connect 1, read 2, write 0, timeout 4\n  Non-2xx or 3xx responses: 5\nRequests/sec:  200.00\n";
        let (run, count) = parse_wrk(text).unwrap();
        assert_eq!((run.per_second, run.p50_ms, run.p99_ms, run.failed, count), (200.0, 1.1, 8.5, 12, 1000.0));
        assert_eq!([milliseconds("45.00us"), milliseconds("1.10s")], [Some(0.045), Some(1100.0)]);
        let text = "requests: 9 total, 9 started, 9 done, 5 succeeded, 3 failed, 1 errored, 0 timeout\n";
        assert_eq!(parse_h2load(text), Some(4));
    }
}
