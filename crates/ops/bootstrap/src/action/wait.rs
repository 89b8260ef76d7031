//! Waiting for what other steps started.

use std::time::Duration;

use flynn_sirenia_client::Client as Peer;
use serde::Deserialize;

use super::Outcome;
use crate::cluster::{self, PAUSE};
use crate::error::{Doing as _, Result, wrong};
use crate::manifest::Step;
use crate::run::Run;

/// How long a service may take (spec section 4.3).
const LIMIT: Duration = Duration::from_secs(300);

/// Waits for an answer.
#[derive(Deserialize)]
pub(crate) struct Wait {
    /// `http://…`, `https://…` or `tcp://…`
    url: String,
    /// The `Host` of the request, when it is not that of the address.
    #[serde(default)]
    host: String,
    #[serde(default)]
    status: Option<u16>,
    /// Seconds.
    #[serde(default)]
    timeout: Option<u64>,
}

impl Wait {
    pub(super) async fn run(self, _: &Step, run: &mut Run) -> Result<Outcome> {
        let limit = self.timeout.map_or(LIMIT, Duration::from_secs);
        let url = &self.url;
        cluster::wait(limit, || self.look(run)).await.doing(|| format!("wait for {url}"))?;
        Ok(Outcome::nothing())
    }

    async fn look(&self, run: &Run) -> Result<()> {
        let url = run.cluster.resolved(&self.url, PAUSE).await?;
        if let Some(address) = url.strip_prefix("tcp://") {
            let connected = tokio::net::TcpStream::connect(address).await;
            return connected.map(drop).doing(|| format!("connect to {address}"));
        }
        let mut request = http::Request::get(&url);
        if !self.host.is_empty() {
            request = request.header(http::header::HOST, &self.host);
        }
        let request = request.body(bytes::Bytes::new()).doing(|| format!("ask {url}"))?;
        let client = flynn_http::Client::new(&url).with_timeout(Duration::from_secs(5));
        let status = client.send_as_is(request, 1 << 20).await.doing(|| format!("ask {url}"))?.status().as_u16();
        let wanted = self.status.unwrap_or(200);
        if status == wanted { Ok(()) } else { Err(wrong(format!("{url} answers {status}, not {wanted}"))) }
    }
}

/// Waits until a database takes writes.
#[derive(Deserialize)]
pub(crate) struct SireniaWait {
    service: String,
}

impl SireniaWait {
    pub(super) async fn run(self, _: &Step, run: &mut Run) -> Result<Outcome> {
        let service = &self.service;
        let leader = cluster::wait(LIMIT, || async {
            let leader =
                run.cluster.discoverd.leader(service).await.doing(|| format!("ask discovery for {service}"))?;
            leader.ok_or_else(|| wrong(format!("{service} has no primary yet")))
        });
        let peer = Peer::of(&leader.await?).doing(|| format!("use the primary of {service}"))?;
        peer.wait_for_read_write(LIMIT).await.doing(|| format!("wait until {service} takes writes"))?;
        Ok(Outcome::nothing())
    }
}

/// Waits until all hosts have a network and discovery.
#[derive(Deserialize)]
pub(crate) struct WaitHosts {}

impl WaitHosts {
    pub(super) async fn run(self, _: &Step, run: &mut Run) -> Result<Outcome> {
        let wanted = run.options.min_hosts;
        cluster::wait(run.options.timeout, || async {
            let registered = run.cluster.discoverd.instances("flynn-host").await;
            let registered = registered.doing(|| "ask discovery for the hosts".into())?.len();
            if registered < wanted {
                return Err(wrong(format!("{registered} of {wanted} hosts are registered")));
            }
            for host in &run.cluster.hosts {
                let status = host.client.status().await.doing(|| format!("ask host {}", host.id))?;
                let has_network = status.network.is_some_and(|network| !network.subnet.is_empty());
                if !has_network || status.discoverd.is_none_or(|it| it.url.is_empty()) {
                    return Err(wrong(format!("host {} has no network yet", host.id)));
                }
            }
            Ok(())
        })
        .await
        .map(|()| Outcome::nothing())
    }
}
