//! Other hosts, as jobs and volumes of this one need them.

use async_trait::async_trait;
use flynn_discoverd_client::Client;
use flynn_host::Peers;

use super::discovery::HOST_SERVICE;

/// Hosts by what they register.
pub(super) struct DiscoverdPeers(pub(super) Client);

#[async_trait]
impl Peers for DiscoverdPeers {
    async fn host_url(&self, id: &str) -> Result<Option<String>, String> {
        let hosts =
            self.0.instances(HOST_SERVICE).await.map_err(|err| format!("ask discoverd for host {id}: {err}"))?;
        let host = hosts.iter().find(|host| host.meta.get("id").is_some_and(|known| known == id));
        Ok(host.map(|host| format!("http://{}", host.addr)))
    }
}
