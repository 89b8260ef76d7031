//! Builds images: declarative recipes in, content-addressed squashfs layers and manifests out.
//!
//! Entry point: [`Builder::build`]. A recipe (`images/<name>.toml`, see [`recipe`]) stacks layers on a base image; a layer
//! is either put together from files, of Debian packages or of the recipe itself, or is a whole Debian made by
//! `mmdebstrap`. Packages come through the machine's own apt configuration.
//!
//! **Invariant:** equal inputs give equal bytes: nothing of a layer depends on time, machine, user or order of work.
//! **Invariant:** what is in the cache is complete: layers and entries appear by rename, after they were synced.
//! **Invariant:** nothing outside the cache folder is written.

#![forbid(unsafe_code)]

mod bootstrap;
mod builder;
mod cache;
mod command;
mod packages;
mod progress;
pub mod recipe;
mod squashfs;
mod tree;

pub use bootstrap::BootstrapError;
pub use builder::{BuildError, Builder, Config, LayerError};
pub use cache::CacheError;
pub use command::CommandError;
pub use packages::PackageError;
pub use progress::{Event, Progress, Silent};
pub use recipe::RecipeError;
