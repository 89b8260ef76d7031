//! Recipes: what an image consists of, as written in `images/<name>.toml`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// One image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// For people; not part of the image.
    #[serde(default)]
    pub description: String,
    /// Name of the image whose layers lie below this one's.
    #[serde(default)]
    pub base: Option<String>,
    /// What runs when a job names no command. Without it the base's entry point applies.
    #[serde(default)]
    pub entrypoint: Option<EntrypointRecipe>,
    /// Bottom layer first.
    #[serde(default, rename = "layer")]
    pub layers: Vec<LayerRecipe>,
}

/// The image's `_default` entry point.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EntrypointRecipe {
    pub args: Vec<String>,
    pub env: BTreeMap<String, String>,
    pub cwd: String,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

/// One layer: either put together from files, or a whole Debian by [`Bootstrap`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LayerRecipe {
    pub dirs: Vec<DirRecipe>,
    pub files: Vec<FileRecipe>,
    /// Symbolic links: path to target.
    pub links: BTreeMap<String, String>,
    /// Path of a busybox among `files`, for which a link per applet is made.
    pub applets: Option<String>,
    pub bootstrap: Option<Bootstrap>,
}

/// A directory. Parents that are not listed are made with mode 0755.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirRecipe {
    pub path: String,
    #[serde(default)]
    pub mode: Option<Mode>,
}

/// A file with exactly one origin: `content`, `source`, `program`, or `package` with `from`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileRecipe {
    /// Where it is in the image.
    pub path: String,
    /// 0644 unless said otherwise.
    #[serde(default)]
    pub mode: Option<Mode>,
    /// The text itself; one newline at its beginning is dropped, so that it may start on its own line.
    #[serde(default)]
    pub content: Option<String>,
    /// A file beside the recipes: a path relative to their folder.
    #[serde(default)]
    pub source: Option<String>,
    /// One of our own programs, by name, from the folder where they were built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub program: Option<String>,
    /// A Debian package, of which [`Self::from`] is taken.
    #[serde(default)]
    pub package: Option<String>,
    /// Path inside the package.
    #[serde(default)]
    pub from: Option<String>,
}

/// A Debian root file system, made by `mmdebstrap` from the machine's own package sources.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bootstrap {
    /// `minbase`, `required`, `apt`, `essential`.
    pub variant: String,
    /// A release's code name; the machine's own without one.
    #[serde(default)]
    pub suite: Option<String>,
    /// Packages besides those of the variant (without what they only recommend).
    #[serde(default)]
    pub packages: Vec<String>,
    /// Absolute paths to remove; `*` and `[a-z]` as in a shell.
    #[serde(default)]
    pub remove: Vec<String>,
    /// Files to leave empty.
    #[serde(default)]
    pub empty: Vec<String>,
}

/// Permission bits, written in octal as a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mode(pub u32);

impl TryFrom<String> for Mode {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match u32::from_str_radix(&text, 8) {
            Ok(bits) if bits <= 0o7777 => Ok(Self(bits)),
            _ => Err(format!("mode {text:?} is no octal number up to 7777")),
        }
    }
}

impl From<Mode> for String {
    fn from(mode: Mode) -> String {
        format!("{:04o}", mode.0)
    }
}

/// Why a recipe cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    #[error("there is no recipe for image `{name}` in {}", dir.display())]
    Unknown { name: String, dir: PathBuf },
    #[error("read recipe {}", path.display())]
    Read {
        path: PathBuf,
        #[source]
        err: std::io::Error,
    },
    #[error("recipe {} cannot be understood", path.display())]
    Parse {
        path: PathBuf,
        #[source]
        err: Box<toml::de::Error>,
    },
    #[error("recipe {}: {problem}", path.display())]
    Invalid { path: PathBuf, problem: String },
}

impl Recipe {
    /// Reads `<dir>/<name>.toml`.
    pub fn load(dir: &Path, name: &str) -> Result<Self, RecipeError> {
        if !flynn_types::id::is_path_safe(name) {
            return Err(RecipeError::Unknown { name: name.to_owned(), dir: dir.to_owned() });
        }
        let path = dir.join(format!("{name}.toml"));
        let text = std::fs::read_to_string(&path).map_err(|err| match err.kind() {
            std::io::ErrorKind::NotFound => RecipeError::Unknown { name: name.to_owned(), dir: dir.to_owned() },
            _ => RecipeError::Read { path: path.clone(), err },
        })?;
        Self::parse(&text, &path)
    }

    /// Parses the text of a recipe; `path` is for error messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, RecipeError> {
        let recipe: Self =
            toml::from_str(text).map_err(|err| RecipeError::Parse { path: path.to_owned(), err: Box::new(err) })?;
        recipe.check().map_err(|problem| RecipeError::Invalid { path: path.to_owned(), problem })?;
        Ok(recipe)
    }

    fn check(&self) -> Result<(), String> {
        if self.base.is_none() && self.layers.is_empty() {
            return Err("it has neither a base nor a layer".into());
        }
        self.layers.iter().try_for_each(LayerRecipe::check)
    }
}

impl LayerRecipe {
    fn check(&self) -> Result<(), String> {
        let from_files =
            !(self.dirs.is_empty() && self.files.is_empty() && self.links.is_empty() && self.applets.is_none());
        match &self.bootstrap {
            Some(_) if from_files => return Err("a layer is either bootstrapped or put together from files".into()),
            None if !from_files => return Err("a layer is empty".into()),
            Some(bootstrap) => bootstrap.check()?,
            None => {}
        }
        for path in self.dirs.iter().map(|d| &d.path).chain(self.files.iter().map(|f| &f.path)).chain(self.links.keys())
        {
            check_path(path)?;
        }
        self.files.iter().try_for_each(FileRecipe::check)?;
        if let Some(applets) = &self.applets
            && !self.files.iter().any(|f| f.path == *applets)
        {
            return Err(format!("applets of {applets} are wanted, but it is not among the files"));
        }
        Ok(())
    }
}

impl FileRecipe {
    fn check(&self) -> Result<(), String> {
        let origins = [&self.content, &self.source, &self.program, &self.package];
        if origins.into_iter().filter(|origin| origin.is_some()).count() != 1 {
            return Err(format!("file {} needs exactly one of content, source, program and package", self.path));
        }
        if self.package.is_some() != self.from.is_some() {
            return Err(format!("file {} needs package and from together", self.path));
        }
        if let Some(package) = &self.package {
            check_package(package)?;
        }
        for file in self.source.iter().chain(&self.program) {
            check_path(&format!("/{file}"))?;
        }
        self.from.as_deref().map_or(Ok(()), check_path)
    }
}

impl Bootstrap {
    fn check(&self) -> Result<(), String> {
        if !matches!(self.variant.as_str(), "minbase" | "required" | "apt" | "essential") {
            return Err(format!("variant {:?} is not one of minbase, required, apt, essential", self.variant));
        }
        if let Some(suite) = &self.suite
            && !(suite.starts_with(|c: char| c.is_ascii_lowercase())
                && suite.chars().all(|c| c.is_ascii_alphanumeric()))
        {
            return Err(format!("suite {suite:?} is no code name"));
        }
        self.packages.iter().try_for_each(|package| check_package(package))?;
        self.remove.iter().chain(&self.empty).try_for_each(|path| {
            check_path(path)?;
            // A shell expands these.
            let plain =
                |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '.' | '-' | '_' | '*' | '+' | ':' | '[' | ']');
            if path.chars().all(plain) { Ok(()) } else { Err(format!("path {path:?} has unusual characters")) }
        })
    }
}

/// Absolute, without `.`, `..` and empty parts: what follows is confined to the layer.
fn check_path(path: &str) -> Result<(), String> {
    let parts = path.strip_prefix('/').ok_or_else(|| format!("path {path:?} is not absolute"))?;
    if parts.split('/').any(|part| part.is_empty() || part == "." || part == ".." || part.contains('\0')) {
        return Err(format!("path {path:?} is not clean"));
    }
    Ok(())
}

/// Debian policy 5.6.1.
fn check_package(name: &str) -> Result<(), String> {
    let valid = name.len() > 1
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '+' | '-' | '.'));
    if valid { Ok(()) } else { Err(format!("{name:?} is no name of a Debian package")) }
}

#[cfg(test)]
mod tests;
