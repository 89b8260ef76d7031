//! The cluster's certificate.

use serde::{Deserialize, Serialize};

use super::Outcome;
use crate::error::{Doing as _, Result};
use crate::manifest::Step;
use crate::run::Run;

/// Makes a certificate of an authority that is forgotten at once, unless authority, certificate and key are given.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct GenTlsCert {
    hosts: Vec<String>,
    ca_cert: String,
    cert: String,
    key: String,
}

/// PEM texts, and the pin that clients check: base64 of the SHA-256 of the leaf.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Certificate {
    pub(crate) ca_cert: String,
    pub(crate) cert: String,
    pub(crate) pin: String,
    pub(crate) key: String,
}

impl GenTlsCert {
    pub(super) async fn run(self, step: &Step, run: &mut Run) -> Result<Outcome> {
        let planned = run.state.planned(&step.id)?;
        let made: Certificate = match planned {
            Some(made) => made,
            None => self.make()?,
        };
        run.state.plan(&step.id, &made)?;
        let shown = Some(format!("pin: {}", made.pin));
        Ok(Outcome { shown, ..Outcome::secret(&made)? })
    }

    fn make(self) -> Result<Certificate> {
        let given = ![&self.ca_cert, &self.cert, &self.key].into_iter().any(String::is_empty);
        let (ca_cert, cert, key) = if given {
            (self.ca_cert, self.cert, self.key)
        } else {
            let made = flynn_certificate::issue(&self.hosts).doing(|| "make the cluster's certificate".into())?;
            (made.ca_cert, made.cert, made.key)
        };
        let pin = pin(&cert)?;
        Ok(Certificate { ca_cert, cert, pin, key })
    }
}

/// What clients check of a chain of certificates: the hash of its leaf.
pub(crate) fn pin(cert: &str) -> Result<String> {
    flynn_certificate::pin(cert).doing(|| "tell the certificate's pin".into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::words;

    #[test]
    fn the_certificate_is_for_the_hosts_and_the_pin_is_its_hash() {
        let hosts = vec!["flynn.example".to_owned(), "*.flynn.example".to_owned()];
        let made = GenTlsCert { hosts, ..GenTlsCert::default() }.make().map_err(|err| words(&err)).unwrap();
        assert!(made.key.contains("PRIVATE KEY") && made.ca_cert.contains("CERTIFICATE"));
        let again = GenTlsCert {
            hosts: Vec::new(),
            ca_cert: made.ca_cert.clone(),
            cert: made.cert.clone(),
            key: made.key.clone(),
        };
        let again = again.make().map_err(|err| words(&err)).unwrap();
        assert_eq!((again.pin, again.cert), (made.pin, made.cert), "a given one is taken as it is");
    }
}
