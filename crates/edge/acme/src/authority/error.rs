//! What can go wrong with an order, in words for an operator.

use flynn_types::error::with_causes;
use instant_acme::{Error, Problem};

use crate::chain::InvalidChain;
use crate::challenge::ChallengeKind;
use crate::domain::Domain;
use crate::next::Cause;
use crate::store::StoreError;

/// Namespace of problems (RFC 8555 section 6.7).
const URN: &str = "urn:ietf:params:acme:error:";

/// Why an order gave no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OrderError {
    #[error("the authority could not verify {domain} by {kind}: {}", words(problem))]
    Unverified { domain: Domain, kind: ChallengeKind, problem: Problem },
    #[error("the authority offers {offered} to prove {domain}, of which the routers answer none")]
    NoChallenge { domain: Domain, offered: String },
    #[error("the authority refused to {what}: {}", words(problem))]
    Refused { what: &'static str, problem: Problem },
    #[error("cannot {what} at {directory}: {}", with_causes(source))]
    Unreachable { what: &'static str, directory: String, source: Error },
    #[error("the authority was not done with {what} in time; the order is looked at again")]
    Slow { what: &'static str },
    #[error("the authority issued a certificate that is not the one ordered: {0}")]
    Chain(#[from] InvalidChain),
    #[error("make a key or a request for a certificate: {0}")]
    Key(#[from] rcgen::Error),
    #[error("cannot {}", with_causes(.0))]
    Store(#[from] StoreError),
}

impl OrderError {
    /// What went wrong while something was done.
    pub(crate) fn at(what: &'static str, directory: &str, err: Error) -> Self {
        match err {
            Error::Api(problem) => Self::Refused { what, problem },
            Error::Timeout(_) => Self::Slow { what },
            source => Self::Unreachable { what, directory: directory.to_owned(), source },
        }
    }

    pub(crate) fn problem(&self) -> Option<&str> {
        match self {
            Self::Unverified { problem, .. } | Self::Refused { problem, .. } => problem.r#type.as_deref(),
            _ => None,
        }
    }

    /// Whether the server knows nothing of the account any more.
    pub(crate) fn lost_account(&self) -> bool {
        matches!(self, Self::Refused { .. }) && self.is("accountDoesNotExist")
    }

    /// Whether the order may still become a certificate, so that it is taken up again.
    pub(crate) fn keeps_order(&self) -> bool {
        match self {
            Self::Slow { .. } | Self::Unreachable { .. } | Self::Store(_) => true,
            Self::Refused { .. } => {
                ["badNonce", "rateLimited", "serverInternal", "orderNotReady"].iter().any(|name| self.is(name))
            }
            Self::Unverified { .. } | Self::NoChallenge { .. } | Self::Chain(_) | Self::Key(_) => false,
        }
    }

    fn is(&self, name: &str) -> bool {
        self.problem().and_then(|kind| kind.strip_prefix(URN)) == Some(name)
    }

    pub(crate) fn cause(&self, retry_after: Option<std::time::Duration>) -> Cause {
        let refused = match self {
            Self::Unverified { kind, .. } => Some(*kind),
            _ => None,
        };
        // A pause asked for with something else, a nonce for example, is not about the order.
        let retry_after = retry_after.filter(|_| matches!(self, Self::Refused { .. } | Self::Unreachable { .. }));
        Cause { message: self.to_string(), problem: self.problem().map(str::to_owned), retry_after, refused }
    }
}

/// The server's words, with what an operator can do about them.
fn words(problem: &Problem) -> String {
    let kind = problem.r#type.as_deref().unwrap_or_default();
    let kind = kind.strip_prefix(URN).unwrap_or(kind);
    let mut said = problem.detail.clone().unwrap_or_default();
    for part in &problem.subproblems {
        said = format!("{said}; {part}");
    }
    match advice(kind) {
        Some(advice) => format!("{said} ({kind}: {advice})"),
        None => format!("{said} ({kind})"),
    }
}

fn advice(kind: &str) -> Option<&'static str> {
    Some(match kind {
        "connection" => "the domain's address must lead to the routers, and no firewall may be between",
        "dns" => "the domain must resolve to the routers' addresses",
        "unauthorized" | "incorrectResponse" => "somebody else answers at the domain's address: check its DNS records",
        "tls" => "something between the authority and the routers ends TLS",
        "caa" => "a CAA record of the domain forbids this authority",
        "rejectedIdentifier" => "the authority does not issue for this name",
        "rateLimited" => "it is tried again when the limit allows",
        "userActionRequired" => "the terms have changed: agree to them anew",
        "externalAccountRequired" => "this authority wants an account made on its website, which is not offered",
        "invalidContact" | "unsupportedContact" => "give another e-mail address",
        "accountDoesNotExist" => "a new account is made",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(kind: &str) -> Problem {
        let text = serde_json::json!({"type": format!("{URN}{kind}"), "detail": "what the server says"});
        serde_json::from_value(text).unwrap()
    }

    #[test]
    fn an_operator_reads_what_failed_and_what_to_do() {
        let domain: Domain = "a.example.com".parse().unwrap();
        let err = OrderError::Unverified { domain, kind: ChallengeKind::Http01, problem: problem("connection") };
        let cause = err.cause(None);
        for part in ["a.example.com", "http-01", "what the server says", "firewall"] {
            assert!(cause.message.contains(part), "{}", cause.message);
        }
        assert_eq!(cause.refused, Some(ChallengeKind::Http01));
        assert_eq!(cause.problem.as_deref(), Some("urn:ietf:params:acme:error:connection"));
        let err = OrderError::at("get its directory", "https://ca/dir", Error::Str("no answer"));
        assert!(err.to_string().contains("https://ca/dir") && err.to_string().contains("no answer"), "{err}");
    }

    #[test]
    fn an_order_is_kept_while_it_may_still_succeed() {
        let refused = |kind| OrderError::at("finish an order", "d", Error::Api(problem(kind)));
        for (kind, kept) in [("badNonce", true), ("rateLimited", true), ("malformed", false), ("badCSR", false)] {
            assert_eq!(refused(kind).keeps_order(), kept, "{kind}");
        }
        assert!(OrderError::at("x", "d", Error::Timeout(None)).keeps_order());
        assert!(refused("accountDoesNotExist").lost_account() && !refused("malformed").lost_account());
    }
}
