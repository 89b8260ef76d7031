use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::prelude::BASE64_URL_SAFE;
use chrono::{TimeDelta, TimeZone as _};

use super::*;

/// A field of a message: bytes.
fn field(number: u8, content: &[u8]) -> Vec<u8> {
    let length = u8::try_from(content.len() & 0x7f).unwrap() | if content.len() > 127 { 0x80 } else { 0 };
    let mut field = vec![number << 3 | 2, length];
    if content.len() > 127 {
        field.push(u8::try_from(content.len() >> 7).unwrap());
    }
    field.extend(content);
    field
}

fn time(number: u8, time: DateTime<Utc>) -> Vec<u8> {
    let mut seconds = time.timestamp();
    let mut message = vec![8];
    while seconds > 127 {
        message.push(u8::try_from(seconds & 0x7f).unwrap() | 0x80);
        seconds >>= 7;
    }
    message.push(u8::try_from(seconds).unwrap());
    field(number, &message)
}

struct Authority(EcdsaKeyPair);

impl Authority {
    fn new() -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).unwrap())
    }

    fn key(&self) -> TokenKey {
        let prefix = hex::decode("3059301306072a8648ce3d020106082a8648ce3d030107034200").unwrap();
        let pkix = [&prefix, self.0.public_key().as_ref()].concat();
        TokenKey::parse(&BASE64_URL_SAFE.encode(pkix), TokenKey::MAX_VALIDITY).unwrap()
    }

    fn sign(&self, content: &[Vec<u8>]) -> String {
        let data = content.concat();
        let signature = self.0.sign(&SystemRandom::new(), &data).unwrap();
        BASE64_URL_SAFE.encode([field(1, &data), field(2, signature.as_ref())].concat())
    }
}

fn now() -> DateTime<Utc> {
    Utc.timestamp_opt(1_790_000_000, 0).unwrap()
}

#[test]
fn a8_to_a11_tokens_are_checked() {
    let authority = Authority::new();
    let key = authority.key();
    let (before, after) = (now() - TimeDelta::minutes(10), now() + TimeDelta::minutes(10));
    let good = [field(3, b"ann@example.com"), time(4, before), time(5, after), field(6, b"x")];
    let text = authority.sign(&good);
    let token = key.verify(&text, now()).unwrap();
    assert_eq!((token.user.as_str(), token.scopes, token.id.len()), ("ann@example.com", vec!["x".to_owned()], 43));
    assert!(key.verify(&format!("Bearer flynn.{text}"), now()).is_ok());
    let grant = field(7, &[field(1, b"app"), field(2, b"app:read")].concat());
    let granted = key.verify(&authority.sign(&[time(4, before), time(5, after), grant]), now()).unwrap();
    assert_eq!(granted.grants, [("app".to_owned(), vec!["app:read".to_owned()])]);
    let stranger = Authority::new();
    let hour = TimeDelta::minutes(61);
    for (name, text, expected) in [
        ("not base64", "???".to_owned(), TokenError::Encoding),
        ("no message", BASE64_URL_SAFE.encode([0xff; 3]), TokenError::Signed),
        ("another's", stranger.sign(&good), TokenError::Signature),
        ("no times", authority.sign(&[field(3, b"x")]), TokenError::Timestamp),
        ("garbage inside", authority.sign(&[vec![0xff]]), TokenError::Token),
        ("too long", authority.sign(&[time(4, now()), time(5, now() + hour)]), TokenError::Validity),
        ("of the future", authority.sign(&[time(4, after), time(5, after)]), TokenError::Validity),
        ("over", authority.sign(&[time(4, before), time(5, before)]), TokenError::Expired),
    ] {
        assert_eq!(key.verify(&text, now()), Err(expected), "{name}");
    }
    assert_eq!(TokenKey::parse("AAAA", TokenKey::MAX_VALIDITY).unwrap_err(), TokenError::Key);
}

#[test]
fn a1_to_a3_credentials_come_in_one_header() {
    let authority = Authority::new();
    let config =
        Config { keys: Keys::new("one,two", "first,second"), tokens: Some(authority.key()), ..Config::new("unused") };
    let token = authority.sign(&[time(4, now()), time(5, now() + TimeDelta::minutes(1))]);
    let basic = |user: &str, password: &str| format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")));
    let id = |value: &str| {
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().unwrap())]);
        identify(&config, &headers, now()).map(|identity| identity.id)
    };
    assert_eq!(id(&basic("", "one")).as_deref(), Some("first"));
    assert_eq!(id(&basic("anybody", "two")).as_deref(), Some("second"));
    assert!(id(&format!("Bearer {token}")).is_some() && id(&basic("Bearer", &token)).is_some());
    for refused in [basic("", ""), basic("", "on"), basic("", "one,two"), "Bearer one".into(), "one".into()] {
        assert_eq!(id(&refused), None, "{refused}");
    }
    assert!(identify(&config, &HeaderMap::new(), now()).is_none());
    // Names count only if there is one for each key.
    assert_eq!(Keys::new("one,two", "first").id_of("one").as_deref(), Some(""));
}
