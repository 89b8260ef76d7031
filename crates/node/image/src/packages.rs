//! Files out of Debian packages: from the machine itself when the package is installed, else downloaded with the
//! machine's own apt configuration.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use crate::command::{CommandError, Tool};

/// Why a file of a package cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error("download package `{package}`")]
    Download {
        package: String,
        #[source]
        err: CommandError,
    },
    #[error("package `{package}` {version} has no file {path}")]
    NoFile { package: String, version: String, path: String },
    #[error("read {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        err: io::Error,
    },
}

/// Where a package's files are.
#[derive(Debug)]
struct Source {
    version: String,
    root: PathBuf,
    // Removed when dropped; `None` for the machine itself.
    _unpacked: Option<tempfile::TempDir>,
}

/// The packages of one build, each looked up once.
#[derive(Debug)]
pub(crate) struct Packages {
    /// For downloads: must exist.
    work_dir: PathBuf,
    sources: BTreeMap<String, Source>,
}

impl Packages {
    pub(crate) fn new(work_dir: &Path) -> Self {
        Self { work_dir: work_dir.to_owned(), sources: BTreeMap::new() }
    }

    /// Content of `path` in `package`, and the package's version.
    pub(crate) fn file(&mut self, package: &str, path: &str) -> Result<(String, Vec<u8>), PackageError> {
        if !self.sources.contains_key(package) {
            let source = match installed_version(package)? {
                Some(version) => Source { version, root: PathBuf::from("/"), _unpacked: None },
                None => download(package, &self.work_dir)?,
            };
            self.sources.insert(package.to_owned(), source);
        }
        let source = &self.sources[package];
        let full = source.root.join(path.trim_start_matches('/'));
        match std::fs::read(&full) {
            Ok(content) => Ok((source.version.clone(), content)),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Err(PackageError::NoFile {
                package: package.to_owned(),
                version: source.version.clone(),
                path: path.to_owned(),
            }),
            Err(err) => Err(PackageError::Read { path: full, err }),
        }
    }
}

/// Version of an installed package.
fn installed_version(package: &str) -> Result<Option<String>, CommandError> {
    let query = Tool::new("dpkg-query", "dpkg").args(["-W", "-f", "${db:Status-Abbrev}\t${Version}\n", package]).text();
    match query {
        Ok(text) => Ok(parse_status(&text)),
        Err(CommandError::Failed { .. }) => Ok(None), // it does not know the name
        Err(err) => Err(err),
    }
}

fn parse_status(text: &str) -> Option<String> {
    text.lines().find_map(|line| match line.split_once('\t') {
        Some((status, version)) if status.trim_end() == "ii" => Some(version.to_owned()),
        _ => None,
    })
}

/// Fetches and unpacks a package. The machine's package lists are tried first; when they are missing or too old, lists
/// are fetched into the build's own folder, so that neither root nor a change of the machine is needed.
fn download(package: &str, work_dir: &Path) -> Result<Source, PackageError> {
    let dir = tempfile::Builder::new()
        .prefix("package-")
        .tempdir_in(work_dir)
        .map_err(|err| PackageError::Read { path: work_dir.to_owned(), err })?;
    let path = dir.path();
    let fetch = |options: &[String]| {
        Tool::new("apt-get", "apt")
            .args(["-q", "-o", "APT::Sandbox::User=root"])
            .args(options)
            .args(["download", package])
            .with(|c| {
                c.current_dir(path);
            })
            .output()
    };
    if fetch(&[]).is_err() {
        let options = apt_state(path).map_err(|err| PackageError::Read { path: path.to_owned(), err })?;
        let update = Tool::new("apt-get", "apt").args(["-q", "-o", "APT::Sandbox::User=root"]).args(&options);
        update
            .args(["update"])
            .output()
            .and_then(|_| fetch(&options))
            .map_err(|err| PackageError::Download { package: package.to_owned(), err })?;
    }
    let read = |err| PackageError::Read { path: path.to_owned(), err };
    let archive = std::fs::read_dir(path)
        .map_err(read)?
        .filter_map(|entry| entry.ok().map(|e| e.path()))
        .find(|file| file.extension().is_some_and(|e| e == "deb"))
        .ok_or_else(|| read(io::Error::new(io::ErrorKind::NotFound, "apt-get left no package file")))?;
    let root = path.join("root");
    let version = Tool::new("dpkg-deb", "dpkg").args(["-f"]).args([&archive]).args(["Version"]).text()?;
    Tool::new("dpkg-deb", "dpkg").args(["-x"]).args([&archive, &root]).output()?;
    Ok(Source { version: version.trim().to_owned(), root, _unpacked: Some(dir) })
}

/// apt options that keep all its state below `dir`, with the machine's sources and settings.
fn apt_state(dir: &Path) -> io::Result<Vec<String>> {
    let (lists, cache) = (dir.join("lists"), dir.join("cache"));
    std::fs::create_dir_all(lists.join("partial"))?;
    std::fs::create_dir_all(cache.join("archives/partial"))?;
    let set = |name: &str, path: &Path| ["-o".to_owned(), format!("{name}={}", path.display())];
    Ok([set("Dir::State::lists", &lists), set("Dir::Cache", &cache)].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fully_installed_packages_count() {
        for (text, version) in [
            ("ii \t1:1.35.0-4\n", Some("1:1.35.0-4")),
            ("rc \t1.0\n", None),
            ("un \t\n", None),
            ("iU \t2.0\n", None),
            ("", None),
        ] {
            assert_eq!(parse_status(text).as_deref(), version, "{text:?}");
        }
    }

    #[test]
    fn a_missing_file_names_package_and_path() {
        let dir = tempfile::tempdir().unwrap();
        let err = Packages::new(dir.path()).file("dpkg", "/no/such/file").unwrap_err().to_string();
        assert!(err.starts_with("package `dpkg` ") && err.ends_with(" has no file /no/such/file"), "{err}");
    }
}
