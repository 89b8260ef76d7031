//! Connections of HTTP/2 to backends, each for many requests at once, for one worker.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::{LocalBoxFuture, Shared};
use hyper::client::conn::http2::SendRequest;
use tokio::time::Instant;

use super::UploadBody;
use super::dial::{Http2Sender, open_h2c};
use crate::service::Backend;

/// New connections that one request waits for: each may be full, or closed, before it is its turn.
const DIALS: usize = 4;

/// One connection.
pub(super) struct Connection {
    pub(super) sender: SendRequest<UploadBody>,
    most_streams: Rc<Cell<usize>>,
    streams: Cell<usize>,
    idle_since: Cell<Instant>,
}

/// One request's share of a connection.
pub(crate) struct Stream(pub(super) Rc<Connection>);

impl Stream {
    fn new(connection: &Rc<Connection>) -> Self {
        connection.streams.set(connection.streams.get() + 1);
        Self(Rc::clone(connection))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get() - 1);
        self.0.idle_since.set(Instant::now());
    }
}

impl Connection {
    /// Whether the backend takes one more request on it now.
    fn has_room(&self) -> bool {
        !self.sender.is_closed() && self.streams.get() < self.most_streams.get()
    }
}

/// All who wait for the same connection learn the same of it.
type Dial = Shared<LocalBoxFuture<'static, Result<(), Arc<io::Error>>>>;

/// Connections by backend.
#[derive(Default)]
pub(crate) struct Multiplexed(Rc<RefCell<HashMap<u64, Connections>>>);

struct Connections {
    backend: Arc<Backend>,
    open: Vec<Rc<Connection>>,
    dialing: Option<Dial>,
}

impl Multiplexed {
    /// A share of a connection that is open.
    pub(super) fn take(&self, backend: &Backend) -> Option<Stream> {
        let mut all = self.0.borrow_mut();
        let connections = all.get_mut(&backend.id)?;
        connections.open.retain(|connection| !connection.sender.is_closed());
        connections.open.iter().find(|connection| connection.has_room()).map(Stream::new)
    }

    /// A share of a new connection, or of one that others have opened meanwhile.
    pub(super) async fn open(&self, backend: &Arc<Backend>, limit: Duration) -> io::Result<Stream> {
        for _ in 0..DIALS {
            let dial = self.dial(backend, limit);
            dial.await.map_err(|err| io::Error::new(err.kind(), err))?;
            // Those who waited longer may have filled it.
            if let Some(stream) = self.take(backend) {
                return Ok(stream);
            }
        }
        Err(io::ErrorKind::ConnectionAborted.into())
    }

    /// A connection that nobody else uses.
    pub(super) async fn open_own(backend: &Backend, limit: Duration) -> io::Result<Stream> {
        let sender = open_h2c(backend.address, limit).await?;
        Ok(Stream::new(&Rc::new(Connection::new(sender))))
    }

    fn dial(&self, backend: &Arc<Backend>, limit: Duration) -> Dial {
        let mut all = self.0.borrow_mut();
        let connections = all.entry(backend.id).or_insert_with(|| Connections {
            backend: Arc::clone(backend),
            open: Vec::new(),
            dialing: None,
        });
        let map = Rc::clone(&self.0);
        let dial = connections.dialing.get_or_insert_with(|| {
            let (id, address) = (backend.id, backend.address);
            let work = async move {
                let opened = open_h2c(address, limit).await;
                let mut all = map.borrow_mut();
                let connections = all.get_mut(&id).ok_or_else(|| Arc::new(io::ErrorKind::NotConnected.into()))?;
                connections.dialing = None;
                connections.open.push(Rc::new(Connection::new(opened.map_err(Arc::new)?)));
                Ok(())
            };
            work.boxed_local().shared()
        });
        dial.clone()
    }

    /// Closes what was idle for longer than `limit`, and what leads to backends that are gone.
    pub(super) fn expire(&self, limit: Duration) {
        let now = Instant::now();
        self.0.borrow_mut().retain(|_, connections| {
            let is_gone = connections.backend.is_gone();
            connections.open.retain(|connection| {
                let is_idle = connection.streams.get() == 0 && now.duration_since(connection.idle_since.get()) >= limit;
                !is_gone && !is_idle && !connection.sender.is_closed()
            });
            !connections.open.is_empty() || (connections.dialing.is_some() && !is_gone)
        });
    }
}

impl Connection {
    fn new(Http2Sender { sender, most_streams }: Http2Sender) -> Self {
        Self { sender, most_streams, streams: Cell::new(0), idle_since: Cell::new(Instant::now()) }
    }
}
