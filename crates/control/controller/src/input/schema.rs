//! What bodies may hold: by this they are checked before they are decoded, and described at `/openapi.json`.
//!
//! As Go's decoder takes them, fields that are not known are left alone, and `null` is as good as nothing.

use flynn_types::error::ApiError;
use flynn_types::time::GoTime;
use serde_json::{Map, Value, json};

/// Longest text where nothing else limits it.
const LONG: usize = 1 << 20;
/// Deepest nesting of lists and objects in what is stored as it comes.
const DEPTH: usize = 32;

/// What a value is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// Text of at most so many bytes.
    Text(usize),
    /// A time as in RFC 3339.
    Time,
    Flag,
    /// A whole number within these bounds.
    Number(i64, i64),
    List(&'static Kind),
    /// An object whose keys are names.
    Map(&'static Kind),
    Object(&'static [Field]),
    /// Whatever it is, it is stored.
    Any,
}

/// A field of an object.
pub(crate) type Field = (&'static str, Kind);

impl Kind {
    pub(crate) const LONG: Self = Self::Text(LONG);
    /// What is or may be looked for by an index of the database.
    pub(crate) const NAME: Self = Self::Text(2000);
    pub(crate) const TEXTS: Self = Self::List(&Self::LONG);
    pub(crate) const TEXT_MAP: Self = Self::Map(&Self::LONG);

    /// Finds the first value that is none of this kind. `path` says where it is.
    fn check(self, value: &Value, path: &str) -> Result<(), ApiError> {
        match (self, value) {
            (Self::Text(longest), Value::String(text)) => check_text(text, longest, path),
            (Self::Time, Value::String(_)) if serde_json::from_value::<GoTime>(value.clone()).is_ok() => Ok(()),
            (Self::Flag, Value::Bool(_)) => Ok(()),
            (Self::Number(from, to), Value::Number(number)) => {
                if number.is_f64() && number.as_f64().is_some_and(|number| number.abs() < 1e15) {
                    return Err(mismatch(path, "a whole number"));
                }
                let is_within = number.as_i64().is_some_and(|number| (from..=to).contains(&number));
                if is_within { Ok(()) } else { Err(invalid(path, &format!("must be a number from {from} to {to}"))) }
            }
            (Self::List(item), Value::Array(items)) => items
                .iter()
                .enumerate()
                .try_for_each(|(index, value)| item.check(value, &within(path, &index.to_string()))),
            (Self::Map(item), Value::Object(fields)) => fields.iter().try_for_each(|(key, value)| {
                check_text(key, LONG, path)?;
                item.check(value, &within(path, key))
            }),
            (Self::Object(known), Value::Object(fields)) => check_fields(known, fields, path),
            (Self::Any, value) => check_any(value, path, DEPTH),
            (kind, _) => Err(mismatch(path, kind.name())),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Text(_) => "a text",
            Self::Time => "a time as in RFC 3339",
            Self::Flag => "true or false",
            Self::Number(..) => "a whole number",
            Self::List(_) => "a list",
            Self::Map(_) | Self::Object(_) => "an object",
            Self::Any => "a value",
        }
    }

    /// As OpenAPI has it.
    pub(crate) fn described(self) -> Value {
        match self {
            Self::Text(longest) => json!({ "type": "string", "maxLength": longest }),
            Self::Time => json!({ "type": "string", "format": "date-time" }),
            Self::Flag => json!({ "type": "boolean" }),
            Self::Number(from, to) => json!({ "type": "integer", "minimum": from, "maximum": to }),
            Self::List(item) => json!({ "type": "array", "items": item.described() }),
            Self::Map(item) => json!({ "type": "object", "additionalProperties": item.described() }),
            Self::Object(known) => {
                let fields = known.iter().map(|(name, kind)| ((*name).to_owned(), kind.described()));
                json!({ "type": "object", "properties": fields.collect::<Map<_, _>>() })
            }
            Self::Any => json!({}),
        }
    }
}

/// Checks the known fields of an object.
pub(crate) fn check_fields(known: &[Field], fields: &Map<String, Value>, path: &str) -> Result<(), ApiError> {
    for (name, kind) in known {
        if let Some(value) = fields.get(*name).filter(|value| !value.is_null()) {
            kind.check(value, &within(path, name))?;
        }
    }
    Ok(())
}

/// The object without known fields that are `null`; `None` if there are none.
pub(crate) fn without_nulls(known: &'static [Field], fields: &Map<String, Value>) -> Option<Value> {
    let mut value = Value::Object(fields.clone());
    strip(Kind::Object(known), &mut value).then_some(value)
}

/// Whether there was something to remove.
fn strip(kind: Kind, value: &mut Value) -> bool {
    match (kind, value) {
        (Kind::Object(known), Value::Object(fields)) => {
            let before = fields.len();
            fields.retain(|name, value| !value.is_null() || known.iter().all(|(known, _)| known != name));
            let removed = fields.len() < before;
            let nested = known.iter().filter_map(|(name, kind)| Some(strip(*kind, fields.get_mut(*name)?)));
            nested.fold(removed, |any, one| any | one)
        }
        (Kind::Map(item), Value::Object(fields)) => {
            fields.values_mut().fold(false, |any, value| any | strip(*item, value))
        }
        (Kind::List(item), Value::Array(items)) => items.iter_mut().fold(false, |any, value| any | strip(*item, value)),
        _ => false,
    }
}

fn check_any(value: &Value, path: &str, depth: usize) -> Result<(), ApiError> {
    if depth == 0 {
        return Err(invalid(path, &format!("must not be nested deeper than {DEPTH} levels")));
    }
    match value {
        Value::String(text) => check_text(text, LONG, path),
        Value::Array(items) => items.iter().try_for_each(|value| check_any(value, path, depth - 1)),
        Value::Object(fields) => fields.iter().try_for_each(|(key, value)| {
            check_text(key, LONG, path)?;
            check_any(value, path, depth - 1)
        }),
        _ => Ok(()),
    }
}

fn check_text(text: &str, longest: usize, path: &str) -> Result<(), ApiError> {
    if text.len() > longest {
        return Err(invalid(path, &format!("must have at most {longest} bytes")));
    }
    // PostgreSQL has no way to store it.
    if text.contains('\0') { Err(invalid(path, "must not contain the character U+0000")) } else { Ok(()) }
}

fn within(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn invalid(path: &str, text: &str) -> ApiError {
    ApiError::validation(path, text)
}

/// The message is the one that clients know; where it is and what belongs there is told beside it.
pub(crate) fn mismatch(path: &str, expected: &str) -> ApiError {
    let detail = json!({ "field": path, "expected": expected });
    ApiError::syntax().with_detail(detail)
}
