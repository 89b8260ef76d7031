//! A whole Debian as a layer: `mmdebstrap` with the machine's own package sources, streamed into `sqfstar`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::command::{CommandError, Tool};
use crate::recipe::Bootstrap;
use crate::squashfs::Packer;

/// Times in the layer and in what maintainer scripts write: 2000-01-01. Not 0, which `/etc/shadow` takes for "must
/// change the password".
const EPOCH: &str = "946684800";

/// Settings of the machine's apt without which its sources may not be reachable or readable.
const APT_SETTINGS: [&str; 4] =
    ["Acquire::http::Proxy", "Acquire::https::Proxy", "Acquire::Check-Valid-Until", "Acquire::Check-Date"];

/// Why a Debian cannot be put together.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    #[error(transparent)]
    Command(#[from] CommandError),
    #[error("the machine's release cannot be told from /etc/os-release: name a suite in the recipe")]
    NoSuite,
    #[error("the machine's apt configuration has no source for `{suite}`")]
    NoSources { suite: String },
    #[error("{what} {}", path.display())]
    Io {
        what: &'static str,
        path: PathBuf,
        #[source]
        err: io::Error,
    },
    #[error("the archive changed while the layer was built: build again")]
    Changed,
}

/// Package names with their versions.
pub(crate) type Versions = BTreeMap<String, String>;

/// One bootstrap on this machine.
pub(crate) struct Debian<'a> {
    recipe: &'a Bootstrap,
    suite: String,
    sources: Vec<PathBuf>,
    settings: Vec<String>,
}

impl<'a> Debian<'a> {
    pub(crate) fn new(recipe: &'a Bootstrap) -> Result<Self, BootstrapError> {
        let suite = match &recipe.suite {
            Some(suite) => suite.clone(),
            None => std::fs::read_to_string("/etc/os-release")
                .ok()
                .and_then(|text| codename(&text))
                .ok_or(BootstrapError::NoSuite)?,
        };
        let sources = machine_sources(&suite)?;
        let dump = Tool::new("apt-config", "apt").args(["dump"]).text()?;
        Ok(Self { recipe, suite, sources, settings: settings(&dump) })
    }

    /// What would be installed now. Needs the network.
    pub(crate) fn resolve(&self) -> Result<Versions, BootstrapError> {
        let tool = self.mmdebstrap(&["--simulate", "--verbose"]);
        Ok(installs(&tool.args([self.suite.as_str(), "/dev/null"]).args(&self.sources).stderr_text()?))
    }

    /// Installs into a squashfs file. `versions` is what [`Self::resolve`] gave; `work_dir` must exist.
    pub(crate) fn build(&self, versions: &Versions, work_dir: &Path, out: &Path) -> Result<(), BootstrapError> {
        let io = |what, path: &Path| {
            let path = path.to_owned();
            move |err| BootstrapError::Io { what, path, err }
        };
        let dir = tempfile::Builder::new()
            .prefix("bootstrap-")
            .tempdir_in(work_dir)
            .map_err(io("make a folder in", work_dir))?;
        let (script, listing) = (dir.path().join("clean"), dir.path().join("packages"));
        std::fs::write(&script, clean_script(self.recipe)).map_err(io("write", &script))?;
        let quoted = |path: &Path| format!("'{}'", path.display().to_string().replace('\'', r"'\''"));
        let list = format!(
            "dpkg-query --admindir=\"$1/var/lib/dpkg\" -W -f '${{Package}} ${{Version}}\\n' > {}",
            quoted(&listing)
        );
        let hooks = [format!("--customize-hook={list}"), format!("--customize-hook=sh {} \"$1\"", quoted(&script))];
        let packer = Packer::start(out)?;
        let (mut child, checker) = self
            .mmdebstrap(&["--format=tar"])
            .args(&hooks)
            .args([self.suite.as_str(), "-"])
            .args(&self.sources)
            .with(|c| {
                c.stdout(Stdio::piped()).stderr(Stdio::piped());
            })
            .spawn()?;
        let mut tar = child.stdout.take().expect("stdout was asked for as a pipe");
        let mut stderr = child.stderr.take().expect("stderr was asked for as a pipe");
        let messages = std::thread::spawn(move || {
            let mut text = Vec::new();
            let _ = stderr.read_to_end(&mut text);
            text
        });
        let mut ended = None;
        let packed = packer.pack(|stdin| {
            io::copy(&mut tar, stdin)?;
            // A tar that ends early is packed without complaint: only a clean end of mmdebstrap makes it complete.
            drop(tar);
            let output = child.wait_with_output().map(|mut output| {
                output.stderr = messages.join().unwrap_or_default();
                output
            });
            match checker.check(output) {
                Ok(_) => Ok(()),
                Err(err) => {
                    ended = Some(err);
                    Err(io::Error::other("mmdebstrap failed"))
                }
            }
        });
        if let Some(err) = ended {
            return Err(err.into());
        }
        packed?.map_err(io("write the tar stream for", out))?;
        let listing = std::fs::read_to_string(&listing).map_err(io("read", &listing))?;
        if parse_listing(&listing) == *versions { Ok(()) } else { Err(BootstrapError::Changed) }
    }

    fn mmdebstrap(&self, options: &[&str]) -> Tool {
        let tool = Tool::new("mmdebstrap", "mmdebstrap")
            .with(|c| {
                c.env("SOURCE_DATE_EPOCH", EPOCH).env("DEBIAN_FRONTEND", "noninteractive");
            })
            .args(["--mode=auto".to_owned(), format!("--variant={}", self.recipe.variant)])
            .args(self.settings.iter().map(|setting| format!("--aptopt={setting}")))
            .args(options);
        if self.recipe.packages.is_empty() {
            return tool;
        }
        tool.args([format!("--include={}", self.recipe.packages.join(","))])
    }
}

/// Files of the machine's apt configuration that speak of `suite`.
fn machine_sources(suite: &str) -> Result<Vec<PathBuf>, BootstrapError> {
    let main = PathBuf::from("/etc/apt/sources.list");
    let mut files: Vec<_> = std::fs::read_dir("/etc/apt/sources.list.d")
        .map(|entries| entries.filter_map(|e| e.ok().map(|e| e.path())).collect())
        .unwrap_or_default();
    files.push(main);
    files.retain(|file| {
        file.extension().is_some_and(|e| e == "list" || e == "sources")
            && std::fs::read_to_string(file).is_ok_and(|text| mentions(&text, suite))
    });
    files.sort();
    if files.is_empty() { Err(BootstrapError::NoSources { suite: suite.to_owned() }) } else { Ok(files) }
}

/// Whether an apt sources file, of the one-line or the deb822 form, has an entry for a suite or one of its pockets.
fn mentions(text: &str, suite: &str) -> bool {
    text.lines().filter(|line| !line.trim_start().starts_with('#')).flat_map(str::split_whitespace).any(|word| {
        word.strip_prefix(suite).is_some_and(|rest| rest.is_empty() || rest.starts_with('-') || rest.starts_with('/'))
    })
}

/// Code name of the running release.
fn codename(os_release: &str) -> Option<String> {
    let value = os_release.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="))?;
    Some(value.trim_matches('"').to_owned()).filter(|name| !name.is_empty())
}

/// The lines of `apt-config dump` that the bootstrap needs.
fn settings(dump: &str) -> Vec<String> {
    dump.lines()
        .filter(|line| {
            line.split_once(' ').is_some_and(|(name, value)| APT_SETTINGS.contains(&name) && value != "\"\";")
        })
        .map(|line| line.trim_end_matches(';').to_owned())
        .collect()
}

/// Packages in the `Inst name (version …)` lines of a simulated installation.
fn installs(text: &str) -> Versions {
    let parse = |line: &str| {
        let (name, rest) = line.strip_prefix("Inst ")?.split_once(' ')?;
        let version = rest.split_once('(')?.1.split_whitespace().next()?;
        Some((name.to_owned(), version.to_owned()))
    };
    text.lines().filter_map(parse).collect()
}

fn parse_listing(text: &str) -> Versions {
    text.lines().filter_map(|line| line.split_once(' ')).map(|(n, v)| (n.to_owned(), v.to_owned())).collect()
}

/// A shell script that removes what is not wanted below `$1`. The recipe was checked: no character means anything to
/// a shell but `*`.
fn clean_script(recipe: &Bootstrap) -> String {
    let mut script = String::from("set -eu\ncd \"$1\"\n");
    for path in &recipe.remove {
        let _ = writeln!(script, "rm -rf -- .{path}");
    }
    for path in &recipe.empty {
        let _ = writeln!(script, "rm -rf -- .{path}\n: > .{path}");
    }
    script
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_count_when_they_have_the_suite_or_its_pockets() {
        for (text, counts) in [
            ("Types: deb\nSuites: bookworm bookworm-updates\n", true),
            ("deb http://h/debian bookworm main\n", true),
            ("deb http://h/debian bookworm-security main\n", true),
            ("# deb http://h/debian bookworm main\n", false),
            ("deb http://h/bookworm trixie main\n", false),
            ("Suites: bookwormish\n", false),
        ] {
            assert_eq!(mentions(text, "bookworm"), counts, "{text}");
        }
    }

    #[test]
    fn the_output_of_a_simulation_gives_names_and_versions() {
        let text = "I: x\nInst libc6 (2.36-9+deb12u14 Debian:12.15/oldstable [amd64]) []\nConf libc6 (2 x)\n\
                    Inst tar [1.0] (1.34 Debian:12 [amd64])\n";
        let expected = [("libc6", "2.36-9+deb12u14"), ("tar", "1.34")];
        assert_eq!(installs(text), expected.map(|(n, v)| (n.to_owned(), v.to_owned())).into());
    }

    #[test]
    fn only_the_settings_for_reaching_the_sources_are_taken() {
        let dump = "APT::Architecture \"amd64\";\nAcquire::http::Proxy \"http://p:1/\";\nAcquire::https::Proxy \"\";\n\
                    Acquire::Check-Date \"false\";\n";
        assert_eq!(settings(dump), ["Acquire::http::Proxy \"http://p:1/\"", "Acquire::Check-Date \"false\""]);
    }

    #[test]
    fn the_code_name_comes_from_os_release() {
        assert_eq!(codename("ID=debian\nVERSION_CODENAME=bookworm\n").as_deref(), Some("bookworm"));
        assert_eq!(codename("VERSION_CODENAME=\"noble\"\n").as_deref(), Some("noble"));
        assert_eq!(codename("ID=x\n"), None);
    }
}
