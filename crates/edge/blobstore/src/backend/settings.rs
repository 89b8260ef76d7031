//! Which backends there are, out of the environment (spec build-and-deploy section 11.4).

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::POSTGRES;

/// Where a local backend is when nothing says it: where the volume of a blob store is.
const LOCAL_PATH: &str = "/data";
/// Variables of form B, and the parameters of form A that they stand for, by the backend's type.
const FORM_B: [(&str, &str, &str); 1] = [("local", "LOCAL_PATH", "path")];

/// Backends by name, and the one for new files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub(crate) default: String,
    pub(crate) backends: BTreeMap<String, Kind>,
}

/// A backend besides the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A folder.
    Local { path: PathBuf },
}

/// Texts are those of the Go implementation where it has them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("{variable}: {token:?} is not key=value")]
    Token { variable: String, token: String },
    #[error("blobstore: unknown backend {kind:?} for {name}: this version has postgres and local")]
    UnknownKind { kind: String, name: String },
    #[error("blobstore: the backend {name} has no type: it needs backend=<type>")]
    NoKind { name: String },
    #[error("blobstore: {name} is the name of the backend that is always there")]
    Reserved { name: String },
    #[error("blobstore: the path {path:?} of the backend {name} does not begin with /")]
    RelativePath { name: String, path: String },
    #[error("error: unknown default backend {0:?}")]
    UnknownDefault(String),
}

type Parameters = BTreeMap<String, String>;

impl Default for Settings {
    fn default() -> Self {
        Self { default: POSTGRES.to_owned(), backends: BTreeMap::new() }
    }
}

impl Settings {
    /// Reads all variables of the environment.
    pub fn from_vars(vars: impl IntoIterator<Item = (String, String)>) -> Result<Self, SettingsError> {
        let vars: BTreeMap<_, _> = vars.into_iter().filter(|(_, value)| !value.is_empty()).collect();
        let mut found = form_a(&vars)?;
        let form_b = vars.get("BACKEND").filter(|kind| *kind != POSTGRES);
        if let Some(kind) = form_b {
            let parameters = found.entry(kind.clone()).or_default();
            for (_, variable, key) in FORM_B.iter().filter(|(of, ..)| of == kind) {
                if let Some(value) = vars.get(*variable) {
                    parameters.entry((*key).to_owned()).or_insert_with(|| value.clone());
                }
            }
            parameters.entry("backend".to_owned()).or_insert_with(|| kind.clone());
        }
        let backends: BTreeMap<_, _> = found
            .into_iter()
            .map(|(name, parameters)| Ok((name.clone(), kind(name, &parameters)?)))
            .collect::<Result<_, _>>()?;
        let default = vars.get("DEFAULT_BACKEND").or(form_b).map_or(POSTGRES, String::as_str);
        if default != POSTGRES && !backends.contains_key(default) {
            return Err(SettingsError::UnknownDefault(default.to_owned()));
        }
        Ok(Self { default: default.to_owned(), backends })
    }
}

/// `BACKEND_<NAME>` with a list of parameters, and `BACKEND_<NAME>_<KEY>` with one.
fn form_a(vars: &BTreeMap<String, String>) -> Result<BTreeMap<String, Parameters>, SettingsError> {
    let mut found: BTreeMap<String, Parameters> = BTreeMap::new();
    let ours = || vars.iter().filter_map(|(name, value)| Some((name, name.strip_prefix("BACKEND_")?, value)));
    for (variable, rest, value) in ours().filter(|(_, rest, _)| is_name(rest)) {
        let parameters = found.entry(rest.to_lowercase()).or_default();
        for token in value.split_whitespace() {
            let pair = token.split_once('=');
            let (key, value) =
                pair.ok_or_else(|| SettingsError::Token { variable: variable.clone(), token: token.to_owned() })?;
            parameters.insert(key.to_owned(), value.to_owned());
        }
    }
    for (_, rest, value) in ours() {
        if let Some((name, key)) = rest.split_once('_')
            && let Some(parameters) = found.get_mut(&name.to_lowercase())
        {
            parameters.insert(key.to_lowercase(), value.clone());
        }
    }
    Ok(found)
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
}

fn kind(name: String, parameters: &Parameters) -> Result<Kind, SettingsError> {
    if name == POSTGRES {
        return Err(SettingsError::Reserved { name });
    }
    match parameters.get("backend").map(String::as_str) {
        Some("local") => {
            let path = parameters.get("path").map_or(LOCAL_PATH, String::as_str);
            if !path.starts_with('/') {
                return Err(SettingsError::RelativePath { name, path: path.to_owned() });
            }
            Ok(Kind::Local { path: path.into() })
        }
        Some(kind) => Err(SettingsError::UnknownKind { kind: kind.to_owned(), name }),
        None => Err(SettingsError::NoKind { name }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> Result<Settings, String> {
        let vars = vars.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Settings::from_vars(vars).map_err(|err| err.to_string())
    }

    #[test]
    fn both_forms_name_backends() {
        let local = |path: &str| Kind::Local { path: path.into() };
        for (vars, default, backends) in [
            (&[][..], "postgres", vec![]),
            (&[("BACKEND", "postgres")], "postgres", vec![]),
            (&[("BACKEND", "")], "postgres", vec![]),
            (&[("BACKEND", "local")], "local", vec![("local", local("/data"))]),
            (&[("BACKEND", "local"), ("LOCAL_PATH", "/x")], "local", vec![("local", local("/x"))]),
            (&[("BACKEND", "local"), ("DEFAULT_BACKEND", "postgres")], "postgres", vec![("local", local("/data"))]),
            (&[("BACKEND_DISK1", "backend=local path=/a")], "postgres", vec![("disk1", local("/a"))]),
            (
                &[
                    ("BACKEND_DISK1", "backend=local path=/a"),
                    ("BACKEND_DISK1_PATH", "/with space"),
                    ("DEFAULT_BACKEND", "disk1"),
                ],
                "disk1",
                vec![("disk1", local("/with space"))],
            ),
            (
                &[("BACKEND", "local"), ("LOCAL_PATH", "/b"), ("BACKEND_LOCAL", "backend=local path=/a")],
                "local",
                vec![("local", local("/a"))],
            ),
            // Parameters of a backend that there is not.
            (&[("BACKEND_UNKNOWN_KEY", "x")], "postgres", vec![]),
        ] {
            let backends = backends.into_iter().map(|(name, kind)| (name.to_owned(), kind)).collect();
            assert_eq!(read(vars), Ok(Settings { default: default.to_owned(), backends }), "{vars:?}");
        }
    }

    #[test]
    fn mistakes_are_told() {
        for (vars, message) in [
            (&[("BACKEND_A", "backend")][..], "BACKEND_A: \"backend\" is not key=value"),
            (&[("BACKEND_A", "path=/x")], "blobstore: the backend a has no type: it needs backend=<type>"),
            (
                &[("BACKEND_A", "backend=tape")],
                "blobstore: unknown backend \"tape\" for a: this version has postgres and local",
            ),
            (&[("BACKEND", "s3")], "blobstore: unknown backend \"s3\" for s3: this version has postgres and local"),
            (
                &[("BACKEND_POSTGRES", "backend=local")],
                "blobstore: postgres is the name of the backend that is always there",
            ),
            (
                &[("BACKEND", "local"), ("LOCAL_PATH", "x")],
                "blobstore: the path \"x\" of the backend local does not begin with /",
            ),
            (&[("DEFAULT_BACKEND", "x")], "error: unknown default backend \"x\""),
        ] {
            assert_eq!(read(vars).unwrap_err(), message, "{vars:?}");
        }
    }
}
