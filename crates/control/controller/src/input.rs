//! JSON that clients send: decoded, then checked (spec controller-api section 7).
//!
//! Types that do not fit are one error for all (`syntax_error`); a value that is no member of an enumeration, or lacks,
//! is told with its field, in the words of the JSON schema validator that clients know.

use axum::extract::{FromRequest, Request};
use flynn_http::{Failure, Json};
use flynn_types::acme::{AcmeConfig, ManagedCertificate};
use flynn_types::controller::{
    App, ClusterBackup, DomainMigration, Formation, Job, NewJob, Provider, Release, Resource, ResourceReq,
    ScaleRequest, Sink, Strategy, Volume,
};
use flynn_types::error::ApiError;
use flynn_types::image::Artifact;
use flynn_types::router::Route;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::error::{Error, Result, invalid};

/// A checked body.
pub(crate) struct Input<T>(pub(crate) T);

impl<T: Checked, S: Send + Sync> FromRequest<S> for Input<T> {
    type Rejection = Error;

    async fn from_request(request: Request, _: &S) -> Result<Self> {
        Ok(Self(Document::read(request).await?.decode()?))
    }
}

/// A body with everything that was sent, for endpoints that tell what is absent from what is empty.
pub(crate) struct Document {
    raw: Box<RawValue>,
    pub(crate) fields: Map<String, Value>,
}

impl<S: Send + Sync> FromRequest<S> for Document {
    type Rejection = Error;

    async fn from_request(request: Request, _: &S) -> Result<Self> {
        Ok(Self::read(request).await?)
    }
}

impl Document {
    async fn read(request: Request) -> Result<Self, Failure> {
        let Json(raw) = Json::<Box<RawValue>>::read(request).await?;
        match serde_json::from_str(raw.get()) {
            Ok(Value::Object(fields)) => Ok(Self { raw, fields }),
            // As Go's decoder takes it: nothing is set.
            Ok(Value::Null) => Ok(Self { raw: RawValue::from_string("{}".into()).expect("JSON"), fields: Map::new() }),
            _ => Err(ApiError::syntax().into()),
        }
    }

    /// The typed object, when it follows its rules.
    pub(crate) fn decode<T: Checked>(&self) -> Result<T> {
        for rule in T::RULES {
            rule.check(&self.fields)?;
        }
        serde_json::from_str(self.raw.get()).map_err(|err| {
            tracing::debug!(%err, "request body is not what was expected");
            ApiError::syntax().into()
        })
    }

    /// Sets a field that something else than the body decides.
    pub(crate) fn set(&mut self, field: &str, text: &str) {
        self.fields.insert(field.to_owned(), text.into());
        let raw = serde_json::value::to_raw_value(&self.fields);
        self.raw = raw.expect("it was JSON before");
    }

    /// Refuses fields that are not among the known ones.
    pub(crate) fn only(&self, known: &[&str]) -> Result<()> {
        match self.fields.keys().find(|key| !known.contains(&key.as_str())) {
            None => Ok(()),
            Some(key) => {
                let text = format!(r#"Additional properties aren't allowed, found "{key}" as one of its keys"#);
                Err(invalid("", text))
            }
        }
    }
}

/// An object whose fields have rules beyond their types.
pub(crate) trait Checked: DeserializeOwned {
    const RULES: &[Rule];
}

/// A rule about one field of an object.
pub(crate) enum Rule {
    /// Absent and empty are fine.
    OneOf(&'static str, &'static [&'static str]),
    /// Absent and empty are not.
    OneOfRequired(&'static str, &'static [&'static str]),
    Required(&'static str),
    /// An absolute URI, when there is one.
    Uri(&'static str),
}

impl Rule {
    fn check(&self, fields: &Map<String, Value>) -> Result<()> {
        let text = |field: &str| {
            fields.get(field).map_or(Some(""), |value| if value.is_null() { Some("") } else { value.as_str() })
        };
        match *self {
            Self::OneOf(field, allowed) => match text(field) {
                Some(value) if !value.is_empty() => one_of(field, value, allowed),
                _ => Ok(()),
            },
            Self::OneOfRequired(field, allowed) => text(field).map_or(Ok(()), |value| one_of(field, value, allowed)),
            Self::Required(field) if text(field) == Some("") => {
                let text = format!(r#"Required error. The data must be an object with "{field}" as one of its keys"#);
                Err(invalid("", text))
            }
            Self::Uri(field) => match text(field) {
                Some(value) if !value.is_empty() && url::Url::parse(value).is_err() => {
                    Err(invalid(field, "Value must be a valid URI, according to RFC3986."))
                }
                _ => Ok(()),
            },
            Self::Required(_) => Ok(()),
        }
    }
}

/// Whether a value is a member, in the words that clients know.
pub(crate) fn one_of(field: &str, value: &str, allowed: &[&str]) -> Result<()> {
    if allowed.contains(&value) {
        return Ok(());
    }
    let allowed = allowed.join(" ");
    Err(invalid(field, format!("Enum error. The data must be equal to one of these values [{allowed}].")))
}

/// Names of all strategies.
pub(crate) const STRATEGIES: [&str; 6] = {
    let mut names = [""; 6];
    let mut position = 0;
    while position < names.len() {
        names[position] = match Strategy::ALL[position] {
            Strategy::AllAtOnce => "all-at-once",
            Strategy::OneByOne => "one-by-one",
            Strategy::OneDownOneUp => "one-down-one-up",
            Strategy::InBatches => "in-batches",
            Strategy::Sirenia => "sirenia",
            Strategy::DiscoverdMeta => "discoverd-meta",
        };
        position += 1;
    }
    names
};

const JOB_STATES: &[&str] = &["pending", "blocked", "starting", "up", "stopping", "down", "crashed", "failed"];

macro_rules! rules {
    ($($object:ty => [$($rule:expr),*],)*) => {
        $(impl Checked for $object { const RULES: &[Rule] = &[$($rule),*]; })*
    };
}

rules! {
    App => [Rule::OneOf("strategy", &STRATEGIES)],
    Artifact => [
        Rule::Required("type"),
        Rule::OneOf("type", &["docker", "file", "flynn"]),
        Rule::Required("uri"),
        Rule::Uri("uri")
    ],
    Release => [],
    Formation => [],
    ScaleRequest => [Rule::OneOfRequired("state", &["pending", "cancelled", "complete"])],
    Job => [Rule::OneOf("state", JOB_STATES)],
    NewJob => [Rule::Required("release"), Rule::OneOf("partition", &["background", "system", "user"])],
    Provider => [Rule::Required("name"), Rule::Required("url"), Rule::Uri("url")],
    Resource => [],
    ResourceReq => [],
    Route => [Rule::OneOfRequired("type", &["http", "tcp"])],
    Sink => [Rule::OneOfRequired("kind", &["syslog"])],
    Volume => [
        Rule::OneOf("type", &["data", "squashfs", "ext2"]),
        Rule::OneOf("state", &["pending", "created", "destroyed"])
    ],
    DomainMigration => [],
    ClusterBackup => [],
    ManagedCertificate => [Rule::OneOfRequired("status", &["pending", "issued", "failed", "renewing"])],
    AcmeConfig => [],
}

/// `{"id": "…"}`, other fields ignored.
#[derive(serde::Deserialize)]
pub(crate) struct IdOnly {
    #[serde(default)]
    pub(crate) id: Option<String>,
}

impl Checked for IdOnly {
    const RULES: &[Rule] = &[];
}
