//! The cluster's hosts, as discoverd knows them.

use std::collections::BTreeMap;

use flynn_host_client::Client;
use flynn_types::discoverd::Instance;
use flynn_types::error::ApiError;
use rand::seq::SliceRandom as _;

use crate::error::{Error, Result};
use crate::shared::Shared;

/// Where hosts register.
const SERVICE: &str = "flynn-host";

/// A host and a client of it.
pub(crate) struct Host {
    pub(crate) id: String,
    pub(crate) addr: String,
    pub(crate) tags: BTreeMap<String, String>,
    pub(crate) client: Client,
}

/// All registered hosts in random order.
pub(crate) async fn all(shared: &Shared) -> Result<Vec<Host>> {
    let discoverd = shared.discoverd.as_ref();
    let discoverd = discoverd.ok_or_else(|| ApiError::unavailable("hosts are not known: there is no discoverd"))?;
    let instances = match discoverd.instances(SERVICE).await {
        Ok(instances) => instances,
        Err(err) if err.is_not_found() => Vec::new(),
        Err(err) => return Err(ApiError::unavailable(format!("hosts cannot be found: {err}")).into()),
    };
    let mut hosts: Vec<_> =
        instances.iter().filter_map(|instance| host(instance, shared.config.host_key.as_deref())).collect();
    hosts.shuffle(&mut rand::rng());
    Ok(hosts)
}

fn host(instance: &Instance, key: Option<&str>) -> Option<Host> {
    let id = instance.meta.get("id")?.clone();
    let client = Client::new(&format!("http://{}", instance.addr), key).ok()?;
    let tag = |(key, value): (&String, &String)| Some((key.strip_prefix("tag:")?.to_owned(), value.clone()));
    Some(Host { id, addr: instance.addr.clone(), tags: instance.meta.iter().filter_map(tag).collect(), client })
}

/// The host with this id.
pub(crate) async fn find(shared: &Shared, id: &str) -> Result<Host> {
    let host = all(shared).await?.into_iter().find(|host| host.id == id);
    host.ok_or_else(|| Error::from(ApiError::internal(format!("host {id} is not registered: it may be down"))))
}
