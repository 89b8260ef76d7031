//! The line that tells the `flynn` client of a cluster (spec operations section 4.2).

use flynn_controller_client::Client as Controller;
use flynn_discoverd_client::Client as Discoverd;
use flynn_types::controller::Release;

use crate::action::pin;
use crate::error::{Doing as _, Error, Result, wrong};

/// The line for the cluster that discovery shows: any host may ask, for as long as a controller runs.
///
/// # Errors
/// No controller is registered, or it does not know certificate and domain.
pub async fn add_command(discoverd: &Discoverd) -> Result<String, Error> {
    let controllers = discoverd.instances("controller").await.doing(|| "ask discovery for the controller".into())?;
    let controller = controllers.first().ok_or_else(|| wrong("no controller is registered"))?;
    let key = controller.meta.get("AUTH_KEY").ok_or_else(|| wrong("the controller does not tell its key"))?;
    let client = Controller::new(&format!("http://{}", controller.addr), key);
    let env = |release: &Release, name: &str| release.env.get(name).cloned().unwrap_or_default();
    let router = client.current_release("router").await.doing(|| "read the release of app router".into())?;
    let cert = env(&router, "TLSCERT");
    if cert.is_empty() {
        return Err(wrong("the release of app router has no TLSCERT"));
    }
    let release = client.current_release("controller").await.doing(|| "read the release of app controller".into())?;
    let domain = env(&release, "DEFAULT_ROUTE_DOMAIN");
    Ok(format!("flynn cluster add -p {} default {domain} {key}", pin(&cert)?))
}
