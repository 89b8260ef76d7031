//! The body of a request, in pieces.

use std::time::Duration;

use aws_lc_rs::digest::{Context, SHA512};
use axum::body::{Body, BodyDataStream};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;

use crate::backend::PIECE;
use crate::error::Error;

/// Longest silence of a client.
const SILENCE: Duration = Duration::from_secs(60);

/// Gathers what comes to pieces of [`PIECE`] bytes.
pub(crate) struct Incoming {
    body: BodyDataStream,
    gathered: BytesMut,
    ended: bool,
}

impl Incoming {
    pub(crate) fn new(body: Body) -> Self {
        Self { body: body.into_data_stream(), gathered: BytesMut::new(), ended: false }
    }

    /// The next piece; shorter only at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        while !self.ended && self.gathered.len() < PIECE {
            let next = tokio::time::timeout(SILENCE, self.body.next()).await;
            match next.map_err(|_| Error::Silent(SILENCE.as_secs()))? {
                Some(Ok(bytes)) => self.gathered.extend_from_slice(&bytes),
                Some(Err(err)) => return Err(Error::Body(err)),
                None => self.ended = true,
            }
        }
        let length = self.gathered.len().min(PIECE);
        Ok((length > 0).then(|| self.gathered.split_to(length).freeze()))
    }
}

/// Size and digest of what has passed by.
pub(crate) struct Measure {
    digest: Context,
    size: u64,
}

impl Measure {
    pub(crate) fn new() -> Self {
        Self { digest: Context::new(&SHA512), size: 0 }
    }

    pub(crate) fn add(&mut self, piece: &[u8]) {
        self.digest.update(piece);
        self.size += piece.len() as u64;
    }

    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    pub(crate) fn sha512(self) -> Vec<u8> {
        self.digest.finish().as_ref().to_vec()
    }
}
