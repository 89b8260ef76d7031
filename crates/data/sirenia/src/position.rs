//! Positions in a database's log.

use std::fmt::{Debug, Display};
use std::str::FromStr;

/// How far a database's log reaches, comparable between the peers of one cluster.
///
/// The order must be that of *histories*: if `a >= b`, the log that ends at `a` has every commit that was acknowledged
/// in the log that ends at `b`. Offsets alone do not give that, because a replaced primary may have written more than
/// its successor; see [`InHistory`].
pub trait Position: Clone + Ord + Debug + Default + Display + FromStr<Err: Display> + Send + Sync + 'static {}

impl<T: Clone + Ord + Debug + Default + Display + FromStr<Err: Display> + Send + Sync + 'static> Position for T {}

/// An offset together with the generation that wrote last before it.
///
/// A primary writes a record with its generation into its log before anything else of that generation. Logs that end in
/// the same generation have one writer, so that one continues the other; otherwise the later generation's log began with
/// every commit that was ever acknowledged. It is the comparison of Raft's elections ("In Search of an Understandable
/// Consensus Algorithm", section 5.4.1).
///
/// Written `<offset>` in generation 0, which is what peers of the Go implementation wrote, and else
/// `<generation>@<offset>`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct InHistory<L> {
    // The order of the fields is the order of positions.
    pub generation: u64,
    pub offset: L,
}

impl<L: Display> Display for InHistory<L> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.generation > 0 {
            write!(f, "{}@", self.generation)?;
        }
        self.offset.fmt(f)
    }
}

impl<L: FromStr> FromStr for InHistory<L> {
    type Err = L::Err;

    fn from_str(text: &str) -> Result<Self, L::Err> {
        let generation = text.split_once('@').and_then(|(number, rest)| Some((number.parse().ok()?, rest)));
        let (generation, offset) = generation.unwrap_or((0, text)); // the offset's parser names what is wrong
        Ok(Self { generation, offset: offset.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_later_generation_wrote_is_further_than_any_offset_of_an_earlier_one() {
        let at = |generation, offset: u64| InHistory { generation, offset };
        assert!(at(2, 5) > at(1, 900) && at(2, 6) > at(2, 5) && at(0, 1) > InHistory::default());
        for (position, text) in [(at(0, 7), "7"), (at(12, 7), "12@7")] {
            assert_eq!((position.to_string().as_str(), text.parse()), (text, Ok(position)));
        }
        for wrong in ["", "x", "1@", "@5", "1@2@3", "-1@5"] {
            assert!(wrong.parse::<InHistory<u64>>().is_err(), "{wrong:?}");
        }
    }
}
