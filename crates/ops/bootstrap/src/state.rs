//! What was done, on disk.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{Doing as _, Result, wrong};

/// Version of the file's format.
const VERSION: u32 = 1;

/// What every step made, with the names and secrets that it chose. The file is readable by its owner only.
#[derive(Debug)]
pub struct State {
    path: PathBuf,
    contents: Contents,
    /// Held until the end: two bootstraps over one file would start everything twice.
    _lock: std::fs::File,
}

#[derive(Debug, Serialize, Deserialize)]
struct Contents {
    version: u32,
    steps: BTreeMap<String, StepState>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct StepState {
    done: bool,
    /// What the step is about to use: written before anything is done with it.
    plan: Value,
    /// What later steps read.
    data: Value,
}

impl State {
    /// Opens the file, or begins one.
    ///
    /// # Errors
    /// It is not readable, is of another version, or another process has it.
    pub fn open(path: &Path) -> Result<Self> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir).doing(|| format!("create {}", dir.display()))?;
        }
        let lock_path = path.with_extension("lock");
        let lock = std::fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&lock_path);
        let lock = lock.doing(|| format!("open {}", lock_path.display()))?;
        lock.try_lock()
            .map_err(|_| wrong(format!("another bootstrap is running (it holds {})", lock_path.display())))?;
        let contents = match std::fs::read_to_string(path) {
            Ok(text) => {
                let found: Contents = serde_json::from_str(&text).doing(|| format!("read {}", path.display()))?;
                if found.version != VERSION {
                    let version = found.version;
                    return Err(wrong(format!("{} is of version {version}, not {VERSION}", path.display())));
                }
                found
            }
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => {
                Contents { version: VERSION, steps: BTreeMap::new() }
            }
            Err(err) => return Err(err).doing(|| format!("read {}", path.display())),
        };
        Ok(Self { path: path.to_owned(), contents, _lock: lock })
    }

    /// Whether nothing was begun.
    pub fn is_new(&self) -> bool {
        self.contents.steps.is_empty()
    }

    pub(crate) fn is_done(&self, step: &str) -> bool {
        self.contents.steps.get(step).is_some_and(|it| it.done)
    }

    /// What a finished step made.
    pub(crate) fn data<T: DeserializeOwned>(&self, step: &str) -> Result<T> {
        let found = self.contents.steps.get(step).filter(|it| it.done);
        let found = found.ok_or_else(|| wrong(format!("step {step} was not taken yet")))?;
        serde_json::from_value(found.data.clone()).doing(|| format!("read what step {step} made"))
    }

    /// What all finished steps made, for templates.
    pub(crate) fn all_data(&self) -> Value {
        let done = self.contents.steps.iter().filter(|(_, it)| it.done);
        Value::Object(done.map(|(id, it)| (id.clone(), it.data.clone())).collect())
    }

    /// What the step planned in an earlier run.
    pub(crate) fn planned<T: DeserializeOwned>(&self, step: &str) -> Result<Option<T>> {
        match self.contents.steps.get(step).map(|it| &it.plan) {
            None | Some(Value::Null) => Ok(None),
            Some(plan) => {
                serde_json::from_value(plan.clone()).doing(|| format!("read what step {step} planned")).map(Some)
            }
        }
    }

    /// Writes down what the step is about to use.
    pub(crate) fn plan<T: Serialize>(&mut self, step: &str, plan: &T) -> Result<()> {
        let plan = serde_json::to_value(plan).doing(|| format!("write down what step {step} plans"))?;
        self.contents.steps.entry(step.to_owned()).or_default().plan = plan;
        self.save()
    }

    /// What the step planned, now or in an earlier run.
    pub(crate) fn plan_once<T: Serialize + DeserializeOwned>(
        &mut self,
        step: &str,
        plan: impl FnOnce() -> T,
    ) -> Result<T> {
        if let Some(planned) = self.planned(step)? {
            return Ok(planned);
        }
        let plan = plan();
        self.plan(step, &plan)?;
        Ok(plan)
    }

    pub(crate) fn finish(&mut self, step: &str, data: Value) -> Result<()> {
        let state = self.contents.steps.entry(step.to_owned()).or_default();
        if state.done && state.data == data {
            return Ok(());
        }
        (state.done, state.data) = (true, data);
        self.save()
    }

    /// The file holds the old or the new contents at any moment.
    fn save(&self) -> Result<()> {
        let text = serde_json::to_vec_pretty(&self.contents).doing(|| "write the state".into())?;
        let new = self.path.with_extension("new");
        let write = || {
            let mut file =
                std::fs::OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
            file.write_all(&text)?;
            file.sync_all()?;
            std::fs::rename(&new, &self.path)?;
            let dir = self.path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
            std::fs::File::open(dir)?.sync_all()
        };
        write().doing(|| format!("write {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::words;

    fn open(path: &Path) -> Result<State, String> {
        State::open(path).map_err(|err| words(&err))
    }

    #[test]
    fn what_was_planned_and_done_is_there_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/state.json");
        let mut state = open(&path).unwrap();
        assert!(state.is_new());
        assert_eq!(state.plan_once("a", || 1).map_err(|err| words(&err)), Ok(1));
        drop(state);
        let mut state = open(&path).unwrap();
        assert_eq!(state.plan_once("a", || 2).map_err(|err| words(&err)), Ok(1), "the first plan counts");
        assert!(!state.is_done("a") && state.data::<Value>("a").is_err());
        state.finish("a", serde_json::json!({"data": "x"})).map_err(|err| words(&err)).unwrap();
        drop(state);
        let state = open(&path).unwrap();
        assert!(state.is_done("a"));
        assert_eq!(state.all_data(), serde_json::json!({"a": {"data": "x"}}));
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).unwrap());
        assert_eq!(mode & 0o777, 0o600, "it holds secrets");
    }

    #[test]
    fn a_second_bootstrap_and_a_foreign_file_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("state.json");
        let first = open(&path).unwrap();
        assert!(open(&path).unwrap_err().contains("another bootstrap is running"));
        drop(first);
        std::fs::write(&path, r#"{"version":9,"steps":{}}"#).unwrap();
        assert!(open(&path).unwrap_err().contains("is of version 9"));
        std::fs::write(&path, "{").unwrap();
        assert!(open(&path).unwrap_err().contains("state.json"));
    }
}
