//! Bodies of responses to clients.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::backend::Lease;
use crate::guard::Busy;
use crate::headers::strip_trailers;
use crate::http::record::Record;

/// Why a response ends before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResponseError {
    #[error("the backend did not finish its response")]
    Backend(#[source] hyper::Error),
    #[error("the client took nothing of the response for too long")]
    Stalled,
}

/// The body of a response, and what has to last until it is passed on.
pub(crate) struct ResponseBody {
    content: Content,
    _busy: Busy,
}

enum Content {
    /// Made here.
    Page(Option<Bytes>),
    Relayed(Box<Relayed>),
    /// Of an HTTP/2 stream, whose client may stall it without stalling the connection.
    Shared(Rc<RefCell<Relayed>>),
}

/// A backend's response.
pub(crate) struct Relayed {
    /// `None` when it was given up.
    incoming: Option<Incoming>,
    pub(crate) record: Record,
    /// The connection, to be used again when this is read to its end.
    lease: Option<Lease>,
    /// Since when the client has a piece and asks for no other.
    handed_since: Option<Instant>,
}

impl Relayed {
    pub(crate) fn new(incoming: Incoming, record: Record, lease: Option<Lease>) -> Self {
        Self { incoming: Some(incoming), record, lease, handed_since: None }
    }

    /// Since when the client keeps this waiting.
    pub(super) fn waits_since(&self) -> Option<Instant> {
        self.handed_since
    }

    /// Lets go of the backend.
    pub(super) fn give_up(&mut self) {
        self.lease = None;
        self.incoming = None;
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.incoming.is_none()
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ResponseError>>> {
        let Some(incoming) = &mut self.incoming else {
            return Poll::Ready(Some(Err(ResponseError::Stalled)));
        };
        let frame = ready!(Pin::new(incoming).poll_frame(cx));
        Poll::Ready(match frame {
            Some(Ok(mut frame)) => {
                self.record.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
                if let Some(trailers) = frame.trailers_mut() {
                    strip_trailers(trailers);
                }
                Some(Ok(frame))
            }
            Some(Err(err)) => {
                self.lease = None;
                Some(Err(ResponseError::Backend(err)))
            }
            None => {
                self.release();
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.as_ref().is_some_and(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.as_ref().map_or_else(SizeHint::default, Body::size_hint)
    }

    fn release(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }
}

/// A body of known length is dropped after its last byte, without being asked for its end.
impl Drop for Relayed {
    fn drop(&mut self) {
        if self.is_end_stream() {
            self.release();
        }
    }
}

impl ResponseBody {
    pub(crate) fn page(bytes: Bytes, busy: Busy) -> Self {
        Self { content: Content::Page((!bytes.is_empty()).then_some(bytes)), _busy: busy }
    }

    pub(crate) fn relayed(relayed: Relayed, busy: Busy) -> Self {
        Self { content: Content::Relayed(Box::new(relayed)), _busy: busy }
    }

    pub(crate) fn shared(relayed: Rc<RefCell<Relayed>>, busy: Busy) -> Self {
        Self { content: Content::Shared(relayed), _busy: busy }
    }
}

/// A response that its backend did not finish ends as an error, so that the client sees that it is cut off.
impl Body for ResponseBody {
    type Data = Bytes;
    type Error = ResponseError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ResponseError>>> {
        match &mut self.get_mut().content {
            Content::Page(page) => Poll::Ready(page.take().map(|bytes| Ok(Frame::data(bytes)))),
            Content::Relayed(relayed) => relayed.poll_frame(cx),
            Content::Shared(relayed) => {
                let mut relayed = relayed.borrow_mut();
                relayed.handed_since = None;
                let frame = ready!(relayed.poll_frame(cx));
                relayed.handed_since = Some(Instant::now());
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Page(page) => page.is_none(),
            Content::Relayed(relayed) => relayed.is_end_stream(),
            Content::Shared(relayed) => relayed.borrow().is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Page(page) => SizeHint::with_exact(page.as_ref().map_or(0, |page| page.len() as u64)),
            Content::Relayed(relayed) => relayed.size_hint(),
            Content::Shared(relayed) => relayed.borrow().size_hint(),
        }
    }
}
