//! The part of Go's text templates that makes sense for a prefix: text, comments, fields, `index` and `or`.
//!
//! `{{.ID}}`, `{{.Metadata.key}}`, `{{index .Metadata "flynn-controller.app_name"}}`, `{{or .A .B "text"}}`,
//! with `{{-` and `-}}` to cut white space, over the job as Go names its fields.

use flynn_types::host::Job;
use serde_json::Value;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Print(Call),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Call {
    Of(Operand),
    Index(Operand, Vec<Operand>),
    Or(Vec<Operand>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operand {
    Path(Vec<String>),
    Literal(String),
}

impl Template {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let (mut parts, mut rest, mut trim) = (Vec::new(), text, false);
        loop {
            let (before, after) = match rest.split_once("{{") {
                Some((before, after)) => (before, Some(after)),
                None => (rest, None),
            };
            let before = if trim { before.trim_start() } else { before };
            let Some(after) = after else {
                parts.push(Part::Text(before.to_owned()));
                break;
            };
            let trimmed = after.strip_prefix("- ");
            parts.push(Part::Text(if trimmed.is_some() { before.trim_end() } else { before }.to_owned()));
            let after = trimmed.unwrap_or(after);
            let end = action_end(after).ok_or("unclosed action")?;
            let action = &after[..end];
            rest = &after[end + 2..];
            trim = action.ends_with(" -");
            let action = action.strip_suffix(" -").unwrap_or(action).trim();
            if !(action.starts_with("/*") && action.ends_with("*/")) {
                parts.push(Part::Print(call(action)?));
            }
        }
        parts.retain(|part| !matches!(part, Part::Text(text) if text.is_empty()));
        Ok(Self { parts })
    }

    pub(super) fn render(&self, job: &Job) -> String {
        let value = serde_json::to_value(job).unwrap_or_default();
        let mut out = String::new();
        for part in &self.parts {
            match part {
                Part::Text(text) => out.push_str(text),
                Part::Print(call) => out.push_str(&call.value(&value)),
            }
        }
        out
    }
}

/// Where `}}` is that ends the action, outside of text in quotes.
fn action_end(text: &str) -> Option<usize> {
    let (mut quote, mut escaped) = (None, false);
    for (at, c) in text.char_indices() {
        match quote {
            Some('"') if escaped => escaped = false,
            Some('"') if c == '\\' => escaped = true,
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '"' || c == '`' => quote = Some(c),
            None if text[at..].starts_with("}}") => return Some(at),
            None => {}
        }
    }
    None
}

fn call(action: &str) -> Result<Call, String> {
    let words = words(action)?;
    match words.as_slice() {
        [] => Err("missing value for command".into()),
        [word] => Ok(Call::Of(operand(word)?)),
        [name, rest @ ..] if name == "index" => {
            let (of, keys) = rest.split_first().ok_or("index needs an argument")?;
            let keys = keys.iter().map(|word| operand(word)).collect::<Result<_, _>>()?;
            Ok(Call::Index(operand(of)?, keys))
        }
        [name, rest @ ..] if name == "or" => {
            Ok(Call::Or(rest.iter().map(|word| operand(word)).collect::<Result<_, _>>()?))
        }
        [name, ..] => Err(format!("{name:?} is not supported: use fields, index and or")),
    }
}

fn words(action: &str) -> Result<Vec<String>, String> {
    let (mut words, mut rest) = (Vec::new(), action.trim_start());
    while let Some(first) = rest.chars().next() {
        let len = match first {
            '"' => {
                let mut escaped = false;
                let end = rest[1..].char_indices().find(|(_, c)| {
                    let ends = *c == '"' && !escaped;
                    escaped = *c == '\\' && !escaped;
                    ends
                });
                end.ok_or("unterminated text")?.0 + 2
            }
            '`' => rest[1..].find('`').ok_or("unterminated text")? + 2,
            _ => rest.find(char::is_whitespace).unwrap_or(rest.len()),
        };
        words.push(rest[..len].to_owned());
        rest = rest[len..].trim_start();
    }
    Ok(words)
}

fn operand(word: &str) -> Result<Operand, String> {
    if let Some(text) = word.strip_prefix('`') {
        return Ok(Operand::Literal(text.trim_end_matches('`').to_owned()));
    }
    if word.starts_with('"') {
        return serde_json::from_str(word).map(Operand::Literal).map_err(|err| format!("text {word}: {err}"));
    }
    let path = word.strip_prefix('.').ok_or_else(|| format!("function {word:?} not defined"))?;
    Ok(Operand::Path(path.split('.').filter(|part| !part.is_empty()).map(str::to_owned).collect()))
}

impl Call {
    fn value(&self, job: &Value) -> String {
        match self {
            Self::Of(operand) => operand.text(job),
            Self::Index(of, keys) => {
                let mut value = match of {
                    Operand::Path(path) => field(job, path),
                    Operand::Literal(_) => None,
                };
                for key in keys {
                    let key = key.text(job);
                    value = value.and_then(|value| value.get(&key));
                }
                text(value)
            }
            Self::Or(operands) => {
                operands.iter().map(|operand| operand.text(job)).find(|text| !text.is_empty()).unwrap_or_default()
            }
        }
    }
}

impl Operand {
    fn text(&self, job: &Value) -> String {
        match self {
            Self::Literal(text) => text.clone(),
            Self::Path(path) => text(field(job, path)),
        }
    }
}

/// Go's names are those of the JSON, written together and with capitals: `.HostNetwork` is `host_network`.
fn field<'a>(value: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(value, |value, name| {
        let Value::Object(fields) = value else { return None };
        let plain = |name: &str| name.replace('_', "").to_ascii_lowercase();
        fields.get(name).or_else(|| fields.iter().find(|(key, _)| plain(key) == plain(name)).map(|(_, value)| value))
    })
}

fn text(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_print_what_go_prints() {
        let mut job = Job { id: "host-1".into(), ..Job::default() };
        job.metadata.insert("flynn-controller.app_name".into(), "shop".into());
        job.metadata.insert("plain".into(), "p".into());
        for (template, expected) in [
            ("", ""),
            ("fixed", "fixed"),
            ("{{.ID}}", "host-1"),
            ("{{index .Metadata \"flynn-controller.app_name\"}}", "shop"),
            ("a {{ index .Metadata `flynn-controller.app_name` }} b", "a shop b"),
            ("{{.Metadata.plain}}/{{.Metadata.none}}", "p/"),
            ("x {{- /* nothing */ -}} y", "xy"),
            ("{{or .Partition \"none\"}}", "none"),
            ("{{\"}}\"}}", "}}"),
            ("{{.Config.HostNetwork}}", ""),
        ] {
            assert_eq!(Template::parse(template).unwrap().render(&job), expected, "{template}");
        }
        for bad in ["{{.ID", "{{}}", "{{range .X}}", "{{nothing}}", "{{\"a}}"] {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
    }
}
