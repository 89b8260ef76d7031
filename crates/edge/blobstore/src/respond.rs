//! What is answered to a GET or HEAD of a file. Decides; sends nothing.

use std::collections::VecDeque;
use std::ops::Range;

use base64::Engine as _;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use uuid::Uuid;

use crate::conditions::{Validators, Verdict, http_date, judge};
use crate::files::File;
use crate::ranges::{Wanted, wanted};

/// A part of an answer's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Text(Bytes),
    Content(Range<u64>),
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) parts: VecDeque<Part>,
}

impl Plan {
    fn new(status: StatusCode) -> Self {
        Self { status, headers: HeaderMap::new(), parts: VecDeque::new() }
    }

    /// Names and numbers of ours are always valid; a content type may come from anywhere.
    fn set(&mut self, name: HeaderName, value: &str) {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(name, value);
        }
    }

    fn length(&mut self) {
        let lengths = self.parts.iter().map(|part| match part {
            Part::Text(text) => text.len() as u64,
            Part::Content(range) => range.end - range.start,
        });
        let sum: u64 = lengths.sum();
        self.set(header::CONTENT_LENGTH, &sum.to_string());
    }
}

/// The answer to a request with these headers.
pub(crate) fn plan(file: &File, headers: &HeaderMap) -> Plan {
    let etag = file.sha512.as_ref().map(|digest| format!("\"{}\"", base64::prelude::BASE64_STANDARD.encode(digest)));
    let validators = Validators { etag, modified: file.updated_at };
    let size = u64::try_from(file.size).unwrap_or(0);
    let mut plan = match judge(headers, &validators) {
        Verdict::PreconditionFailed => Plan::new(StatusCode::PRECONDITION_FAILED),
        Verdict::NotModified => Plan::new(StatusCode::NOT_MODIFIED),
        Verdict::Answer { ranges } => {
            let range = headers.get(header::RANGE).filter(|_| ranges).and_then(|value| value.to_str().ok());
            content(&file.content_type, size, range.map_or(Wanted::All, |value| wanted(value, size)))
        }
    };
    plan.set(header::LAST_MODIFIED, &http_date(validators.modified));
    if let Some(etag) = &validators.etag {
        plan.set(header::ETAG, etag);
    }
    plan
}

fn content(content_type: &str, size: u64, wanted: Wanted) -> Plan {
    let mut plan = match wanted {
        Wanted::Unsatisfiable => {
            let mut plan = Plan::new(StatusCode::RANGE_NOT_SATISFIABLE);
            plan.set(header::CONTENT_RANGE, &format!("bytes */{size}"));
            return plan;
        }
        Wanted::All => {
            let mut plan = Plan::new(StatusCode::OK);
            plan.set(header::CONTENT_TYPE, content_type);
            plan.parts.push_back(Part::Content(0..size));
            plan
        }
        Wanted::Parts(parts) => match parts.as_slice() {
            [range] => {
                let mut plan = Plan::new(StatusCode::PARTIAL_CONTENT);
                plan.set(header::CONTENT_TYPE, content_type);
                plan.set(header::CONTENT_RANGE, &content_range(range, size));
                plan.parts.push_back(Part::Content(range.clone()));
                plan
            }
            parts => multipart(content_type, size, parts),
        },
    };
    plan.set(header::ACCEPT_RANGES, "bytes");
    plan.length();
    plan
}

fn multipart(content_type: &str, size: u64, ranges: &[Range<u64>]) -> Plan {
    let boundary = Uuid::new_v4().simple().to_string();
    let mut plan = Plan::new(StatusCode::PARTIAL_CONTENT);
    plan.set(header::CONTENT_TYPE, &format!("multipart/byteranges; boundary={boundary}"));
    for (at, range) in ranges.iter().enumerate() {
        let begin = if at == 0 { "" } else { "\r\n" };
        let range_line = content_range(range, size);
        let head =
            format!("{begin}--{boundary}\r\nContent-Range: {range_line}\r\nContent-Type: {content_type}\r\n\r\n");
        plan.parts.push_back(Part::Text(head.into()));
        plan.parts.push_back(Part::Content(range.clone()));
    }
    plan.parts.push_back(Part::Text(format!("\r\n--{boundary}--\r\n").into()));
    plan
}

fn content_range(range: &Range<u64>, size: u64) -> String {
    format!("bytes {}-{}/{size}", range.start, range.end - 1)
}
