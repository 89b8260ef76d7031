//! The tree of path routes below one domain. Pure.

use std::borrow::Cow;
use std::collections::BTreeMap;

/// A node of the tree: what is routed here, and below.
#[derive(Clone, Debug)]
pub(super) struct Node<T> {
    pub(super) here: Option<T>,
    below: BTreeMap<Box<str>, Node<T>>,
}

impl<T> Default for Node<T> {
    fn default() -> Self {
        Self { here: None, below: BTreeMap::new() }
    }
}

/// The segments of a path; empty ones address nothing.
pub(super) fn segments(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|segment| !segment.is_empty())
}

impl<T> Node<T> {
    /// The deepest value on the way to `path`, given decoded.
    pub(super) fn deepest(&self, path: &str) -> Option<&T> {
        let mut node = self;
        let mut found = node.here.as_ref();
        for segment in segments(path) {
            let Some(next) = node.below.get(segment) else { break };
            node = next;
            found = node.here.as_ref().or(found);
        }
        found
    }

    /// The place of a path, made when there is none.
    pub(super) fn place(&mut self, path: &str) -> &mut Option<T> {
        let mut node = self;
        for segment in segments(path) {
            node = node.below.entry(segment.into()).or_default();
        }
        &mut node.here
    }

    /// Drops branches that lead to nothing.
    pub(super) fn prune(&mut self) {
        self.below.retain(|_, node| {
            node.prune();
            !node.is_empty()
        });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.here.is_none() && self.below.is_empty()
    }

    pub(super) fn has_paths(&self) -> bool {
        !self.below.is_empty()
    }
}

/// A path with its percent-encodings undone; a malformed one stays as it is, and so do bytes that are no UTF-8.
pub(super) fn decoded(path: &str) -> Cow<'_, str> {
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digit = |at: usize| after.get(at).and_then(|digit| char::from(*digit).to_digit(16));
        match (byte, digit(0), digit(1)) {
            (b'%', Some(high), Some(low)) => {
                bytes.push(u8::try_from(high * 16 + low).expect("two hexadecimal digits are a byte"));
                rest = &after[2..];
            }
            _ => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).map_or(Cow::Borrowed(path), Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a9_empty_segments_address_nothing() {
        let split = |path| segments(path).collect::<Vec<_>>();
        for path in ["", "/", "//"] {
            assert!(split(path).is_empty(), "{path}");
        }
        for path in ["a", "/a", "a/", "/a/", "//a"] {
            assert_eq!(split(path), ["a"], "{path}");
        }
        for path in ["/a/b", "a/b/"] {
            assert_eq!(split(path), ["a", "b"], "{path}");
        }
        assert_eq!(split("/a/b/c"), ["a", "b", "c"]);
    }

    #[test]
    fn a8_the_deepest_route_on_the_way_wins() {
        let mut tree = Node::default();
        for path in ["/", "/a/", "/a/b/", "/c/", "/a/c/d/c/"] {
            *tree.place(path) = Some(path);
        }
        for (path, route) in [
            ("/", "/"),
            ("/xyz", "/"),
            ("/a/", "/a/"),
            ("/a/xyz", "/a/"),
            ("/a/b/", "/a/b/"),
            ("/a/b/xyz", "/a/b/"),
            ("/a/c/d", "/a/"),
            ("/a/c/d/c", "/a/c/d/c/"),
            ("/c/", "/c/"),
        ] {
            assert_eq!(tree.deepest(path), Some(&route), "{path}");
        }
        *tree.place("/c") = None;
        assert_eq!(tree.deepest("/c/"), Some(&"/"), "the spelling without a final slash is the same place");
        *tree.place("/a/c/d/c/") = None;
        tree.prune();
        assert_eq!(tree.below["a"].below.len(), 1, "nothing is left of a removed branch");
    }

    #[test]
    fn encodings_are_undone_where_they_are_sound() {
        for (path, plain) in [("/a%2Fb", "/a/b"), ("/a%2", "/a%2"), ("/%zz", "/%zz"), ("/%ff", "/%ff"), ("/%", "/%")] {
            assert_eq!(decoded(path), plain);
        }
    }
}
