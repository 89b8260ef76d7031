//! Which backends there are, out of the environment (spec build-and-deploy section 11.4).

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use object_store::aws::AmazonS3ConfigKey;
use url::Url;

use super::POSTGRES;

/// Where a local backend is when nothing says it: where the volume of a blob store is.
const LOCAL_PATH: &str = "/data";
/// Variables of form B, and the parameters of form A that they stand for, by the backend's type.
const FORM_B: [(&str, &str, &str); 7] = [
    ("local", "LOCAL_PATH", "path"),
    ("s3", "S3_BUCKET", "bucket"),
    ("s3", "S3_REGION", "region"),
    ("s3", "S3_ENDPOINT", "endpoint"),
    ("s3", "AWS_ACCESS_KEY_ID", "access_key_id"),
    ("s3", "AWS_SECRET_ACCESS_KEY", "secret_access_key"),
    ("s3", "AWS_SESSION_TOKEN", "session_token"),
];
/// What platforms of Amazon tell a program of the role that it has.
const ROLE: [(&str, AmazonS3ConfigKey); 6] = [
    ("AWS_ROLE_ARN", AmazonS3ConfigKey::RoleArn),
    ("AWS_ROLE_SESSION_NAME", AmazonS3ConfigKey::RoleSessionName),
    ("AWS_WEB_IDENTITY_TOKEN_FILE", AmazonS3ConfigKey::WebIdentityTokenFile),
    ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", AmazonS3ConfigKey::ContainerCredentialsRelativeUri),
    ("AWS_CONTAINER_CREDENTIALS_FULL_URI", AmazonS3ConfigKey::ContainerCredentialsFullUri),
    ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", AmazonS3ConfigKey::ContainerAuthorizationTokenFile),
];
/// Region of stores that have none, and the one that Go's client of Minio takes.
const REGION: &str = "us-east-1";

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
    /// A bucket of S3, or of a store that speaks its language.
    S3(S3),
}

/// A bucket and how to use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct S3 {
    pub(crate) bucket: String,
    pub(crate) region: String,
    /// `None` is Amazon.
    pub(crate) endpoint: Option<Url>,
    pub(crate) keys: S3Keys,
    /// Whether a bucket that is missing is made.
    pub(crate) make: bool,
}

/// Who we are to S3.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum S3Keys {
    Given {
        id: String,
        secret: Secret,
        token: Option<Secret>,
    },
    /// The platform says it: these settings of it, or else the machine's metadata.
    Role(Vec<(AmazonS3ConfigKey, String)>),
}

/// What no log may show.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(String);

impl Secret {
    pub(crate) fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    pub(crate) fn text(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Texts are those of the Go implementation where it has them.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    #[error("{variable}: {token:?} is not key=value")]
    Token { variable: String, token: String },
    #[error("blobstore: unknown backend {kind:?} for {name}: this version has postgres, local, s3 and minio")]
    UnknownKind { kind: String, name: String },
    #[error("blobstore: the backend {name} has no type: it needs backend=<type>")]
    NoKind { name: String },
    #[error("blobstore: {name} is the name of the backend that is always there")]
    Reserved { name: String },
    #[error("blobstore: the path {path:?} of the backend {name} does not begin with /")]
    RelativePath { name: String, path: String },
    #[error("blobstore: the backend {name} needs {parameter}")]
    Missing { name: String, parameter: &'static str },
    #[error("blobstore: the endpoint {endpoint:?} of the backend {name} is no address of a server")]
    Endpoint { name: String, endpoint: String },
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
            .map(|(name, parameters)| Ok((name.clone(), kind(name, &parameters, &vars)?)))
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

fn kind(name: String, parameters: &Parameters, vars: &BTreeMap<String, String>) -> Result<Kind, SettingsError> {
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
        Some("s3") => s3(name, parameters, vars).map(Kind::S3),
        Some("minio") => {
            if !parameters.contains_key("endpoint") {
                return Err(SettingsError::Missing { name, parameter: "endpoint" });
            }
            Ok(Kind::S3(S3 { make: true, ..s3(name, parameters, vars)? }))
        }
        Some(kind) => Err(SettingsError::UnknownKind { kind: kind.to_owned(), name }),
        None => Err(SettingsError::NoKind { name }),
    }
}

fn s3(name: String, parameters: &Parameters, vars: &BTreeMap<String, String>) -> Result<S3, SettingsError> {
    let text = |key: &str| parameters.get(key).filter(|value| !value.is_empty()).map(String::as_str);
    let needed = |value: Option<&str>, parameter| {
        value.map(str::to_owned).ok_or_else(|| SettingsError::Missing { name: name.clone(), parameter })
    };
    let insecure = text("insecure") == Some("true");
    let endpoint = text("endpoint").map(|told| endpoint(&name, told, insecure)).transpose()?;
    let region = text("region").or(text("location")).or(endpoint.as_ref().map(|_| REGION));
    Ok(S3 {
        bucket: needed(text("bucket"), "bucket")?,
        region: needed(region, "region")?,
        endpoint,
        keys: match (text("access_key_id"), text("secret_access_key")) {
            (None, None) => role(&name, text("ec2_role") == Some("true"), vars)?,
            (id, secret) => S3Keys::Given {
                id: needed(id, "access_key_id")?,
                secret: Secret(needed(secret, "secret_access_key")?),
                token: text("session_token").map(Secret::new),
            },
        },
        make: false,
    })
}

/// Without keys somebody must have said that there is a role: else the machine's metadata would be waited for in vain.
fn role(name: &str, said: bool, vars: &BTreeMap<String, String>) -> Result<S3Keys, SettingsError> {
    let told = ROLE.iter().filter_map(|(variable, key)| Some((*key, vars.get(*variable)?.clone())));
    let told: Vec<_> = told.collect();
    if told.is_empty() && !said {
        let parameter = "access_key_id and secret_access_key, or ec2_role=true";
        return Err(SettingsError::Missing { name: name.to_owned(), parameter });
    }
    Ok(S3Keys::Role(told))
}

/// With or without a scheme, as Go's client of Minio has it.
fn endpoint(name: &str, told: &str, insecure: bool) -> Result<Url, SettingsError> {
    let url = match told.contains("://") {
        true => told.to_owned(),
        false => format!("{}://{told}", if insecure { "http" } else { "https" }),
    };
    let parsed = Url::parse(&url).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    parsed.ok_or_else(|| SettingsError::Endpoint { name: name.to_owned(), endpoint: told.to_owned() })
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
    fn both_forms_name_buckets() {
        let given = |token: Option<&str>| S3Keys::Given {
            id: "i".to_owned(),
            secret: Secret::new("s"),
            token: token.map(Secret::new),
        };
        let s3 = |region: &str, endpoint: Option<&str>, keys| S3 {
            bucket: "b".to_owned(),
            region: region.to_owned(),
            endpoint: endpoint.map(|url| url.parse().unwrap()),
            keys,
            make: false,
        };
        let guide = [
            ("BACKEND", "s3"),
            ("S3_BUCKET", "b"),
            ("S3_REGION", "r"),
            ("AWS_ACCESS_KEY_ID", "i"),
            ("AWS_SECRET_ACCESS_KEY", "s"),
        ];
        let go = "backend=s3 region=r bucket=b access_key_id=i secret_access_key=s";
        let role = vec![(AmazonS3ConfigKey::RoleArn, "arn".to_owned())];
        for (vars, name, expected) in [
            (guide.to_vec(), "s3", s3("r", None, given(None))),
            ([&guide[..], &[("AWS_SESSION_TOKEN", "t")]].concat(), "s3", s3("r", None, given(Some("t")))),
            ([&guide[..], &[("S3_ENDPOINT", "http://h:1")]].concat(), "s3", s3("r", Some("http://h:1/"), given(None))),
            ([&guide[..], &[("BACKEND_S3", "region=other")]].concat(), "s3", s3("other", None, given(None))),
            (vec![("BACKEND_MAIN", go), ("DEFAULT_BACKEND", "main")], "main", s3("r", None, given(None))),
            (
                vec![
                    ("BACKEND_M", "backend=minio endpoint=h:1 insecure=true bucket=b access_key_id=i"),
                    ("BACKEND_M_SECRET_ACCESS_KEY", "s"),
                    ("DEFAULT_BACKEND", "m"),
                ],
                "m",
                S3 { make: true, ..s3("us-east-1", Some("http://h:1/"), given(None)) },
            ),
            (
                vec![("BACKEND_A", "backend=s3 region=r bucket=b ec2_role=true"), ("DEFAULT_BACKEND", "a")],
                "a",
                s3("r", None, S3Keys::Role(vec![])),
            ),
            ([&guide[..3], &[("AWS_ROLE_ARN", "arn")]].concat(), "s3", s3("r", None, S3Keys::Role(role))),
        ] {
            let backends = [(name.to_owned(), Kind::S3(expected))].into();
            assert_eq!(read(&vars), Ok(Settings { default: name.to_owned(), backends }), "{vars:?}");
        }
        assert!(!format!("{:?}", read(&guide)).contains("\"s\""), "secrets are not shown");
    }

    #[test]
    fn mistakes_are_told() {
        for (vars, message) in [
            (&[("BACKEND_A", "backend")][..], "BACKEND_A: \"backend\" is not key=value"),
            (&[("BACKEND_A", "path=/x")], "blobstore: the backend a has no type: it needs backend=<type>"),
            (
                &[("BACKEND_A", "backend=tape")],
                "blobstore: unknown backend \"tape\" for a: this version has postgres, local, s3 and minio",
            ),
            (&[("BACKEND", "s3")], "blobstore: the backend s3 needs bucket"),
            (&[("BACKEND", "s3"), ("S3_BUCKET", "b")], "blobstore: the backend s3 needs region"),
            (
                &[("BACKEND_A", "backend=s3 bucket=b region=r")],
                "blobstore: the backend a needs access_key_id and secret_access_key, or ec2_role=true",
            ),
            (
                &[("BACKEND_A", "backend=s3 bucket=b region=r access_key_id=i")],
                "blobstore: the backend a needs secret_access_key",
            ),
            (&[("BACKEND_A", "backend=minio bucket=b")], "blobstore: the backend a needs endpoint"),
            (
                &[("BACKEND_A", "backend=s3 bucket=b endpoint=ftp://x")],
                "blobstore: the endpoint \"ftp://x\" of the backend a is no address of a server",
            ),
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
