//! A follower's heartbeats on their way to the leader, many in one message.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use crate::node::Node;
use crate::peer::{Beat, BeatOutcome, Reply, Request};

/// Heartbeats that wait; more are refused.
const QUEUE: usize = 8192;
const BATCH: usize = 1024;
/// How long the first one waits for company.
const GATHER: Duration = Duration::from_millis(20);
const TIMEOUT: Duration = Duration::from_secs(1);

/// A heartbeat and who waits for its outcome; dropped without one when the leader does not answer.
pub(crate) struct QueuedBeat {
    pub(crate) beat: Beat,
    pub(crate) outcome: oneshot::Sender<BeatOutcome>,
}

/// Gathers heartbeats.
#[derive(Debug)]
pub(crate) struct Batcher {
    queue: mpsc::Sender<QueuedBeat>,
}

impl Batcher {
    pub(crate) fn new() -> (Self, mpsc::Receiver<QueuedBeat>) {
        let (queue, receiver) = mpsc::channel(QUEUE);
        (Self { queue }, receiver)
    }

    /// `None` when the leader could not be asked.
    pub(crate) async fn beat(&self, beat: Beat) -> Option<BeatOutcome> {
        let (outcome, answer) = oneshot::channel();
        self.queue.try_send(QueuedBeat { beat, outcome }).ok()?;
        answer.await.ok()
    }

    /// Sends what was queued, until it is cancelled.
    pub(crate) async fn run(node: Arc<Node>, mut queue: mpsc::Receiver<QueuedBeat>) {
        let mut batch = Vec::new();
        while queue.recv_many(&mut batch, BATCH).await > 0 {
            if batch.len() < BATCH {
                tokio::time::sleep(GATHER).await;
                while batch.len() < BATCH
                    && let Ok(beat) = queue.try_recv()
                {
                    batch.push(beat);
                }
            }
            send(&node, std::mem::take(&mut batch)).await;
        }
    }
}

async fn send(node: &Node, batch: Vec<QueuedBeat>) {
    let (beats, waiting): (Vec<_>, Vec<_>) = batch.into_iter().map(|q| (q.beat, q.outcome)).unzip();
    let outcomes = match node.leader() {
        Some((id, _)) if node.is_self(id) => node.renew(&beats),
        Some((id, addr)) => match node.ask(id, addr, Request::Beats(beats), TIMEOUT).await {
            Ok(Reply::Beats(outcomes)) => outcomes,
            Ok(_) => return,
            Err(err) => {
                tracing::debug!(%err, "heartbeats did not reach the leader");
                return;
            }
        },
        None => return,
    };
    for (outcome, waiting) in outcomes.into_iter().zip(waiting) {
        let _ = waiting.send(outcome); // its client may have hung up
    }
}
