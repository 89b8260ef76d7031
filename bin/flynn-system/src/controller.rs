//! `flynn-system controller` (spec controller-api sections 1.2 and 1.3).

use anyhow::{Context as _, bail};
use flynn_controller::{Config, Discovery, serve};
use sqlx::postgres::PgConnectOptions;

use crate::component::{self, Component, var};

/// Port of the API without `PORT`.
const DEFAULT_PORT: u16 = 3000;

/// Runs the controller's API until it is told to end.
pub(crate) fn run() -> anyhow::Result<()> {
    component::run("controller", start)
}

async fn start(component: Component) -> anyhow::Result<()> {
    let mut config = Config::from_vars(var)?;
    config.version = format!("v{}", env!("CARGO_PKG_VERSION"));
    let database = database(&var)?;
    let listener = component.listen(DEFAULT_PORT).await?;
    let discovery = discovery(&component, &config, listener.local_addr()?.port())?;
    Ok(serve(config, database, listener, discovery, component.shutdown).await?)
}

/// The database's leader as discoverd names it, or any server as PostgreSQL's own variables say.
fn database(vars: &impl Fn(&str) -> Option<String>) -> anyhow::Result<PgConnectOptions> {
    let host = match (vars("FLYNN_POSTGRES"), vars("PGHOST")) {
        (Some(service), _) => format!("leader.{service}.discoverd"),
        (None, Some(host)) => host,
        (None, None) => bail!("neither FLYNN_POSTGRES nor PGHOST says where the database is"),
    };
    let mut options = PgConnectOptions::new_without_pgpass();
    // A folder is where a Unix socket is.
    options = if host.starts_with('/') { options.socket(host) } else { options.host(&host) };
    options = options.ssl_mode(sqlx::postgres::PgSslMode::Disable);
    if let Some(port) = vars("PGPORT") {
        options = options.port(port.parse().context("PGPORT is no port")?);
    }
    if let Some(user) = vars("PGUSER") {
        options = options.username(&user);
    }
    if let Some(password) = vars("PGPASSWORD") {
        options = options.password(&password);
    }
    if let Some(name) = vars("PGDATABASE") {
        options = options.database(&name);
    }
    Ok(options)
}

/// How others find this process, and one key for them: each of them takes a single one (W7).
fn discovery(component: &Component, config: &Config, port: u16) -> anyhow::Result<Option<Discovery>> {
    let Some(client) = component.discovery()? else { return Ok(None) };
    let mut instance = component.instance("http", port)?;
    if let Some(key) = config.keys.first() {
        instance.meta.insert("AUTH_KEY".to_owned(), key.to_owned());
    }
    Ok(Some(Discovery { client, instance }))
}
