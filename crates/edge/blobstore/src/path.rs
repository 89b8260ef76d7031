//! Names of files, out of paths of requests.

/// Longest name in bytes: an index holds them, which takes a little more than this.
const LONGEST: usize = 2000;

/// Why a path is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum InvalidPath {
    #[error("the path is not UTF-8 without NUL")]
    Text,
    #[error("the path is longer than {LONGEST} bytes")]
    TooLong,
}

/// The name that a path stands for, decoded, with `//`, `.`, `..` and a `/` at the end removed: `/a/b`, or `/`.
pub(crate) fn name_of(path: &str) -> Result<String, InvalidPath> {
    let decoded = decode(path.as_bytes());
    let text = String::from_utf8(decoded).map_err(|_| InvalidPath::Text)?;
    if text.contains('\0') {
        return Err(InvalidPath::Text);
    }
    let name = clean(&text);
    if name.len() > LONGEST { Err(InvalidPath::TooLong) } else { Ok(name) }
}

/// An absolute path without detours.
pub(crate) fn clean(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    format!("/{}", segments.join("/"))
}

/// Percent encoding; what is none stays as it is.
fn decode(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, behind @ ..] = rest {
        let hex = behind.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.filter(|hex| *first == b'%' && hex.bytes().all(|digit| digit.is_ascii_hexdigit())) {
            Some(hex) => {
                out.push(u8::from_str_radix(hex, 16).unwrap_or_default());
                rest = &behind[2..];
            }
            None => {
                out.push(*first);
                rest = behind;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_cleaned_and_decoded() {
        for (path, name) in [
            ("/", "/"),
            ("", "/"),
            ("/a", "/a"),
            ("/a/", "/a"),
            ("//a//b/./c/../d", "/a/b/d"),
            ("/../../a", "/a"),
            ("/a/..", "/"),
            ("/a%20b/%2e%2e/c%2Fd", "/c/d"),
            ("/%zz%4", "/%zz%4"),
            ("/%C3%A4", "/ä"),
            ("/a+b", "/a+b"),
        ] {
            assert_eq!(name_of(path).as_deref(), Ok(name), "{path}");
        }
        assert_eq!(name_of("/%ff"), Err(InvalidPath::Text));
        assert_eq!(name_of("/%00"), Err(InvalidPath::Text));
        assert_eq!(name_of(&"/x".repeat(1001)), Err(InvalidPath::TooLong));
    }
}
