//! `flynn-system postgres` and `flynn-system postgres-api` (spec appliances section 5.1).

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use flynn_postgres::provider::{self, ProviderConfig};
use flynn_postgres::{Account, PeerConfig, Settings};
use tokio::net::TcpListener;

use crate::component::{self, Component, var};

/// Ports of the server, of the peer's API after it, and of the provider's API without `PORT`.
const SERVER_PORT: u16 = 5432;
const PEER_PORT: u16 = SERVER_PORT + 1;
const PROVIDER_PORT: u16 = 3000;
/// Service of the peers without `FLYNN_POSTGRES`.
const SERVICE: &str = "postgres";

#[derive(Args)]
pub(crate) struct Options {
    /// The volume
    #[arg(long, default_value = "/data")]
    volume: PathBuf,
    /// Address on which server and API listen
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    listen: IpAddr,
}

/// Runs a peer until it is told to end, or its server crashes.
pub(crate) fn run_peer(options: &Options) -> anyhow::Result<()> {
    component::run("postgres", |component| start_peer(options, component))
}

async fn start_peer(options: &Options, component: Component) -> anyhow::Result<()> {
    let port = var("HTTP_PORT").map_or(Ok(PEER_PORT), |text| text.parse()).context("HTTP_PORT is no port")?;
    let listener = TcpListener::bind((options.listen, port)).await;
    let listener = listener.with_context(|| format!("listen on port {port}"))?;
    let settings = Settings {
        volume: options.volume.clone(),
        listen: options.listen,
        port: SERVER_PORT,
        password: password()?,
        account: Account::of_server()?,
    };
    let config = PeerConfig {
        settings,
        service: service(),
        singleton: var("SINGLETON").as_deref() == Some("true"),
        discovery: discovery(&component)?,
        instance: component.instance("tcp", SERVER_PORT)?,
        version: format!("v{}", env!("CARGO_PKG_VERSION")),
    };
    Ok(flynn_postgres::run(config, listener, component.shutdown).await?)
}

/// Serves the provider of databases.
pub(crate) fn run_provider() -> anyhow::Result<()> {
    component::run("postgres-api", start_provider)
}

async fn start_provider(component: Component) -> anyhow::Result<()> {
    let listener = component.listen(PROVIDER_PORT).await?;
    let config = ProviderConfig {
        service: service(),
        password: password()?,
        discovery: discovery(&component)?,
        instance: component.instance("http", listener.local_addr()?.port())?,
    };
    Ok(provider::run(config, listener, component.shutdown).await?)
}

fn service() -> String {
    var("FLYNN_POSTGRES").unwrap_or_else(|| SERVICE.to_owned())
}

fn password() -> anyhow::Result<String> {
    var("PGPASSWORD").context("PGPASSWORD is missing: it is the password of the role flynn")
}

fn discovery(component: &Component) -> anyhow::Result<flynn_discoverd_client::Client> {
    component.discovery()?.context("DISCOVERD is missing: it names the servers of discovery")
}
