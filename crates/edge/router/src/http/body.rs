//! Bodies of responses to clients.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use crate::backend::Sender;
use crate::guard::Busy;
use crate::http::record::Record;
use crate::worker::Worker;

/// The body of a response, and what has to last until it is passed on.
pub(crate) struct ResponseBody {
    content: Content,
    _busy: Busy,
}

enum Content {
    /// Made here.
    Page(Option<Bytes>),
    Relayed(Box<Relayed>),
}

/// A backend's response.
pub(crate) struct Relayed {
    pub(crate) incoming: Incoming,
    pub(crate) record: Record,
    /// The connection, to be used again when this is read to its end.
    pub(crate) connection: Option<(Rc<Worker>, Sender)>,
}

impl ResponseBody {
    pub(crate) fn page(bytes: Bytes, busy: Busy) -> Self {
        Self { content: Content::Page((!bytes.is_empty()).then_some(bytes)), _busy: busy }
    }

    pub(crate) fn relayed(relayed: Relayed, busy: Busy) -> Self {
        Self { content: Content::Relayed(Box::new(relayed)), _busy: busy }
    }
}

/// A response that its backend did not finish ends as an error, so that the client sees that it is cut off.
impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.get_mut().content {
            Content::Page(page) => Poll::Ready(page.take().map(|bytes| Ok(Frame::data(bytes)))),
            Content::Relayed(relayed) => {
                let frame = ready!(Pin::new(&mut relayed.incoming).poll_frame(cx));
                match &frame {
                    Some(Ok(frame)) => relayed.record.sent += frame.data_ref().map_or(0, |data| data.len() as u64),
                    Some(Err(_)) => relayed.connection = None,
                    None => relayed.release(),
                }
                Poll::Ready(frame)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Page(page) => page.is_none(),
            Content::Relayed(relayed) => relayed.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Page(page) => SizeHint::with_exact(page.as_ref().map_or(0, |page| page.len() as u64)),
            Content::Relayed(relayed) => relayed.incoming.size_hint(),
        }
    }
}

impl Relayed {
    fn release(&mut self) {
        if let Some((worker, sender)) = self.connection.take()
            && let Some(in_flight) = &self.record.in_flight
        {
            worker.pool.put(in_flight.0.id, sender);
        }
    }
}

/// A body of known length is dropped after its last byte, without being asked for its end.
impl Drop for Relayed {
    fn drop(&mut self) {
        if self.incoming.is_end_stream() {
            self.release();
        }
    }
}
