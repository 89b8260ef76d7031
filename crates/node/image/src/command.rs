//! Runs other programs and says what went wrong in their own words.

use std::ffi::OsStr;
use std::io;
use std::process::{Command, ExitStatus, Output, Stdio};

/// Why a program did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    #[error("`{program}` is not installed: install the Debian package `{package}`")]
    Missing { program: String, package: &'static str },
    #[error("run `{program}`")]
    Start {
        program: String,
        #[source]
        err: io::Error,
    },
    #[error("`{program}` ended with {status}: {}", stderr.trim())]
    Failed { program: String, status: ExitStatus, stderr: String },
}

/// Most of a program's error output that is quoted, in bytes from its end.
const QUOTED_LEN: usize = 2000;

/// A command with a fixed locale and no input. `package` is the Debian package that has the program.
pub(crate) struct Tool {
    program: String,
    package: &'static str,
    command: Command,
}

impl Tool {
    pub(crate) fn new(program: &str, package: &'static str) -> Self {
        let mut command = Command::new(program);
        command.env("LC_ALL", "C.UTF-8").env("TZ", "UTC").stdin(Stdio::null());
        Self { program: program.to_owned(), package, command }
    }

    pub(crate) fn args<I: IntoIterator<Item: AsRef<OsStr>>>(mut self, args: I) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn with(mut self, set: impl FnOnce(&mut Command)) -> Self {
        set(&mut self.command);
        self
    }

    /// Runs to the end; standard output on success.
    pub(crate) fn output(mut self) -> Result<Vec<u8>, CommandError> {
        let output = self.command.output();
        self.check(output).map(|o| o.stdout)
    }

    /// As [`Self::output`], as text.
    pub(crate) fn text(self) -> Result<String, CommandError> {
        self.output().map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }

    /// As [`Self::text`], of what it writes to standard error.
    pub(crate) fn stderr_text(mut self) -> Result<String, CommandError> {
        let output = self.command.output();
        self.check(output).map(|o| String::from_utf8_lossy(&o.stderr).into_owned())
    }

    /// Starts; the caller waits and passes the result to the returned checker.
    pub(crate) fn spawn(mut self) -> Result<(std::process::Child, Checker), CommandError> {
        match self.command.spawn() {
            Ok(child) => Ok((child, Checker { program: self.program, package: self.package })),
            Err(err) => Err(self.check(Err(err)).expect_err("an error stays one")),
        }
    }

    fn check(self, output: io::Result<Output>) -> Result<Output, CommandError> {
        Checker { program: self.program, package: self.package }.check(output)
    }
}

/// Turns the end of a program into its result.
pub(crate) struct Checker {
    program: String,
    package: &'static str,
}

impl Checker {
    pub(crate) fn check(self, output: io::Result<Output>) -> Result<Output, CommandError> {
        let program = self.program;
        match output {
            Ok(output) if output.status.success() => Ok(output),
            Ok(output) => {
                let stderr = String::from_utf8_lossy(&output.stderr);
                let cut = stderr.len().saturating_sub(QUOTED_LEN);
                let start = (cut..stderr.len()).find(|i| stderr.is_char_boundary(*i)).unwrap_or(0);
                Err(CommandError::Failed { program, status: output.status, stderr: stderr[start..].to_owned() })
            }
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                Err(CommandError::Missing { program, package: self.package })
            }
            Err(err) => Err(CommandError::Start { program, err }),
        }
    }
}
