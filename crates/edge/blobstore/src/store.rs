//! What requests ask for, with names and contents in agreement.
//!
//! A content outside of the database is whole before it gets its name, and goes after it has lost it. What is left without
//! a name when a process ends in between, takes room and is never seen.

mod appending;
mod reading;

pub(crate) use self::reading::Found;

use axum::body::Body;
use sqlx::{PgPool, Postgres, Transaction};
use tracing::warn;
use uuid::Uuid;

use crate::backend::{Backend, Backends, POSTGRES, large_object};
use crate::error::Error;
use crate::files::{self, File, New, Place, Unnamed};
use crate::incoming::{Incoming, Measure};

pub(crate) struct Store {
    pool: PgPool,
    backends: Backends,
}

impl Store {
    pub(crate) fn new(pool: PgPool, backends: Backends) -> Self {
        Self { pool, backends }
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

    /// Creates or replaces a file.
    pub(crate) async fn put(&self, name: &str, content_type: &str, body: Body) -> Result<(), Error> {
        let incoming = Incoming::new(body);
        match self.backends.default() {
            None => self.put_in_database(name, content_type, incoming).await,
            Some((backend_name, backend)) => {
                self.put_outside(name, content_type, incoming, backend_name, backend).await
            }
        }
    }

    async fn put_in_database(&self, name: &str, content_type: &str, mut incoming: Incoming) -> Result<(), Error> {
        // A connection is taken when there is something to write.
        let mut piece = incoming.next().await?;
        let mut transaction = self.begin().await?;
        let object = large_object::create(&mut transaction).await?;
        let mut measure = Measure::new();
        while let Some(bytes) = piece {
            large_object::write(&mut transaction, object, position(measure.size()), &bytes).await?;
            measure.add(&bytes);
            piece = incoming.next().await?;
        }
        let (size, sha512) = (position(measure.size()), measure.sha512());
        let place = Place::LargeObject(object);
        let new = New { name, content_type, size, sha512: &sha512, backend: POSTGRES, place };
        files::lock_name(&mut transaction, name).await?;
        let unnamed = files::name(&mut transaction, &new).await?;
        transaction.commit().await?;
        self.remove(unnamed).await;
        Ok(())
    }

    async fn put_outside(
        &self,
        name: &str,
        content_type: &str,
        mut incoming: Incoming,
        backend_name: &str,
        backend: &Backend,
    ) -> Result<(), Error> {
        let (mut writing, mut measure) = (backend.create(content_type).await?, Measure::new());
        while let Some(bytes) = incoming.next().await? {
            measure.add(&bytes);
            writing.write(bytes).await?;
        }
        let object = writing.finish().await?;
        let (size, sha512) = (position(measure.size()), measure.sha512());
        let new =
            New { name, content_type, size, sha512: &sha512, backend: backend_name, place: Place::Object(object) };
        self.name_object(&new, object, backend, |_| Ok(())).await
    }

    /// Gives a whole content outside of the database its name, if `agrees` says so of the file that has it now.
    async fn name_object(
        &self,
        new: &New<'_>,
        object: Uuid,
        backend: &Backend,
        agrees: impl FnOnce(Option<&File>) -> Result<(), Error> + Send,
    ) -> Result<(), Error> {
        let naming = async {
            let mut transaction = self.begin().await?;
            files::lock_name(&mut transaction, new.name).await?;
            agrees(files::find(&mut transaction, new.name).await?.as_ref())?;
            let unnamed = files::name(&mut transaction, new).await?;
            Ok((transaction, unnamed))
        };
        match naming.await {
            Ok((transaction, unnamed)) => {
                // Whether a commit whose answer is lost was done is not known: the content stays.
                transaction.commit().await?;
                self.remove(unnamed).await;
                Ok(())
            }
            Err(err) => {
                if let Err(err) = backend.remove(object).await {
                    warn!(%object, err = &err as &dyn std::error::Error, "a content without a name cannot be removed");
                }
                Err(err)
            }
        }
    }

    /// Gives a copy of a file a name that is free.
    pub(crate) async fn copy(&self, from: &str, to: &str) -> Result<(), Error> {
        let file = self.find(from).await?;
        let sha512 = file.sha512.as_deref().unwrap_or_default();
        let new = |place| New {
            name: to,
            content_type: &file.content_type,
            size: file.size,
            sha512,
            backend: &file.backend,
            place,
        };
        let free = |there: Option<&File>| if there.is_some() { Err(Error::Exists) } else { Ok(()) };
        match file.place().ok_or(Error::NotFound)? {
            Place::LargeObject(object) => {
                let mut transaction = self.begin().await?;
                files::lock_name(&mut transaction, to).await?;
                free(files::find(&mut transaction, to).await?.as_ref())?;
                let copy = large_object::copy(&mut transaction, object, file.size).await?;
                files::name(&mut transaction, &new(Place::LargeObject(copy))).await?;
                Ok(transaction.commit().await?)
            }
            Place::Object(object) => {
                let backend = self.backends.of(&file.backend)?;
                let copy = backend.copy(object, file.size.unsigned_abs(), &file.content_type).await?;
                self.name_object(&new(Place::Object(copy)), copy, backend, free).await
            }
        }
    }

    /// Removes a file and everything below it.
    pub(crate) async fn delete(&self, name: &str) -> Result<(), Error> {
        let mut transaction = self.begin().await?;
        let unnamed = files::unname(&mut transaction, name).await?;
        transaction.commit().await?;
        self.remove(unnamed).await;
        Ok(())
    }

    /// Removes contents that have lost their names. Their rows say where they were, should it fail.
    async fn remove(&self, unnamed: Vec<Unnamed>) {
        for Unnamed { backend, object } in unnamed {
            let removed = match self.backends.of(&backend) {
                Ok(backend) => backend.remove(object).await,
                Err(err) => Err(err),
            };
            if let Err(err) = removed {
                warn!(backend, %object, err = &err as &dyn std::error::Error, "a content without a name cannot be removed");
            }
        }
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
