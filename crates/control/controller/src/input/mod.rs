//! JSON that clients send: decoded, then checked (spec controller-api section 7).
//!
//! Types that do not fit are one error for all (`syntax_error`), with the field as detail; a value that is no member of an
//! enumeration, or lacks, is told with its field, in the words of the JSON schema validator that clients know.

mod bodies;
mod schema;

use axum::extract::{FromRequest, Request};
use flynn_http::{Failure, Json};
use flynn_types::error::ApiError;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::error::{Error, Result, invalid};
pub(crate) use bodies::{ReleaseRef, STRATEGIES};
use schema::{Field, Kind};

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
        schema::check_fields(T::FIELDS, &self.fields, "")?;
        for rule in T::RULES {
            rule.check(&self.fields)?;
        }
        let decoded = match schema::without_nulls(T::FIELDS, &self.fields) {
            Some(value) => serde_path_to_error::deserialize(value),
            // The text as it came: some of it is stored so.
            None => serde_path_to_error::deserialize(&mut serde_json::Deserializer::from_str(self.raw.get())),
        };
        decoded.map_err(|err| {
            tracing::debug!(%err, "request body is not what was expected");
            schema::mismatch(&err.path().to_string(), &err.inner().to_string()).into()
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

/// An object that clients send.
pub(crate) trait Checked: DeserializeOwned {
    /// Rules beyond the types of fields.
    const RULES: &[Rule];
    const FIELDS: &'static [Field];

    /// As OpenAPI has it.
    fn described() -> Value {
        Kind::Object(Self::FIELDS).described()
    }
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
