//! Packs a tar stream into a squashfs image that depends on nothing but the stream.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};

use crate::command::{Checker, CommandError, Tool};

/// Options that make the result independent of time, machine and number of processors.
const OPTIONS: [&str; 10] =
    ["-comp", "zstd", "-mkfs-time", "0", "-all-time", "0", "-exit-on-error", "-no-progress", "-quiet", "-reproducible"];

/// Threads for compression: the machine has other things to do.
const PROCESSORS: &str = "2";

/// A running `sqfstar`, which reads a tar stream.
pub(crate) struct Packer {
    child: std::process::Child,
    checker: Checker,
}

impl Packer {
    /// Starts writing `out`, which must not exist.
    pub(crate) fn start(out: &Path) -> Result<Self, CommandError> {
        let (child, checker) = Tool::new("sqfstar", "squashfs-tools")
            .args(OPTIONS)
            .args(["-processors", PROCESSORS])
            .args([out])
            .with(|c: &mut Command| {
                // sqfstar refuses its time options beside this variable.
                c.env_remove("SOURCE_DATE_EPOCH");
                c.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
            })
            .spawn()?;
        Ok(Self { child, checker })
    }

    /// Writes the stream and waits for the result. An error of `write` is dropped when `sqfstar` itself failed, as
    /// then it is only the broken pipe.
    pub(crate) fn pack(
        mut self,
        write: impl FnOnce(&mut ChildStdin) -> io::Result<()>,
    ) -> Result<io::Result<()>, CommandError> {
        let mut stdin = self.child.stdin.take().expect("stdin was asked for as a pipe");
        // Drained beside the writing: a full pipe of messages must not stop sqfstar from reading.
        let stderr = self.child.stderr.take();
        let messages = std::thread::spawn(move || {
            let mut text = Vec::new();
            if let Some(mut stderr) = stderr {
                let _ = stderr.read_to_end(&mut text);
            }
            text
        });
        let written = write(&mut stdin).and_then(|()| stdin.flush());
        drop(stdin);
        if written.is_err() {
            // The stream is incomplete: what sqfstar makes of it is of no use.
            let _ = self.child.kill();
        }
        let output = self.child.wait_with_output().map(|mut output| {
            output.stderr = messages.join().unwrap_or_default();
            output
        });
        match (self.checker.check(output), written) {
            (Ok(_), written) => Ok(written),
            (Err(_), Err(err)) if err.kind() != io::ErrorKind::BrokenPipe => Ok(Err(err)),
            (Err(err), _) => Err(err),
        }
    }
}

/// The version of the tool, which is part of what determines the bytes.
pub(crate) fn tool_version() -> Result<String, CommandError> {
    let text = Tool::new("sqfstar", "squashfs-tools").args(["-version"]).text()?;
    Ok(text.lines().next().unwrap_or_default().to_owned())
}
