//! Event streams: the body that turns a subscription into frames.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::DropGuard;

use crate::replica::{Ended, Subscription};

/// One write to a connection gathers frames up to about this size.
const GATHER_BYTES: usize = 64 << 10;
/// No empty line after it: existing clients would take it for an event.
const KEEP_ALIVE: &[u8] = b":\n";

pub(super) struct EventBody {
    subscription: Option<Subscription>,
    keep_alive: Pin<Box<Sleep>>,
    period: Duration,
    /// Tells whoever watches over the connection that the stream is over.
    _over: DropGuard,
}

impl EventBody {
    pub(super) fn new(subscription: Subscription, period: Duration, over: DropGuard) -> Self {
        let keep_alive = Box::pin(tokio::time::sleep(period));
        Self { subscription: Some(subscription), keep_alive, period, _over: over }
    }
}

impl http_body::Body for EventBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        let mut bytes = BytesMut::new();
        while let Some(subscription) = this.subscription.as_mut() {
            match subscription.poll_next(context) {
                Poll::Ready(Ok(event)) => {
                    bytes.extend_from_slice(&event.frame());
                    if bytes.len() >= GATHER_BYTES {
                        break;
                    }
                }
                Poll::Ready(Err(ended)) => {
                    if ended == Ended::TooSlow {
                        bytes.extend_from_slice(format!("event: error\ndata: {ended}\n\n").as_bytes());
                    }
                    this.subscription = None;
                }
                Poll::Pending => break,
            }
        }
        if !bytes.is_empty() {
            this.keep_alive.as_mut().reset(Instant::now() + this.period);
            return Poll::Ready(Some(Ok(Frame::data(bytes.freeze()))));
        }
        if this.subscription.is_none() {
            return Poll::Ready(None);
        }
        if this.keep_alive.as_mut().poll(context).is_ready() {
            this.keep_alive.as_mut().reset(Instant::now() + this.period);
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(KEEP_ALIVE)))));
        }
        Poll::Pending
    }
}
