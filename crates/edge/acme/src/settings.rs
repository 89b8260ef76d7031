//! How certificates are ordered.

use std::time::Duration;

use rustls_pki_types::CertificateDer;

use crate::challenge::ChallengeKind;

/// Whom to order from, and how.
#[derive(Clone, Debug)]
pub struct Settings {
    /// URL of the authority's directory (RFC 8555 section 7.1.1).
    pub directory: String,
    /// Where the authority writes to when something is wrong.
    pub email: Option<String>,
    /// Authorities to trust for the connection to the directory; `None` is the system's.
    pub roots: Option<Vec<CertificateDer<'static>>>,
    /// Challenges that the routers answer, the preferred one first.
    pub challenges: Vec<ChallengeKind>,
    pub pace: Pace,
}

/// When things are tried again. The defaults are those of spec router section 20.2.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Pause after a first failure; it doubles with each further one.
    pub first_retry: Duration,
    pub longest_retry: Duration,
    /// Longest wait that a server may ask for by `Retry-After`.
    pub longest_retry_after: Duration,
    /// A certificate is renewed so long before its end, or when a third of its life is left, whichever is later.
    pub renew_before: Duration,
    /// How long one order may take.
    pub order_timeout: Duration,
    /// Orders at once.
    pub parallel: usize,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            first_retry: Duration::from_secs(5 * 60),
            longest_retry: Duration::from_secs(24 * 3600),
            // Limits of Let's Encrypt count over a week.
            longest_retry_after: Duration::from_secs(7 * 24 * 3600),
            renew_before: Duration::from_secs(30 * 24 * 3600),
            order_timeout: Duration::from_secs(5 * 60),
            parallel: 4,
        }
    }
}
