//! The last known routes on disk, for a router that starts while no controller answers.
//!
//! The file is JSON, `{"version": 1, "routes": [...]}` with routes as the controller writes them, and only its owner may
//! read it: there are keys of certificates in it. It is replaced as a whole, and synced first.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use flynn_types::router::Route;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use tracing::error;

const VERSION: u32 = 1;
/// Pause between two writes: many changes that come together are written once.
const PAUSE: Duration = Duration::from_secs(1);

/// Why a file gives no routes.
#[derive(Debug, thiserror::Error)]
pub enum KeptError {
    #[error("read the kept routes in {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} holds no kept routes", path.display())]
    Syntax { path: PathBuf, source: serde_json::Error },
    #[error("{} is of version {version}, this router knows only {VERSION}", path.display())]
    Version { path: PathBuf, version: u32 },
}

/// A file of routes.
#[derive(Clone, Debug)]
pub struct Kept {
    path: PathBuf,
}

#[derive(Deserialize)]
struct Document {
    version: u32,
    #[serde(default)]
    routes: Vec<Box<RawValue>>,
}

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    routes: Vec<&'a Route>,
}

type Routes = BTreeMap<String, Arc<Route>>;

impl Kept {
    /// The file may be missing, its folder not.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// The routes that were known last; `None` when none were kept yet. One that cannot be read is left out.
    ///
    /// # Errors
    /// When the file cannot be read, or means nothing.
    pub async fn read(&self) -> Result<Option<Vec<Route>>, KeptError> {
        let path = || self.path.clone();
        let bytes = match tokio::fs::read(&self.path).await {
            Ok(bytes) => bytes,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(KeptError::Read { path: path(), source }),
        };
        let document: Document =
            serde_json::from_slice(&bytes).map_err(|source| KeptError::Syntax { path: path(), source })?;
        if document.version != VERSION {
            return Err(KeptError::Version { path: path(), version: document.version });
        }
        let route = |text: &RawValue| {
            let route = serde_json::from_str::<Route>(text.get());
            route.inspect_err(|err| error!(%err, path = %self.path.display(), "kept route is left out")).ok()
        };
        Ok(Some(document.routes.iter().filter_map(|text| route(text)).collect()))
    }

    /// Keeps what it is told, soon and in the background.
    pub(super) fn keeper(self) -> Keeper {
        let (told, routes) = watch::channel(None);
        Keeper { told, _writer: AbortOnDropHandle::new(tokio::spawn(write_all(self.path, routes))) }
    }
}

/// Knows all routes and has them written.
pub(super) struct Keeper {
    /// `None` until a list was told.
    told: watch::Sender<Option<Routes>>,
    _writer: AbortOnDropHandle<()>,
}

impl Keeper {
    pub(super) fn all(&self, routes: &[Route]) {
        let routes: Routes = routes.iter().map(|route| (route.id.clone(), Arc::new(route.clone()))).collect();
        self.told.send_if_modified(|known| {
            let differ = known.as_ref() != Some(&routes);
            *known = Some(routes);
            differ
        });
    }

    pub(super) fn set(&self, route: &Route) {
        self.change(|routes| drop(routes.insert(route.id.clone(), Arc::new(route.clone()))));
    }

    pub(super) fn remove(&self, id: &str) {
        self.change(|routes| drop(routes.remove(id)));
    }

    fn change(&self, change: impl FnOnce(&mut Routes)) {
        self.told.send_if_modified(|known| known.as_mut().map(change).is_some());
    }
}

/// Writes what is told until nobody tells any more.
async fn write_all(path: PathBuf, mut told: watch::Receiver<Option<Routes>>) {
    let mut failed = false;
    while told.changed().await.is_ok() {
        let Some(routes) = told.borrow_and_update().clone() else { continue };
        let to = path.clone();
        let written = tokio::task::spawn_blocking(move || write(&to, &routes)).await;
        match written.unwrap_or_else(|err| Err(io::Error::other(err))) {
            Ok(()) => failed = false,
            // Once: it goes on failing while the disk is full.
            Err(err) if !std::mem::replace(&mut failed, true) => {
                error!(%err, path = %path.display(), "routes cannot be kept: a restart while no controller answers would be without");
            }
            Err(_) => {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn write(path: &Path, routes: &Routes) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let text =
        serde_json::to_vec(&Written { version: VERSION, routes: routes.values().map(|route| &**route).collect() })?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?; // only its owner may read it
    file.write_all(&text)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    std::fs::File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn route(id: &str) -> Route {
        Route { id: id.into(), domain: format!("{id}.example.com"), service: "s".into(), ..Route::default() }
    }

    async fn until_kept(kept: &Kept, ids: &[&str]) {
        let deadline = tokio::time::Instant::now() + flynn_patience::seconds(20);
        loop {
            let read = kept.read().await.unwrap().unwrap_or_default();
            if read.iter().map(|route| &*route.id).eq(ids.iter().copied()) {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{ids:?} are awaited, kept are {read:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn what_was_told_is_kept_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::new(folder.path().join("routes.json"));
        assert_eq!(kept.read().await.unwrap(), None);
        let keeper = kept.clone().keeper();
        keeper.set(&route("before-any-list"));
        keeper.all(&[route("a"), route("b")]);
        until_kept(&kept, &["a", "b"]).await;
        keeper.set(&route("c"));
        keeper.remove("a");
        until_kept(&kept, &["b", "c"]).await;
        assert_eq!(std::fs::metadata(&kept.path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing unfinished is left");
    }

    #[tokio::test]
    async fn a_route_that_means_nothing_harms_no_other_and_a_file_that_does_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept::new(folder.path().join("routes.json"));
        // As version 1 writes it.
        let golden = r#"{"version":1,"routes":[{"type":"quic","id":"a"},{"type":"http","id":"b","service":"s","leader":false,"created_at":"0001-01-01T00:00:00Z","updated_at":"0001-01-01T00:00:00Z","domain":"b.example.com"}]}"#;
        std::fs::write(&kept.path, golden).unwrap();
        assert_eq!(kept.read().await.unwrap(), Some(vec![route("b")]));
        write(&kept.path, &[("b".to_owned(), Arc::new(route("b")))].into()).unwrap();
        assert_eq!(std::fs::read_to_string(&kept.path).unwrap(), golden.replace(r#"{"type":"quic","id":"a"},"#, ""));
        for (text, reason) in [("", "holds no"), (r#"{"version":2}"#, "version 2")] {
            std::fs::write(&kept.path, text).unwrap();
            let err = kept.read().await.unwrap_err().to_string();
            assert!(err.contains(reason), "{err}");
        }
    }
}
