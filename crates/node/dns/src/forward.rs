//! Names outside the zone: asked of the upstream resolvers, with fail-over and a small cache.

mod cache;
mod exchange;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout};

use self::cache::{Cache, Key};
use crate::wire::{Query, Response, rcode, scan};
use crate::zone::Transport;

/// Queries that wait for upstreams at once; more are answered with SERVFAIL.
const CONCURRENCY: usize = 1024;
/// How long one upstream may take (spec discoverd-and-network 8.4).
const UPSTREAM_TIMEOUT: Duration = Duration::from_secs(2);
/// Silence after which the next upstream is asked, too.
const STAGGER: Duration = Duration::from_millis(500);
/// How long an upstream that answered in another's place is asked first.
const PREFERENCE: Duration = Duration::from_secs(30);

pub(crate) struct Forwarder {
    upstreams: Mutex<Upstreams>,
    /// Addresses that we listen on.
    own: Vec<SocketAddr>,
    permits: Semaphore,
    cache: Mutex<Cache>,
    pub(crate) failures: AtomicU64,
    pub(crate) hits: AtomicU64,
}

struct Upstreams {
    addresses: Arc<[SocketAddr]>,
    preferred: Option<(SocketAddr, Instant)>,
}

impl Forwarder {
    pub(crate) fn new(own: Vec<SocketAddr>) -> Self {
        Self {
            upstreams: Mutex::new(Upstreams { addresses: Arc::new([]), preferred: None }),
            own,
            permits: Semaphore::new(CONCURRENCY),
            cache: Mutex::default(),
            failures: AtomicU64::new(0),
            hits: AtomicU64::new(0),
        }
    }

    /// Replaces the upstreams. Our own addresses are left out: they would be asked in a circle.
    pub(crate) fn set_upstreams(&self, addresses: Vec<SocketAddr>) {
        let is_own = |address: &SocketAddr| {
            self.own.iter().any(|own| {
                let reaches_wildcard = own.ip().is_unspecified() && address.ip().is_loopback();
                own.port() == address.port() && (own.ip() == address.ip() || reaches_wildcard)
            })
        };
        let mut kept: Vec<SocketAddr> = Vec::with_capacity(addresses.len());
        for address in addresses {
            if is_own(&address) {
                tracing::warn!(%address, "not forwarding DNS queries to ourselves");
            } else if !kept.contains(&address) {
                kept.push(address);
            }
        }
        let mut upstreams = lock(&self.upstreams);
        if *upstreams.addresses != *kept {
            tracing::info!(upstreams = ?kept, "forwarding other DNS names");
            *upstreams = Upstreams { addresses: kept.into(), preferred: None };
        }
    }

    pub(crate) fn upstreams(&self) -> Arc<[SocketAddr]> {
        Arc::clone(&lock(&self.upstreams).addresses)
    }

    pub(crate) fn is_available(&self) -> bool {
        !lock(&self.upstreams).addresses.is_empty()
    }

    /// Answers from the cache at once; `false` when it knows nothing.
    pub(crate) fn cached(&self, query: &Query<'_>, transport: Transport, limit: usize, out: &mut Vec<u8>) -> bool {
        let Some(key) = Key::of(query, transport) else { return false };
        let found = lock(&self.cache).find(&key, query, limit, Instant::now(), out);
        if found {
            self.hits.fetch_add(1, Ordering::Relaxed);
        }
        found
    }

    /// Asks the upstreams. An error is the code to answer with.
    pub(crate) async fn ask(&self, query: &Query<'_>, transport: Transport, limit: usize) -> Result<Vec<u8>, u8> {
        let _permit = self.permits.try_acquire().map_err(|_| self.failed())?;
        let order = self.order();
        let (mut waiting, mut rest) = (FuturesUnordered::new(), order.iter());
        let mut refusal = None;
        let mut next_at = Instant::now();
        loop {
            let event = tokio::select! {
                Some(answered) = waiting.next() => Some(answered),
                () = sleep_until(next_at), if rest.len() > 0 => None,
                else => break,
            };
            match event {
                None => {
                    if let Some(upstream) = rest.next() {
                        let exchange = exchange::ask(*upstream, query.packet, query.question_end, transport);
                        waiting.push(async move { (*upstream, timeout(UPSTREAM_TIMEOUT, exchange).await) });
                    }
                    next_at = Instant::now() + STAGGER;
                }
                Some((upstream, Ok(Ok((packet, response))))) => {
                    if matches!(response.code, rcode::SERVFAIL | rcode::REFUSED) {
                        // Another one may know better; if none does, this is the answer.
                        refusal.get_or_insert(packet);
                        next_at = Instant::now();
                        continue;
                    }
                    self.prefer(upstream);
                    self.remember(query, transport, &packet, response);
                    return Ok(packet);
                }
                Some((upstream, failure)) => {
                    match failure {
                        Ok(Err(err)) => tracing::debug!(%upstream, %err, "DNS upstream failed"),
                        _ => tracing::debug!(%upstream, "DNS upstream is silent"),
                    }
                    next_at = Instant::now();
                }
            }
        }
        if let Some(packet) = refusal {
            return Ok(packet);
        }
        let mut packet = Vec::new();
        if let Some(key) = Key::of(query, transport)
            && lock(&self.cache).find_stale(&key, query, limit, Instant::now(), &mut packet)
        {
            return Ok(packet);
        }
        Err(self.failed())
    }

    fn failed(&self) -> u8 {
        self.failures.fetch_add(1, Ordering::Relaxed);
        rcode::SERVFAIL
    }

    /// The upstreams in configured order, but first the one that lately answered in place of another.
    fn order(&self) -> Vec<SocketAddr> {
        let upstreams = lock(&self.upstreams);
        let mut order = upstreams.addresses.to_vec();
        if let Some((preferred, since)) = upstreams.preferred
            && since.elapsed() < PREFERENCE
            && let Some(at) = order.iter().position(|address| *address == preferred)
        {
            order[..=at].rotate_right(1);
        }
        order
    }

    fn prefer(&self, upstream: SocketAddr) {
        let mut upstreams = lock(&self.upstreams);
        let fresh =
            upstreams.preferred.is_some_and(|(preferred, since)| preferred == upstream && since.elapsed() < PREFERENCE);
        if !fresh {
            upstreams.preferred = Some((upstream, Instant::now()));
        }
    }

    fn remember(&self, query: &Query<'_>, transport: Transport, packet: &[u8], response: Response) {
        if let Some(key) = Key::of(query, transport) {
            lock(&self.cache).insert(key, packet, response, Instant::now());
        }
    }
}

/// The response if it answers exactly this question.
fn matching(query: &[u8], question_end: usize, packet: &[u8]) -> Option<Response> {
    let same_id = packet.get(..2)? == query.get(..2)?;
    let question = |bytes: &[u8]| bytes.get(super::wire::HEADER_LEN..question_end).map(<[u8]>::to_ascii_lowercase);
    if !same_id || question(packet)? != question(query)? {
        return None;
    }
    scan(packet, question_end)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
