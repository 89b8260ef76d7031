//! Routes and services from one JSON file, for use without a cluster and for tests.
//!
//! ```json
//! {
//!   "routes": [{"domain": "shop.example.com", "service": "shop-web"},
//!              {"type": "tcp", "port": 3000, "service": "mail"}],
//!   "services": {"shop-web": {"instances": ["10.0.0.7:8080", "10.0.0.8:8080"]},
//!                "mail": {"instances": ["10.0.0.9:25"], "leader": "10.0.0.9:25"}}
//! }
//! ```
//!
//! A route is what the controller's API calls so; one without an `id` gets it from its kind, port, domain and path.
//! The file is looked at every few milliseconds, so that any way of changing it works, on any file system. What it says
//! is taken over as a whole or not at all: a file that is wrong changes nothing and is named in the log.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use flynn_types::router::{Route, RouteKind};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;
use tracing::{error, info};

use super::{Change, Changes, Instance, Membership};

/// Pause between looks at the file: a part of the 50 ms within which a change shall be served.
const LOOK: Duration = Duration::from_millis(20);
/// For so long after a change the content is read at each look: time stamps are coarser than changes.
const SETTLE: Duration = Duration::from_millis(200);

/// Why a file says nothing.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("read {}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is no route file", path.display())]
    Syntax { path: PathBuf, source: serde_json::Error },
    #[error("{} has two routes with the id {id:?}", path.display())]
    SameId { path: PathBuf, id: String },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    routes: Vec<Route>,
    #[serde(default)]
    services: BTreeMap<Box<str>, Members>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Members {
    #[serde(default)]
    instances: Vec<Member>,
    leader: Option<SocketAddr>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Member {
    Address(SocketAddr),
    Full {
        addr: SocketAddr,
        #[serde(default)]
        app: Box<str>,
        #[serde(default)]
        job_id: Box<str>,
    },
}

/// Reads a file as it is now.
///
/// # Errors
/// When it cannot be read, or means nothing.
pub async fn read(path: &Path) -> Result<Change, FileError> {
    parse(path, &bytes(path).await?)
}

async fn bytes(path: &Path) -> Result<Vec<u8>, FileError> {
    tokio::fs::read(path).await.map_err(|source| FileError::Read { path: path.to_owned(), source })
}

pub(crate) fn parse(path: &Path, bytes: &[u8]) -> Result<Change, FileError> {
    let Document { mut routes, services } =
        serde_json::from_slice(bytes).map_err(|source| FileError::Syntax { path: path.to_owned(), source })?;
    let mut ids = BTreeSet::new();
    for route in &mut routes {
        if route.id.is_empty() {
            let kind = if route.kind == RouteKind::Tcp { "tcp" } else { "http" };
            route.id = format!("{kind}:{}:{}{}", route.port, route.domain, route.path);
        }
        if !ids.insert(route.id.clone()) {
            return Err(FileError::SameId { path: path.to_owned(), id: route.id.clone() });
        }
    }
    let services = services.into_iter().map(|(service, members)| {
        let instances = members.instances.into_iter().map(|member| match member {
            Member::Address(address) => Instance::new(address),
            Member::Full { addr, app, job_id } => Instance { address: addr, app, job_id },
        });
        Membership { service, instances: instances.collect(), leader: members.leader }
    });
    Ok(Change::Everything { routes, services: services.collect() })
}

/// Tells what a file says, at first and whenever it changes, until nobody listens.
pub async fn follow(path: PathBuf, changes: Changes) {
    let (mut stamp, mut content, mut settled) = (None, None, Instant::now());
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let seen = stamp_of(&path).await;
        if stamp.as_ref() == Some(&seen) && Instant::now() >= settled {
            continue;
        }
        if stamp.as_ref() != Some(&seen) {
            settled = Instant::now() + SETTLE;
        }
        stamp = Some(seen);
        let read = bytes(&path).await;
        let hash = read.as_ref().ok().map(|bytes| <[u8; 32]>::from(Sha256::digest(bytes)));
        if content == Some(hash) {
            continue;
        }
        content = Some(hash);
        match read.and_then(|bytes| parse(&path, &bytes)) {
            Ok(change) => {
                info!(path = %path.display(), "route file read");
                if changes.send(change).await.is_err() {
                    return;
                }
            }
            Err(err) => {
                let reason = std::error::Error::source(&err).map(ToString::to_string).unwrap_or_default();
                error!(%err, reason, "route file cannot be used, the last good one is");
            }
        }
    }
}

/// What tells one state of a file from another without reading it; `None` when there is no file.
async fn stamp_of(path: &Path) -> Option<(u64, u64, u64, i64, i64)> {
    let metadata = tokio::fs::metadata(path).await.ok()?;
    Some((metadata.dev(), metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Change, FileError> {
        parse(Path::new("routes.json"), text.as_bytes())
    }

    #[test]
    fn a_file_names_routes_and_instances() {
        let text = r#"{"routes": [{"domain": "a.b", "service": "s"}, {"type": "tcp", "port": 3000, "service": "t"}],
            "services": {"s": {"instances": ["10.0.0.1:80", {"addr": "10.0.0.2:80", "job_id": "h-1"}],
                               "leader": "10.0.0.1:80"}}}"#;
        let Change::Everything { routes, services } = parsed(text).unwrap() else { panic!("it is everything") };
        let ids: Vec<_> = routes.iter().map(|route| &*route.id).collect();
        assert_eq!(ids, ["http:0:a.b", "tcp:3000:"]);
        assert_eq!((services[0].instances.len(), &*services[0].instances[1].job_id), (2, "h-1"));
        assert_eq!(services[0].leader, Some("10.0.0.1:80".parse().unwrap()));
    }

    #[test]
    fn a_file_that_means_nothing_says_where() {
        for (text, reason) in [
            ("", "EOF"),
            (r#"{"routes": [{"type": "udp"}]}"#, "udp"),
            (r#"{"rutes": []}"#, "rutes"),
            (r#"{"services": {"s": {"instances": ["nowhere"]}}}"#, "line 1"),
            (r#"{"routes": [{"service": "a"}, {"service": "b"}]}"#, "two routes"),
        ] {
            let err = parsed(text).unwrap_err();
            let source = std::error::Error::source(&err).map(ToString::to_string).unwrap_or_default();
            assert!(format!("{err}: {source}").contains(reason), "{err}: {source}");
        }
    }
}
