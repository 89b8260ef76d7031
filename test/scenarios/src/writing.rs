//! Clients that write while things break.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use flynn_discoverd_client::Revision;
use flynn_harness::{Cluster, wait_until};

use crate::registers::{History, names};
use crate::{Node, SETTLING, block_on, formed};

const REGISTERS: usize = 4;

/// Lets a client on every host write while `faults` breaks things, heals, and checks the history.
pub fn writing(cluster: &Cluster, faults: impl FnOnce(&History)) -> History {
    let (history, stop, registers) = (History::default(), AtomicBool::new(false), names(REGISTERS));
    let all: Vec<_> = cluster.hosts().collect();
    thread::scope(|scope| {
        let writers: Vec<_> =
            all.iter().map(|host| scope.spawn(|| history.write_from(*host, &all, &registers, &stop))).collect();
        let begun = wait_until(SETTLING, "writes are acknowledged", || match history.acknowledged() {
            0 => Err(0),
            _ => Ok(()),
        });
        // Writers end also when the faults' assertions fail.
        let broken = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            begun.unwrap();
            faults(&history);
        }));
        cluster.heal().unwrap();
        stop.store(true, Ordering::Relaxed);
        for writer in writers {
            writer.join().unwrap().unwrap();
        }
        if let Err(panic) = broken {
            std::panic::resume_unwind(panic);
        }
    });
    formed(cluster, 3, SETTLING).unwrap();
    let read = |node: Node<'_>| -> Result<BTreeMap<String, Revision<u64>>, String> {
        let read = |name: &String| Ok(Some((name.clone(), block_on(node.discoverd().document(name).read())?)));
        let found: Result<Vec<_>, flynn_discoverd_client::DiscoverdError> =
            registers.iter().filter_map(|name| read(name).transpose()).collect();
        let found = found.map_err(|err| err.to_string())?;
        Ok(found.into_iter().filter_map(|(name, revision)| Some((name, revision?))).collect())
    };
    let at_last = wait_until(SETTLING, "all hosts show the same registers", || {
        let views = all.iter().map(|host| read(Node::of(*host))).collect::<Result<Vec<_>, _>>()?;
        if views.windows(2).all(|pair| pair[0] == pair[1]) { Ok(views[0].clone()) } else { Err(format!("{views:?}")) }
    })
    .unwrap();
    let wrong = history.violations(&at_last);
    assert!(wrong.is_empty(), "{} violations, first: {:#?}", wrong.len(), &wrong[..wrong.len().min(3)]);
    history
}
