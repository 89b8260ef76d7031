//! Lines of `key=value`, with the names that readers of our logs know (spec flynn-host section 2.7).

use std::fmt::{self, Write as _};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

/// Formats events; the fields of the spans around them come before their own.
#[derive(Clone, Debug)]
pub(crate) struct Logfmt {
    pub(crate) app: String,
    pub(crate) pid: u32,
}

/// Formats the fields of spans.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LogfmtFields;

impl<'writer> FormatFields<'writer> for LogfmtFields {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut pairs = Pairs::default();
        fields.record(&mut pairs);
        writer.write_str(&pairs.rest)
    }

    fn add_fields(
        &self,
        current: &'writer mut FormattedFields<Self>,
        fields: &tracing::span::Record<'_>,
    ) -> fmt::Result {
        let mut pairs = Pairs::default();
        fields.record(&mut pairs);
        current.fields.push_str(&pairs.rest);
        Ok(())
    }
}

impl<S> FormatEvent<S, LogfmtFields> for Logfmt
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn format_event(
        &self,
        ctx: &FmtContext<'_, S, LogfmtFields>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut pairs = Pairs::default();
        event.record(&mut pairs);
        let meta = event.metadata();
        let component = pairs.component.unwrap_or_else(|| component(meta.target()).to_owned());
        let mut line = head(*meta.level(), &pairs.message);
        push(&mut line, "app", &self.app);
        push(&mut line, "pid", &self.pid.to_string());
        push(&mut line, "component", &component);
        for span in ctx.event_scope().into_iter().flat_map(tracing_subscriber::registry::Scope::from_root) {
            if let Some(fields) = span.extensions().get::<FormattedFields<LogfmtFields>>() {
                line.push_str(&fields.fields);
            }
        }
        line.push_str(&pairs.rest);
        line.push('\n');
        writer.write_str(&line)
    }
}

impl Logfmt {
    /// The line that tells of lines that could not be written.
    pub(crate) fn gap(&self, lost: u64, reason: &str) -> String {
        let mut line = head(Level::ERROR, "log lines were lost");
        push(&mut line, "app", &self.app);
        push(&mut line, "pid", &self.pid.to_string());
        push(&mut line, "lines", &lost.to_string());
        push(&mut line, "err", reason);
        line.push('\n');
        line
    }
}

fn head(level: Level, message: &str) -> String {
    let level = match level {
        Level::ERROR => "eror",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "dbug",
        Level::TRACE => "trce",
    };
    let mut line = format!("t={} lvl={level}", chrono::Utc::now().format("%Y-%m-%dT%H:%M:%S%.3f+0000"));
    push(&mut line, "msg", message);
    line
}

/// The crate of a target, as it is called among us: `flynn_discoverd::raft` is `discoverd`.
fn component(target: &str) -> &str {
    let krate = target.split("::").next().unwrap_or(target);
    krate.strip_prefix("flynn_").unwrap_or(krate)
}

fn push(line: &mut String, key: &str, value: &str) {
    let plain = |c: char| c > ' ' && c != '=' && c != '"' && c != '\\' && c != '\u{7f}' && !c.is_control();
    line.push(' ');
    line.extend(key.chars().map(|c| if plain(c) { c } else { '_' }));
    line.push('=');
    if !value.is_empty() && value.chars().all(plain) {
        line.push_str(value);
        return;
    }
    line.push('"');
    for c in value.chars() {
        match c {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(line, "\\u{:04x}", u32::from(c)); // into memory
            }
            c => line.push(c),
        }
    }
    line.push('"');
}

/// Fields as they are met; message and component apart.
#[derive(Default)]
struct Pairs {
    message: String,
    component: Option<String>,
    rest: String,
}

impl Pairs {
    fn add(&mut self, field: &Field, value: String) {
        match field.name() {
            "message" => self.message = value,
            "component" => self.component = Some(value),
            name => push(&mut self.rest, name.strip_prefix("r#").unwrap_or(name), &value),
        }
    }
}

impl Visit for Pairs {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.to_owned());
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        // The chain, once.
        let mut text = value.to_string();
        let mut source = value.source();
        while let Some(err) = source {
            let _ = write!(text, ": {err}"); // into memory
            source = err.source();
        }
        self.add(field, text);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_are_quoted_only_when_they_must_be() {
        for (value, wanted) in [
            ("10.0.0.1:80", " k=10.0.0.1:80"),
            ("", " k=\"\""),
            ("two words", " k=\"two words\""),
            ("a=b", " k=\"a=b\""),
            ("say \"hi\"\n\\", " k=\"say \\\"hi\\\"\\n\\\\\""),
            ("\u{1b}[31m", " k=\"\\u001b[31m\""),
            ("größe", " k=größe"),
        ] {
            let mut line = String::new();
            push(&mut line, "k", value);
            assert_eq!(line, wanted);
        }
    }

    #[test]
    fn components_are_crates() {
        for (target, name) in [("flynn_discoverd::raft", "discoverd"), ("openraft::core", "openraft"), ("", "")] {
            assert_eq!(component(target), name);
        }
    }

    proptest! {
        #[test]
        fn no_value_breaks_a_line_or_leaves_its_quotes(key in ".*", value in ".*") {
            let mut line = String::new();
            push(&mut line, &key, &value);
            prop_assert!(!line.contains(char::is_control), "{line}");
            let quotes = line.replace("\\\\", "").replace("\\\"", "").matches('"').count();
            prop_assert!(quotes == 0 || quotes == 2, "{line}");
        }
    }
}
