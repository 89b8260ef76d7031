//! Which route a request takes (spec router section 9). Pure.

mod host;
mod path;
mod shards;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use host::{canonical, host_name};

use path::{Node, decoded};
use shards::Shards;

/// The port key of routes on the default ports.
pub const DEFAULT_PORTS: u16 = 0;

/// Where a route is mounted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Mount {
    /// [`DEFAULT_PORTS`] or the number of an additional port.
    pub port: u16,
    /// An exact name, `*.name` or `*`, canonical.
    pub domain: Box<str>,
    /// `/` or `/…/`
    pub path: Box<str>,
}

/// Routes by name: finds a `T` for a host and a path. Cheap to clone, so that a change makes a new table.
#[derive(Clone, Debug)]
pub struct Table<T> {
    ports: BTreeMap<u16, Port<T>>,
    mounts: Shards<Arc<str>, Arc<Mount>>,
}

#[derive(Clone, Debug)]
struct Port<T> {
    exact: Shards<Arc<str>, Arc<Site<T>>>,
    /// By what follows `*.`
    wildcards: Shards<Arc<str>, Arc<Site<T>>>,
    any: Option<Arc<Site<T>>>,
}

/// The routes of one domain, each with the id that put it there.
type Site<T> = Node<(Arc<str>, T)>;

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { ports: BTreeMap::new(), mounts: Shards::default() }
    }
}

impl<T> Default for Port<T> {
    fn default() -> Self {
        Self { exact: Shards::default(), wildcards: Shards::default(), any: None }
    }
}

impl<T: Clone> Table<T> {
    /// Mounts a route. It leaves its former place, and takes the new one from whichever route has it.
    pub fn set(&mut self, id: &Arc<str>, mount: Mount, route: T) {
        if self.mounts.get(id).is_some_and(|former| **former != mount) {
            self.remove(id);
        }
        let port = self.ports.entry(mount.port).or_default();
        let site = match mount.domain.strip_prefix("*.") {
            Some(suffix) => port.wildcards.entry(suffix.into()),
            None if &*mount.domain == "*" => port.any.get_or_insert_default(),
            None => port.exact.entry((*mount.domain).into()),
        };
        *Arc::make_mut(site).place(&mount.path) = Some((Arc::clone(id), route));
        self.mounts.insert(Arc::clone(id), Arc::new(mount));
    }

    /// Unmounts a route, unless another one has taken its place since.
    pub fn remove(&mut self, id: &str) {
        let Some(mount) = self.mounts.remove(id) else { return };
        let Some(port) = self.ports.get_mut(&mount.port) else { return };
        let leave = |site: &mut Arc<Site<T>>| {
            let site = Arc::make_mut(site);
            let place = site.place(&mount.path);
            if place.as_ref().is_some_and(|(holder, _)| **holder == *id) {
                *place = None;
            }
            site.prune();
            site.is_empty()
        };
        match mount.domain.strip_prefix("*.") {
            Some(suffix) => {
                if port.wildcards.get_mut(suffix).is_some_and(leave) {
                    port.wildcards.remove(suffix);
                }
            }
            None if &*mount.domain == "*" => {
                if port.any.as_mut().is_some_and(leave) {
                    port.any = None;
                }
            }
            None => {
                if port.exact.get_mut(&*mount.domain).is_some_and(leave) {
                    port.exact.remove(&*mount.domain);
                }
            }
        }
    }
}

impl<T> Table<T> {
    /// The route of a request. `host` is canonical (see [`host_name`]), `path` as the client wrote it.
    pub fn find(&self, port: u16, host: &str, path: &str) -> Option<&T> {
        let site = self.site(port, host)?;
        if !site.has_paths() {
            return site.here.as_ref().map(|(_, route)| route);
        }
        site.deepest(&decoded(path)).map(|(_, route)| route)
    }

    /// The `/` route of the domain that a host belongs to.
    pub fn domain(&self, port: u16, host: &str) -> Option<&T> {
        self.site(port, host)?.here.as_ref().map(|(_, route)| route)
    }

    /// A domain without a route for `/` does not exist: its other routes wait for that one.
    fn site(&self, port: u16, host: &str) -> Option<&Site<T>> {
        let port = self.ports.get(&port)?;
        let rooted = |site: &&Arc<Site<T>>| site.here.is_some();
        port.exact
            .get(host)
            .filter(rooted)
            .or_else(|| {
                if port.wildcards.is_empty() {
                    return None;
                }
                host::wildcard_suffixes(host).find_map(|suffix| port.wildcards.get(suffix).filter(rooted))
            })
            .or_else(|| port.any.as_ref().filter(rooted))
            .map(|site| &**site)
    }

    /// Number of routes.
    pub fn len(&self) -> usize {
        self.mounts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.mounts.is_empty()
    }

    /// Ids of all routes, in no order.
    pub fn ids(&self) -> impl Iterator<Item = &Arc<str>> {
        self.mounts.keys()
    }
}

#[cfg(test)]
mod tests;
