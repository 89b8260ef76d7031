//! Request bodies that can be read to their end after the handler has lost interest.
//!
//! A handler that refuses a request answers before it has read the body. Closing the connection then makes the kernel
//! send a reset while the client still sends, and the answer is lost on the way. So what is left of a body is read, up to
//! [`DRAINED`] bytes, before the answer goes out.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

/// Most that is read of a body that nobody wants, in bytes.
const DRAINED: usize = 4 << 20;
/// Longest that such a body is waited for.
const PATIENCE: Duration = Duration::from_secs(2);

type Shared = Arc<Mutex<Option<Incoming>>>;

/// The handler's end of a body.
pub(crate) struct Kept(Shared);

/// Our end of a body.
pub(crate) struct Rest(Shared);

/// Divides a body.
pub(crate) fn keep(body: Incoming) -> (Kept, Rest) {
    let shared = Arc::new(Mutex::new(Some(body)));
    (Kept(Arc::clone(&shared)), Rest(shared))
}

impl Rest {
    /// Reads what the handler left. Does nothing while the handler's end still exists: it may be reading.
    pub(crate) async fn drain(self) {
        let Some(mut body) =
            Arc::into_inner(self.0).and_then(|shared| shared.into_inner().unwrap_or_else(PoisonError::into_inner))
        else {
            return;
        };
        let reading = async {
            let mut read = 0;
            while read < DRAINED
                && let Some(Ok(frame)) = body.frame().await
            {
                read += frame.data_ref().map_or(0, Bytes::len);
            }
        };
        let _ = tokio::time::timeout(PATIENCE, reading).await; // then the client loses the answer
    }
}

impl Body for Kept {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let mut body = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match body.as_mut() {
            Some(body) => Pin::new(body).poll_frame(context),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        let body = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let body = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
