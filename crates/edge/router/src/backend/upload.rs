//! A request's body on its way to a backend, and what is known of it meanwhile.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::pace::Pace;
use crate::headers::strip_trailers;
use crate::settings::Limits;

/// Why a body cannot be passed on to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum UploadFailure {
    /// The client failed to send it.
    Broken,
    TooLarge,
    TooSlow,
}

/// What a backend's connection learns of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    #[error("the client failed to send its request's body")]
    Broken(#[source] hyper::Error),
    #[error("the request's body is longer than the route allows")]
    TooLarge,
    #[error("the request's body comes too slowly")]
    TooSlow,
}

/// The body of one request. It outlives the connections that it is tried on, as long as nothing of it was read.
pub(crate) struct Upload {
    incoming: RefCell<Incoming>,
    /// `None` once the client may take its time.
    pace: RefCell<Option<Pace>>,
    /// Most bytes that may come.
    most: u64,
    started: Cell<bool>,
    failure: Cell<Option<UploadFailure>>,
    /// When the backend last took something, the end included.
    moved: Cell<Instant>,
    bytes: Cell<u64>,
}

impl Upload {
    /// `most` is the longest body in bytes.
    pub(crate) fn new(incoming: Incoming, most: Option<u64>, limits: &Limits) -> Rc<Self> {
        Rc::new(Self {
            incoming: RefCell::new(incoming),
            pace: RefCell::new(Some(Pace::new(limits.body_pause, limits.body_least))),
            most: most.unwrap_or(u64::MAX),
            started: Cell::new(false),
            failure: Cell::default(),
            moved: Cell::new(Instant::now()),
            bytes: Cell::new(0),
        })
    }

    /// The body for one attempt.
    pub(crate) fn body(self: &Rc<Self>) -> UploadBody {
        UploadBody(Rc::clone(self))
    }

    /// Whether it is known to be longer than is allowed.
    pub(crate) fn is_too_large(&self) -> bool {
        self.incoming.borrow().size_hint().lower() > self.most
    }

    /// The response has begun: both sides may now go on for as long as they like.
    pub(crate) fn let_take_its_time(&self) {
        self.pace.replace(None);
    }

    /// Whether something of it was given away, so that it cannot be sent again.
    pub(crate) fn is_started(&self) -> bool {
        self.started.get()
    }

    /// Why it did not come to its end, if so.
    pub(crate) fn failure(&self) -> Option<UploadFailure> {
        self.failure.get()
    }

    /// Since when it is the backend's turn; `None` while the client is waited for.
    pub(crate) fn backend_since(&self) -> Option<Instant> {
        let waits_for_client = self.pace.borrow().as_ref().is_some_and(Pace::is_waiting);
        (!waits_for_client).then(|| self.moved.get())
    }

    /// Bytes passed on so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    fn fail(&self, failure: UploadFailure, error: UploadError) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        self.failure.set(Some(failure));
        Poll::Ready(Some(Err(error)))
    }

    fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let mut incoming = self.incoming.borrow_mut();
        let frame = match Pin::new(&mut *incoming).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                if let Some(pace) = &mut *self.pace.borrow_mut() {
                    ready!(pace.poll_too_slow(cx));
                    return self.fail(UploadFailure::TooSlow, UploadError::TooSlow);
                }
                return Poll::Pending;
            }
        };
        let frame = match frame {
            Some(Ok(mut frame)) => {
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                let all = self.bytes.get() + bytes;
                if all > self.most {
                    return self.fail(UploadFailure::TooLarge, UploadError::TooLarge);
                }
                self.started.set(true);
                self.bytes.set(all);
                if let Some(pace) = &mut *self.pace.borrow_mut() {
                    pace.came(bytes, Instant::now());
                }
                if let Some(trailers) = frame.trailers_mut() {
                    strip_trailers(trailers);
                }
                Some(Ok(frame))
            }
            Some(Err(err)) => return self.fail(UploadFailure::Broken, UploadError::Broken(err)),
            None => {
                if let Some(pace) = &mut *self.pace.borrow_mut() {
                    pace.came(0, Instant::now());
                }
                None
            }
        };
        self.moved.set(Instant::now());
        Poll::Ready(frame)
    }
}

/// What hyper reads the body from.
pub(crate) struct UploadBody(Rc<Upload>);

impl std::fmt::Debug for UploadBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UploadBody")
    }
}

impl Body for UploadBody {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        self.0.poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.incoming.borrow().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.incoming.borrow().size_hint()
    }
}
