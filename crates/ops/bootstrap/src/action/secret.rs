//! Random secrets.

use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE, Engine as _};
use rand::RngCore as _;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Outcome;
use crate::error::Result;
use crate::manifest::Step;
use crate::run::Run;

/// Bytes of a secret that says nothing else.
const LENGTH: usize = 16;
/// More than this would be a mistake.
const MAX_LENGTH: usize = 4096;

/// Makes a secret, or takes the one that is given.
#[derive(Deserialize)]
#[serde(default)]
pub(crate) struct GenRandom {
    length: usize,
    encoding: Encoding,
    data: String,
}

impl Default for GenRandom {
    fn default() -> Self {
        Self { length: LENGTH, encoding: Encoding::Hex, data: String::new() }
    }
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Encoding {
    #[default]
    #[serde(alias = "")]
    Hex,
    Base64,
    Base64Safe,
    Uuid,
}

/// What the step makes.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Made {
    pub(crate) data: String,
}

impl GenRandom {
    pub(super) async fn run(self, step: &Step, run: &mut Run) -> Result<Outcome> {
        let made: Made = run.state.plan_once(&step.id, || Made { data: self.make() })?;
        let shown = run.options.show_secrets.then(|| made.data.clone());
        Ok(Outcome { shown, ..Outcome::secret(&made)? })
    }

    fn make(&self) -> String {
        if !self.data.is_empty() {
            return self.data.clone();
        }
        let length = if self.length == 0 { LENGTH } else { self.length.min(MAX_LENGTH) };
        let mut bytes = vec![0; length];
        rand::rng().fill_bytes(&mut bytes);
        match self.encoding {
            Encoding::Hex => hex::encode(bytes),
            Encoding::Base64 => BASE64_STANDARD.encode(bytes),
            Encoding::Base64Safe => BASE64_URL_SAFE.encode(bytes),
            Encoding::Uuid => Uuid::new_v4().to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(fields: &str) -> String {
        serde_json::from_str::<GenRandom>(fields).unwrap().make()
    }

    #[test]
    fn secrets_have_the_length_and_letters_that_are_asked_for() {
        assert_eq!((made("{}").len(), hex::decode(made("{}")).is_ok()), (32, true));
        assert_eq!(BASE64_STANDARD.decode(made(r#"{"length":32,"encoding":"base64"}"#)).unwrap().len(), 32);
        assert!(made(r#"{"encoding":"uuid"}"#).parse::<Uuid>().is_ok());
        assert_eq!(made(r#"{"data":"mine"}"#), "mine");
        assert_eq!(made(r#"{"data":""}"#).len(), 32, "an empty one is none");
        assert_ne!(made("{}"), made("{}"));
    }
}
