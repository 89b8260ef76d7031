//! Pauses between tries.

use std::time::Duration;

use rand::Rng as _;

/// Exponential back-off with full jitter: each pause is random between nothing and a bound that doubles up to a cap.
/// Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
#[derive(Clone, Debug)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
    attempt: u32,
}

impl Backoff {
    pub fn new(base: Duration, cap: Duration) -> Self {
        Self { base, cap, attempt: 0 }
    }

    /// The next pause.
    pub fn pause(&mut self) -> Duration {
        let bound = self.base.saturating_mul(1 << self.attempt.min(20)).min(self.cap);
        self.attempt = self.attempt.saturating_add(1);
        // Never zero: a loop without any pause would spin.
        bound.mul_f64(rand::rng().random_range(0.05..=1.0))
    }

    /// Begins anew after a success.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_the_cap_and_begin_anew() {
        let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_millis(80));
        for bound in [10, 20, 40, 80, 80] {
            let pause = backoff.pause();
            assert!(!pause.is_zero() && pause <= Duration::from_millis(bound), "{pause:?}");
        }
        backoff.reset();
        assert!(backoff.pause() <= Duration::from_millis(10));
    }
}
