//! `daemon --clean-up`: removes what daemons and jobs left on this machine, but no data.

use std::process::ExitCode;

use anyhow::Context as _;
use flynn_container::{Runtime, RuntimeConfig};
use flynn_network::Network;
use flynn_types::id::JobId;

use super::setup::Setup;

/// Ends all containers, removes network, control groups and mounts. Volumes, layers, state and logs stay.
pub(super) async fn clean_up(setup: &Setup) -> anyhow::Result<ExitCode> {
    let config = RuntimeConfig {
        cgroup_root: setup.options.cgroup_root.clone(),
        ..RuntimeConfig::new(&setup.options.flynn_init)
    };
    let runtime = Runtime::new(config)?;
    let containers = setup.run_root.join("container");
    let mut run_dirs: Vec<_> = std::fs::read_dir(&containers)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.parse::<JobId>().is_ok()))
        .map(|entry| entry.path())
        .collect();
    run_dirs.extend(runtime.leftovers().iter().map(|id| containers.join(id)));
    for run_dir in run_dirs {
        runtime.destroy(&run_dir).await;
    }
    Network::clean_up(&setup.network_config()).await.context("remove the network")?;
    super::mounts::unmount_below(&[&setup.run_root, &setup.options.volpath])?;
    runtime.remove_partitions().context("remove the control groups")?;
    Ok(ExitCode::SUCCESS)
}
