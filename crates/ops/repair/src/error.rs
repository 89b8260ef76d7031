//! Why a cluster is not repaired.

use flynn_discoverd_client::DiscoverdError;
use flynn_http::ClientError;

/// Why the cluster could not be looked at, or a job not be started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("ask discovery for {what}")]
    Discovery {
        what: String,
        #[source]
        err: DiscoverdError,
    },
    #[error("ask host {host}")]
    Host {
        host: String,
        #[source]
        err: ClientError,
    },
    /// The state document of a database peers' cluster is not one.
    #[error("the state of {service} in discovery cannot be read")]
    State {
        service: String,
        #[source]
        err: serde_json::Error,
    },
    /// A sentence for the operator.
    #[error("{0}")]
    Wrong(String),
}

pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;
