//! Names of what routes need: services, or domains of certificates.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use tokio::sync::watch;

/// Names, as sources see them.
pub(crate) type Names = Arc<BTreeSet<Arc<str>>>;

/// Names with the number of routes that need each. A change costs the same however many there are.
pub(crate) struct NeededNames {
    counts: HashMap<Arc<str>, usize>,
    differ: bool,
    told: watch::Sender<Names>,
}

impl NeededNames {
    pub(crate) fn new() -> (Self, watch::Receiver<Names>) {
        let (told, view) = watch::channel(Names::default());
        (Self { counts: HashMap::new(), differ: false, told }, view)
    }

    /// One route more needs it.
    pub(crate) fn add(&mut self, name: &str) {
        match self.counts.get_mut(name) {
            Some(count) => *count += 1,
            None => {
                self.counts.insert(name.into(), 1);
                self.differ = true;
            }
        }
    }

    /// One route less needs it.
    pub(crate) fn drop(&mut self, name: &str) {
        let Some(count) = self.counts.get_mut(name) else { return };
        *count -= 1;
        if *count == 0 {
            self.counts.remove(name);
            self.differ = true;
        }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.counts.contains_key(name)
    }

    /// Tells sources, when there is something new. Gives whether there may be.
    pub(crate) fn tell(&mut self) -> bool {
        let differ = std::mem::take(&mut self.differ);
        if differ {
            let names: BTreeSet<Arc<str>> = self.counts.keys().cloned().collect();
            self.told.send_if_modified(|present| {
                let differ = **present != names;
                if differ {
                    *present = Arc::new(names);
                }
                differ
            });
        }
        differ
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_while_a_route_needs_them() {
        let (mut names, mut view) = NeededNames::new();
        let mut told = |names: &mut NeededNames| {
            names.tell();
            let changed = view.has_changed().unwrap();
            let now: Vec<String> = view.borrow_and_update().iter().map(ToString::to_string).collect();
            (changed, now)
        };
        names.add("a");
        names.add("b");
        names.add("a");
        assert_eq!(told(&mut names), (true, vec!["a".into(), "b".into()]));
        names.drop("a");
        names.drop("unknown");
        assert_eq!(told(&mut names), (false, vec!["a".into(), "b".into()]));
        names.drop("a");
        names.add("a");
        assert_eq!(told(&mut names), (false, vec!["a".into(), "b".into()]), "it came back before anybody looked");
        names.drop("a");
        assert_eq!(told(&mut names), (true, vec!["b".into()]));
        assert!(names.has("b") && !names.has("a"));
    }
}
