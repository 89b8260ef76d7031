//! What is told while it goes on (spec operations section 4.2).

use std::io::Write;

use chrono::{Local, SecondsFormat, Utc};
use serde_json::{Value, json};

use crate::manifest::Step;

/// How it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Lines for people.
    Text,
    /// An object per line.
    Json,
}

/// Tells what goes on.
pub struct Report {
    format: Format,
    out: Box<dyn Write + Send>,
}

impl std::fmt::Debug for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Report").field("format", &self.format).finish_non_exhaustive()
    }
}

impl Report {
    pub fn new(format: Format, out: Box<dyn Write + Send>) -> Self {
        Self { format, out }
    }

    pub(crate) fn start(&mut self, step: &Step) {
        let Step { id, action, .. } = step;
        self.tell(&format!("{action} {id}"), || json!({"id": id, "action": action, "state": "start"}));
    }

    /// `shown`: what people read of it, if anything. `data`: what programs read, if they may.
    pub(crate) fn done(&mut self, step: &Step, data: Option<&Value>, shown: Option<&str>) {
        let Step { id, action, .. } = step;
        let object = || match data {
            Some(data) => json!({"id": id, "action": action, "data": data, "state": "done"}),
            None => json!({"id": id, "action": action, "state": "done"}),
        };
        match (shown, self.format) {
            (None, Format::Text) => {}
            (shown, _) => self.tell(&format!("{action} {id} {}", shown.unwrap_or_default()), object),
        }
    }

    pub(crate) fn info(&mut self, step: &Step, text: &str) {
        let Step { id, action, .. } = step;
        self.tell(&format!("{action} {text}"), || json!({"id": id, "action": action, "data": text, "state": "info"}));
    }

    pub(crate) fn error(&mut self, step: &Step, text: &str) {
        let Step { id, action, .. } = step;
        let object = || json!({"id": id, "action": action, "error": text, "state": "error"});
        self.tell(&format!("{action} {id} error: {text}"), object);
    }

    /// Text without a time, such as the last words.
    pub(crate) fn plain(&mut self, text: &str) {
        if self.format == Format::Text {
            let _ = writeln!(self.out, "{text}"); // nobody is left to tell
        }
    }

    fn tell(&mut self, line: &str, object: impl FnOnce() -> Value) {
        let told = match self.format {
            Format::Text => writeln!(self.out, "{} {line}", Local::now().format("%H:%M:%S%.6f")),
            Format::Json => {
                let mut object = object();
                object["ts"] = Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true).into();
                writeln!(self.out, "{object}")
            }
        };
        let _ = told.and_then(|()| self.out.flush()); // a reader that is gone does not stop the work
    }
}
