//! Go's text templates, as far as configuration of existing clusters uses them: prefixes of syslog drains, formats of
//! `ps`, the bootstrap manifest.
//!
//! Understood are text, comments and `{{- … -}}`; fields, variables, literals, parentheses and pipelines; `if`, `else`,
//! `range`, `with`; the functions `and`, `eq`, `index`, `len`, `ne`, `not`, `or`, `print`, and those a caller adds. The
//! data is JSON; fields have Go's names (`.Job.HostID`) and are found by their letters and digits alone, whatever the
//! case (`host_id`). Language: <https://pkg.go.dev/text/template>.
//!
//! **Invariant:** no template and no data makes this panic, loop for ever or nest deeper than [`MAX_DEPTH`].

#![forbid(unsafe_code)]

mod eval;
mod lex;
mod parse;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde_json::Value;

/// How deep blocks and parentheses nest.
pub const MAX_DEPTH: usize = 64;

/// Longest text that a template makes, in bytes: nested ranges multiply.
pub const MAX_OUTPUT: usize = 16 << 20;

/// Actions and rounds of ranges that one rendering may take.
pub const MAX_STEPS: usize = 1_000_000;

/// Why a text is no template, or says nothing about its data.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("unclosed action in template {0:?}")]
    Unclosed(String),
    #[error("unterminated quoted text in template action {0:?}")]
    Quote(String),
    #[error("unexpected {found} in template action {action:?}")]
    Unexpected { found: String, action: String },
    #[error("template action {0:?} has no value")]
    Empty(String),
    #[error("template block {0:?} has no end")]
    NoEnd(String),
    #[error("template nests deeper than {MAX_DEPTH} levels")]
    Depth,
    #[error("template makes more than {MAX_OUTPUT} bytes")]
    Output,
    #[error("template takes more than {MAX_STEPS} steps")]
    Steps,
    #[error("template function {0:?} is not known")]
    Function(String),
    #[error("template variable {0:?} is not set")]
    Variable(String),
    #[error("template field {0:?} does not exist")]
    Field(String),
    #[error("template function {name}: {reason}")]
    Call { name: String, reason: String },
}

/// A function of the caller's: arguments to a value, or why not.
pub type Function = Box<dyn Fn(&[Value]) -> Result<Value, String> + Send + Sync>;

/// What templates may use beside their data.
#[derive(Default)]
pub struct Scope {
    functions: BTreeMap<&'static str, Function>,
    missing: Missing,
}

/// What a field that the data does not have is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Missing {
    /// Nothing: empty text, false.
    #[default]
    Empty,
    /// An error, but for fields of these names, written in small letters.
    Error { optional: &'static [&'static str] },
}

impl Scope {
    /// The built-in functions only; missing fields are empty.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a function; it goes before a built-in one of the name.
    #[must_use]
    pub fn function<F>(mut self, name: &'static str, function: F) -> Self
    where
        F: Fn(&[Value]) -> Result<Value, String> + Send + Sync + 'static,
    {
        self.functions.insert(name, Box::new(function));
        self
    }

    /// Says what missing fields are.
    #[must_use]
    pub fn missing(mut self, missing: Missing) -> Self {
        self.missing = missing;
        self
    }
}

/// A parsed template.
#[derive(Clone, Debug, PartialEq)]
pub struct Template {
    nodes: Vec<parse::Node>,
}

impl Template {
    /// # Errors
    /// The text is no template of the language above, or has a function that is neither built in nor in `scope`.
    pub fn parse(text: &str, scope: &Scope) -> Result<Self, TemplateError> {
        let known = |name: &str| eval::BUILT_IN.contains(&name) || scope.functions.contains_key(name);
        parse::parse(text, &known).map(|nodes| Self { nodes })
    }

    /// Writes the template with `data` as its dot. The scope has the functions that it was parsed with.
    ///
    /// # Errors
    /// A variable is not set, a function refuses its arguments, a field is missing and may not be, or it takes too much.
    pub fn render(&self, data: &Value, scope: &Scope) -> Result<String, TemplateError> {
        eval::render(&self.nodes, data, scope)
    }
}
