//! A server that speaks S3, for tests: moto, from the registry of Python packages. The first test that needs it installs
//! this version into the user's cache, which takes minutes; from then on no network is needed.
//!
//! It knows multipart uploads, ranges, copies, and wrong requests; it does not check who signs them. All is in its memory.
//!
//! **Invariant:** nothing stays: the server ends when its standard input does, which is with the test's process.

#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;

/// What is installed, and the name of the folder it is in.
const PACKAGE: &str = "moto[server,s3]==5.1.22";
const FOLDER: &str = "moto-5.1.22";

/// A running server, which ends when this is dropped.
pub struct S3 {
    server: Child,
    port: u16,
    /// Never written: its end ends the server.
    _lifeline: ChildStdin,
}

impl S3 {
    /// One for all tests of this process: they use buckets of their own.
    pub fn shared() -> &'static Self {
        static SERVER: OnceLock<S3> = OnceLock::new();
        SERVER.get_or_init(Self::start)
    }

    /// Starts a server and waits until it answers.
    ///
    /// # Panics
    /// Says what is missing when it cannot be started.
    pub fn start() -> Self {
        let packages = packages();
        let mut command = Command::new("python3");
        command.args(["-c", include_str!("serve.py")]).arg(&packages);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut server = command.spawn().expect("python3 starts: script/setup installs it");
        let lifeline = server.stdin.take().expect("it was asked for");
        let mut line = String::new();
        let mut told = BufReader::new(server.stdout.take().expect("it was asked for"));
        told.read_line(&mut line).expect("text");
        let port = line.trim().parse();
        Self { server, port: port.expect("moto starts: else remove its folder in the cache"), _lifeline: lifeline }
    }

    /// Its address.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Its port at 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Makes a bucket.
    pub fn make_bucket(&self, bucket: &str) {
        self.curl(&["-X", "PUT"], &format!("{bucket}/"));
    }

    /// Removes a bucket that is empty.
    pub fn remove_bucket(&self, bucket: &str) {
        self.curl(&["-X", "DELETE"], &format!("{bucket}/"));
    }

    /// How many objects a bucket has.
    pub fn objects(&self, bucket: &str) -> usize {
        self.curl(&[], &format!("{bucket}?list-type=2")).matches("<Key>").count()
    }

    /// Uploads to a bucket that have begun and not ended.
    pub fn uploads(&self, bucket: &str) -> usize {
        self.curl(&[], &format!("{bucket}?uploads")).matches("<UploadId>").count()
    }

    fn curl(&self, options: &[&str], path: &str) -> String {
        let mut command = Command::new("curl");
        command.args(["-sS", "--fail-with-body"]).args(options).arg(format!("{}/{path}", self.endpoint()));
        let output = command.output().expect("curl starts: script/setup installs it");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{path}: {text}{}", String::from_utf8_lossy(&output.stderr));
        text
    }
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

/// The folder of the packages, which are installed when it is not there. One process does that, the others wait.
fn packages() -> PathBuf {
    let home = std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or(home).expect("HOME is set").join("flynn");
    let folder = cache.join(FOLDER);
    if folder.is_dir() {
        return folder;
    }
    fs::create_dir_all(&cache).expect("make the cache");
    let lock = File::create(cache.join("moto.lock")).expect("the cache is ours");
    lock.lock().expect("lock the cache");
    if !folder.is_dir() {
        install(&cache, &folder);
    }
    folder
}

fn install(cache: &Path, folder: &Path) {
    // Renamed when it is whole; on the same file system.
    let unfinished = tempfile::Builder::new().prefix("moto-").tempdir_in(cache).expect("the cache is ours");
    let into = unfinished.path().join("packages");
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-input", "--disable-pip-version-check", "--target"]);
    let done = pip.arg(&into).arg(PACKAGE).output().expect("python3 starts: script/setup installs it");
    let told = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "pip cannot install {PACKAGE} (script/setup installs pip):\n{told}");
    fs::rename(&into, folder).expect("the cache is ours");
}
