//! Random moments that can be had again.

use rand::SeedableRng as _;
use rand::rngs::StdRng;

/// Names the seed of a run that is to be repeated.
const SEED_VAR: &str = "FLYNN_TEST_SEED";

/// A source of random choices; prints its seed, for `FLYNN_TEST_SEED=… cargo nextest run …`.
#[expect(clippy::print_stderr, reason = "shown when the test fails")]
pub fn seeded(test: &str) -> StdRng {
    let given = std::env::var(SEED_VAR).ok().and_then(|text| text.parse().ok());
    let seed = given.unwrap_or_else(rand::random::<u64>);
    eprintln!("{test}: {SEED_VAR}={seed}");
    StdRng::seed_from_u64(seed)
}
