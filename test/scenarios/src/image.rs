//! The image of all scenarios' jobs.

use std::path::PathBuf;
use std::sync::OnceLock;

use flynn_image::{Builder, Config, Silent};
use flynn_types::image::Artifact;

/// Where images are built.
pub(crate) fn config() -> Config {
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or(home).expect("HOME is set");
    Config::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../images"), cache.join("flynn"))
}

fn builder() -> Builder {
    Builder::new(config())
}

/// The busybox image, built when it is not in the user's cache. Its layers are files of this machine, which hosts see.
pub fn busybox() -> &'static Artifact {
    static IMAGE: OnceLock<Artifact> = OnceLock::new();
    IMAGE.get_or_init(|| builder().build("busybox", &Silent).expect("the busybox image can be built"))
}

/// The artifact as a file, for `flynn-host run`.
pub fn busybox_file() -> PathBuf {
    busybox();
    builder().artifact_path("busybox").expect("the image was built")
}
