//! What requests ask for, with names and contents in agreement.

use std::collections::VecDeque;

use axum::body::Body;
use bytes::Bytes;
use futures_util::{Stream, stream};
use sqlx::postgres::types::Oid;
use sqlx::{PgPool, Postgres, Transaction};

use crate::backend::{PIECE, POSTGRES, large_object};
use crate::error::Error;
use crate::files::{self, File, New, Place};
use crate::incoming::{Incoming, Measure};
use crate::respond::Part;

pub(crate) struct Store {
    pool: PgPool,
}

/// A file whose content can be read as it is now, whatever changes.
pub(crate) struct Opened {
    pub(crate) file: File,
    transaction: Transaction<'static, Postgres>,
    object: Oid,
}

impl Store {
    pub(crate) fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// Whether the database answers.
    pub(crate) async fn check(&self) -> Result<(), sqlx::Error> {
        sqlx::query("SELECT 1").execute(&self.pool).await.map(drop)
    }

    pub(crate) async fn list(&self, directory: &str) -> Result<Vec<String>, Error> {
        Ok(files::list(&mut *self.pool.acquire().await?, directory).await?)
    }

    pub(crate) async fn find(&self, name: &str) -> Result<File, Error> {
        files::find(&mut *self.pool.acquire().await?, name).await?.ok_or(Error::NotFound)
    }

    pub(crate) async fn open(&self, name: &str) -> Result<Opened, Error> {
        // One view of names and large objects, so that a content that is replaced can be read to its end.
        let mut transaction = self.pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await?;
        patient(&mut transaction).await?;
        let file = files::find(&mut transaction, name).await?.ok_or(Error::NotFound)?;
        match file.place() {
            Some(Place::LargeObject(object)) => Ok(Opened { file, transaction, object }),
            Some(Place::Object(_)) => Err(Error::UnknownBackend(file.backend)),
            None => Err(Error::NotFound),
        }
    }

    /// Creates or replaces a file.
    pub(crate) async fn put(&self, name: &str, content_type: &str, body: Body) -> Result<(), Error> {
        let mut incoming = Incoming::new(body);
        // A connection is taken when there is something to write.
        let mut piece = incoming.next().await?;
        let mut transaction = self.begin().await?;
        let object = large_object::create(&mut transaction).await?;
        let mut measure = Measure::new();
        while let Some(bytes) = piece {
            let offset = position(measure.size());
            large_object::write(&mut transaction, object, offset, &bytes).await?;
            measure.add(&bytes);
            piece = incoming.next().await?;
        }
        let (size, sha512) = (position(measure.size()), measure.sha512());
        let place = Place::LargeObject(object);
        let new = New { name, content_type, size, sha512: &sha512, backend: POSTGRES, place };
        files::lock_name(&mut transaction, name).await?;
        files::name(&mut transaction, &new).await?;
        Ok(transaction.commit().await?)
    }

    /// Appends to a file that has `offset` bytes.
    pub(crate) async fn append(&self, name: &str, offset: i64, body: Body) -> Result<(), Error> {
        let mut incoming = Incoming::new(body);
        let mut piece = incoming.next().await?;
        let mut transaction = self.begin().await?;
        files::lock_name(&mut transaction, name).await?;
        let file = files::find(&mut transaction, name).await?.ok_or(Error::NotFound)?;
        if file.size != offset {
            return Err(Error::Offset { size: file.size, offset });
        }
        let Some(Place::LargeObject(object)) = file.place() else { return Err(Error::UnknownBackend(file.backend)) };
        let mut measure = Measure::new();
        while measure.size() < file.size.unsigned_abs() {
            let known = large_object::read(&mut transaction, object, position(measure.size()), PIECE).await?;
            if known.is_empty() {
                return Err(Error::Damaged { name: file.name });
            }
            measure.add(&known);
        }
        while let Some(bytes) = piece {
            large_object::write(&mut transaction, object, position(measure.size()), &bytes).await?;
            measure.add(&bytes);
            piece = incoming.next().await?;
        }
        let size = position(measure.size());
        files::grown(&mut transaction, file.file_id, size, &measure.sha512()).await?;
        Ok(transaction.commit().await?)
    }

    /// Gives a copy of a file a name that is free.
    pub(crate) async fn copy(&self, from: &str, to: &str) -> Result<(), Error> {
        let mut transaction = self.begin().await?;
        let file = files::find(&mut transaction, from).await?.ok_or(Error::NotFound)?;
        files::lock_name(&mut transaction, to).await?;
        if files::find(&mut transaction, to).await?.is_some() {
            return Err(Error::Exists);
        }
        let place = match file.place() {
            Some(Place::LargeObject(object)) => {
                Place::LargeObject(large_object::copy(&mut transaction, object, file.size).await?)
            }
            Some(Place::Object(_)) => return Err(Error::UnknownBackend(file.backend)),
            None => return Err(Error::NotFound),
        };
        let sha512 = file.sha512.as_deref().unwrap_or_default();
        let (content_type, backend) = (file.content_type.as_str(), file.backend.as_str());
        let new = New { name: to, content_type, size: file.size, sha512, backend, place };
        files::name(&mut transaction, &new).await?;
        Ok(transaction.commit().await?)
    }

    /// Removes a file and everything below it.
    pub(crate) async fn delete(&self, name: &str) -> Result<(), Error> {
        let mut transaction = self.begin().await?;
        files::unname(&mut transaction, name).await?;
        Ok(transaction.commit().await?)
    }

    async fn begin(&self) -> Result<Transaction<'static, Postgres>, Error> {
        let mut transaction = self.pool.begin().await?;
        patient(&mut transaction).await?;
        Ok(transaction)
    }
}

/// Clients may be slow; how slow, is limited elsewhere.
async fn patient(transaction: &mut Transaction<'static, Postgres>) -> Result<(), sqlx::Error> {
    let set = sqlx::query("SET LOCAL idle_in_transaction_session_timeout = '5min'");
    set.execute(&mut **transaction).await.map(drop)
}

/// A size as the database counts.
fn position(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
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
                let start = position(range.start);
                let piece = large_object::read(&mut opened.transaction, opened.object, start, length).await?;
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
