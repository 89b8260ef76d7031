//! `flynn-system controller` (spec controller-api sections 1.2 and 1.3).

use flynn_controller::{Config, Discovery, serve};

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
    let database = flynn_database::options_from_vars(&var)?;
    let listener = component.listen(DEFAULT_PORT).await?;
    let discovery = discovery(&component, &config, listener.local_addr()?.port())?;
    Ok(serve(config, database, listener, discovery, component.shutdown).await?)
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
