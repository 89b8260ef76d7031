//! Whether the controller is heard.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

/// What is known of the contact with the controller. A router whose routes come from elsewhere never has one.
#[derive(Debug, Default)]
pub struct Contact(watch::Sender<State>);

#[derive(Clone, Copy, Debug, Default)]
enum State {
    #[default]
    Never,
    Listed,
    LostAt(Instant),
}

impl Contact {
    /// All routes are known, and changes are heard.
    pub(super) fn is_there(&self) {
        self.0.send_replace(State::Listed);
    }

    /// Changes are not heard any more. What was lost already stays lost since then.
    pub(super) fn is_lost(&self) {
        self.0.send_if_modified(|state| match state {
            State::Listed => {
                *state = State::LostAt(Instant::now());
                true
            }
            State::Never | State::LostAt(_) => false,
        });
    }

    /// Waits until all routes are known for the first time.
    pub async fn first(&self) {
        // The sender is ours.
        let _ = self.0.subscribe().wait_for(|state| !matches!(state, State::Never)).await;
    }

    /// How long changes have not been heard; nothing as long as they are, or never were.
    pub(crate) fn lost_for(&self) -> Option<Duration> {
        let state = *self.0.borrow();
        match state {
            State::LostAt(since) => Some(since.elapsed()),
            State::Never | State::Listed => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn contact_is_lost_since_it_was_there_last() {
        let contact = Contact::default();
        contact.is_lost();
        assert_eq!(contact.lost_for(), None, "it never was there");
        contact.is_there();
        contact.first().await;
        contact.is_lost();
        let pause = Duration::from_millis(5);
        tokio::time::sleep(pause).await;
        contact.is_lost();
        assert!(contact.lost_for().is_some_and(|lost| lost >= pause), "{contact:?}");
        contact.is_there();
        assert_eq!(contact.lost_for(), None);
    }
}
