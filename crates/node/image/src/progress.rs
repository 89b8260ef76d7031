//! What a build tells whoever watches it.

/// Told about each step, on the thread that builds.
pub trait Progress: Send + Sync {
    fn event(&self, event: Event<'_>);
}

/// A step of a build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// Work on an image begins (bases come first).
    Image { name: &'a str, layers: usize },
    /// A layer was built before from the same inputs. `layer` counts from 1.
    Cached { image: &'a str, layer: usize, id: &'a str },
    /// What is being done now: one line.
    Step { image: &'a str, layer: usize, what: &'a str },
    /// A layer is done.
    Built { image: &'a str, layer: usize, id: &'a str, size_bytes: u64 },
}

/// Tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn event(&self, _: Event<'_>) {}
}
