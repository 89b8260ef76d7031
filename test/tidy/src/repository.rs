//! The files that rules look at.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The top of the checkout.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("this package is two folders deep").to_owned()
}

/// Paths of all files known to git that exist, relative to [`root`], sorted.
pub(crate) fn files() -> Vec<String> {
    let root = root();
    let output = Command::new("git").arg("-C").arg(&root).args(["ls-files", "-z"]).output().expect("git runs");
    assert!(output.status.success(), "git ls-files: {}", String::from_utf8_lossy(&output.stderr));
    let names = String::from_utf8(output.stdout).expect("file names are UTF-8");
    let mut files: Vec<_> =
        names.split('\0').filter(|name| !name.is_empty() && root.join(name).is_file()).map(str::to_owned).collect();
    files.sort();
    assert!(files.iter().any(|file| file == "Cargo.toml"), "git knows no Cargo.toml in {}", root.display());
    files
}

/// The content of a text file; `None` for others.
pub(crate) fn text(file: &str) -> Option<String> {
    String::from_utf8(std::fs::read(root().join(file)).unwrap_or_else(|err| panic!("read {file}: {err}"))).ok()
}

/// Files whose name ends so, with their content.
pub(crate) fn texts(ending: &str) -> Vec<(String, String)> {
    let files = files().into_iter().filter(|file| file.ends_with(ending));
    files.filter_map(|file| text(&file).map(|text| (file, text))).collect()
}

/// Fails with all that is wrong, one a line.
pub(crate) fn report(rule: &str, mut wrong: Vec<String>) {
    wrong.sort();
    assert!(wrong.is_empty(), "\n{rule}\n  {}\n", wrong.join("\n  "));
}
