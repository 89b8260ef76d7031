//! The version that this program reports.

/// `dev` unless a release build set it; then `v<yyyymmdd>.<n>[-<commit>]`.
pub(crate) const VERSION: &str = match option_env!("FLYNN_VERSION") {
    Some(version) => version,
    None => "dev",
};

/// The version without its commit.
pub(crate) fn release() -> &'static str {
    VERSION.split_once('-').map_or(VERSION, |(release, _)| release)
}
