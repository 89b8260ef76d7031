//! Reading a file's content as it was when the reading began.

use std::collections::VecDeque;

use bytes::Bytes;
use futures_util::{Stream, stream};
use sqlx::postgres::types::Oid;
use sqlx::{Postgres, Transaction};
use url::Url;

use super::{Store, patient, position};
use crate::backend::{Backend, Reading, large_object};
use crate::error::Error;
use crate::files::{self, File, Place};
use crate::respond::Part;

/// How often a file is looked up again when its content was replaced just then.
const TRIES: u32 = 5;

/// Where a content can be had.
pub(crate) enum Found {
    Here(Opened),
    /// At an address of an object store, for a while.
    Elsewhere(Url),
}

/// A file whose content can be read as it is now, whatever changes.
pub(crate) struct Opened {
    pub(crate) file: File,
    content: Content,
}

enum Content {
    /// With one view of names and large objects: what is removed meanwhile is there to the end.
    LargeObject(Transaction<'static, Postgres>, Oid),
    /// An open file: likewise.
    Object(Reading),
}

impl Store {
    pub(crate) async fn open(&self, name: &str) -> Result<Found, Error> {
        let mut tries = 0;
        loop {
            let mut transaction = self.pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
            patient(&mut transaction).await?;
            let file = files::find(&mut transaction, name).await?.ok_or(Error::NotFound)?;
            let object = match file.place().ok_or(Error::NotFound)? {
                Place::LargeObject(object) => {
                    let content = Content::LargeObject(transaction, object);
                    return Ok(Found::Here(Opened { file, content }));
                }
                Place::Object(object) => object,
            };
            transaction.rollback().await?;
            let backend = self.backends.of(&file.backend)?;
            if let Backend::Bucket(bucket) = backend {
                return Ok(Found::Elsewhere(bucket.address(object).await?));
            }
            match backend.read(object).await {
                Ok(reading) => return Ok(Found::Here(Opened { file, content: Content::Object(reading) })),
                Err(err) if tries >= TRIES => return Err(err),
                Err(_) => tries += 1,
            }
        }
    }
}

impl Content {
    /// The next bytes of a content; none is an error.
    async fn read(&mut self, offset: u64, length: usize) -> Result<Bytes, Error> {
        match self {
            Self::LargeObject(transaction, object) => {
                Ok(large_object::read(transaction, *object, position(offset), length).await?)
            }
            Self::Object(reading) => reading.read(offset, length).await,
        }
    }
}

impl Opened {
    /// The parts of an answer, piece by piece.
    pub(crate) fn stream(self, parts: VecDeque<Part>) -> impl Stream<Item = Result<Bytes, Error>> + Send {
        stream::try_unfold((self, parts), |(mut opened, mut parts)| async move {
            while let Some(part) = parts.pop_front() {
                let range = match part {
                    Part::Text(text) => return Ok(Some((text, (opened, parts)))),
                    Part::Content(range) if range.is_empty() => continue,
                    Part::Content(range) => range,
                };
                let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
                let piece = opened.content.read(range.start, length).await?;
                if piece.is_empty() {
                    return Err(Error::Damaged { name: opened.file.name });
                }
                parts.push_front(Part::Content(range.start + piece.len() as u64..range.end));
                return Ok(Some((piece, (opened, parts))));
            }
            Ok(None)
        })
    }
}
