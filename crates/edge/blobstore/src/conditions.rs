//! Conditional requests (RFC 9110 section 13), in the order of section 13.2.2.

use chrono::{DateTime, Timelike as _, Utc};
use http::{HeaderMap, HeaderName, header};

/// By what a content is told apart from others of its name.
#[derive(Clone, Debug)]
pub(crate) struct Validators {
    /// With its quotes; always a strong one.
    pub(crate) etag: Option<String>,
    pub(crate) modified: DateTime<Utc>,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is answered, with the ranges that it wants or, when those are of another content, with all.
    Answer {
        ranges: bool,
    },
    NotModified,
    PreconditionFailed,
}

/// Judges a GET or HEAD.
pub(crate) fn judge(headers: &HeaderMap, validators: &Validators) -> Verdict {
    let failed = match text(headers, &header::IF_MATCH) {
        Some(tags) => !lists(tags, validators, |tag| tag),
        None => time(headers, &header::IF_UNMODIFIED_SINCE).is_some_and(|time| validators.seconds() > time),
    };
    if failed {
        return Verdict::PreconditionFailed;
    }
    let known = match text(headers, &header::IF_NONE_MATCH) {
        Some(tags) => lists(tags, validators, |tag| tag.strip_prefix("W/").unwrap_or(tag)),
        None => time(headers, &header::IF_MODIFIED_SINCE).is_some_and(|time| validators.seconds() <= time),
    };
    if known {
        return Verdict::NotModified;
    }
    let ranges = text(headers, &header::IF_RANGE).is_none_or(|value| validators.same(value));
    Verdict::Answer { ranges }
}

/// A time as headers tell it.
pub(crate) fn http_date(time: DateTime<Utc>) -> String {
    time.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
}

impl Validators {
    fn seconds(&self) -> DateTime<Utc> {
        self.modified.with_nanosecond(0).unwrap_or(self.modified)
    }

    /// Whether a tag or time is exactly of this content.
    fn same(&self, value: &str) -> bool {
        match &self.etag {
            Some(etag) if value.starts_with('"') => etag == value,
            _ => parse_time(value).is_some_and(|time| time == self.seconds()),
        }
    }
}

fn lists(tags: &str, validators: &Validators, comparable: impl Fn(&str) -> &str) -> bool {
    // Our tags hold no comma.
    let mut tags = tags.split(',').map(str::trim);
    tags.any(|tag| tag == "*" || validators.etag.as_deref().is_some_and(|etag| comparable(tag) == etag))
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().filter(|value| !value.is_empty())
}

fn time(headers: &HeaderMap, name: &HeaderName) -> Option<DateTime<Utc>> {
    parse_time(text(headers, name)?)
}

fn parse_time(text: &str) -> Option<DateTime<Utc>> {
    DateTime::parse_from_rfc2822(text).ok().map(|time| time.with_timezone(&Utc))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn conditions_are_judged_in_their_order() {
        let modified = DateTime::parse_from_rfc3339("2026-05-01T10:00:00.7Z").unwrap().with_timezone(&Utc);
        let validators = Validators { etag: Some("\"abc\"".to_owned()), modified };
        let (at, before, after) =
            (http_date(modified), "Fri, 01 May 2026 09:59:59 GMT", "Fri, 01 May 2026 10:00:01 GMT");
        assert_eq!(at, "Fri, 01 May 2026 10:00:00 GMT");
        let (answer, all) = (Verdict::Answer { ranges: true }, Verdict::Answer { ranges: false });
        for (headers, expected) in [
            (&[][..], answer),
            (&[("if-none-match", "\"abc\"")], Verdict::NotModified),
            (&[("if-none-match", "\"x\", W/\"abc\"")], Verdict::NotModified),
            (&[("if-none-match", "*")], Verdict::NotModified),
            (&[("if-none-match", "\"x\""), ("if-modified-since", after)], answer),
            (&[("if-modified-since", &at)], Verdict::NotModified),
            (&[("if-modified-since", before)], answer),
            (&[("if-modified-since", "yesterday")], answer),
            (&[("if-match", "\"abc\"")], answer),
            (&[("if-match", "W/\"abc\"")], Verdict::PreconditionFailed),
            (&[("if-match", "\"x\""), ("if-none-match", "\"abc\"")], Verdict::PreconditionFailed),
            (&[("if-unmodified-since", before)], Verdict::PreconditionFailed),
            (&[("if-unmodified-since", &at)], answer),
            (&[("if-range", "\"abc\"")], answer),
            (&[("if-range", "\"x\"")], all),
            (&[("if-range", &at)], answer),
            (&[("if-range", before)], all),
        ] {
            let pairs = headers
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()));
            assert_eq!(judge(&pairs.collect(), &validators), expected, "{headers:?}");
        }
    }
}
