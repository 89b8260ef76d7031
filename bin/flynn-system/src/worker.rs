//! `flynn-system worker` (spec scheduler-and-deployer section 2).

use anyhow::Context as _;
use flynn_controller_client::Client;
use flynn_worker::{Config, Discovery, SLOTS, serve};

use crate::component::{self, Component, var};

/// Port of the status without `PORT`.
const DEFAULT_PORT: u16 = 3000;
/// Where the controller is found without `CONTROLLER_URL`.
const CONTROLLER: &str = "http://controller.discoverd";

/// Takes jobs from the controller's queue until it is told to end.
pub(crate) fn run() -> anyhow::Result<()> {
    component::run("worker", start)
}

async fn start(component: Component) -> anyhow::Result<()> {
    let database = flynn_database::options_from_vars(&var)?;
    // Of several keys one is sent (W7).
    let keys = var("AUTH_KEY").context("AUTH_KEY does not say with which key the controller lets this worker in")?;
    let key = keys.split(',').map(str::trim).find(|key| !key.is_empty()).context("AUTH_KEY holds no key")?;
    let controller = Client::new(&var("CONTROLLER_URL").unwrap_or_else(|| CONTROLLER.to_owned()), key);
    let config = Config { controller, slots: SLOTS, version: format!("v{}", env!("CARGO_PKG_VERSION")) };
    let listener = component.listen(DEFAULT_PORT).await?;
    let discovery = match component.discovery()? {
        Some(client) => {
            let instance = component.instance("http", listener.local_addr()?.port())?;
            Some(Discovery { client, instance })
        }
        None => None,
    };
    Ok(serve(config, database, listener, discovery, component.shutdown).await?)
}
