//! What is logged, how and where to.

use std::path::PathBuf;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;

/// What is logged unless something else is asked for: changes of state of ours, trouble of libraries. (sqlx calls each
/// connection to a database that takes no writes an error; `flynn_database` tells of it, once.)
const DEFAULT_FILTER: &str = "info,openraft=warn,hyper=warn,h2=warn,hickory_proto=warn,hickory_server=warn,\
                              libcontainer=warn,libcgroups=warn,netlink_proto=warn,sqlx_core::pool::inner=off";

/// The look of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// `t=… lvl=info msg="…" key=value` (spec flynn-host section 2.7).
    #[default]
    Logfmt,
    /// One object per line.
    Json,
    /// For people at a terminal.
    Text,
}

impl FromStr for LogFormat {
    type Err = InvalidLogConfig;

    fn from_str(text: &str) -> Result<Self, InvalidLogConfig> {
        match text {
            "logfmt" => Ok(Self::Logfmt),
            "json" => Ok(Self::Json),
            "text" => Ok(Self::Text),
            _ => Err(InvalidLogConfig::Format(text.to_owned())),
        }
    }
}

/// A log file that is rotated by size: `<path>` is the current one, `<path>.1` the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFile {
    pub path: PathBuf,
    /// Longest file; with its older ones the log takes `(keep + 1) × max_bytes`.
    pub max_bytes: u64,
    /// Older files that are kept.
    pub keep: u32,
}

impl LogFile {
    /// At most 500 MB in all.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), max_bytes: 100_000_000, keep: 4 }
    }
}

/// What a program logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// The program, as the `app` of each line.
    pub app: String,
    pub format: LogFormat,
    /// Directives of `tracing_subscriber::EnvFilter`, such as `debug` or `info,flynn_discoverd=debug`.
    pub filter: String,
    pub file: Option<LogFile>,
    /// Also to standard error. Used as well while the file cannot be written.
    pub stderr: bool,
}

/// A setting of the log that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLogConfig {
    #[error("FLYNN_LOG_FORMAT is {0:?}, it must be logfmt, json or text")]
    Format(String),
    #[error("FLYNN_LOG is {filter:?}, which is no log filter: {reason}")]
    Filter { filter: String, reason: String },
}

impl LogConfig {
    /// Logfmt to standard error.
    pub fn new(app: &str) -> Self {
        let filter = DEFAULT_FILTER.to_owned();
        Self { app: app.to_owned(), format: LogFormat::default(), filter, file: None, stderr: true }
    }

    /// Like [`LogConfig::new`] with what the variables `FLYNN_LOG` (a level or directives) and `FLYNN_LOG_FORMAT` say.
    /// A level alone is that of our own code; empty is unset.
    ///
    /// # Errors
    /// When a variable has a value that means nothing.
    pub fn from_vars(app: &str, vars: impl Fn(&str) -> Option<String>) -> Result<Self, InvalidLogConfig> {
        let mut config = Self::new(app);
        if let Some(format) = vars("FLYNN_LOG_FORMAT").filter(|text| !text.is_empty()) {
            config.format = format.parse()?;
        }
        if let Some(filter) = vars("FLYNN_LOG").filter(|text| !text.is_empty()) {
            let is_level = filter.parse::<tracing::Level>().is_ok();
            config.filter = if is_level { DEFAULT_FILTER.replacen("info", &filter, 1) } else { filter };
            config.parsed_filter()?;
        }
        Ok(config)
    }

    pub(crate) fn parsed_filter(&self) -> Result<EnvFilter, InvalidLogConfig> {
        EnvFilter::builder()
            .parse(&self.filter)
            .map_err(|err| InvalidLogConfig::Filter { filter: self.filter.clone(), reason: err.to_string() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_choose_level_and_format_and_mistakes_are_named() {
        let config = |log: &'static str, format: &'static str| {
            LogConfig::from_vars("host", move |name| {
                Some(if name == "FLYNN_LOG" { log } else { format }.to_owned()).filter(|text| !text.is_empty())
            })
        };
        assert_eq!(config("", "").unwrap(), LogConfig::new("host"));
        assert!(config("debug", "").unwrap().filter.starts_with("debug,openraft=warn"));
        assert_eq!(config("warn,flynn_dns=trace", "json").unwrap().filter, "warn,flynn_dns=trace");
        assert_eq!(config("", "json").unwrap().format, LogFormat::Json);
        assert_eq!(
            config("", "xml").unwrap_err().to_string(),
            r#"FLYNN_LOG_FORMAT is "xml", it must be logfmt, json or text"#
        );
        assert!(config("a=b=c", "").unwrap_err().to_string().starts_with(r#"FLYNN_LOG is "a=b=c""#));
    }
}
