//! Frames with their length in front (RFC 6587 section 3.4.1), as hosts send them.

use bytes::{Buf as _, BytesMut};

/// Longest message (spec operations section 11.1).
pub(crate) const MESSAGE_LEN: usize = 11_000;
/// Most digits of a length.
const DIGITS: usize = 5;

/// What came is not a frame, and where the next one begins cannot be known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    #[error("a frame begins with something else than its length")]
    NoLength,
    #[error("a frame of {0} bytes is longer than {MESSAGE_LEN}")]
    TooLong(usize),
}

/// Takes the first whole message out of `buffer`; `None` when more bytes are needed.
pub(crate) fn next(buffer: &mut BytesMut) -> Result<Option<BytesMut>, Broken> {
    let mut length = 0;
    for (at, byte) in buffer.iter().enumerate() {
        match byte {
            b'0'..=b'9' if at < DIGITS => length = length * 10 + usize::from(byte - b'0'),
            b' ' if at > 0 => {
                if length > MESSAGE_LEN {
                    return Err(Broken::TooLong(length));
                }
                let begin = at + 1;
                if buffer.len() < begin + length {
                    return Ok(None);
                }
                buffer.advance(begin);
                return Ok(Some(buffer.split_to(length)));
            }
            _ => return Err(Broken::NoLength),
        }
    }
    Ok(None)
}

/// Appends a frame.
pub(crate) fn write(message: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(message.len().to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(message);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Messages, what is left, and what was wrong.
    fn all(bytes: &[u8]) -> (Vec<Vec<u8>>, usize, Option<Broken>) {
        let (mut buffer, mut found) = (BytesMut::from(bytes), Vec::new());
        loop {
            match next(&mut buffer) {
                Ok(Some(message)) => found.push(message.to_vec()),
                Ok(None) => return (found, buffer.len(), None),
                Err(broken) => return (found, buffer.len(), Some(broken)),
            }
        }
    }

    #[test]
    fn frames_are_read_up_to_what_is_none() {
        let longest = [b"11000 ".to_vec(), vec![b'x'; 11_000]].concat();
        for (bytes, messages, left, broken) in [
            (&b"3 abc0 2 de"[..], vec![&b"abc"[..], b"", b"de"], 0, None),
            (b"3 ab", vec![], 4, None),
            (b"00003 abc12", vec![b"abc"], 2, None),
            (&longest, vec![&longest[6..]], 0, None),
            (b"1 a11001 x", vec![b"a"], 7, Some(Broken::TooLong(11_001))),
            (b"000003 abc", vec![], 10, Some(Broken::NoLength)),
            (b" abc", vec![], 4, Some(Broken::NoLength)),
            (b"<190>1 ", vec![], 7, Some(Broken::NoLength)),
            (b"", vec![], 0, None),
        ] {
            let messages: Vec<_> = messages.into_iter().map(<[u8]>::to_vec).collect();
            assert_eq!(all(bytes), (messages, left, broken), "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_however_it_is_cut(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20),
            step in 1_usize..100,
        ) {
            let mut bytes = Vec::new();
            messages.iter().for_each(|message| write(message, &mut bytes));
            let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
            for part in bytes.chunks(step) {
                buffer.extend_from_slice(part);
                while let Some(message) = next(&mut buffer).unwrap() {
                    found.push(message.to_vec());
                }
            }
            prop_assert_eq!(found, messages);
        }

        #[test]
        fn garbage_ends_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            all(&bytes);
        }
    }
}
