//! Where a host sends its jobs' log lines.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::is_default;
use crate::time::GoTime;

/// A log sink. `config` is kept byte for byte: the scheduler compares it exactly.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SinkInfo {
    pub id: String,
    pub kind: SinkKind,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cursor: Option<SinkCursor>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "is_default")]
    pub host_managed: bool,
}

/// The kind of a sink; a text on the wire, so that an unknown one gets an answer of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum SinkKind {
    Syslog,
    LogAggregator,
    Other(String),
    #[default]
    Unset,
}

impl SinkKind {
    pub fn as_str(&self) -> &str {
        match self {
            Self::Syslog => "syslog",
            Self::LogAggregator => "logaggregator",
            Self::Other(kind) => kind,
            Self::Unset => "",
        }
    }
}

impl From<String> for SinkKind {
    fn from(text: String) -> Self {
        match text.as_str() {
            "syslog" => Self::Syslog,
            "logaggregator" => Self::LogAggregator,
            "" => Self::Unset,
            _ => Self::Other(text),
        }
    }
}

impl From<SinkKind> for String {
    fn from(kind: SinkKind) -> String {
        kind.as_str().to_owned()
    }
}

/// Up to where a sink has received messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct SinkCursor {
    pub time: GoTime,
    pub seq: u64,
}

/// Configuration of a `syslog` sink.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SyslogConfig {
    /// `syslog://host[:514]`, `syslog+tls://…`, `syslog+udp://…`.
    pub url: String,
    #[serde(skip_serializing_if = "is_default")]
    pub template: String,
    #[serde(skip_serializing_if = "is_default")]
    pub use_ids: bool,
    /// No verification of the server's certificate.
    #[serde(skip_serializing_if = "is_default")]
    pub insecure: bool,
    #[serde(skip_serializing_if = "is_default")]
    pub structured_data: bool,
    /// `rfc6587` (default), `newline` or `prefixed_newline`.
    #[serde(skip_serializing_if = "is_default")]
    pub format: String,
}

/// Configuration of a `logaggregator` sink.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogAggregatorConfig {
    /// `host:port`
    pub addr: String,
}
