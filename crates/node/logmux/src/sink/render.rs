//! Messages as a sink wants them.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use flynn_template::Scope;
use flynn_types::host::{Job, metadata};
use tracing::warn;

use super::config::{Format, Syslog, Target, Transport};
use crate::message::{Message, field};
use crate::mux::Core;

/// Processes whose names and prefixes are remembered (spec flynn-host 10.4).
const CACHED: usize = 1000;

pub(super) struct Renderer {
    core: Weak<Core>,
    target: Target,
    cache: HashMap<String, Arc<Known>>,
}

/// What is sent for all messages of a process.
struct Known {
    app_name: String,
    prefix: String,
}

impl Renderer {
    pub(super) fn new(core: Weak<Core>, target: Target) -> Self {
        Self { core, target, cache: HashMap::new() }
    }

    /// Appends a message with its framing. `app_name` is what the log knows the app as.
    pub(super) fn write(&mut self, bytes: &[u8], message: Option<&Message<'_>>, app_name: &str, out: &mut Vec<u8>) {
        let Target::Syslog(config) = &self.target else {
            frame(bytes, out);
            return;
        };
        let Some(message) = message else {
            finish(config, "", bytes, out);
            return;
        };
        let known = match self.cache.get(message.process) {
            Some(known) => Arc::clone(known),
            None => {
                let known = Arc::new(known(&self.core, config, message, app_name));
                if self.cache.len() >= CACHED {
                    self.cache.clear();
                }
                self.cache.insert(message.process.to_owned(), Arc::clone(&known));
                known
            }
        };
        let mut text = Vec::with_capacity(bytes.len() + 64);
        // The header's first two fields are as they are logged: `<190>1 2006-01-02T15:04:05.000000Z`.
        text.extend_from_slice(bytes.get(..34).unwrap_or(bytes));
        let app = if config.use_ids { message.app } else { &known.app_name };
        for word in [message.host, app, message.process, message.message_id] {
            text.push(b' ');
            text.extend_from_slice(word.as_bytes());
        }
        if config.structured_data {
            text.extend_from_slice(format!(" [flynn seq=\"{}\"]", message.seq).as_bytes());
        } else {
            text.extend_from_slice(b" -");
        }
        let prefixed = !known.prefix.is_empty() && config.format != Format::PrefixedNewline;
        if prefixed {
            text.push(b' ');
            text.extend_from_slice(known.prefix.as_bytes());
        }
        if prefixed || !message.text.is_empty() {
            text.push(b' ');
        }
        text.extend_from_slice(message.text);
        finish(config, &known.prefix, &text, out);
    }
}

fn known(core: &Weak<Core>, config: &Syslog, message: &Message<'_>, app_name: &str) -> Known {
    let (id, process_type) = message.job();
    let job = core.upgrade().and_then(|core| core.job(id));
    let job = job.unwrap_or_else(|| {
        // A job of earlier times: what its messages say of it.
        let known = [(metadata::APP, message.app), (metadata::APP_NAME, app_name), (metadata::TYPE, process_type)];
        let known = known.into_iter().filter(|(_, value)| !matches!(*value, "" | "-"));
        let metadata = known.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Arc::new(Job { id: id.to_owned(), metadata, ..Job::default() })
    });
    let name = match job.meta(metadata::APP_NAME) {
        "" if app_name.is_empty() => message.app,
        "" => app_name,
        name => name,
    };
    // A prefix that cannot be made of this job is left out: the message counts.
    let prefix = config.template.as_ref().and_then(|template| {
        let job = serde_json::to_value(&job).ok()?;
        template.render(&job, &Scope::new()).inspect_err(|err| warn!(%err, "a sink's prefix cannot be made")).ok()
    });
    let prefix = prefix.unwrap_or_default();
    // A newline would end the message for the receiver.
    Known { app_name: field(name, 48), prefix: prefix.replace(['\n', '\r'], " ") }
}

fn finish(config: &Syslog, prefix: &str, text: &[u8], out: &mut Vec<u8>) {
    if config.transport == Transport::Udp {
        // A datagram is a frame; the prefix of the whole message is part of it.
        if config.format == Format::PrefixedNewline && !prefix.is_empty() {
            out.extend_from_slice(prefix.as_bytes());
            out.push(b' ');
        }
        out.extend_from_slice(text);
        return;
    }
    match config.format {
        Format::Rfc6587 => frame(text, out),
        Format::Newline => {
            out.extend_from_slice(text);
            out.push(b'\n');
        }
        Format::PrefixedNewline => {
            out.extend_from_slice(prefix.as_bytes());
            out.push(b' ');
            out.extend_from_slice(text);
            out.push(b'\n');
        }
    }
}

/// RFC 6587 octet counting.
fn frame(message: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(message.len().to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(message);
}
