//! Setting the log up.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{InvalidLogConfig, LogConfig, LogFormat};
use crate::logfmt::{Logfmt, LogfmtFields};
use crate::rotation::RotatingFile;

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    #[error(transparent)]
    Config(#[from] InvalidLogConfig),
    #[error("the log of this process is set up already")]
    Twice,
}

/// The running log.
#[derive(Clone, Debug)]
pub struct Logs {
    output: Output,
    filter: reload::Handle<EnvFilter, tracing_subscriber::Registry>,
}

/// Sets up the log of this process, panics included. A file that cannot be written is no error: lines go to standard
/// error until it can.
///
/// # Errors
/// When the filter means nothing, or on a second call.
pub fn init(config: LogConfig) -> Result<Logs, InitError> {
    let (filter, handle) = reload::Layer::new(config.parsed_filter()?);
    let logfmt = Logfmt { app: config.app, pid: std::process::id() };
    let output = Output {
        file: config.file.map(|file| Arc::new(Mutex::new(RotatingFile::new(file)))),
        stderr: config.stderr,
        logfmt: Arc::new(logfmt.clone()),
    };
    let writer = BoxMakeWriter::new(output.clone());
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(writer);
    let done = match config.format {
        LogFormat::Logfmt => registry.with(layer.fmt_fields(LogfmtFields).event_format(logfmt)).try_init(),
        LogFormat::Json => registry.with(layer.json().flatten_event(true).with_current_span(false)).try_init(),
        LogFormat::Text => {
            let colours = output.file.is_none() && rustix::termios::isatty(io::stderr());
            registry.with(layer.with_ansi(colours).with_target(false)).try_init()
        }
    };
    done.map_err(|_| InitError::Twice)?;
    log_panics();
    Ok(Logs { output, filter: handle })
}

impl Logs {
    /// Opens the file again, as log rotation by others wants on SIGHUP.
    pub fn reopen(&self) {
        if let Some(file) = &self.output.file {
            file.lock().unwrap_or_else(PoisonError::into_inner).reopen();
        }
    }

    /// Lines that could not be written to the file since the start.
    pub fn lost_lines(&self) -> u64 {
        let file = self.output.file.as_ref();
        file.map_or(0, |file| file.lock().unwrap_or_else(PoisonError::into_inner).lost_lines())
    }

    /// Changes what is logged, see [`LogConfig::filter`].
    ///
    /// # Errors
    /// When the filter means nothing.
    pub fn set_filter(&self, filter: &str) -> Result<(), InvalidLogConfig> {
        let filter = LogConfig { filter: filter.to_owned(), ..LogConfig::new("") }.parsed_filter()?;
        let _ = self.filter.reload(filter); // fails only without a subscriber, which is never taken away
        Ok(())
    }
}

/// A panic is logged like everything else; whether the program goes on is its own business.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = std::backtrace::Backtrace::capture();
        let backtrace =
            (backtrace.status() == std::backtrace::BacktraceStatus::Captured).then(|| backtrace.to_string());
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let thread = std::thread::current().name().unwrap_or_default().to_owned();
        let message = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(panic = message, place, thread, backtrace, "panic");
    }));
}

#[derive(Clone, Debug)]
struct Output {
    file: Option<Arc<Mutex<RotatingFile>>>,
    stderr: bool,
    logfmt: Arc<Logfmt>,
}

impl<'a> MakeWriter<'a> for Output {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Write for Output {
    /// `tracing_subscriber` gives one whole line per call.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let written = self.file.as_ref().is_some_and(|file| {
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            file.write_line(line, |lost, reason| self.logfmt.gap(lost, reason))
        });
        if self.stderr || !written {
            let _ = io::stderr().write_all(line); // there is nobody left to tell
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
