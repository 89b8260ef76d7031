//! `flynn-system blobstore` (spec build-and-deploy section 11).

use flynn_blobstore::{Config, Discovery, serve};
use flynn_database::options_from_vars;

use crate::component::{self, Component, var};

/// Port without `PORT`.
const DEFAULT_PORT: u16 = 3000;

/// Runs the blob store until it is told to end.
pub(crate) fn run() -> anyhow::Result<()> {
    component::run("blobstore", start)
}

async fn start(component: Component) -> anyhow::Result<()> {
    let config = Config { database: options_from_vars(&var)?, version: format!("v{}", env!("CARGO_PKG_VERSION")) };
    let listener = component.listen(DEFAULT_PORT).await?;
    let discovery = match component.discovery()? {
        Some(client) => Some(Discovery { client, instance: component.instance("tcp", listener.local_addr()?.port())? }),
        None => None,
    };
    Ok(serve(config, listener, discovery, component.shutdown).await?)
}
