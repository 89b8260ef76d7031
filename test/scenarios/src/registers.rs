//! Registers: documents that several clients write with compare-and-set while the cluster is being broken, with the
//! history of all writes and its checker.
//!
//! A register is the metadata of a service. Every write names the index that it replaces and holds a value of its own, so
//! the acknowledged writes of a register form one chain. A write without a clear answer may or may not have happened.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use flynn_discoverd_client::{Client, Document, Revision};
use flynn_harness::Host;
use flynn_types::discoverd::ServiceConfig;

/// Longest that one request of a writer may take.
const REQUEST: Duration = Duration::from_secs(1);
const PAUSE: Duration = Duration::from_millis(20);

/// What became of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged, with its new index.
    Written(u64),
    /// Certainly not applied.
    Refused,
    Unknown,
}

/// One write of one client.
#[derive(Clone, Debug)]
pub struct Write {
    pub client: String,
    pub register: String,
    /// The index that it replaces.
    pub expected: u64,
    /// Unique in the history.
    pub value: u64,
    pub begin: Instant,
    pub end: Instant,
    pub outcome: Outcome,
}

/// All writes so far.
#[derive(Debug, Default)]
pub struct History {
    writes: Mutex<Vec<Write>>,
    values: AtomicU64,
}

/// Names of the registers.
pub fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("register-{number}")).collect()
}

/// A client as it runs on a host: the host's own discoverd first, then those of all others.
pub fn client_on(host: Host<'_>, all: &[Host<'_>]) -> Client {
    let mut servers = vec![format!("http://{}:1111", host.ip())];
    servers.extend(all.iter().map(|other| format!("http://{}:1111", other.ip())));
    servers.dedup();
    let client = Client::from_list(&servers.join(",")).expect("addresses of hosts make URLs");
    client.with_request_timeout(REQUEST).with_patience(Duration::ZERO)
}

impl History {
    fn writes(&self) -> MutexGuard<'_, Vec<Write>> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes registers from inside a host, one after the other, until told to stop.
    pub fn write_from(
        &self,
        host: Host<'_>,
        all: &[Host<'_>],
        registers: &[String],
        stop: &AtomicBool,
    ) -> anyhow::Result<()> {
        let (client, id) = (client_on(host, all), host.id());
        host.in_network(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                for register in registers {
                    // Exists already, or will be made by another writer.
                    let _ = client.add_service(register, &ServiceConfig::default()).await;
                }
                for register in registers.iter().cycle().take_while(|_| !stop.load(Ordering::Relaxed)) {
                    let document = client.document(register);
                    if let Ok(before) = document.read().await {
                        let expected = before.map_or(0, |revision: Revision<u64>| revision.index);
                        self.write(&id, register, &document, expected).await;
                    }
                    tokio::time::sleep(PAUSE).await;
                }
            });
            Ok(())
        })?
    }

    /// One write, recorded.
    async fn write(&self, client: &str, register: &str, document: &Document<u64>, expected: u64) {
        let value = self.values.fetch_add(1, Ordering::Relaxed) + 1;
        let begin = Instant::now();
        let outcome = match document.compare_and_set(expected, value).await {
            Ok(revision) => Outcome::Written(revision.index),
            Err(err) if err.is_conflict() || err.is_not_found() => Outcome::Refused,
            Err(_) => Outcome::Unknown,
        };
        let (client, register) = (client.to_owned(), register.to_owned());
        self.writes().push(Write { client, register, expected, value, begin, end: Instant::now(), outcome });
    }

    /// How many writes were acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.writes().iter().filter(|write| matches!(write.outcome, Outcome::Written(_))).count()
    }

    /// When the first write that began after `since` was acknowledged.
    pub fn first_after(&self, since: Instant) -> Option<Duration> {
        let writes = self.writes();
        let acknowledged = writes.iter().filter(|write| matches!(write.outcome, Outcome::Written(_)));
        acknowledged.filter(|write| write.begin >= since).map(|write| write.end.duration_since(since)).min()
    }

    /// Longest time without an acknowledgement.
    pub fn longest_gap(&self) -> Duration {
        let writes = self.writes();
        let mut ends: Vec<Instant> =
            writes.iter().filter(|write| matches!(write.outcome, Outcome::Written(_))).map(|write| write.end).collect();
        ends.sort();
        ends.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// Everything that is wrong with the history, given the registers as they are after all writers ended.
    pub fn violations(&self, at_last: &BTreeMap<String, Revision<u64>>) -> Vec<String> {
        let writes = self.writes();
        let mut by_register: BTreeMap<&str, Vec<&Write>> = BTreeMap::new();
        for write in writes.iter() {
            by_register.entry(&write.register).or_default().push(write);
        }
        by_register.into_iter().flat_map(|(name, writes)| check(&writes, at_last.get(name))).collect()
    }
}

/// Checks one register.
fn check(writes: &[&Write], at_last: Option<&Revision<u64>>) -> Vec<String> {
    let mut wrong = Vec::new();
    let index = |write: &Write| match write.outcome {
        Outcome::Written(index) => Some(index),
        Outcome::Refused | Outcome::Unknown => None,
    };
    let mut chain: Vec<(u64, &Write)> = writes.iter().filter_map(|write| Some((index(write)?, *write))).collect();
    chain.sort_by_key(|(index, _)| *index);
    for pair in chain.windows(2) {
        let [(before, earlier), (after, later)] = pair else { continue };
        if earlier.expected == later.expected {
            wrong.push(format!("two writes replaced index {}: {earlier:?} and {later:?}", later.expected));
        } else if later.expected < *before {
            wrong.push(format!("an acknowledged write was overwritten unseen: {earlier:?} by {later:?}"));
        } else if later.expected > *before
            && !writes.iter().any(|between| between.outcome == Outcome::Unknown && between.expected >= *before)
        {
            wrong.push(format!("a write replaced index {} that nobody wrote: {later:?}", later.expected));
        }
        if before == after {
            wrong.push(format!("two writes have one index: {earlier:?} and {later:?}"));
        }
        if later.end < earlier.begin {
            wrong.push(format!("a write ended before one began that precedes it: {earlier:?} and {later:?}"));
        }
    }
    match (chain.last(), at_last) {
        (None, _) => {}
        (Some((_, last)), None) => wrong.push(format!("the register is gone, its last write was {last:?}")),
        (Some((index, last)), Some(found)) => {
            let is_last = (found.index, found.value) == (*index, last.value);
            let by_unknown = found.index > *index
                && writes.iter().any(|write| {
                    write.outcome == Outcome::Unknown && write.value == found.value && write.expected >= *index
                });
            if !is_last && !by_unknown {
                wrong.push(format!("the register holds {found:?}, its last acknowledged write was {last:?}"));
            }
        }
    }
    if let Some(found) = at_last
        && let Some(ghost) = writes.iter().find(|write| write.value == found.value && write.outcome == Outcome::Refused)
    {
        wrong.push(format!("a refused write was applied: {ghost:?}"));
    }
    wrong
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(expected: u64, value: u64, outcome: Outcome) -> Write {
        let now = Instant::now();
        Write { client: "a".into(), register: "r".into(), expected, value, begin: now, end: now, outcome }
    }

    #[test]
    fn a_chain_is_right_and_every_break_of_it_is_found() {
        use Outcome::{Refused, Unknown, Written};
        let found = |writes: &[Write], index, value| {
            check(&writes.iter().collect::<Vec<_>>(), Some(&Revision { index, value })).len()
        };
        let chain = [write(0, 1, Written(5)), write(5, 2, Written(7)), write(5, 3, Refused)];
        assert_eq!(found(&chain, 7, 2), 0);
        assert_eq!(found(&chain, 5, 1), 1, "the last write is lost");
        assert_eq!(found(&chain, 9, 3), 2, "a refused write was applied");
        let unknown = [write(0, 1, Written(5)), write(5, 2, Unknown), write(6, 3, Written(8))];
        assert_eq!(found(&unknown, 8, 3), 0, "what was unknown had happened");
        assert_eq!(found(&unknown[..2], 6, 2), 0);
        assert_eq!(found(&unknown[..2], 5, 1), 0, "what was unknown had not happened");
        let twice = [write(0, 1, Written(5)), write(0, 2, Written(6))];
        assert_eq!(found(&twice, 6, 2), 1, "two writes replaced the same index");
        let unseen = [write(0, 1, Written(5)), write(5, 2, Written(7)), write(6, 3, Written(8))];
        assert_eq!(found(&unseen, 8, 3), 1, "an acknowledged write was overwritten unseen");
        let nobody = [write(0, 1, Written(5)), write(6, 3, Written(8))];
        assert_eq!(found(&nobody, 8, 3), 1, "an index that nobody wrote");
        assert_eq!(check(&chain.iter().collect::<Vec<_>>(), None).len(), 1, "the register is gone");
    }
}
