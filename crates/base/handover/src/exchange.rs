//! What the old process and the new one say to each other.
//!
//! ```text
//! new ── take ──────────────► old   goes on serving
//! new ◄── sockets… ── end ─── old
//! new ── serving ───────────► old   stops taking connections
//! new ◄── yours ───────────── old   ends what it has
//! new ◄── released… ── done ─ old   what it has ended, one by one
//! new ── passed on ─────────► old   when the new one is replaced in its turn
//! ```
//!
//! Whoever ends before `serving` changes nothing for the other.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use crate::control::{Control, MAX_DESCRIPTORS};

const TAKE: &[u8] = b"take";
const SOCKETS: &[u8] = b"sockets";
const END: &[u8] = b"end";
const SERVING: &[u8] = b"serving";
const YOURS: &[u8] = b"yours";
const PASSED_ON: &[u8] = b"passed on";
/// Followed by what it is.
const RELEASED: &[u8] = b"released ";
const DONE: &[u8] = b"done";

/// How long the new process may take until it serves.
const SERVE_LIMIT: Duration = Duration::from_secs(120);
/// How long the other may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// Why sockets were not handed over.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    #[error("the other process ended before `{0}`")]
    Ended(&'static str),
    #[error("the other process did not say `{0}` within {1:?}")]
    Slow(&'static str, Duration),
    #[error("the other process said {said:?} instead of `{wanted}`")]
    Unexpected { said: String, wanted: &'static str },
    #[error("talk to the other process")]
    Talk(#[from] io::Error),
}

/// Offers sockets, as the old process, and waits until the new one serves. What the new one binds of its own meanwhile
/// is its affair: nothing is to be bound here until this is over.
///
/// After this, stop taking connections and say so by [`Control::yielded`].
///
/// # Errors
/// When the new process ends or takes too long: then everything is as before.
pub async fn offer(control: &Control, sockets: &[OwnedFd]) -> Result<(), HandoverError> {
    expect(control, "take", TAKE, SERVE_LIMIT).await?;
    for some in sockets.chunks(MAX_DESCRIPTORS) {
        let some: Vec<BorrowedFd<'_>> = some.iter().map(OwnedFd::as_fd).collect();
        control.send(SOCKETS, &some).await?;
    }
    control.send(END, &[]).await?;
    expect(control, "serving", SERVING, SERVE_LIMIT).await?;
    Ok(())
}

impl Control {
    /// Tells the new process, as the old one, that connections are no longer taken here.
    ///
    /// # Errors
    /// When the new process is gone.
    pub async fn yielded(&self) -> Result<(), HandoverError> {
        Ok(self.send(YOURS, &[]).await?)
    }

    /// Tells the old process, as the new one, that another one serves now: our end will mean nothing.
    ///
    /// # Errors
    /// When the old process is gone.
    pub async fn passed_on(&self) -> Result<(), HandoverError> {
        Ok(self.send(PASSED_ON, &[]).await?)
    }

    /// Tells the new process, as the old one after it has yielded, of something that it does not use any more; both
    /// know it by the same name of at most 200 bytes.
    ///
    /// # Errors
    /// When the new process is gone.
    pub async fn release(&self, what: &str) -> Result<(), HandoverError> {
        Ok(self.send(&[RELEASED, what.as_bytes()].concat(), &[]).await?)
    }

    /// Tells the new process, as the old one, that nothing is used here any more.
    ///
    /// # Errors
    /// When the new process is gone.
    pub async fn done(&self) -> Result<(), HandoverError> {
        Ok(self.send(DONE, &[]).await?)
    }

    /// What the old process has released, as the new one; `None` when it uses nothing any more, or is gone.
    pub async fn released(&self) -> Option<String> {
        while let Ok(Some((said, _))) = self.receive().await {
            if said == DONE {
                break;
            }
            if let Some(what) = said.strip_prefix(RELEASED) {
                return Some(String::from_utf8_lossy(what).into_owned());
            }
        }
        None
    }

    /// Waits, as the old process, until the new one ends without having passed the sockets on: then nobody serves.
    pub async fn abandoned(&self) {
        while let Ok(Some((said, _))) = self.receive().await {
            if said == PASSED_ON {
                std::future::pending::<()>().await;
            }
        }
    }
}

/// The old process, which waits for the new one to serve.
#[derive(Debug)]
pub struct Predecessor(Control);

/// Takes the sockets of the old process, as the new one.
///
/// # Errors
/// When the old process is gone or does not answer: then there are none, and they have to be bound.
pub async fn take(control: Control) -> Result<(Vec<OwnedFd>, Predecessor), HandoverError> {
    control.send(TAKE, &[]).await?;
    let mut sockets = Vec::new();
    loop {
        let (said, mut passed) = hear(&control, "sockets", ANSWER_LIMIT).await?;
        match said.as_slice() {
            SOCKETS => sockets.append(&mut passed),
            END => return Ok((sockets, Predecessor(control))),
            other => return Err(unexpected(other, "sockets")),
        }
    }
}

impl Predecessor {
    /// Says that this process serves, and waits until the old one takes no more connections. The control is to be kept:
    /// by its end the old process learns of ours.
    ///
    /// # Errors
    /// When the old process is gone meanwhile; this one serves either way.
    pub async fn serving(self) -> (Control, Result<(), HandoverError>) {
        let told = async {
            self.0.send(SERVING, &[]).await?;
            expect(&self.0, "yours", YOURS, ANSWER_LIMIT).await
        };
        let told = told.await;
        (self.0, told)
    }
}

async fn expect(control: &Control, wanted: &'static str, word: &[u8], limit: Duration) -> Result<(), HandoverError> {
    match hear(control, wanted, limit).await? {
        (said, _) if said == word => Ok(()),
        (said, _) => Err(unexpected(&said, wanted)),
    }
}

async fn hear(
    control: &Control,
    wanted: &'static str,
    limit: Duration,
) -> Result<(Vec<u8>, Vec<OwnedFd>), HandoverError> {
    let heard = tokio::time::timeout(limit, control.receive()).await;
    heard.map_err(|_| HandoverError::Slow(wanted, limit))??.ok_or(HandoverError::Ended(wanted))
}

fn unexpected(said: &[u8], wanted: &'static str) -> HandoverError {
    HandoverError::Unexpected { said: String::from_utf8_lossy(said).into_owned(), wanted }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn pair() -> (Control, Control) {
        let (old, new) = Control::pair().unwrap();
        (old, Control::new(new).unwrap())
    }

    #[tokio::test]
    async fn connections_that_wait_are_served_by_the_new_process() {
        let (old, new) = pair();
        let listeners: Vec<_> =
            (0..2 * MAX_DESCRIPTORS + 1).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
        let mut waiting = TcpStream::connect(listeners[100].local_addr().unwrap()).unwrap();
        waiting.write_all(b"x").unwrap();
        let sockets: Vec<OwnedFd> = listeners.into_iter().map(OwnedFd::from).collect();
        let giving = tokio::spawn(async move {
            offer(&old, &sockets).await.unwrap();
            drop(sockets);
            old.yielded().await.unwrap();
        });
        let (taken, predecessor) = take(new).await.unwrap();
        let (_control, told) = predecessor.serving().await;
        told.unwrap();
        giving.await.unwrap();
        assert_eq!(taken.len(), 2 * MAX_DESCRIPTORS + 1);
        let listener = TcpListener::from(taken.into_iter().nth(100).unwrap());
        let mut byte = [0];
        listener.accept().unwrap().0.read_exact(&mut byte).unwrap();
        assert_eq!(byte, *b"x");
    }

    #[tokio::test]
    async fn what_the_old_process_ends_is_told_one_by_one() {
        let (old, new) = pair();
        for what in ["10.0.0.1:80 job", ""] {
            old.release(what).await.unwrap();
            assert_eq!(new.released().await.as_deref(), Some(what));
        }
        old.done().await.unwrap();
        assert_eq!(new.released().await, None);
        drop(old);
        assert_eq!(new.released().await, None);
    }

    #[tokio::test]
    async fn whoever_ends_early_is_noticed() {
        let (old, new) = pair();
        drop(new);
        assert!(matches!(offer(&old, &[]).await, Err(HandoverError::Ended("take"))));
        let (old, new) = pair();
        drop(old);
        assert!(take(new).await.is_err());
        let (old, new) = pair();
        let taking = async move {
            drop(take(new).await.unwrap());
        };
        let (offered, ()) = tokio::join!(offer(&old, &[]), taking);
        assert!(matches!(offered, Err(HandoverError::Ended("serving"))));
        let (old, new) = pair();
        new.send(b"nonsense", &[]).await.unwrap();
        assert!(matches!(offer(&old, &[]).await, Err(HandoverError::Unexpected { wanted: "take", .. })));
    }
}
