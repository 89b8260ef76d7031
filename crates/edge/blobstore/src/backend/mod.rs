//! Where contents are.

pub(crate) mod large_object;
pub(crate) mod local;
pub(crate) mod settings;

use std::collections::BTreeMap;
use std::io;

use self::local::Local;
use self::settings::{Kind, Settings};
use crate::error::Error;

/// The backend that is always there: large objects in the database of the names.
pub(crate) const POSTGRES: &str = "postgres";
/// Contents are read and written in pieces of so many bytes; large objects have pages of 2 KiB.
pub(crate) const PIECE: usize = 256 * 1024;

/// All backends besides [`POSTGRES`].
#[derive(Clone, Debug)]
pub(crate) struct Backends {
    default: String,
    others: BTreeMap<String, Local>,
}

/// A backend that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("use the folder of the backend {name}")]
pub struct BackendError {
    name: String,
    #[source]
    err: io::Error,
}

impl Backends {
    pub(crate) fn open(settings: &Settings) -> Result<Self, BackendError> {
        let mut others = BTreeMap::new();
        for (name, Kind::Local { path }) in &settings.backends {
            let opened = Local::open(path);
            let opened = opened.map_err(|err| BackendError { name: name.clone(), err })?;
            tracing::info!(name, path = %path.display(), "Configured additional backend: {name} (local)");
            others.insert(name.clone(), opened);
        }
        Ok(Self { default: settings.default.clone(), others })
    }

    /// Where new contents go; `None` is the database.
    pub(crate) fn default(&self) -> Option<(&str, &Local)> {
        self.others.get(&self.default).map(|local| (self.default.as_str(), local))
    }

    pub(crate) fn of(&self, name: &str) -> Result<&Local, Error> {
        self.others.get(name).ok_or_else(|| Error::UnknownBackend(name.to_owned()))
    }
}
