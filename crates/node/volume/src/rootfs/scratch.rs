//! Empty ext4 images, quickly: `mkfs` once per size, then only its few blocks that are not zero are written.

use std::fs::{self, File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use crate::error::RootfsError;
use crate::layer::lock;

/// Sizes whose templates are kept.
const MAX_TEMPLATES: usize = 16;
const BLOCK: usize = 4096;

/// No journal: what is in there is dropped after a crash. Tables are not written beforehand.
const MKFS: [&str; 9] =
    ["-q", "-F", "-m", "0", "-L", "rootfs", "-O", "^has_journal,^resize_inode", "-Elazy_itable_init=1,nodiscard"];

/// The blocks of an empty file system of one size.
#[derive(Debug)]
pub(super) struct Template {
    size_bytes: u64,
    /// Adjacent blocks joined.
    runs: Vec<(u64, Vec<u8>)>,
}

#[derive(Debug)]
pub(super) struct Scratches {
    dir: PathBuf,
    /// Most recently made last.
    templates: Mutex<Vec<Arc<Template>>>,
}

impl Scratches {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, templates: Mutex::default() }
    }

    /// Writes a sparse file with an empty ext4.
    pub(super) fn create(&self, path: &Path, size_bytes: u64) -> Result<File, RootfsError> {
        let template = self.template(size_bytes)?;
        let write = || {
            let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
            file.set_len(template.size_bytes)?;
            for (offset, bytes) in &template.runs {
                file.write_all_at(bytes, *offset)?;
            }
            Ok(file)
        };
        write().map_err(RootfsError::io("write", path))
    }

    pub(super) fn template(&self, size_bytes: u64) -> Result<Arc<Template>, RootfsError> {
        let size_bytes = size_bytes / BLOCK as u64 * BLOCK as u64;
        let found = lock(&self.templates).iter().find(|t| t.size_bytes == size_bytes).cloned();
        if let Some(template) = found {
            return Ok(template);
        }
        let template = Arc::new(self.make(size_bytes)?);
        let mut templates = lock(&self.templates);
        templates.retain(|t| t.size_bytes != size_bytes);
        if templates.len() == MAX_TEMPLATES {
            templates.remove(0);
        }
        templates.push(template.clone());
        Ok(template)
    }

    fn make(&self, size_bytes: u64) -> Result<Template, RootfsError> {
        let path = self.dir.join(format!("template-{}.new", uuid::Uuid::new_v4()));
        let made = mkfs(&path, size_bytes).and_then(|()| {
            read_runs(&path).map(|runs| Template { size_bytes, runs }).map_err(RootfsError::io("read", &path))
        });
        let _ = fs::remove_file(&path);
        made
    }
}

fn mkfs(path: &Path, size_bytes: u64) -> Result<(), RootfsError> {
    File::create(path).and_then(|f| f.set_len(size_bytes)).map_err(RootfsError::io("write", path))?;
    let output = Command::new("mkfs.ext4").args(MKFS).arg(path).stdin(Stdio::null()).output().map_err(|err| {
        let hint = if err.kind() == std::io::ErrorKind::NotFound { "install e2fsprogs" } else { "" };
        RootfsError::Mkfs { reason: format!("{err} {hint}").trim_end().to_owned() }
    })?;
    if output.status.success() {
        return Ok(());
    }
    // One that was killed says nothing itself.
    let said = String::from_utf8_lossy(&output.stderr);
    Err(RootfsError::Mkfs { reason: format!("{}: {}", output.status, said.trim()) })
}

/// Blocks that are not zero.
fn read_runs(path: &Path) -> std::io::Result<Vec<(u64, Vec<u8>)>> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    let mut runs: Vec<(u64, Vec<u8>)> = Vec::new();
    let mut offset = 0;
    let mut block = [0; BLOCK];
    while offset < len {
        // Holes are skipped where the file system can tell them.
        match rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(offset)) {
            Ok(data) => offset = data / BLOCK as u64 * BLOCK as u64,
            Err(rustix::io::Errno::NXIO) => break,
            Err(_) => {}
        }
        rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(offset))?;
        file.read_exact(&mut block)?;
        if block.iter().any(|b| *b != 0) {
            match runs.last_mut() {
                Some((start, bytes)) if *start + bytes.len() as u64 == offset => bytes.extend_from_slice(&block),
                _ => runs.push((offset, block.to_vec())),
            }
        }
        offset += BLOCK as u64;
    }
    Ok(runs)
}
