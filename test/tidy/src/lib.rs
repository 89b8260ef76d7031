//! The repository's own rules, as tests: `cargo test -p flynn-tidy`.
//!
//! Every rule says in its failure which file breaks it and what to do instead. Only files known to git are judged.
//!
//! **Invariant:** nothing here builds or runs anything of the repository.

#![forbid(unsafe_code)]

#[cfg(test)]
mod documents;
#[cfg(test)]
mod packages;
#[cfg(test)]
mod repository;
#[cfg(test)]
mod sources;
