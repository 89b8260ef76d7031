//! A request's body on its way to a backend, and what is known of it meanwhile.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

/// The body of one request. It outlives the connections that it is tried on, as long as nothing of it was read.
pub(crate) struct Upload {
    incoming: RefCell<Incoming>,
    started: Cell<bool>,
    failed: Cell<bool>,
    ended: Cell<Option<Instant>>,
    bytes: Cell<u64>,
}

impl Upload {
    pub(crate) fn new(incoming: Incoming) -> Rc<Self> {
        let ended = incoming.is_end_stream().then(Instant::now);
        Rc::new(Self {
            incoming: RefCell::new(incoming),
            started: Cell::new(false),
            failed: Cell::new(false),
            ended: Cell::new(ended),
            bytes: Cell::new(0),
        })
    }

    /// The body for one attempt.
    pub(crate) fn body(self: &Rc<Self>) -> UploadBody {
        UploadBody(Rc::clone(self))
    }

    /// Whether something of it was given away, so that it cannot be sent again.
    pub(crate) fn is_started(&self) -> bool {
        self.started.get()
    }

    /// Whether the client failed to send it.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.get()
    }

    /// When its end was passed on.
    pub(crate) fn ended(&self) -> Option<Instant> {
        self.ended.get()
    }

    /// Bytes passed on so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.get()
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
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let upload = &self.0;
        let mut incoming = upload.incoming.borrow_mut();
        let frame = ready!(Pin::new(&mut *incoming).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                upload.started.set(true);
                let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
                upload.bytes.set(upload.bytes.get() + bytes);
            }
            Some(Err(_)) => upload.failed.set(true),
            None => {}
        }
        if frame.is_none() || incoming.is_end_stream() {
            upload.ended.set(Some(Instant::now()));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.0.incoming.borrow().is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.incoming.borrow().size_hint()
    }
}
