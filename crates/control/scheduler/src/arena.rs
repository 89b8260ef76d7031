//! Storage by small numbers, which indexes can hold instead of names.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::marker::PhantomData;

/// The place of a `T` in its [`Arena`]. A place is used again after its value was removed, so whoever removes a value
/// removes its index from everything that holds it.
pub struct Index<T>(u32, PhantomData<fn() -> T>);

impl<T> Index<T> {
    pub(crate) fn position(self) -> usize {
        self.0 as usize
    }
}

/// Values by index.
pub(crate) struct Arena<T> {
    slots: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Arena<T> {
    pub(crate) fn insert(&mut self, value: T) -> Index<T> {
        let position = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            u32::try_from(self.slots.len() - 1).expect("there is no memory for four billion values")
        });
        self.slots[position as usize] = Some(value);
        Index(position, PhantomData)
    }

    pub(crate) fn remove(&mut self, index: Index<T>) -> Option<T> {
        let value = self.slots.get_mut(index.position())?.take()?;
        self.free.push(index.0);
        Some(value)
    }

    pub(crate) fn find(&self, index: Index<T>) -> Option<&T> {
        self.slots.get(index.position())?.as_ref()
    }

    pub(crate) fn find_mut(&mut self, index: Index<T>) -> Option<&mut T> {
        self.slots.get_mut(index.position())?.as_mut()
    }

    /// In the order of their places, which is that of their arrival except for places used again.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Index<T>, &T)> {
        let numbered = self.slots.iter().zip(0_u32..);
        numbered.filter_map(|(slot, place)| Some((Index(place, PhantomData), slot.as_ref()?)))
    }

    pub(crate) fn indices(&self) -> Vec<Index<T>> {
        self.iter().map(|(index, _)| index).collect()
    }

    /// One more than the last place.
    pub(crate) fn places(&self) -> usize {
        self.slots.len()
    }
}

/// An index that is held was not removed: see [`Index`].
impl<T> std::ops::Index<Index<T>> for Arena<T> {
    type Output = T;

    fn index(&self, index: Index<T>) -> &T {
        self.find(index).expect("removed values are in no index")
    }
}

impl<T> std::ops::IndexMut<Index<T>> for Arena<T> {
    fn index_mut(&mut self, index: Index<T>) -> &mut T {
        self.find_mut(index).expect("removed values are in no index")
    }
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T: Clone> Clone for Arena<T> {
    fn clone(&self) -> Self {
        Self { slots: self.slots.clone(), free: self.free.clone() }
    }
}

// Derived ones would ask the same of `T`.
impl<T> Clone for Index<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Index<T> {}
impl<T> PartialEq for Index<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<T> Eq for Index<T> {}
impl<T> PartialOrd for Index<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Index<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}
impl<T> Hash for Index<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}
impl<T> fmt::Debug for Index<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}
