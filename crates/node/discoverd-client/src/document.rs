//! A service's metadata as a typed document.

use std::marker::PhantomData;

use flynn_types::discoverd::{EventKind, ServiceConfig, ServiceMeta};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Client, DiscoverdError, Watch};

/// Tries of [`Document::update`] before it gives up on rivals.
const UPDATE_TRIES: u32 = 20;

/// The document of one service, written with compare-and-set.
#[derive(Clone, Debug)]
pub struct Document<T> {
    client: Client,
    service: String,
    kind: PhantomData<fn() -> T>,
}

/// A document as it was written once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision<T> {
    pub value: T,
    /// What the next write must name.
    pub index: u64,
}

impl Client {
    /// The metadata document of a service, which need not exist yet.
    pub fn document<T>(&self, service: &str) -> Document<T> {
        Document { client: self.clone(), service: service.to_owned(), kind: PhantomData }
    }
}

impl<T: Serialize + DeserializeOwned> Document<T> {
    /// The document, or `None` before the first write. May be older than the latest write, which then refuses ours.
    pub async fn read(&self) -> Result<Option<Revision<T>>, DiscoverdError> {
        let meta = self.client.meta(&self.service).await?;
        meta.map(|meta| self.decode(&meta)).transpose()
    }

    /// Writes if `expected` is still the current index, 0 for a document that does not exist yet.
    ///
    /// # Errors
    /// See [`DiscoverdError::is_conflict`] for a document that is another by now.
    pub async fn compare_and_set(&self, expected: u64, value: T) -> Result<Revision<T>, DiscoverdError> {
        let data = serde_json::value::to_raw_value(&value).map_err(|err| self.invalid(&err))?;
        let meta = ServiceMeta { data: Some(data), index: expected, leader_id: String::new() };
        let written = match self.client.set_meta(&self.service, &meta).await {
            Err(err) if err.is_not_found() && expected == 0 => {
                self.client.add_service(&self.service, &ServiceConfig::default()).await?;
                self.client.set_meta(&self.service, &meta).await?
            }
            other => other?,
        };
        Ok(Revision { value, index: written.index })
    }

    /// Reads, changes and writes until nobody came between. `change` gives `None` to leave the document alone.
    pub async fn update(
        &self,
        mut change: impl FnMut(Option<T>) -> Option<T>,
    ) -> Result<Option<Revision<T>>, DiscoverdError> {
        let mut backoff =
            flynn_http::Backoff::new(std::time::Duration::from_millis(10), std::time::Duration::from_secs(1));
        for tries in 1.. {
            let (index, old) = self.read().await?.map_or((0, None), |found| (found.index, Some(found.value)));
            let Some(new) = change(old) else { return Ok(None) };
            match self.compare_and_set(index, new).await {
                Err(err) if err.is_conflict() && tries < UPDATE_TRIES => tokio::time::sleep(backoff.pause()).await,
                other => return other.map(Some),
            }
        }
        unreachable!("the loop ends with a return")
    }

    /// Follows the document.
    pub fn watch(&self) -> DocumentWatch<T> {
        DocumentWatch { watch: self.client.watch(&self.service), document: self.same() }
    }

    fn same(&self) -> Self {
        Self { client: self.client.clone(), service: self.service.clone(), kind: PhantomData }
    }

    fn decode(&self, meta: &ServiceMeta) -> Result<Revision<T>, DiscoverdError> {
        let text = meta.data.as_ref().map_or("null", |data| data.get());
        let value = serde_json::from_str(text).map_err(|err| self.invalid(&err))?;
        Ok(Revision { value, index: meta.index })
    }

    fn invalid(&self, err: &serde_json::Error) -> DiscoverdError {
        DiscoverdError::Document { service: self.service.clone(), reason: err.to_string() }
    }
}

/// Revisions of a document, each at most once, in order. Some may be passed over.
pub struct DocumentWatch<T> {
    watch: Watch,
    document: Document<T>,
}

impl<T: Serialize + DeserializeOwned> DocumentWatch<T> {
    /// The next revision. Cancel safe.
    ///
    /// # Errors
    /// When the document is not of this type; the next call waits for the one after it.
    pub async fn next(&mut self) -> Result<Revision<T>, DiscoverdError> {
        loop {
            let event = self.watch.next().await;
            if let (EventKind::ServiceMeta, Some(meta)) = (event.kind, &event.service_meta) {
                return self.document.decode(meta);
            }
        }
    }
}
