//! A connection to a backend for one request, whatever version of HTTP it speaks.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::{TrySendError, http1};

use super::UploadBody;
use super::dial::open;
use super::h2c::{Multiplexed, Stream};
use crate::route::BackendProtocol;
use crate::service::Backend;
use crate::worker::Worker;

/// A connection, or a share of one.
pub(crate) enum Lease {
    Http1 { worker: Rc<Worker>, backend: Arc<Backend>, sender: http1::SendRequest<UploadBody> },
    H2c(Stream),
}

impl Lease {
    /// A connection that was used before and is open.
    pub(crate) fn pooled(worker: &Rc<Worker>, backend: &Arc<Backend>, protocol: BackendProtocol) -> Option<Self> {
        match protocol {
            BackendProtocol::Http1 => worker.pool.take(backend.id).map(|sender| Self::http1(worker, backend, sender)),
            BackendProtocol::H2c => worker.pool.multiplexed.take(backend).map(Self::H2c),
        }
    }

    /// A new connection. One that is `own` is not for other requests.
    pub(crate) async fn open(
        worker: &Rc<Worker>,
        backend: &Arc<Backend>,
        protocol: BackendProtocol,
        own: bool,
    ) -> io::Result<Self> {
        let limit = worker.shared.settings.limits.dial;
        Ok(match (protocol, own) {
            (BackendProtocol::Http1, _) => Self::http1(worker, backend, open(backend.address, limit).await?),
            (BackendProtocol::H2c, true) => Self::H2c(Multiplexed::open_own(backend, limit).await?),
            (BackendProtocol::H2c, false) => Self::H2c(worker.pool.multiplexed.open(backend, limit).await?),
        })
    }

    fn http1(worker: &Rc<Worker>, backend: &Arc<Backend>, sender: http1::SendRequest<UploadBody>) -> Self {
        Self::Http1 { worker: Rc::clone(worker), backend: Arc::clone(backend), sender }
    }

    /// Sends a request and waits for the head of its response.
    pub(crate) async fn send(
        &mut self,
        request: Request<UploadBody>,
    ) -> Result<Response<Incoming>, TrySendError<Request<UploadBody>>> {
        match self {
            Self::Http1 { sender, .. } => sender.try_send_request(request).await,
            Self::H2c(stream) => stream.0.sender.clone().try_send_request(request).await,
        }
    }

    /// What has to last until the response is read; a connection that is not kept ends with its response.
    pub(crate) fn kept(self, keep: bool) -> Option<Self> {
        match self {
            Self::Http1 { .. } => keep.then_some(self),
            Self::H2c(_) => Some(self),
        }
    }

    /// The response was read to its end.
    pub(crate) fn give_back(self) {
        if let Self::Http1 { worker, backend, sender } = self {
            worker.pool.put(backend, sender);
        }
    }
}
