//! The part of Go's text templates that `ps -f` needs: fields, `metadata "key"`, `index map "key"`, text in between.
//!
//! Fields have Go's names (`.Job.ID`, `.HostID`); they are found in the job's JSON by their letters and digits alone,
//! whatever the case.

use serde_json::Value;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum TemplateError {
    #[error("template: unclosed action in {0:?}")]
    Unclosed(String),
    #[error("template: {0:?} is not supported: use fields such as .Job.ID, or metadata \"key\"")]
    Action(String),
    #[error("template: {0:?} is no field of a job")]
    Field(String),
}

/// Renders a job's JSON.
pub(super) fn render(template: &str, job: &Value) -> Result<String, TemplateError> {
    let mut out = String::new();
    let mut rest = template;
    while let Some((text, action)) = rest.split_once("{{") {
        let (action, after) = action.split_once("}}").ok_or_else(|| TemplateError::Unclosed(template.to_owned()))?;
        let (trim_before, action) = action.strip_prefix("- ").map_or((false, action), |action| (true, action));
        let (trim_after, action) = action.strip_suffix(" -").map_or((false, action), |action| (true, action));
        out.push_str(if trim_before { text.trim_end() } else { text });
        out.push_str(&evaluate(action.trim(), job)?);
        rest = if trim_after { after.trim_start() } else { after };
    }
    out.push_str(rest);
    Ok(out)
}

fn evaluate(action: &str, job: &Value) -> Result<String, TemplateError> {
    let words = words(action);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let unsupported = || TemplateError::Action(action.to_owned());
    match words.as_slice() {
        ["metadata", key] => {
            let key = unquote(key).ok_or_else(unsupported)?;
            Ok(show(job.pointer("/job/metadata").and_then(|meta| meta.get(key))))
        }
        ["index", field, key] if field.starts_with('.') => {
            let key = unquote(key).ok_or_else(unsupported)?;
            Ok(show(find(field, job)?.and_then(|map| map.get(key))))
        }
        [field] if field.starts_with('.') => Ok(show(find(field, job)?)),
        _ => Err(unsupported()),
    }
}

fn words(action: &str) -> Vec<String> {
    let (mut words, mut word, mut quoted) = (Vec::new(), String::new(), false);
    for c in action.chars() {
        if c == '"' {
            quoted = !quoted;
        }
        if c.is_whitespace() && !quoted {
            if !word.is_empty() {
                words.push(std::mem::take(&mut word));
            }
        } else {
            word.push(c);
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

fn unquote(word: &str) -> Option<&str> {
    word.strip_prefix('"')?.strip_suffix('"')
}

/// Fields that Go has and the JSON may leave out.
const OPTIONAL: [&str; 12] = [
    "status",
    "pid",
    "exitstatus",
    "error",
    "internalip",
    "forcestop",
    "id",
    "metadata",
    "env",
    "partition",
    "args",
    "resources",
];

fn find<'a>(path: &str, job: &'a Value) -> Result<Option<&'a Value>, TemplateError> {
    let mut value = job;
    for name in path.split('.').filter(|name| !name.is_empty()) {
        let wanted = letters(name);
        let found = value.as_object().and_then(|fields| fields.iter().find(|(key, _)| letters(key) == wanted));
        match found {
            Some((_, inner)) => value = inner,
            None if OPTIONAL.contains(&wanted.as_str()) => return Ok(None),
            None => return Err(TemplateError::Field(path.to_owned())),
        }
    }
    Ok(Some(value))
}

fn letters(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

fn show(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn jobs_are_shown_by_field_and_metadata() {
        let job = json!({"host_id": "h", "status": "running",
            "job": {"id": "h-1", "metadata": {"flynn-controller.app_name": "web"}, "config": {}}});
        for (template, text) in [
            ("{{ metadata \"flynn-controller.app_name\" }}:{{ .Job.ID }}", "web:h-1"),
            ("{{.HostID}} {{.Status}}", "h running"),
            ("{{ index .Job.Metadata \"flynn-controller.app_name\" }}", "web"),
            ("{{ metadata \"other\" }}.{{ .ExitStatus }}", "."),
            ("a {{- .HostID -}} b", "ahb"),
        ] {
            assert_eq!(render(template, &job).unwrap(), text, "{template}");
        }
        for bad in ["{{ .Job.ID", "{{ range .Job }}", "{{ .Nope }}"] {
            assert!(render(bad, &job).is_err(), "{bad}");
        }
    }
}
