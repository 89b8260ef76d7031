//! Keys of the controller.

use std::fmt;

/// The accepted keys, each with its name in logs.
#[derive(Clone, Default)]
pub struct Keys(Vec<(String, String)>);

/// Without the keys.
impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

impl Keys {
    /// From two lists separated by commas; the names count only if there are as many as keys.
    pub fn new(keys: &str, ids: &str) -> Self {
        let keys: Vec<_> = keys.split(',').filter(|key| !key.is_empty()).collect();
        let ids: Vec<_> = ids.split(',').collect();
        let id = |position: usize| if ids.len() == keys.len() { ids[position] } else { "" };
        Self(keys.iter().enumerate().map(|(position, key)| ((*key).to_owned(), id(position).to_owned())).collect())
    }

    /// The key for calls of our own: others know all of the list, but each of them takes one.
    pub fn first(&self) -> Option<&str> {
        self.0.first().map(|(key, _)| key.as_str())
    }

    /// The name of a key that is accepted. Takes equally long wherever keys differ.
    pub(crate) fn id_of(&self, key: &str) -> Option<String> {
        if key.is_empty() {
            return None;
        }
        let matching = self.0.iter().fold(None, |found, (known, id)| {
            let same = aws_lc_rs::constant_time::verify_slices_are_equal(known.as_bytes(), key.as_bytes()).is_ok();
            if same { Some(id) } else { found }
        });
        matching.cloned()
    }
}
