//! Finding the job's program, and saying what is wrong with it.

use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// The program that `name` means: with a slash a path, relative to `work_dir`; without, searched in `path`, then in
/// `work_dir`. Errors are for the job's owner, in the words of Go's `os/exec` that clients know.
pub(super) fn find(name: &str, path: &str, work_dir: &Path) -> Result<PathBuf, String> {
    if name.is_empty() {
        return Err("no command given: the job's args are empty".into());
    }
    if name.contains('/') {
        let program = work_dir.join(name);
        return match check(&program) {
            Ok(()) => Ok(program),
            Err(err) => Err(message(name, &describe(&err))),
        };
    }
    let folders = path.split(':').filter(|_| !path.is_empty()).map(|folder| work_dir.join(folder));
    let mut denied = false;
    for folder in folders.chain([work_dir.to_owned()]) {
        let program = folder.join(name);
        match check(&program) {
            Ok(()) => return Ok(program),
            Err(err) => denied |= err.kind() == io::ErrorKind::PermissionDenied,
        }
    }
    let problem =
        if denied { "permission denied: the file is not executable" } else { "executable file not found in $PATH" };
    Err(message(name, problem))
}

fn message(name: &str, problem: &str) -> String {
    format!("exec: {name:?}: {problem}")
}

/// Whether a file can be executed at all.
fn check(program: &Path) -> io::Result<()> {
    let metadata = std::fs::metadata(program)?;
    if metadata.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !metadata.is_file() || metadata.permissions().mode() & 0o111 == 0 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    Ok(())
}

fn describe(err: &io::Error) -> String {
    match err.kind() {
        io::ErrorKind::NotFound => "no such file or directory".into(),
        io::ErrorKind::IsADirectory => "is a directory".into(),
        io::ErrorKind::PermissionDenied => "permission denied: the file is not executable".into(),
        _ => err.to_string(),
    }
}

/// Why a program that was found was not executed.
pub(super) fn explain(name: &str, program: &Path, err: &io::Error) -> String {
    let problem = match err.kind() {
        io::ErrorKind::NotFound => match interpreter(program) {
            Some(interpreter) => format!("its interpreter {interpreter} is not in the image"),
            None => "its dynamic loader is not in the image".into(),
        },
        io::ErrorKind::PermissionDenied => "permission denied".into(),
        _ if err.raw_os_error() == Some(rustix::io::Errno::NOEXEC.raw_os_error()) => {
            "exec format error: neither a program for this machine nor a script with a first line like #!/bin/sh".into()
        }
        _ if err.raw_os_error() == Some(rustix::io::Errno::TOOBIG.raw_os_error()) => {
            "arguments and environment are too long".into()
        }
        _ => err.to_string(),
    };
    message(name, &problem)
}

/// What a script's first line names.
fn interpreter(program: &Path) -> Option<String> {
    use std::io::Read as _;
    let mut start = Vec::new();
    std::fs::File::open(program).ok()?.take(256).read_to_end(&mut start).ok()?;
    let line = start.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let line = String::from_utf8_lossy(line);
    // A carriage return, of a file from Windows, is shown: it is the reason then.
    let name = line.trim_matches([' ', '\t']).split([' ', '\t']).next()?;
    Some(name.replace('\r', "\\r"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    /// A folder with `bin/run` (executable), `bin/data` (not), `here` (executable) and the folder `bin/folder`.
    fn image() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("bin/folder")).unwrap();
        for (name, mode) in [("bin/run", 0o755), ("bin/data", 0o644), ("here", 0o755)] {
            let path = dir.path().join(name);
            fs::write(&path, "#!/bin/nope -x\n").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        }
        dir
    }

    #[test]
    fn programs_are_found_as_a_shell_would_and_then_in_the_working_directory() {
        let image = image();
        let root = image.path();
        let path = format!("/nonexistent:{}/bin", root.display());
        for (name, expected) in [
            ("run", Ok("bin/run")),
            ("here", Ok("here")),
            ("./here", Ok("here")),
            ("bin/run", Ok("bin/run")),
            ("nope", Err("exec: \"nope\": executable file not found in $PATH")),
            ("data", Err("exec: \"data\": permission denied: the file is not executable")),
            ("folder", Err("exec: \"folder\": executable file not found in $PATH")),
            ("./nope", Err("exec: \"./nope\": no such file or directory")),
            ("./bin", Err("exec: \"./bin\": is a directory")),
            ("", Err("no command given: the job's args are empty")),
        ] {
            let found = find(name, &path, root).map(|path| fs::canonicalize(path).unwrap());
            let expected = expected.map(|path| root.join(path)).map_err(str::to_owned);
            assert_eq!(found, expected, "{name}");
        }
        assert_eq!(find("run", "", root).unwrap_err(), "exec: \"run\": executable file not found in $PATH");
        assert_eq!(find("run", "bin", root).unwrap(), root.join("bin/run"), "relative to the working directory");
    }

    #[test]
    fn a_missing_interpreter_is_named() {
        let image = image();
        let missing = io::ErrorKind::NotFound.into();
        let script = image.path().join("bin/run");
        assert_eq!(explain("run", &script, &missing), "exec: \"run\": its interpreter /bin/nope is not in the image");
        fs::write(&script, "#!/bin/sh\r\n").unwrap();
        assert_eq!(explain("run", &script, &missing), "exec: \"run\": its interpreter /bin/sh\\r is not in the image");
        fs::write(&script, "\x7fELF").unwrap();
        assert_eq!(explain("run", &script, &missing), "exec: \"run\": its dynamic loader is not in the image");
    }
}
