//! Who asks, and what they may do (spec controller-api section 2).

mod keys;
mod scope;
mod token;
mod wire;

pub use keys::Keys;
pub use token::{TokenError, TokenKey};

use axum::http::{HeaderMap, Method, header};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use chrono::{DateTime, Utc};

use crate::config::Config;
use scope::Access;

/// Who asks, for logs, and what they may do.
#[derive(Clone, Debug, Default)]
pub(crate) struct Identity {
    /// The key's or the token's id.
    pub(crate) id: String,
    /// A token's user.
    pub(crate) user: String,
    access: Access,
}

impl Identity {
    pub(crate) fn may(&self, method: &Method, path: &str) -> bool {
        self.access.allows(method, path)
    }
}

/// What a request brings to show who it is from.
enum Credentials {
    Key(String),
    Token(String),
}

/// Whether a request brings a key at all: the authority's certificate is for everybody who does not (A5).
pub(crate) fn has_password(headers: &HeaderMap) -> bool {
    matches!(credentials(headers), Some(Credentials::Key(key)) if !key.is_empty())
}

/// `None` is 401, whatever the reason (A4).
pub(crate) fn identify(config: &Config, headers: &HeaderMap, now: DateTime<Utc>) -> Option<Identity> {
    match credentials(headers)? {
        Credentials::Key(key) => {
            let id = config.keys.id_of(&key)?;
            Some(Identity { id, ..Identity::default() })
        }
        Credentials::Token(text) => {
            let token = config.tokens.as_ref()?.verify(&text, now);
            let token = token.inspect_err(|err| tracing::debug!(%err, "access token refused")).ok()?;
            Some(Identity { id: token.id, user: token.user, access: Access::of_token(token.scopes, token.grants) })
        }
    }
}

fn credentials(headers: &HeaderMap) -> Option<Credentials> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(Credentials::Token(rest.trim().to_owned()));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(BASE64_STANDARD.decode(rest.trim()).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    // Clients that know only Basic send tokens so (A1).
    let is_token = user == "Bearer";
    Some(if is_token { Credentials::Token(password.to_owned()) } else { Credentials::Key(password.to_owned()) })
}

#[cfg(test)]
mod tests;
