//! Positions in PostgreSQL's write-ahead log.

use std::fmt;
use std::str::FromStr;

use flynn_sirenia::InHistory;

/// A byte in the log (spec appliances section 2.4: `%X/%08X` of file and offset).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lsn(pub u64);

/// How far a peer's log reaches, and in which generation it ends.
pub type At = InHistory<Lsn>;

/// A text that is no position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("log position {0:?} is not two hexadecimal numbers with a slash between")]
pub struct InvalidLsn(String);

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:08X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl FromStr for Lsn {
    type Err = InvalidLsn;

    fn from_str(text: &str) -> Result<Self, InvalidLsn> {
        let half = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit()); // no sign
            u32::from_str_radix(text, 16).ok().filter(|_| digits).map(u64::from)
        };
        let halves = text.split_once('/').and_then(|(file, offset)| Some((half(file)?, half(offset)?)));
        halves.map(|(file, offset)| Self(file << 32 | offset)).ok_or_else(|| InvalidLsn(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_two_hexadecimal_numbers_and_compare_as_bytes() {
        for (text, lsn, written) in [
            ("0/0", 0, "0/00000000"),
            ("0/0B000060", 0x0b00_0060, "0/0B000060"),
            ("1a/2", 0x1a_0000_0002, "1A/00000002"),
            ("FFFFFFFF/FFFFFFFF", u64::MAX, "FFFFFFFF/FFFFFFFF"),
        ] {
            assert_eq!(text.parse(), Ok(Lsn(lsn)), "{text}");
            assert_eq!(Lsn(lsn).to_string(), written);
        }
        for wrong in ["", "/", "0", "0/", "/0", "0/0/0", "x/0", "+1/0", "0/-1", "100000000/0", " 0/0"] {
            assert!(wrong.parse::<Lsn>().is_err(), "{wrong:?}");
        }
        assert!("1/0".parse::<Lsn>().unwrap() > "0/FFFFFFFF".parse().unwrap());
        assert_eq!("7@0/0B000060".parse(), Ok(At { generation: 7, offset: Lsn(0x0b00_0060) }));
    }
}
