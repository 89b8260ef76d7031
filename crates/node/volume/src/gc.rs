//! Which layers go when space is needed.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use flynn_types::host::VolumeInfo;

/// What may be collected. Layers that a root file system or a preparation holds, and layers of system images, never
/// go; data volumes are no business of this at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GcPolicy {
    /// Layers not used for so long go.
    pub unused_for: Duration,
    /// While more than this share of the file system is used (percent), layers go that were not used for
    /// [`Self::unused_for_when_full`], those that were not used for the longest time first.
    pub full_percent: u8,
    pub unused_for_when_full: Duration,
    /// Ids of layers to keep besides.
    pub keep: BTreeSet<String>,
    /// Only say what would go.
    pub dry_run: bool,
}

impl Default for GcPolicy {
    /// What the daemon does by itself: a week; an hour when 85 % are used.
    fn default() -> Self {
        Self {
            unused_for: Duration::from_secs(7 * 86400),
            full_percent: 85,
            unused_for_when_full: Duration::from_secs(3600),
            keep: BTreeSet::new(),
            dry_run: false,
        }
    }
}

impl GcPolicy {
    /// What an operator's `volume gc` does: everything unused, now.
    pub fn everything_unused() -> Self {
        Self { unused_for: Duration::ZERO, ..Self::default() }
    }
}

/// What a collection did.
#[derive(Debug, Default)]
pub struct GcReport {
    /// Removed, or what would be removed.
    pub removed: Vec<VolumeInfo>,
    pub freed_bytes: u64,
    /// Layers that could not be removed, with the reason.
    pub failed: Vec<(String, String)>,
}

/// A layer as the decision sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) id: String,
    pub(crate) size_bytes: u64,
    pub(crate) last_used: SystemTime,
    /// Held by somebody, or of a system image.
    pub(crate) pinned: bool,
}

/// The layers that go, those not used for the longest time first. Space is that of the file system, in bytes.
pub(crate) fn plan(
    mut layers: Vec<Candidate>,
    policy: &GcPolicy,
    now: SystemTime,
    free_bytes: u64,
    total_bytes: u64,
) -> Vec<Candidate> {
    layers.sort_by(|a, b| a.last_used.cmp(&b.last_used).then_with(|| a.id.cmp(&b.id)));
    let wanted_free = total_bytes / 100 * u64::from(100_u8.saturating_sub(policy.full_percent));
    let mut free = free_bytes;
    layers.retain(|layer| {
        if layer.pinned || policy.keep.contains(&layer.id) {
            return false;
        }
        // A clock that was set back gives no age: nothing goes.
        let Ok(age) = now.duration_since(layer.last_used) else { return false };
        let goes = age >= policy.unused_for || (free < wanted_free && age >= policy.unused_for_when_full);
        if goes {
            free = free.saturating_add(layer.size_bytes);
        }
        goes
    });
    layers
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_000_000_000);
    const HOUR: u64 = 3600;
    const DAY: u64 = 24 * HOUR;

    fn layer(id: &str, age_secs: u64) -> Candidate {
        let last_used = SystemTime::UNIX_EPOCH + NOW - Duration::from_secs(age_secs);
        Candidate { id: id.into(), size_bytes: 10, last_used, pinned: false }
    }

    fn pinned(id: &str, age_secs: u64) -> Candidate {
        Candidate { pinned: true, ..layer(id, age_secs) }
    }

    #[test]
    fn old_layers_go_and_younger_ones_only_while_space_is_short() {
        let keep = GcPolicy { keep: ["k".to_owned()].into(), ..GcPolicy::default() };
        for (name, layers, policy, free, gone) in [
            ("nothing is old", vec![layer("a", DAY)], GcPolicy::default(), 50, vec![]),
            ("a week", vec![layer("a", DAY), layer("b", 8 * DAY)], GcPolicy::default(), 50, vec!["b"]),
            ("in use", vec![pinned("a", 90 * DAY)], GcPolicy::everything_unused(), 0, vec![]),
            ("kept", vec![layer("k", 90 * DAY)], keep, 0, vec![]),
            (
                "full: oldest first, until there is enough",
                vec![layer("a", 2 * DAY), layer("b", 3 * DAY), layer("c", DAY)],
                GcPolicy::default(),
                4, // 15 of 100 are wanted: two layers of 10
                vec!["b", "a"],
            ),
            ("full, but just used", vec![layer("a", HOUR - 1)], GcPolicy::default(), 0, vec![]),
            ("the operator's", vec![layer("a", 0), layer("b", 5)], GcPolicy::everything_unused(), 90, vec!["b", "a"]),
        ] {
            let plan = plan(layers, &policy, SystemTime::UNIX_EPOCH + NOW, free, 100);
            assert_eq!(plan.iter().map(|c| c.id.as_str()).collect::<Vec<_>>(), gone, "{name}");
        }
    }

    #[test]
    fn a_clock_set_back_collects_nothing() {
        let mut future = layer("a", 0);
        future.last_used += Duration::from_secs(1);
        let plan = plan(vec![future], &GcPolicy::everything_unused(), SystemTime::UNIX_EPOCH + NOW, 0, 100);
        assert!(plan.is_empty());
    }
}
