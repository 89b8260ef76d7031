//! Where the programs under test are.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

/// Names a folder with `flynn-host`, `flynn-init`, `flynn-cluster` and `flynn-system` in it, instead of the folder of this program.
const FOLDER_VAR: &str = "FLYNN_BIN_DIR";

/// Folders where cargo may have put programs: that of this program, and those above it (tests are in `deps`).
fn folders() -> anyhow::Result<Vec<PathBuf>> {
    let mut folders: Vec<_> = std::env::var_os(FOLDER_VAR).map(PathBuf::from).into_iter().collect();
    let this = std::env::current_exe().context("find this program")?;
    folders.extend(this.ancestors().skip(1).take(3).map(Path::to_owned));
    Ok(folders)
}

fn find(name: &str, package: &str) -> anyhow::Result<PathBuf> {
    let folders = folders()?;
    match folders.iter().map(|folder| folder.join(name)).find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => {
            bail!("there is no {name} in {folders:?}: build it with `cargo build -p {package}`, or set {FOLDER_VAR}")
        }
    }
}

/// The program that starts and is the inside of hosts.
pub(crate) fn cluster() -> anyhow::Result<PathBuf> {
    find("flynn-cluster", "flynn-harness")
}

/// The daemon.
pub(crate) fn host() -> anyhow::Result<PathBuf> {
    find("flynn-host", "flynn-host-bin")
}

/// The system components in one program.
///
/// # Errors
/// When it was not built.
pub fn system() -> anyhow::Result<PathBuf> {
    find("flynn-system", "flynn-system")
}

/// Process 1 of containers: the static one of `script/build-init`, which runs in any image.
pub(crate) fn init() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("FLYNN_INIT") {
        return Ok(path.into());
    }
    let folders = folders()?;
    let builds = folders.iter().flat_map(|folder| {
        ["tiny", "release", "debug"]
            .map(|profile| folder.join("x86_64-unknown-linux-gnu").join(profile).join("flynn-init"))
    });
    match builds.into_iter().find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => find("flynn-init", "flynn-init"),
    }
}
