//! `flynn-system status` (spec operations section 13).

use anyhow::Context as _;
use flynn_status::{Config, serve};

use crate::component::{self, Component, var};

/// Port without `PORT`.
const DEFAULT_PORT: u16 = 3000;

/// Runs the status service until it is told to end.
pub(crate) fn run() -> anyhow::Result<()> {
    component::run("status", start)
}

async fn start(component: Component) -> anyhow::Result<()> {
    let discoverd = component.discovery()?.context("DISCOVERD says nowhere where components are found")?;
    let mut config = Config::new(discoverd, var("AUTH_KEY"));
    config.version = format!("v{}", env!("CARGO_PKG_VERSION"));
    let listener = component.listen(DEFAULT_PORT).await?;
    Ok(serve(config, listener, component.shutdown).await?)
}
