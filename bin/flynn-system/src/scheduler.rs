//! `flynn-system scheduler` (spec scheduler-and-deployer section 2): `AUTH_KEY` is a key of the controller, which discovery
//! names, `FLYNN_HOST_AUTH_KEY` that of hosts, where they ask for one.

use anyhow::Context as _;
use flynn_http::ServerOptions;
use flynn_scheduler::driver::{Config, Scheduler, router};

use crate::component::{self, Component, var};

const CONTROLLER: &str = "http://controller.discoverd";
/// Port of the API without `PORT`.
const DEFAULT_PORT: u16 = 3001;

/// Schedules until it is told to end.
pub(crate) fn run() -> anyhow::Result<()> {
    component::run("scheduler", start)
}

async fn start(component: Component) -> anyhow::Result<()> {
    let key = var("AUTH_KEY").context("AUTH_KEY does not say the controller's key")?;
    let discoverd = component.discovery()?.context("DISCOVERD does not say where discovery is")?;
    let listener = component.listen(DEFAULT_PORT).await?;
    let config = Config {
        controller: flynn_controller_client::Client::over(discoverd.http(CONTROLLER), &key),
        discoverd,
        host_auth_key: var("FLYNN_HOST_AUTH_KEY"),
        instance: component.instance("http", listener.local_addr()?.port())?,
        job_id: var("FLYNN_JOB_ID").unwrap_or_default(),
        seed: uuid::Uuid::new_v4().as_u128(),
    };
    // The end of one half is the end of the other.
    let stop = component.shutdown.child_token();
    let scheduler = Scheduler::new(config, &stop);
    let api = router(scheduler.handle(), concat!("v", env!("CARGO_PKG_VERSION")));
    let serving = async {
        let served = flynn_http::serve(listener, api, stop.clone(), ServerOptions::default()).await;
        stop.cancel();
        served
    };
    let scheduling = async {
        scheduler.run().await;
        stop.cancel();
    };
    let (served, ()) = tokio::join!(serving, scheduling);
    served.context("serve the API")
}
