//! From names to addresses.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use tower_service::Service;

/// Addresses of a name, to be tried in this order. A port counts where the URL has none.
pub type Addresses = Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send>>;

type Lookup = Arc<dyn Fn(&str) -> Option<Addresses> + Send + Sync>;

/// The system's way, unless another one knows the name.
#[derive(Clone)]
pub(super) struct Names {
    system: GaiResolver,
    lookup: Option<Lookup>,
}

impl Names {
    pub(super) fn of_system() -> Self {
        Self { system: GaiResolver::new(), lookup: None }
    }

    pub(super) fn with(lookup: impl Fn(&str) -> Option<Addresses> + Send + Sync + 'static) -> Self {
        Self { lookup: Some(Arc::new(lookup)), ..Self::of_system() }
    }
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Names").field("lookup", &self.lookup.is_some()).finish_non_exhaustive()
    }
}

impl Service<Name> for Names {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        match self.lookup.as_ref().and_then(|lookup| lookup(name.as_str())) {
            Some(found) => Box::pin(async move { Ok(found.await?.into_iter()) }),
            None => {
                let found = self.system.call(name);
                Box::pin(async move { Ok(found.await?.collect::<Vec<_>>().into_iter()) })
            }
        }
    }
}
