//! `flynn-system logaggregator` (spec operations section 11).

use anyhow::Context as _;
use flynn_logaggregator::{Config, Discovery, serve};

use crate::component::{self, Component, var};

/// Ports without `PORT_0` and `PORT_1`.
const API_PORT: u16 = 5000;
const SYSLOG_PORT: u16 = 3000;
/// Memory of all messages, in bytes.
const MEMORY: &str = "LOGAGGREGATOR_MEMORY_BYTES";

/// Runs the log aggregator until it is told to end.
pub(crate) fn run() -> anyhow::Result<()> {
    component::run("logaggregator", start)
}

async fn start(component: Component) -> anyhow::Result<()> {
    let mut config = Config { version: format!("v{}", env!("CARGO_PKG_VERSION")), ..Config::default() };
    if let Some(service) = var("SERVICE_NAME") {
        config.service = service;
    }
    if let Some(bytes) = var(MEMORY) {
        config.memory_bytes = bytes.parse().with_context(|| format!("{MEMORY} is no number of bytes"))?;
    }
    let api = component.listen_at("PORT_0", API_PORT).await?;
    let syslog = component.listen_at("PORT_1", SYSLOG_PORT).await?;
    let discovery = match component.discovery()? {
        Some(client) => Some(Discovery { client, instance: component.instance("tcp", syslog.local_addr()?.port())? }),
        None => None,
    };
    Ok(serve(config, api, syslog, discovery, component.shutdown).await?)
}
