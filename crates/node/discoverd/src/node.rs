//! One node: its parts, its status, and the way of reads and writes to the leader.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use flynn_types::discoverd::Instance;
use flynn_types::error::ApiError;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Roster, answer_announce};
use crate::config::Config;
use crate::consensus::{Consensus, ConsensusView, Member, WriteError};
use crate::liveness::{Batcher, Leases};
use crate::peer::{Beat, BeatOutcome, CallError, Contacts, Envelope, Message, Reply, Request, Transport, WriteReply};
use crate::registry::{Applied, Command, Reply as Outcome};
use crate::replica::Replica;

/// A write is passed on to the leader with this limit, below the 5 s that clients wait.
const FORWARD_TIMEOUT: Duration = Duration::from_millis(4500);
/// After a write through the leader, the own replica gets so long to see it.
const ECHO: Duration = Duration::from_secs(1);
/// What another node said about the leader is believed for so long.
const HEARSAY: Duration = Duration::from_secs(3);
/// A leader that has not answered for so long is asked through another node.
const SILENT: Duration = Duration::from_secs(2);
/// How often the status is looked at when nothing seems to change.
const GLANCE: Duration = Duration::from_millis(50);

pub(crate) struct Node {
    pub(crate) config: Config,
    pub(crate) replica: Arc<Replica>,
    pub(crate) contacts: Arc<Contacts>,
    pub(crate) transport: Transport,
    pub(crate) roster: Roster,
    pub(crate) batcher: Batcher,
    pub(crate) status: watch::Sender<Status>,
    /// Whether the replica has caught up with the cluster once since the start: before that, what it shows may be older
    /// than what clients have seen here before.
    pub(crate) ready: watch::Sender<bool>,
    /// `POST /shutdown` was answered: nothing is served any more.
    pub(crate) closing: AtomicBool,
    /// Ends the listeners.
    pub(crate) accepting: CancellationToken,
    consensus: ArcSwapOption<Consensus>,
    leases: Mutex<Leases>,
}

/// What the node is at the moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Status {
    pub(crate) view: ConsensusView,
    /// The leader, as long as it is heard of; none on a leader that has lost its quorum.
    pub(crate) leader: Option<(u64, SocketAddr)>,
    /// Whether this node leads and a quorum follows it.
    pub(crate) leads: bool,
    /// Why the store does not work.
    pub(crate) trouble: Option<String>,
}

impl Node {
    pub(crate) fn new(config: Config, batcher: Batcher) -> Self {
        let contacts = Arc::new(Contacts::default());
        let transport = Transport::new(config.advertise, contacts.clone());
        Self {
            replica: Replica::new(),
            roster: Roster::default(),
            batcher,
            status: watch::Sender::default(),
            ready: watch::Sender::new(false),
            closing: AtomicBool::new(false),
            accepting: CancellationToken::new(),
            consensus: ArcSwapOption::empty(),
            leases: Mutex::new(Leases::new(config.timing.ttl)),
            contacts,
            transport,
            config,
        }
    }

    pub(crate) fn consensus(&self) -> Option<Arc<Consensus>> {
        self.consensus.load_full()
    }

    pub(crate) fn set_consensus(&self, consensus: Option<Arc<Consensus>>) {
        self.consensus.store(consensus);
        self.refresh(None);
    }

    pub(crate) fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn member(&self) -> Member {
        Member { addr: self.config.advertise.to_string(), host: self.config.host_id.clone() }
    }

    pub(crate) fn is_self(&self, node: u64) -> bool {
        self.status.borrow().view.node == node
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// Looks at everything anew. `trouble` is what became of the store, if it is known.
    pub(crate) fn refresh(&self, trouble: Option<Option<String>>) {
        let consensus = self.consensus();
        let view = consensus.as_ref().map(|c| c.view());
        self.status.send_if_modified(|status| {
            let new = Status {
                leads: view.as_ref().is_some_and(|v| self.has_quorum(v)),
                leader: view.as_ref().and_then(|v| self.leader_of(v)),
                trouble: trouble.unwrap_or_else(|| status.trouble.clone()),
                // a closed store says nothing new
                view: view.unwrap_or_else(|| ConsensusView { leads: false, leader: None, ..status.view.clone() }),
            };
            let changed = *status != new;
            if status.leader != new.leader {
                match new.leader {
                    Some((_, addr)) => {
                        tracing::info!(%addr, leads = new.leads, term = new.view.term, "the cluster has a leader")
                    }
                    None => tracing::warn!("no leader is known"),
                }
            }
            *status = new;
            changed
        });
    }

    /// Time after which a follower may have elected somebody else, and then some: heartbeats that are acknowledged in
    /// vain do no harm, since a new leader gives everybody a full time anew.
    fn lease(&self) -> Duration {
        2 * self.config.timing.election.1
    }

    fn has_quorum(&self, view: &ConsensusView) -> bool {
        let lease = self.lease();
        let follows =
            |id: &&u64| **id == view.node || self.contacts.last_answered(**id).is_some_and(|at| at.elapsed() < lease);
        view.leads && view.voters.iter().filter(follows).count() * 2 > view.voters.len()
    }

    fn leader_of(&self, view: &ConsensusView) -> Option<(u64, SocketAddr)> {
        if view.leads {
            return self.has_quorum(view).then_some((view.node, self.config.advertise));
        }
        let leader = view.leader?;
        if self.contacts.led_ago(leader)? > self.lease() {
            return None;
        }
        let member = || view.members.get(&leader).and_then(|m| m.addr.parse().ok());
        Some((leader, self.contacts.addr(leader).or_else(member)?))
    }

    /// The leader, perhaps from hearsay.
    pub(crate) fn leader(&self) -> Option<(u64, SocketAddr)> {
        let (leader, leads) = {
            let status = self.status.borrow();
            (status.leader, status.view.leads)
        };
        leader.or_else(|| if leads { None } else { self.contacts.hearsay(HEARSAY) })
    }

    /// Waits until `condition` may hold, or a moment.
    async fn glance(&self, deadline: Instant) {
        let mut status = self.status.subscribe();
        let _ = tokio::time::timeout_at(deadline.min(Instant::now() + GLANCE), status.changed()).await;
    }

    fn no_leader(&self) -> ApiError {
        let trouble = self.status.borrow().trouble.clone();
        match trouble {
            Some(reason) => ApiError::unavailable(format!("discoverd: the store of this node failed: {reason}")),
            None => ApiError::unavailable("discoverd: no known leader"),
        }
    }

    /// Has the command written, wherever the leader is; then waits for the own replica to show it.
    pub(crate) async fn write(&self, command: Command) -> Result<Outcome, ApiError> {
        let deadline = Instant::now() + self.config.timing.leader_patience;
        loop {
            let leader = self.leader();
            let lost = match leader {
                Some((id, _)) if self.is_self(id) => {
                    match self.unless_deposed(id, self.write_here(command.clone())).await {
                        WriteReply::Decided { outcome, .. } => return Ok(outcome),
                        WriteReply::NotLeader => None,
                        WriteReply::Lost(reason) => Some(reason),
                    }
                }
                Some((id, addr)) => {
                    let request = Request::Write(command.clone());
                    let call = async {
                        match self.ask(id, addr, request, FORWARD_TIMEOUT).await {
                            Ok(Reply::Write(reply)) => reply,
                            Ok(_) => WriteReply::NotLeader,
                            Err(err) if err.is_refusal() => WriteReply::NotLeader,
                            Err(err) => WriteReply::Lost(err.to_string()),
                        }
                    };
                    match self.unless_deposed(id, call).await {
                        WriteReply::Decided { index, outcome } => {
                            self.await_applied(index, ECHO).await;
                            return Ok(outcome);
                        }
                        WriteReply::NotLeader => None,
                        WriteReply::Lost(reason) => Some(reason),
                    }
                }
                None => None,
            };
            if let Some(reason) = lost
                && (!command.is_idempotent() || Instant::now() >= deadline)
            {
                return Err(ApiError::unavailable(format!(
                    "discoverd: the write may or may not have been applied: {reason}"
                )));
            }
            if Instant::now() >= deadline {
                return Err(self.no_leader());
            }
            self.glance(deadline).await;
        }
    }

    /// Waits for a write, but not for a leader that is stopped or cut off: as soon as it is not the leader any more for
    /// this node, the write is lost.
    async fn unless_deposed(&self, leader: u64, write: impl Future<Output = WriteReply>) -> WriteReply {
        let mut status = self.status.subscribe();
        if status.borrow_and_update().leader.is_none_or(|(id, _)| id != leader) {
            return write.await; // known by hearsay only
        }
        tokio::select! {
            reply = write => reply,
            _ = status.wait_for(|s| s.leader.is_none_or(|(id, _)| id != leader)) => {
                WriteReply::Lost("the leader does not answer".to_owned())
            }
        }
    }

    /// Writes as the leader.
    pub(crate) async fn write_here(&self, command: Command) -> WriteReply {
        let Some(consensus) = self.consensus() else { return WriteReply::NotLeader };
        let registration = match &command {
            Command::AddInstance { service, instance } => {
                if let Some(index) = self.renew_unchanged(service, instance) {
                    return WriteReply::Decided { index, outcome: Ok(Applied::Done) };
                }
                Some((service.clone(), instance.id.clone()))
            }
            _ => None,
        };
        match consensus.write(command).await {
            Ok((index, outcome)) => {
                if let Some((service, id)) = registration
                    && outcome.is_ok()
                {
                    self.leases().renew(&service, &id, index, Instant::now());
                }
                WriteReply::Decided { index, outcome }
            }
            Err(WriteError::NotLeader) => WriteReply::NotLeader,
            Err(WriteError::Lost(reason)) => WriteReply::Lost(reason),
        }
    }

    /// A registration that says nothing new is a heartbeat.
    fn renew_unchanged(&self, service: &str, instance: &Instance) -> Option<u64> {
        let epoch = self.replica.with(|s| s.registry.unchanged(service, instance))?;
        let beat = Beat { service: service.to_owned(), id: instance.id.clone(), epoch };
        (self.renew(&[beat]) == [BeatOutcome::Renewed]).then_some(epoch)
    }

    /// Takes heartbeats as the leader.
    pub(crate) fn renew(&self, beats: &[Beat]) -> Vec<BeatOutcome> {
        if !self.status.borrow().leads {
            return vec![BeatOutcome::NotLeader; beats.len()];
        }
        let now = Instant::now();
        self.replica.with(|state| {
            let mut leases = self.leases();
            let mut renew = |beat: &Beat| {
                let current = state.registry.epoch(&beat.service, &beat.id) == Some(beat.epoch);
                if current && leases.renew(&beat.service, &beat.id, beat.epoch, now) {
                    BeatOutcome::Renewed
                } else {
                    BeatOutcome::Stale
                }
            };
            beats.iter().map(&mut renew).collect()
        })
    }

    /// Passes a heartbeat to the leader. True if it was taken.
    pub(crate) async fn beat(&self, beat: Beat) -> bool {
        let outcome = match self.leader() {
            Some((id, _)) if self.is_self(id) => self.renew(std::slice::from_ref(&beat)).pop(),
            Some(_) => self.batcher.beat(beat).await,
            None => None,
        };
        outcome == Some(BeatOutcome::Renewed)
    }

    /// Waits until a read of the own replica shows every write that was acknowledged before.
    pub(crate) async fn linearize(&self) -> Result<(), ApiError> {
        let deadline = Instant::now() + self.config.timing.leader_patience;
        while Instant::now() < deadline {
            if let Some(index) = self.read_index().await
                && self.await_applied(index, deadline.saturating_duration_since(Instant::now())).await
            {
                return Ok(());
            }
            self.glance(deadline).await;
        }
        Err(self.no_leader())
    }

    pub(crate) async fn read_index(&self) -> Option<u64> {
        let (id, addr) = self.leader()?;
        if self.is_self(id) {
            return self.consensus()?.read_index().await.ok();
        }
        match self.ask(id, addr, Request::ReadIndex, FORWARD_TIMEOUT).await {
            Ok(Reply::ReadIndex(index)) => index,
            Ok(_) | Err(_) => None,
        }
    }

    async fn await_applied(&self, index: u64, limit: Duration) -> bool {
        let mut applied = self.replica.applied();
        tokio::time::timeout(limit, applied.wait_for(|at| *at >= index)).await.is_ok()
    }

    /// Waits for the replica to have caught up once.
    pub(crate) async fn await_ready(&self, limit: Duration) -> bool {
        let mut ready = self.ready.subscribe();
        tokio::time::timeout(limit, ready.wait_for(|ready| *ready)).await.is_ok()
    }

    /// Answers another node.
    pub(crate) async fn answer(&self, envelope: Envelope) -> Reply {
        let Some(consensus) = self.consensus() else {
            return Reply::Unavailable("its store is not open".to_owned());
        };
        if envelope.to != 0 && envelope.to != consensus.node() {
            return Reply::WrongNode(consensus.node());
        }
        match envelope.message {
            Message::Raft(rpc) => {
                self.contacts.learn(envelope.from, envelope.from_addr);
                let leads = rpc.comes_from_a_leader();
                let reply = consensus.serve(*rpc).await;
                if leads && reply.is_accepted() {
                    self.contacts.led_by(envelope.from);
                }
                Reply::Raft(Box::new(reply))
            }
            Message::Announce(announce) => Reply::Hello(answer_announce(self, &announce)),
            Message::Lead(request) => self.answer_as_leader(&consensus, request).await,
            Message::Relay { leader, request } => self.relay(&consensus, leader, request).await,
        }
    }

    async fn answer_as_leader(&self, consensus: &Consensus, request: Request) -> Reply {
        match request {
            Request::Beats(beats) => Reply::Beats(self.renew(&beats)),
            Request::Write(command) => Reply::Write(self.write_here(command).await),
            Request::ReadIndex => Reply::ReadIndex(consensus.read_index().await.ok()),
        }
    }

    /// Asks the leader something; through the node that named it, when it cannot be reached from here: a network may be
    /// broken between two nodes only.
    pub(crate) async fn ask(
        &self,
        leader: u64,
        addr: SocketAddr,
        request: Request,
        timeout: Duration,
    ) -> Result<Reply, CallError> {
        let go_between = self.contacts.go_between(leader, HEARSAY);
        let relayed = |through| {
            let message = Message::Relay { leader, request: request.clone() };
            self.transport.call(0, through, message, timeout)
        };
        let silent = self.contacts.last_answered(leader).is_some_and(|at| at.elapsed() >= SILENT);
        match go_between {
            Some(through) if silent => return relayed(through).await,
            _ => {}
        }
        let direct = self.transport.call(leader, addr, Message::Lead(request.clone()), timeout).await;
        match (direct, go_between) {
            (Err(err), Some(through)) if err.is_refusal() || request.is_idempotent() => relayed(through).await,
            (direct, _) => direct,
        }
    }

    /// Passes something on to the leader. Only by one who follows it, so that nothing goes in circles.
    async fn relay(&self, consensus: &Consensus, leader: u64, request: Request) -> Reply {
        let known = self.status.borrow().leader.filter(|(id, _)| *id == leader);
        match known {
            Some((id, _)) if self.is_self(id) => self.answer_as_leader(consensus, request).await,
            Some((id, addr)) => {
                match self.transport.call(id, addr, Message::Lead(request.clone()), FORWARD_TIMEOUT).await {
                    Ok(reply) => reply,
                    Err(err) if err.is_refusal() => Reply::Unavailable(err.to_string()),
                    Err(err) => request.lost(err.to_string()),
                }
            }
            None => Reply::Unavailable("it does not follow that leader".to_owned()),
        }
    }
}
