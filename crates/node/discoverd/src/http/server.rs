//! Connections and requests.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use flynn_types::error::ApiError;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Either;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::answer::{self, Answer, Body};
use super::route::{Route, Routed, route};
use super::{raft, services};
use crate::node::Node;

/// A connection that says nothing at first is closed (spec section 2.3).
const FIRST_BYTE: Duration = Duration::from_secs(30);
/// Longest pause between two requests.
const IDLE: Duration = Duration::from_secs(300);
/// Pause after a failed accept, for example for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const MAX_CONNECTIONS: usize = 16_384;
/// Running requests may go on for so long after the end was asked for.
const GRACE: Duration = Duration::from_millis(500);

/// Serves a listener until the node ends.
pub(crate) async fn serve(node: Arc<Node>, listener: TcpListener, stop: CancellationToken, tasks: TaskTracker) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let accepting = node.accepting.clone();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            () = accepting.cancelled() => return,
            accepted = accept(&listener, &slots) => accepted,
        };
        match accepted {
            Ok((stream, peer, slot)) => {
                let connection = serve_connection(node.clone(), stream, peer, stop.clone(), tasks.clone());
                tasks.spawn(async move {
                    connection.await;
                    drop(slot);
                });
            }
            Err(err) => {
                tracing::warn!(%err, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

type Accepted = (TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit);

async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> std::io::Result<Accepted> {
    let slot = slots.clone().acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, slot))
}

async fn serve_connection(
    node: Arc<Node>,
    stream: TcpStream,
    peer: SocketAddr,
    stop: CancellationToken,
    tasks: TaskTracker,
) {
    let Ok(local) = stream.local_addr() else { return };
    let _ = stream.set_nodelay(true); // only slower without
    if !speaks_http(&stream, &stop).await {
        return;
    }
    let advertised = local.ip().to_canonical() == node.config.advertise.ip();
    let guest = !advertised && !local.ip().to_canonical().is_loopback();
    let redirects = advertised && local.port() == node.config.advertise.port();
    // Cancelled for a reader that does not read.
    let cut = CancellationToken::new();
    let exchange = Exchange { node, guest, redirects, cut: cut.clone(), tasks };
    let service = hyper::service::service_fn(move |request| {
        let exchange = exchange.clone();
        async move { Ok::<_, Infallible>(exchange.answer(request).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(IDLE);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = cut.cancelled() => return tracing::debug!(%peer, "a slow reader was cut off"),
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(GRACE, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(err) = ended {
        tracing::trace!(%peer, %err, "connection ended early");
    }
}

/// Looks at the first byte (spec section 2.3): anything but the beginning of a method is closed.
async fn speaks_http(stream: &TcpStream, stop: &CancellationToken) -> bool {
    let mut first = [0];
    let peeked = tokio::select! {
        peeked = tokio::time::timeout(FIRST_BYTE, stream.peek(&mut first)) => peeked,
        () = stop.cancelled() => return false,
    };
    matches!(peeked, Ok(Ok(1))) && b"CDGHOPT".contains(&first[0])
}

/// What one request needs.
#[derive(Clone)]
pub(super) struct Exchange {
    pub(super) node: Arc<Node>,
    /// Came in at an address for containers.
    guest: bool,
    /// Came in at the advertised address: writes are redirected to the leader.
    redirects: bool,
    pub(super) cut: CancellationToken,
    pub(super) tasks: TaskTracker,
}

impl Exchange {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        if self.node.is_closing() {
            return answer::error(&ApiError::unavailable("discoverd: shutting down"));
        }
        let routed = route(request.method(), request.uri().path());
        if routed == Routed::To(Route::Message) && !self.guest {
            return raft::message(self, request).await.unwrap_or_else(|err| answer::error(&err));
        }
        // Before the request is processed (spec section 4.3).
        let headers = self.headers();
        let is_get = request.method() == Method::GET;
        let mut response = match routed {
            Routed::To(route) if self.guest && !route.is_for_guests() => answer::not_found(),
            Routed::To(route) => self.handle(route, request).await.unwrap_or_else(|err| answer::error(&err)),
            Routed::Redirect(path) => {
                let query = request.uri().query().map(|q| format!("?{q}")).unwrap_or_default();
                let status = if is_get { StatusCode::MOVED_PERMANENTLY } else { StatusCode::TEMPORARY_REDIRECT };
                answer::redirect(status, &format!("{path}{query}"), is_get)
            }
            Routed::NotFound => answer::not_found(),
        };
        if let Some((peers, index)) = headers {
            response.headers_mut().insert("discoverd-peers", peers);
            response.headers_mut().insert("discoverd-index", index);
        }
        response
    }

    /// Sent by those that vote.
    fn headers(&self) -> Option<(HeaderValue, HeaderValue)> {
        let votes = {
            let status = self.node.status.borrow();
            status.view.acting.contains(&status.view.node)
        };
        if !votes {
            return None;
        }
        let peers = HeaderValue::from_str(&raft::peers(&self.node).join(",")).ok()?;
        Some((peers, self.node.replica.applied_index().into()))
    }

    async fn handle(&self, route: Route, request: Request<Incoming>) -> Answer {
        if let Some(redirect) = self.redirect(&route, &request) {
            return Ok(redirect);
        }
        let consistent = request.uri().query().is_some_and(|q| {
            q.split('&').any(|part| matches!(part, "consistent" | "consistent=true" | "consistent=1"))
        });
        match route {
            Route::Status => Ok(services::status(self)),
            Route::Ping => Ok(answer::done()),
            Route::Services => services::names(self, consistent).await,
            Route::AddService(name) => services::add(self, name, request).await,
            Route::RemoveService(name) => services::remove(self, name).await,
            Route::WatchService(name) => services::watch(self, &name, consistent).await,
            Route::SetMeta(name) => services::set_meta(self, name, request).await,
            Route::Meta(name) => services::meta(self, &name, consistent).await,
            Route::PutInstance(name) => services::put_instance(self, name, request).await,
            Route::RemoveInstance(name, id) => services::remove_instance(self, name, id).await,
            Route::Instances(name) => services::instances(self, &name, &request, consistent).await,
            Route::SetLeader(name) => services::set_leader(self, name, request).await,
            Route::Leader(name) => services::leader(self, &name, &request, consistent).await,
            Route::RaftLeader => raft::leader(self),
            Route::RaftPeers => answer::json(&raft::peers(&self.node)),
            Route::AddPeer(peer) => raft::add_peer(self, &peer).await,
            Route::RemovePeer(peer) => raft::remove_peer(self, &peer).await,
            Route::Promote => raft::promote(self).await,
            Route::Demote => raft::demote(self).await,
            Route::Shutdown => raft::shutdown(self).await,
            Route::Message => Ok(answer::not_found()),
        }
    }

    /// To the leader, for a client that can see other nodes (spec section 4.5).
    fn redirect(&self, route: &Route, request: &Request<Incoming>) -> Option<Response<Body>> {
        if !self.redirects || !route.needs_leader() {
            return None;
        }
        let (leads, leader) = {
            let status = self.node.status.borrow();
            (status.leads, status.leader)
        };
        let (id, leader) = leader.filter(|_| !leads)?;
        // One that has gone silent may be stopped: better wait here for the next one than there.
        if self.node.contacts.led_ago(id)? > self.node.config.timing.election.1 {
            return None;
        }
        let own_port = self.node.config.advertise.port();
        let host = request.headers().get(header::HOST).and_then(|h| h.to_str().ok());
        let asked = host.and_then(|h| h.rsplit_once(':')).and_then(|(_, port)| port.parse().ok()).unwrap_or(80);
        // The port that the client used, unless it is this node's own: nodes may have different ones.
        let port = if asked == own_port { leader.port() } else { asked };
        let target = request.uri().path_and_query().map_or("/", |p| p.as_str());
        let location = format!("http://{}{target}", SocketAddr::new(leader.ip(), port));
        Some(answer::redirect(StatusCode::TEMPORARY_REDIRECT, &location, false))
    }

    /// Starts a stream, with somebody who cuts the connection if its peer does not read.
    pub(super) fn stream(&self, service: &str, kinds: crate::Kinds) -> Response<Body> {
        let subscription = crate::RegistryHandle::new(self.node.replica.clone()).subscribe(service, kinds);
        let (slow, over) = (subscription.cut_off(), CancellationToken::new());
        let timing = &self.node.config.timing;
        let body = super::stream::EventBody::new(subscription, timing.keep_alive, over.clone().drop_guard());
        let (cut, patience) = (self.cut.clone(), timing.cut_after);
        self.tasks.spawn(async move {
            tokio::select! {
                () = over.cancelled() => {}
                () = slow.notified() => {
                    // time for the error frame, if the peer reads on
                    if tokio::time::timeout(patience, over.cancelled()).await.is_err() {
                        cut.cancel();
                    }
                }
            }
        });
        let mut response = Response::new(Either::Right(body));
        let content_type = HeaderValue::from_static("text/event-stream; charset=utf-8");
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        response
    }
}
