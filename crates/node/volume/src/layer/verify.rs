//! Whether a layer is what its mountspec says.

use std::collections::BTreeMap;

use flynn_types::host::Mountspec;
use sha2::{Digest, Sha256, Sha512, Sha512_256};

use crate::error::VerifyError;

/// First bytes of every squashfs (`SQUASHFS_MAGIC`, little endian).
const SQUASHFS_MAGIC: &[u8] = b"hsqs";

/// The digests that a mountspec names, in the making. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Verifier {
    size_bytes: u64,
    seen_bytes: u64,
    magic: Vec<u8>,
    expected: BTreeMap<String, String>,
    sha256: Option<Sha256>,
    sha512: Option<Sha512>,
    sha512_256: Option<Sha512_256>,
}

impl Verifier {
    pub(crate) fn new(spec: &Mountspec) -> Result<Self, VerifyError> {
        let size_bytes = u64::try_from(spec.size).ok().filter(|s| *s > 0).ok_or(VerifyError::Size(spec.size))?;
        let has = |name: &str| spec.hashes.contains_key(name);
        let this = Self {
            size_bytes,
            seen_bytes: 0,
            magic: Vec::new(),
            expected: spec.hashes.clone(),
            sha256: has("sha256").then(Sha256::new),
            sha512: has("sha512").then(Sha512::new),
            sha512_256: has("sha512_256").then(Sha512_256::new),
        };
        if this.sha256.is_none() && this.sha512.is_none() && this.sha512_256.is_none() {
            return Err(VerifyError::NoHashes);
        }
        Ok(this)
    }

    /// How many bytes are still wanted.
    pub(crate) fn missing_bytes(&self) -> u64 {
        self.size_bytes - self.seen_bytes
    }

    pub(crate) fn seen_bytes(&self) -> u64 {
        self.seen_bytes
    }

    /// Takes the next bytes, at most [`Self::missing_bytes`].
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        let more = SQUASHFS_MAGIC.len().saturating_sub(self.magic.len()).min(bytes.len());
        self.magic.extend_from_slice(&bytes[..more]);
        self.seen_bytes += bytes.len() as u64;
        self.sha256.iter_mut().for_each(|h| h.update(bytes));
        self.sha512.iter_mut().for_each(|h| h.update(bytes));
        self.sha512_256.iter_mut().for_each(|h| h.update(bytes));
    }

    /// The digests, when all is as it should be.
    pub(crate) fn finish(self) -> Result<BTreeMap<String, String>, VerifyError> {
        if self.missing_bytes() > 0 {
            return Err(VerifyError::TooShort);
        }
        let digests: BTreeMap<String, String> = [
            ("sha256", self.sha256.map(|h| hex::encode(h.finalize()))),
            ("sha512", self.sha512.map(|h| hex::encode(h.finalize()))),
            ("sha512_256", self.sha512_256.map(|h| hex::encode(h.finalize()))),
        ]
        .into_iter()
        .filter_map(|(name, digest)| Some((name.to_owned(), digest?)))
        .collect();
        same_content(&digests, &self.expected)?;
        if self.magic != SQUASHFS_MAGIC {
            return Err(VerifyError::NoSquashfs);
        }
        Ok(digests)
    }
}

/// Whether no digest that both sides know differs.
pub(crate) fn same_content(
    known: &BTreeMap<String, String>,
    expected: &BTreeMap<String, String>,
) -> Result<(), VerifyError> {
    for (algorithm, got) in known {
        if let Some(expected) = expected.get(algorithm)
            && expected != got
        {
            let (algorithm, expected, got) = (algorithm.clone(), expected.clone(), got.clone());
            return Err(VerifyError::Hash { algorithm, expected, got });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(size: i64, hashes: &[(&str, &str)]) -> Mountspec {
        let hashes = hashes.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Mountspec { size, hashes, ..Mountspec::default() }
    }

    #[test]
    fn what_is_wrong_is_said_in_the_words_that_clients_know() {
        let wrong = "0".repeat(64);
        let right = hex::encode(Sha256::digest(b"hsqs!"));
        let not_squashfs = hex::encode(Sha256::digest(b"12345"));
        for (name, spec, bytes, expected) in [
            ("size 0", spec(0, &[("sha256", &right)]), "", "verify: invalid data size: 0".to_owned()),
            ("negative", spec(-1, &[("sha256", &right)]), "", "verify: invalid data size: -1".to_owned()),
            ("no hash", spec(5, &[]), "", "verify: no hashes provided".to_owned()),
            ("unknown hash", spec(5, &[("md5", "x")]), "", "verify: no hashes provided".to_owned()),
            ("short", spec(6, &[("sha256", &right)]), "hsqs!", "verify: data too short".to_owned()),
            (
                "wrong",
                spec(5, &[("sha256", &wrong)]),
                "hsqs!",
                format!("verify: expected sha256 hash {wrong:?} but got {right:?}"),
            ),
            (
                "one of two wrong",
                spec(5, &[("sha256", &right), ("sha512_256", "x")]),
                "hsqs!",
                format!(
                    "verify: expected sha512_256 hash \"x\" but got {:?}",
                    hex::encode(Sha512_256::digest(b"hsqs!"))
                ),
            ),
            (
                "no squashfs",
                spec(5, &[("sha256", &not_squashfs)]),
                "12345",
                "verify: the data is no squashfs file system".to_owned(),
            ),
        ] {
            let result = Verifier::new(&spec).and_then(|mut verifier| {
                verifier.update(bytes.as_bytes());
                verifier.finish()
            });
            assert_eq!(result.unwrap_err().to_string(), expected, "{name}");
        }
        let mut verifier = Verifier::new(&spec(5, &[("sha256", &right), ("md5", "x")])).unwrap();
        for byte in b"hsqs!" {
            verifier.update(&[*byte]);
        }
        assert_eq!(verifier.finish().unwrap(), [("sha256".to_owned(), right)].into());
    }
}
