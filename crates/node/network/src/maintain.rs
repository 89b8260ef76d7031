//! The upkeep: brings kernel and lease document to what they should be, at every sign of a change and from time to
//! time. It remembers nothing that it could not find out again.

use std::sync::Arc;
use std::time::Duration;

use flynn_types::error::with_causes;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_route::link::InfoKind;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::attachment::veth_name;
use crate::kernel::{Link, change};
use crate::lease::{self, Lease, Leases, Peer};
use crate::network::{ClaimFailure, Shared, claim};
use crate::{FirewallError, KernelError, bridge, firewall, overlay, proc_sys};

/// Time between looks at things that give no sign: the firewall, forwarding entries, the lease document.
const PERIOD: Duration = Duration::from_secs(5);
/// After a sign from the kernel: more are on their way.
const SETTLE: Duration = Duration::from_millis(50);
/// Longest attempt at the lease document.
const STORE_TIMEOUT: Duration = Duration::from_secs(10);
/// Others' firewalls change rarely, and looking at them costs a process.
const PASSES_BETWEEN_FOREIGN_LOOKS: u32 = 11;
/// Periods before a lease that another daemon with our host id took is taken back. Slow: two daemons with one id are
/// for an operator to sort out, but a document restored from a backup heals.
const PERIODS_BEFORE_TAKING_BACK: u32 = 12;

#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Firewall(#[from] FirewallError),
    #[error("the network was shut down")]
    Stopped,
}

/// Signs that interfaces, addresses or routes changed.
struct Signs {
    changed: mpsc::Receiver<()>,
    connection: AbortHandle,
    forwarder: AbortHandle,
}

impl Drop for Signs {
    fn drop(&mut self) {
        self.connection.abort();
        self.forwarder.abort();
    }
}

impl Signs {
    fn subscribe() -> Result<Self, KernelError> {
        use futures_util::StreamExt as _;
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv4Route];
        let (connection, _, mut messages) = rtnetlink::new_multicast_connection(&groups)
            .map_err(|err| KernelError::new("listen to changes of the network", err))?;
        let connection = tokio::spawn(connection).abort_handle();
        let (sign, changed) = mpsc::channel(1); // full: a sign waits already
        let forwarder = tokio::spawn(async move {
            while messages.next().await.is_some() {
                let _ = sign.try_send(());
            }
        });
        Ok(Self { changed, connection, forwarder: forwarder.abort_handle() })
    }
}

pub(crate) struct Maintainer {
    shared: Arc<Shared>,
    lease: watch::Sender<Option<Lease>>,
    signs: Signs,
    /// The firewall table in nft's spelling after we wrote it, and what it was written for.
    firewall: Option<(Lease, String)>,
    /// What was read after the table was last put right, if that was something else.
    other_spelling: Option<String>,
    started: bool,
    /// The other hosts as last brought into the kernel.
    applied: Option<Vec<Peer>>,
    /// Passes until other programs' firewalls are looked at again.
    until_foreign_look: u32,
    periods_in_conflict: u32,
}

type Answers = Vec<oneshot::Sender<Result<(), ReconcileError>>>;

impl Maintainer {
    pub(crate) fn new(shared: Arc<Shared>, lease: watch::Sender<Option<Lease>>) -> Result<Self, KernelError> {
        let signs = Signs::subscribe()?;
        Ok(Self {
            shared,
            lease,
            signs,
            firewall: None,
            other_spelling: None,
            started: false,
            applied: None,
            until_foreign_look: 0,
            periods_in_conflict: 0,
        })
    }

    pub(crate) async fn run(
        mut self,
        mut inbox: mpsc::Receiver<oneshot::Sender<Result<(), ReconcileError>>>,
        stop: CancellationToken,
    ) {
        let mut period = tokio::time::interval(PERIOD);
        period.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut document = self.shared.store.watch();
        let mut store_watched = true;
        let work = async {
            loop {
                let mut answers = Answers::new();
                let (mut read_document, mut full) = (false, true);
                tokio::select! {
                    _ = period.tick() => read_document = true,
                    changed = document.changed(), if store_watched => {
                        // A store that ended its signs is still asked from time to time.
                        store_watched = changed.is_ok();
                        read_document = true;
                    }
                    Some(()) = self.signs.changed.recv() => {
                        tokio::time::sleep(SETTLE).await;
                        let _ = self.signs.changed.try_recv();
                        full = false;
                    }
                    Some(answer) = inbox.recv() => {
                        answers.push(answer);
                        while let Ok(answer) = inbox.try_recv() {
                            answers.push(answer);
                        }
                    }
                }
                if read_document {
                    self.sync_lease().await;
                }
                self.pass(answers, full).await;
            }
        };
        stop.run_until_cancelled(work).await;
    }

    /// One pass over the kernel's state, with its outcome told to all who want to know.
    async fn pass(&mut self, answers: Answers, full: bool) {
        let outcome = if full { self.reconcile(!answers.is_empty()).await } else { self.reconcile_links().await };
        let message = outcome.as_ref().err().map(|err| with_causes(err));
        let news = {
            let mut state = self.shared.state();
            let news = message.is_some() && state.kernel_error != message;
            state.kernel_error.clone_from(&message);
            news
        };
        if news && let Some(message) = &message {
            error!(err = %message, "cannot put the network right; trying again");
        }
        // An error is not `Clone`; every asker but the last gets a fresh attempt's answer later or the same words.
        let mut outcome = Some(outcome);
        for answer in answers {
            let own = match (&message, outcome.take()) {
                (_, Some(first)) => first,
                (None, None) => Ok(()),
                (Some(message), None) => {
                    let same = std::io::Error::other(message.clone());
                    Err(KernelError::new("put the network right", same).into())
                }
            };
            let _ = answer.send(own); // who left does not need it
        }
    }

    /// Everything; `asked`: also what is looked at rarely.
    pub(crate) async fn reconcile(&mut self, asked: bool) -> Result<(), ReconcileError> {
        self.reconcile_links().await?;
        self.reconcile_firewall(asked).await
    }

    /// Devices, addresses, routes and entries.
    async fn reconcile_links(&mut self) -> Result<(), ReconcileError> {
        let shared = Arc::clone(&self.shared);
        let (config, netlink) = (&shared.config, &shared.netlink);
        let (lease, peers) = {
            let state = shared.state();
            (state.lease.clone(), state.peers.clone())
        };
        let mut repairs: u64 = 0;
        let underlay = overlay::underlay(netlink, config.external_ip).await?;
        let (bridge, bridge_changed) =
            bridge::ensure(netlink, &config.bridge_name, &lease, underlay.overlay_mtu).await?;
        {
            let mut state = shared.state();
            state.bridge = bridge.index;
            state.mtu = underlay.overlay_mtu;
        }
        repairs += u64::from(bridge_changed);
        repairs += self.reconcile_ports(&bridge).await?;
        let (device, device_changed) = overlay::ensure_device(netlink, config, &lease, &underlay).await?;
        repairs += u64::from(device_changed);
        if let Some(peers) = &peers {
            let changes = overlay::apply_peers(netlink, &device, peers).await?;
            if self.applied.as_ref() == Some(peers) {
                repairs += u64::try_from(changes).unwrap_or(u64::MAX);
            } else if changes > 0 {
                info!(changes, peers = peers.len(), "overlay brought up to date");
            }
        }
        self.applied = peers;
        repairs += u64::from(proc_sys::enable_forwarding()?);
        if self.started && repairs > 0 {
            warn!(repairs, "the network was not as we left it and was put right");
            shared.state().repairs += repairs;
        }
        self.started = true;
        Ok(())
    }

    /// Puts containers' interfaces that lost their bridge back on it.
    async fn reconcile_ports(&self, bridge: &Link) -> Result<u64, KernelError> {
        let wanted: Vec<(String, String)> = {
            let state = self.shared.state();
            state.pool.jobs().map(|(job, ip)| (veth_name(ip), job.to_string())).collect()
        };
        if wanted.is_empty() {
            return Ok(0);
        }
        let mut repairs = 0;
        let netlink = &self.shared.netlink;
        for link in netlink.links().await? {
            let ours = link.kind == Some(InfoKind::Veth)
                && wanted.iter().any(|(name, job)| *name == link.name && link.alias.as_deref() == Some(job));
            if ours && (link.controller != Some(bridge.index) || !link.is_up) {
                let message = change(link.index).controller(bridge.index).up().build();
                match netlink.set_link(&link.name, message).await {
                    Ok(()) => repairs += 1,
                    Err(err) if err.is_absent() => {} // its container just ended
                    Err(err) => return Err(err),
                }
            }
        }
        Ok(repairs)
    }

    async fn reconcile_firewall(&mut self, asked: bool) -> Result<(), ReconcileError> {
        let shared = Arc::clone(&self.shared);
        let lease = shared.state().lease.clone();
        let table = &shared.config.nft_table;
        let right = match &self.firewall {
            Some((written_for, text)) if *written_for == lease => {
                firewall::present(table).await?.as_ref() == Some(text)
            }
            _ => false,
        };
        if !right {
            if self.firewall.is_some() {
                warn!(table, "the firewall table was not as we left it and was put right");
                shared.state().repairs += 1;
            }
            let text = firewall::apply(&shared.config, &lease).await?;
            match (&self.firewall, text) {
                // Read back a moment after it was written, a text may hold what somebody added in between. What we
                // read at the start stays the measure, unless nft itself (after an upgrade) spells ours differently.
                (Some((written_for, known)), Some(text)) if *written_for == lease && *known != text => {
                    if self.other_spelling.as_ref() == Some(&text) {
                        self.firewall = Some((lease, text));
                    } else {
                        self.other_spelling = Some(text);
                    }
                }
                (_, text) => self.firewall = text.map(|text| (lease, text)),
            }
        }
        if asked {
            self.until_foreign_look = 0;
        }
        if let Some(left) = self.until_foreign_look.checked_sub(1) {
            self.until_foreign_look = left;
            return Ok(());
        }
        self.until_foreign_look = PASSES_BETWEEN_FOREIGN_LOOKS;
        let drops = firewall::foreign_drops(table).await?;
        let news = shared.state().foreign_drops != drops;
        if news {
            if !drops.is_empty() {
                warn!(chains = ?drops, "another program's firewall drops forwarded packets: containers may be cut off");
            }
            shared.state().foreign_drops = drops;
        }
        Ok(())
    }

    /// Reads the document, renews our lease there if need be, and learns the other hosts.
    async fn sync_lease(&mut self) {
        let shared = Arc::clone(&self.shared);
        let outcome = tokio::time::timeout(STORE_TIMEOUT, self.read_or_claim()).await;
        let message = match outcome {
            Ok(Ok((lease, leases))) => {
                self.adopt(lease, leases);
                None
            }
            Ok(Err(err)) => Some(with_causes(&err)),
            Err(_) => Some(format!("the lease document did not answer within {} s", STORE_TIMEOUT.as_secs())),
        };
        let news = {
            let mut state = shared.state();
            let news = state.store_error != message;
            state.store_error.clone_from(&message);
            news
        };
        match message {
            Some(err) if news => warn!(%err, "cannot renew this host's subnet; keeping it, and the known hosts"),
            _ => {}
        }
    }

    async fn read_or_claim(&mut self) -> Result<(Lease, Leases), ClaimFailure> {
        let shared = Arc::clone(&self.shared);
        let (config, store) = (&shared.config, shared.store.as_ref());
        let (mine, known_before) = {
            let state = shared.state();
            (state.lease.clone(), state.peers.is_some())
        };
        // On the first look an old address is our own, from before it changed. Later it is another daemon's doing.
        if known_before {
            let (leases, _) = store.read().await?;
            let entry = leases.iter().find(|(_, entry)| entry.host_id.as_ref() == Some(&config.host_id));
            let usurper = entry.map(|(_, entry)| entry.public_ip).filter(|ip| *ip != config.external_ip);
            let news = {
                let mut state = shared.state();
                let news = usurper.is_some() && state.conflict != usurper;
                state.conflict = usurper;
                news
            };
            if let Some(ip) = usurper {
                if news {
                    error!(%ip, "another daemon uses this host's id; give every host an id of its own (--id)");
                }
                self.periods_in_conflict += 1;
                if self.periods_in_conflict < PERIODS_BEFORE_TAKING_BACK {
                    return Ok((mine, leases));
                }
            }
            self.periods_in_conflict = 0;
        }
        claim(config, store, Some(mine.subnet)).await
    }

    fn adopt(&self, lease: Lease, leases: Leases) {
        let shared = &self.shared;
        let peers = lease::peers(&leases, &lease, shared.config.external_ip);
        let changed_from = {
            let mut state = shared.state();
            state.peers = Some(peers);
            state.leases = leases;
            let old = state.lease.clone();
            if old != lease {
                state.pool.move_to(lease.subnet);
                state.lease = lease.clone();
            }
            (old != lease).then_some(old)
        };
        if let Some(old) = changed_from {
            if old.subnet != lease.subnet {
                error!(
                    old = %old.subnet, new = %lease.subnet,
                    "this host's subnet is another's now; containers with old addresses are cut off until restarted"
                );
            }
            self.lease.send_replace(Some(lease));
        }
    }
}
