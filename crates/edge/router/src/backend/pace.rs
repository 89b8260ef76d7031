//! How fast a body has to come.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// Sums up how long a sender was waited for since the last `least` bytes. Time in which nobody asked for more is not
/// the sender's.
#[derive(Debug)]
pub(crate) struct Pace {
    pause: Duration,
    least: u64,
    waited: Duration,
    came: u64,
    waiting_since: Option<Instant>,
    /// Made by the first wait, which most bodies never see.
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    pub(crate) fn new(pause: Duration, least: u64) -> Self {
        Self { pause, least, waited: Duration::ZERO, came: 0, waiting_since: None, alarm: None }
    }

    /// So many bytes have come.
    pub(crate) fn came(&mut self, bytes: u64, now: Instant) {
        if let Some(since) = self.waiting_since.take() {
            self.waited += now - since;
        }
        self.came += bytes;
        if self.came >= self.least {
            (self.came, self.waited) = (0, Duration::ZERO);
        }
    }

    /// Whether it is the sender who is waited for.
    pub(crate) fn is_waiting(&self) -> bool {
        self.waiting_since.is_some()
    }

    /// Nothing is there. Gives when that will be so for too long.
    fn waits(&mut self, now: Instant) -> Instant {
        let since = *self.waiting_since.get_or_insert(now);
        since + self.pause.saturating_sub(self.waited)
    }

    /// Nothing is there. Ready when that is so for too long.
    pub(crate) fn poll_too_slow(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let due = self.waits(Instant::now());
        let alarm = self.alarm.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(due)));
        if alarm.deadline() != due {
            alarm.as_mut().reset(due);
        }
        alarm.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// After how many seconds a sender that brings `bytes` every second is too slow; `None` when it never is.
    fn seconds_until_too_slow(bytes: u64) -> Option<u32> {
        let mut pace = Pace::new(10 * SECOND, 100);
        let begin = Instant::now();
        (1..1000).find(|second| {
            let (asked, now) = (begin + SECOND * (second - 1), begin + SECOND * *second);
            let due = pace.waits(asked);
            pace.came(bytes, now);
            due <= now
        })
    }

    #[test]
    fn who_brings_too_little_in_a_while_is_too_slow() {
        assert_eq!(seconds_until_too_slow(0), Some(10));
        assert_eq!(seconds_until_too_slow(9), Some(10));
        assert_eq!(seconds_until_too_slow(12), None);
    }

    #[test]
    fn time_in_which_nobody_asks_is_not_the_senders() {
        let mut pace = Pace::new(10 * SECOND, 100);
        let mut now = Instant::now();
        for _ in 0..20 {
            now += 60 * SECOND;
            let asked = now;
            now += SECOND / 4;
            assert!(pace.waits(asked) > now);
            pace.came(1, now);
        }
    }
}
