//! Access tokens: signed by an authority outside of the cluster (spec controller-api section 2, A8 to A11).

use std::time::Duration;

use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use base64::Engine as _;
use base64::prelude::{BASE64_URL_SAFE, BASE64_URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use sha2::{Digest as _, Sha256};

use super::scope::Grant;
use super::wire::{self, Malformed, Value};

/// Begin of the public key of a P-256 key in PKIX form, up to its uncompressed point (RFC 5480).
const P256_PREFIX: &[u8] = &[
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// How far the clock of the authority may be ahead.
const CLOCK_SKEW: TimeDelta = TimeDelta::minutes(5);

/// Why a token, or the key that checks them, is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    #[error("invalid token encoding")]
    Encoding,
    #[error("not a public key on the curve P-256 in PKIX form")]
    Key,
    #[error("invalid signed token")]
    Signed,
    #[error("incorrect signature")]
    Signature,
    #[error("invalid token")]
    Token,
    #[error("invalid token timestamp")]
    Timestamp,
    #[error("invalid token validity period")]
    Validity,
    #[error("expired token")]
    Expired,
}

/// The public key of whoever signs tokens.
#[derive(Clone, Debug)]
pub struct TokenKey {
    point: Vec<u8>,
    max_validity: TimeDelta,
}

/// What a token says that is signed well.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Token {
    /// For logs: its hash.
    pub(crate) id: String,
    pub(crate) user: String,
    pub(crate) scopes: Vec<String>,
    pub(crate) grants: Vec<Grant>,
}

impl TokenKey {
    /// Longest validity of a token unless it is set.
    pub const MAX_VALIDITY: Duration = Duration::from_secs(3600);

    /// From base64url of the PKIX form.
    pub fn parse(text: &str, max_validity: Duration) -> Result<Self, TokenError> {
        let der = BASE64_URL_SAFE.decode(text.trim()).map_err(|_| TokenError::Encoding)?;
        let point = der.strip_prefix(P256_PREFIX).filter(|point| point.len() == 65).ok_or(TokenError::Key)?;
        let max_validity = TimeDelta::from_std(max_validity).map_err(|_| TokenError::Validity)?;
        Ok(Self { point: point.to_vec(), max_validity })
    }

    pub(crate) fn verify(&self, text: &str, now: DateTime<Utc>) -> Result<Token, TokenError> {
        let text = text.strip_prefix("Bearer ").unwrap_or(text);
        let text = text.split_once('.').map_or(text, |(_, rest)| rest);
        let decoded = BASE64_URL_SAFE.decode(text).map_err(|_| TokenError::Encoding)?;
        let (data, signature) = signed(&decoded).map_err(|Malformed| TokenError::Signed)?;
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &self.point);
        key.verify(data, signature).map_err(|_| TokenError::Signature)?;
        let content = Content::read(data).map_err(|Malformed| TokenError::Token)?;
        let (issued, expires) = content.issued.zip(content.expires).ok_or(TokenError::Timestamp)?;
        if expires - issued > self.max_validity || issued > now + CLOCK_SKEW {
            return Err(TokenError::Validity);
        }
        if now > expires {
            return Err(TokenError::Expired);
        }
        let id = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(&decoded));
        Ok(Token { id, user: content.user, scopes: content.scopes, grants: content.grants })
    }
}

/// `SignedData`: 1 data, 2 signature.
fn signed(message: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let (mut data, mut signature) = (&[][..], &[][..]);
    wire::fields(message, |number, value| {
        match number {
            1 => data = wire::bytes(value)?,
            2 => signature = wire::bytes(value)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok((data, signature))
}

/// `AccessToken`, as far as it matters here.
#[derive(Default)]
struct Content {
    user: String,
    issued: Option<DateTime<Utc>>,
    expires: Option<DateTime<Utc>>,
    scopes: Vec<String>,
    grants: Vec<Grant>,
}

impl Content {
    fn read(message: &[u8]) -> Result<Self, Malformed> {
        let mut content = Self::default();
        wire::fields(message, |number, value| {
            match number {
                3 => content.user = wire::text(value)?,
                4 => content.issued = Some(timestamp(wire::bytes(value)?)?),
                5 => content.expires = Some(timestamp(wire::bytes(value)?)?),
                6 => content.scopes.push(wire::text(value)?),
                7 => content.grants.push(grant(wire::bytes(value)?)?),
                _ => {}
            }
            Ok(())
        })?;
        Ok(content)
    }
}

/// `google.protobuf.Timestamp`: 1 seconds, 2 nanoseconds.
fn timestamp(message: &[u8]) -> Result<DateTime<Utc>, Malformed> {
    let (mut seconds, mut nanos) = (0, 0);
    wire::fields(message, |number, value| {
        match (number, value) {
            (1, Value::Number(number)) => seconds = number.cast_signed(),
            (2, Value::Number(number)) => nanos = u32::try_from(number).map_err(|_| Malformed)?,
            _ => {}
        }
        Ok(())
    })?;
    DateTime::from_timestamp(seconds, nanos).ok_or(Malformed)
}

/// `AppGrant`: 1 app id, 2 permissions.
fn grant(message: &[u8]) -> Result<Grant, Malformed> {
    let (mut app, mut permissions) = (String::new(), Vec::new());
    wire::fields(message, |number, value| {
        match number {
            1 => app = wire::text(value)?,
            2 => permissions.push(wire::text(value)?),
            _ => {}
        }
        Ok(())
    })?;
    Ok((app, permissions))
}
