//! Fetches layers over HTTP and from files.

use std::io;

use async_trait::async_trait;
use flynn_discoverd_client::Client as Discoverd;
use flynn_http::{Client, ClientError};
use flynn_volume::{FileSource, LayerBody, LayerSource};
use futures_util::TryStreamExt as _;
use http::header::{HeaderMap, HeaderValue, RANGE};
use rand::seq::IndexedRandom as _;
use tokio_util::io::StreamReader;
use url::Url;

/// Where names of services end.
const DISCOVERD_ZONE: &str = ".discoverd";

/// Opens `http://` and `file://` addresses. Host names of services are resolved through discoverd, since the node's own
/// resolver does not know them.
pub struct Layers {
    discoverd: Discoverd,
}

impl Layers {
    pub fn new(discoverd: Discoverd) -> Self {
        Self { discoverd }
    }

    /// The address with a service's name replaced by one of its instances.
    async fn resolve(&self, url: &str) -> io::Result<String> {
        let invalid = |err| io::Error::new(io::ErrorKind::Unsupported, format!("{url}: {err}"));
        let mut parsed = Url::parse(url).map_err(invalid)?;
        let Some(service) = parsed.host_str().and_then(|host| host.strip_suffix(DISCOVERD_ZONE)) else {
            return Ok(url.to_owned());
        };
        let service = service.to_owned();
        let instances = self
            .discoverd
            .instances(&service)
            .await
            .map_err(|err| io::Error::other(format!("ask discoverd for service {service}: {err}")))?;
        let instance = instances.choose(&mut rand::rng());
        let instance = instance.ok_or_else(|| io::Error::other(format!("service {service} has no instance")))?;
        let address: std::net::SocketAddr = instance.addr.parse().map_err(io::Error::other)?;
        let named_port = parsed.port();
        parsed.set_ip_host(address.ip()).map_err(|()| io::Error::other("address cannot be a host"))?;
        parsed.set_port(named_port.or(Some(address.port()))).map_err(|()| io::Error::other("port cannot be set"))?;
        Ok(parsed.into())
    }
}

#[async_trait]
impl LayerSource for Layers {
    async fn open(&self, url: &str, offset: u64) -> io::Result<LayerBody> {
        if url.starts_with("file:") {
            return FileSource.open(url, offset).await;
        }
        let url = self.resolve(url).await?;
        let mut headers = HeaderMap::new();
        if offset > 0 {
            headers.insert(RANGE, HeaderValue::from_str(&format!("bytes={offset}-")).map_err(io::Error::other)?);
        }
        let download = Client::new("").open(&url, &headers).await.map_err(|err| io::Error::new(kind(&err), err))?;
        // Servers that know no ranges answer 200 with the whole.
        let offset = if download.status == 206 { offset } else { 0 };
        let len = download.length.map(|rest| rest + offset);
        let reader = StreamReader::new(download.bytes.map_err(io::Error::other));
        Ok(LayerBody { reader: Box::pin(reader), offset, len })
    }
}

/// Which failures are final.
fn kind(err: &ClientError) -> io::ErrorKind {
    match (err, err.status()) {
        (_, Some(404 | 410)) => io::ErrorKind::NotFound,
        (_, Some(401 | 403)) => io::ErrorKind::PermissionDenied,
        (ClientError::Url(_), _) => io::ErrorKind::Unsupported,
        _ => io::ErrorKind::Other,
    }
}
