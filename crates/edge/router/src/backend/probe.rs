//! Telling a backend that hangs from one that is at work on something long.
//!
//! A stopped process still takes connections: the kernel does that for it. So when nothing was heard of a backend for a
//! while and a request waits there, it is asked `OPTIONS *`, HTTP's own "ping" (RFC 9110 section 9.3.7). Any byte of an
//! answer, or an end, shows that somebody is there.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tracing::warn;

use super::dial;
use crate::service::Backend;
use crate::settings::Limits;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(2);
/// Pause of those who wait for what another request learns.
pub(crate) const LOOK: Duration = Duration::from_millis(100);
/// Pauses between probes of a backend that hangs.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Ends when the backend is found to hang, for a request that has waited there for a while.
pub(crate) async fn hangs(backend: &Arc<Backend>, limits: &Limits) {
    while !backend.is_stuck() {
        let quiet = backend.quiet_for();
        if quiet < limits.backend_silence {
            tokio::time::sleep(limits.backend_silence - quiet).await;
            continue;
        }
        let Some(_probing) = backend.begin_probe() else {
            tokio::time::sleep(LOOK).await;
            continue;
        };
        if answers(backend, limits).await {
            backend.heard();
            continue;
        }
        warn!(addr = %backend.address, job.id = &*backend.instance.job_id, "backend hangs");
        backend.mark_stuck();
        tokio::task::spawn_local(watch(Arc::downgrade(backend), limits.clone()));
    }
}

/// Probes a backend that hangs until it answers, or is none any more.
async fn watch(backend: Weak<Backend>, limits: Limits) {
    let mut pause = FIRST_PAUSE;
    loop {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        let Some(backend) = backend.upgrade() else { return };
        if !backend.is_stuck() {
            return;
        }
        if answers(&backend, &limits).await {
            return backend.heard();
        }
    }
}

/// Whether there is any sign of life. One that refuses connections is dead rather than stuck: that is told otherwise.
async fn answers(backend: &Backend, limits: &Limits) -> bool {
    let ask = async {
        let mut stream = dial(backend.address, limits.dial).await?;
        let request = format!("OPTIONS * HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", backend.address);
        stream.write_all(request.as_bytes()).await?;
        stream.read(&mut [0]).await
    };
    match tokio::time::timeout(ANSWER, ask).await {
        Ok(Err(err)) => err.kind() != std::io::ErrorKind::TimedOut,
        Ok(Ok(_)) => true,
        Err(_) => false,
    }
}
