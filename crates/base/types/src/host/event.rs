//! Events of a host's jobs.

use serde::{Deserialize, Serialize};

use super::ActiveJob;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JobEventKind {
    Create,
    Start,
    Stop,
    Error,
    /// Address, scratch disk and `delete_on_stop` volumes were released.
    Cleanup,
}

/// One step in a job's life, with the job as it was at that moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct JobEvent {
    pub event: JobEventKind,
    pub job_id: String,
    pub job: ActiveJob,
}
