//! What the server needs to know of the registry.

use std::net::IpAddr;
use std::sync::Arc;

/// The registry as DNS sees it. Called for every query on the thread that answers: it must not block, and a view should
/// be made when the service changes, not when it is asked for.
pub trait Directory: Send + Sync + 'static {
    /// The service of this name (lower case); `None` when there is none.
    fn service(&self, name: &str) -> Option<ServiceView>;

    /// Whether a service that is not found does not exist. False while nothing was heard of the cluster yet: then the
    /// answer is SERVFAIL, which resolvers do not remember, instead of NXDOMAIN.
    fn is_complete(&self) -> bool {
        true
    }
}

/// A service at one moment.
#[derive(Clone, Debug)]
pub struct ServiceView {
    pub instances: Arc<[Instance]>,
    pub leader: Option<Arc<Instance>>,
}

/// An instance with its address parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Lower-case hexadecimal digest.
    pub id: String,
    pub proto: String,
    /// `None` when the instance registered a host name: it then has no address records.
    pub ip: Option<IpAddr>,
    pub port: u16,
}

impl From<&flynn_types::discoverd::Instance> for Instance {
    fn from(instance: &flynn_types::discoverd::Instance) -> Self {
        let (ip, port) = match instance.host_port() {
            Some((host, port)) => (host.parse().ok(), port),
            None => (None, 0),
        };
        Self { id: instance.id.clone(), proto: instance.proto.clone(), ip, port }
    }
}
