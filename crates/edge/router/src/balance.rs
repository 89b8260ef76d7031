//! Which backend gets a request (spec router section 11). Pure.

/// How a backend looks to a chooser; lower is better. The order of the fields is the policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rank {
    /// It failed lately: used only when nothing else is left.
    pub ejected: bool,
    /// Requests and tunnels in flight.
    pub load: usize,
}

/// The better of two random ones among `count` backends, without those `excluded`; of equal ones the first drawn.
///
/// When both are ejected all others are looked at, so that one healthy backend among many dead ones is found at once.
/// `random(n)` gives a number below `n`.
pub fn choose(
    count: usize,
    excluded: impl Fn(usize) -> bool,
    rank: impl Fn(usize) -> Rank,
    mut random: impl FnMut(usize) -> usize,
) -> Option<usize> {
    match count {
        0 => return None,
        1 => return (!excluded(0)).then_some(0),
        _ => {}
    }
    let first = random(count);
    let second = (first + 1 + random(count - 1)) % count;
    let drawn = [first, second].into_iter().filter(|index| !excluded(*index));
    // `min_by_key` keeps the first of equal ones.
    if let Some(best) = drawn.min_by_key(|index| rank(*index)).filter(|index| !rank(*index).ejected) {
        return Some(best);
    }
    let others = (0..count).map(|step| (first + step) % count).filter(|index| !excluded(*index));
    others.min_by_key(|index| rank(*index))
}

#[cfg(test)]
mod tests {
    use rand::Rng as _;

    use super::*;

    /// Draws by true chance among backends with these loads; a minus marks an ejected one.
    fn draws(loads: &[i64], excluded: &[usize]) -> Vec<usize> {
        let rank = |index: usize| Rank { ejected: loads[index] < 0, load: loads[index].unsigned_abs() as usize };
        let mut counts = vec![0; loads.len()];
        for _ in 0..10_000 {
            let random = |n| rand::rng().random_range(0..n);
            if let Some(index) = choose(loads.len(), |index| excluded.contains(&index), rank, random) {
                counts[index] += 1;
            }
        }
        counts
    }

    #[test]
    fn e5_equal_backends_get_equal_shares() {
        for n in 1..8 {
            for count in draws(&vec![0; n], &[]) {
                let share = 10_000 / n;
                assert!(count.abs_diff(share) <= share / 5, "{count} of {n}");
            }
        }
    }

    #[test]
    fn the_busiest_of_all_gets_nothing() {
        assert_eq!(draws(&[3, 10, 3], &[])[1], 0);
    }

    #[test]
    fn an_ejected_backend_is_the_last_resort() {
        assert_eq!(draws(&[-1, -1, -1, -1, -1, 90], &[]), [0, 0, 0, 0, 0, 10_000]);
        assert_eq!(draws(&[-1], &[]), [10_000]);
        assert_eq!(draws(&[-1, -1, 5], &[2])[2], 0);
        assert_eq!(draws(&[-1, -1, 5], &[2]).iter().sum::<usize>(), 10_000);
    }

    #[test]
    fn excluded_backends_are_never_chosen() {
        assert_eq!(draws(&[0, 0, 0], &[0, 1, 2]), [0, 0, 0]);
        assert_eq!(draws(&[0, 0, 0], &[0, 2]), [0, 10_000, 0]);
        assert_eq!(draws(&[], &[]), [0; 0]);
    }
}
