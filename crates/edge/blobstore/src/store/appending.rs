//! Appending to a file.

use axum::body::Body;
use bytes::Bytes;
use sqlx::postgres::types::Oid;
use sqlx::{Postgres, Transaction};

use super::{Store, position};
use crate::backend::{PIECE, large_object};
use crate::error::Error;
use crate::files::{self, File, New, Place};
use crate::incoming::{Incoming, Measure};

impl Store {
    /// Appends to a file that has `offset` bytes.
    pub(crate) async fn append(&self, name: &str, offset: i64, body: Body) -> Result<(), Error> {
        let mut incoming = Incoming::new(body);
        let first = incoming.next().await?;
        let mut transaction = self.begin().await?;
        files::lock_name(&mut transaction, name).await?;
        let file = files::find(&mut transaction, name).await?.ok_or(Error::NotFound)?;
        ends_at(&file, offset)?;
        match file.place().ok_or(Error::NotFound)? {
            Place::LargeObject(object) => grow(transaction, file, object, first, incoming).await,
            Place::Object(_) => {
                transaction.rollback().await?;
                self.rewrite(&file, first, incoming).await
            }
        }
    }

    /// A longer content in place of one that cannot change.
    async fn rewrite(&self, file: &File, first: Option<Bytes>, mut incoming: Incoming) -> Result<(), Error> {
        let Some(Place::Object(object)) = file.place() else { return Err(Error::NotFound) };
        let backend = self.backends.of(&file.backend)?;
        let (mut known, mut writing, mut measure) =
            (backend.read(object).await?, backend.create(&file.content_type).await?, Measure::new());
        while measure.size() < file.size.unsigned_abs() {
            let piece = known.read(measure.size(), PIECE).await?;
            if piece.is_empty() {
                return Err(Error::Damaged { name: file.name.clone() });
            }
            measure.add(&piece);
            writing.write(piece).await?;
        }
        let mut piece = first;
        while let Some(bytes) = piece {
            measure.add(&bytes);
            writing.write(bytes).await?;
            piece = incoming.next().await?;
        }
        let object = writing.finish().await?;
        let (size, sha512) = (position(measure.size()), measure.sha512());
        let new = New {
            name: &file.name,
            content_type: &file.content_type,
            size,
            sha512: &sha512,
            backend: &file.backend,
            place: Place::Object(object),
        };
        // It may have changed meanwhile.
        let same = |there: Option<&File>| match there {
            Some(there) if there.file_id == file.file_id => Ok(()),
            Some(there) => Err(Error::Offset { size: there.size, offset: file.size }),
            None => Err(Error::NotFound),
        };
        self.name_object(&new, object, backend, same).await
    }
}

async fn grow(
    mut transaction: Transaction<'static, Postgres>,
    file: File,
    object: Oid,
    first: Option<Bytes>,
    mut incoming: Incoming,
) -> Result<(), Error> {
    let mut measure = Measure::new();
    while measure.size() < file.size.unsigned_abs() {
        let known = large_object::read(&mut transaction, object, position(measure.size()), PIECE).await?;
        if known.is_empty() {
            return Err(Error::Damaged { name: file.name });
        }
        measure.add(&known);
    }
    let mut piece = first;
    while let Some(bytes) = piece {
        large_object::write(&mut transaction, object, position(measure.size()), &bytes).await?;
        measure.add(&bytes);
        piece = incoming.next().await?;
    }
    let size = position(measure.size());
    files::grown(&mut transaction, file.file_id, size, &measure.sha512()).await?;
    Ok(transaction.commit().await?)
}

fn ends_at(file: &File, offset: i64) -> Result<(), Error> {
    if file.size == offset { Ok(()) } else { Err(Error::Offset { size: file.size, offset }) }
}
