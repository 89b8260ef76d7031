//! Who attaches before a job starts waits here, and the job waits for them: so they miss no output.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use flynn_types::id::JobId;
use tokio::sync::{mpsc, oneshot};

/// How long a job waits for those who want to attach before it starts without them.
const PATIENCE: Duration = Duration::from_secs(5);

/// Held by an attacher while it attaches; the job starts when all are dropped.
#[derive(Debug)]
pub(crate) struct Turn(#[expect(dead_code, reason = "held to be dropped")] mpsc::Sender<()>);

#[derive(Default)]
pub(crate) struct Gate {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    waiting: BTreeMap<JobId, Vec<oneshot::Sender<Turn>>>,
    /// Jobs that are past their gate.
    open: BTreeSet<JobId>,
}

impl Gate {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the job's gate; `None` when it is open already. The receiver fails when the job failed before.
    pub(crate) fn wait(&self, id: &JobId) -> Option<oneshot::Receiver<Turn>> {
        let mut inner = self.lock();
        if inner.open.contains(id) {
            return None;
        }
        let (sender, receiver) = oneshot::channel();
        let waiting = inner.waiting.entry(id.clone()).or_default();
        waiting.retain(|sender| !sender.is_closed());
        waiting.push(sender);
        Some(receiver)
    }

    /// Lets everybody in who waits, and returns when they are attached.
    pub(crate) async fn open(&self, id: &JobId) {
        let (turn, mut done) = mpsc::channel(1);
        {
            let mut inner = self.lock();
            inner.open.insert(id.clone());
            for waiting in inner.waiting.remove(id).unwrap_or_default() {
                let _ = waiting.send(Turn(turn.clone())); // who gave up needs no turn
            }
        }
        drop(turn);
        if tokio::time::timeout(PATIENCE, done.recv()).await.is_err() {
            tracing::warn!(job_id = %id, "a client that wanted to attach is too slow, starting the job without it");
        }
    }

    /// The job ended: who waits learns it, and the gate is forgotten.
    pub(crate) fn close(&self, id: &JobId) {
        let mut inner = self.lock();
        inner.open.remove(id);
        inner.waiting.remove(id);
    }

    /// Clients that gave up are forgotten.
    pub(crate) fn sweep(&self, id: &JobId) {
        let mut inner = self.lock();
        if let Some(waiting) = inner.waiting.get_mut(id) {
            waiting.retain(|sender| !sender.is_closed());
            if waiting.is_empty() {
                inner.waiting.remove(id);
            }
        }
    }

    #[cfg(test)]
    fn waiting(&self) -> usize {
        self.lock().waiting.values().map(Vec::len).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> JobId {
        "h-1".parse().unwrap()
    }

    #[tokio::test]
    async fn the_job_waits_until_everybody_is_attached() {
        let gate = std::sync::Arc::new(Gate::default());
        let receiver = gate.wait(&id()).unwrap();
        let opening = tokio::spawn({
            let gate = gate.clone();
            async move { gate.open(&id()).await }
        });
        let turn = receiver.await.unwrap();
        assert!(!opening.is_finished());
        drop(turn);
        opening.await.unwrap();
        assert!(gate.wait(&id()).is_none(), "later ones attach at once");
    }

    #[tokio::test]
    async fn who_gives_up_holds_nobody_and_leaves_nothing() {
        let gate = Gate::default();
        drop(gate.wait(&id()));
        gate.sweep(&id());
        assert_eq!(gate.waiting(), 0);
        drop(gate.wait(&id()));
        gate.open(&id()).await;
    }

    #[tokio::test]
    async fn a_job_that_fails_tells_those_who_wait() {
        let gate = Gate::default();
        let receiver = gate.wait(&id()).unwrap();
        gate.close(&id());
        assert!(receiver.await.is_err());
    }
}
