//! Where the router's routes come from: a file, or the controller of the cluster.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use flynn_discoverd_client::Client;
use flynn_router::Router;
use flynn_router::source::controller::{Endpoint, Kept, follow, locate};
use flynn_router::source::{Change, file};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use super::Vars;

/// How long a router that knows its last routes waits for the present ones, before it serves with those.
const CONTROLLER_LIMIT: Duration = Duration::from_secs(3);

/// Options of where routes come from; what they leave open, variables say.
#[derive(Args, Debug)]
pub(crate) struct RouteOptions {
    /// JSON file with routes and services, watched for changes; without it routes come from the cluster's controller
    #[arg(long, value_name = "FILE")]
    routes: Option<PathBuf>,
    /// The controller, in place of those that are found in DISCOVERD [variable: CONTROLLER_URL]
    #[arg(long, value_name = "URL", conflicts_with = "routes")]
    controller: Option<String>,
    /// File in which the controller's routes are kept for a start while it does not answer [variable: ROUTES_KEPT]
    #[arg(long, value_name = "FILE", conflicts_with = "routes")]
    routes_kept: Option<PathBuf>,
}

/// Where routes come from.
#[derive(Debug)]
pub(crate) enum Origin {
    File(PathBuf),
    Controller {
        /// `None`: those in discovery, with the key that they tell unless one is given.
        fixed: Option<Endpoint>,
        key: Option<String>,
        kept: Option<Kept>,
    },
}

impl RouteOptions {
    /// What options and variables say together.
    pub(crate) fn origin(&self, vars: Vars<'_>) -> anyhow::Result<Origin> {
        if let Some(path) = &self.routes {
            return Ok(Origin::File(path.clone()));
        }
        let key = ["CONTROLLER_KEY", "AUTH_KEY"].into_iter().find_map(vars);
        let kept = self.routes_kept.clone().or_else(|| vars("ROUTES_KEPT").map(PathBuf::from)).map(Kept::new);
        let fixed = match self.controller.clone().or_else(|| vars("CONTROLLER_URL")) {
            Some(url) => {
                let key = key.as_deref().context("CONTROLLER_URL needs a key of that controller: CONTROLLER_KEY")?;
                Some(Endpoint::new(&url, key))
            }
            None if vars("DISCOVERD").is_none() => {
                bail!(
                    "nothing says where the routes are: --routes FILE, or DISCOVERD for those of the controller there"
                )
            }
            None => None,
        };
        Ok(Origin::Controller { fixed, key, kept })
    }
}

/// Begins to take routes in, and ends when there are some.
///
/// # Errors
/// When a route file is wrong: that is a mistake of who starts us; later the last good state goes on.
pub(super) async fn start(
    origin: Origin,
    discovery: Option<&Client>,
    router: &Router,
    sources: &mut JoinSet<()>,
) -> anyhow::Result<()> {
    match origin {
        Origin::File(path) => {
            router.changes().send(file::read(&path).await?).await.context("take in the first routes")?;
            sources.spawn(file::follow(path, router.changes()));
        }
        Origin::Controller { fixed, key, kept } => {
            let is_known = match &kept {
                Some(kept) => take_kept(kept, router).await?,
                None => false,
            };
            let (told, endpoints) = watch::channel(fixed.clone().into_iter().collect());
            if let (None, Some(client)) = (&fixed, discovery) {
                sources.spawn(locate(client.clone(), key, told));
            } else {
                // Lives as long as it is looked at.
                sources.spawn(async move { told.closed().await });
            }
            let contact = router.contact();
            sources.spawn(follow(endpoints, router.changes(), kept, Arc::clone(&contact)));
            if is_known && tokio::time::timeout(CONTROLLER_LIMIT, contact.first()).await.is_err() {
                warn!("no controller answers, serving with the routes that were known last");
            }
        }
    }
    router.synced().await;
    Ok(())
}

/// Takes in what was known last, if anything. What cannot be read is done without.
async fn take_kept(kept: &Kept, router: &Router) -> anyhow::Result<bool> {
    let routes = kept.read().await.unwrap_or_else(|err| {
        error!(err = &err as &dyn std::error::Error, "the routes that were known last are lost");
        None
    });
    let Some(routes) = routes else { return Ok(false) };
    info!(routes = routes.len(), "took in the routes that were known last");
    router.changes().send(Change::Routes(routes)).await.context("take in the routes that were known last")?;
    Ok(true)
}

/// Options as the Go implementation takes them, with one dash, in the form with two.
pub(crate) fn with_two_dashes(argument: std::ffi::OsString) -> std::ffi::OsString {
    match argument.to_str() {
        Some(text) if is_long_with_one_dash(text) => format!("-{text}").into(),
        _ => argument,
    }
}

fn is_long_with_one_dash(text: &str) -> bool {
    let name = text.strip_prefix('-').unwrap_or_default();
    let name = name.split_once('=').map_or(name, |(name, _)| name);
    name.len() > 1
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.chars().all(|letter| letter.is_ascii_lowercase() || letter == '-' || letter.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        options: RouteOptions,
    }

    fn origin(arguments: &[&str], variables: &[(&str, &str)]) -> anyhow::Result<Origin> {
        let options = Command::try_parse_from(["router"].iter().chain(arguments))?.options;
        options.origin(&|name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn routes_come_from_a_file_or_a_controller() {
        let file = origin(&["--routes", "r.json"], &[("DISCOVERD", "http://10.0.0.1:1111")]).expect("no mistake");
        assert!(matches!(file, Origin::File(path) if path.as_os_str() == "r.json"));
        let discovered = origin(&[], &[("DISCOVERD", "http://10.0.0.1:1111"), ("ROUTES_KEPT", "/kept")]);
        let Origin::Controller { fixed: None, key: None, kept: Some(_) } = discovered.expect("no mistake") else {
            panic!("the controllers of discovery are asked");
        };
        let fixed = origin(&["--controller", "http://a"], &[("CONTROLLER_KEY", "k"), ("AUTH_KEY", "other")]);
        let Origin::Controller { fixed: Some(endpoint), .. } = fixed.expect("no mistake") else {
            panic!("this controller is asked");
        };
        assert_eq!(endpoint, Endpoint::new("http://a", "k"));
        for (variables, name) in [(&[][..], "DISCOVERD"), (&[("CONTROLLER_URL", "http://a")], "CONTROLLER_KEY")] {
            assert!(origin(&[], variables).expect_err("a mistake").to_string().contains(name));
        }
    }

    #[test]
    fn options_of_the_go_implementation_mean_the_same() {
        for (one, two) in [
            ("-http-port", "--http-port"),
            ("-https-port=443", "--https-port=443"),
            ("--api-port", "--api-port"),
            ("-h", "-h"),
            ("-V", "-V"),
            ("-", "-"),
            ("80", "80"),
            ("-1", "-1"),
            ("-/path", "-/path"),
        ] {
            assert_eq!(with_two_dashes(one.into()), two);
        }
    }
}
