//! `flynn-system blobstore` (spec build-and-deploy section 11).

use std::ffi::OsString;

use flynn_blobstore::{Config, Discovery, Settings, serve};
use flynn_database::options_from_vars;

use crate::component::{self, Component, var};

/// Port without `PORT`.
const DEFAULT_PORT: u16 = 3000;

/// Runs the blob store until it is told to end.
pub(crate) fn run() -> anyhow::Result<()> {
    component::run("blobstore", start)
}

async fn start(component: Component) -> anyhow::Result<()> {
    let text = |(name, value): (OsString, OsString)| Some((name.into_string().ok()?, value.into_string().ok()?));
    let vars = std::env::vars_os().filter_map(text);
    let config = Config {
        database: options_from_vars(&var)?,
        backends: Settings::from_vars(vars)?,
        version: format!("v{}", env!("CARGO_PKG_VERSION")),
    };
    let listener = component.listen(DEFAULT_PORT).await?;
    let discovery = match component.discovery()? {
        Some(client) => Some(Discovery { client, instance: component.instance("tcp", listener.local_addr()?.port())? }),
        None => None,
    };
    Ok(serve(config, listener, discovery, component.shutdown).await?)
}
