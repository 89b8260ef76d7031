//! What a client of `/log` asks for (spec operations section 11.2).

use std::collections::BTreeMap;

use flynn_types::error::ApiError;

use crate::message::Message;
use crate::store::MESSAGES;

/// Which messages, how many of them, and whether to wait for more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query {
    pub(crate) filter: Filter,
    pub(crate) begin: Begin,
    pub(crate) follow: bool,
}

/// How many of the messages that are there already.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Begin {
    #[default]
    All,
    Last(usize),
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    job: Option<String>,
    /// An empty one is that of messages without a type.
    process_type: Option<String>,
    streams: Option<Vec<String>>,
}

impl Filter {
    pub(crate) fn matches(&self, message: &Message) -> bool {
        let (process_type, job) = message.process();
        self.job.as_ref().is_none_or(|wanted| wanted == job)
            && self.process_type.as_ref().is_none_or(|wanted| wanted == process_type)
            && self.streams.as_ref().is_none_or(|wanted| wanted.iter().any(|name| name == message.stream.name()))
    }
}

impl Query {
    pub(crate) fn parse(parameters: &BTreeMap<String, String>) -> Result<Self, ApiError> {
        let given = |name: &str| parameters.get(name).filter(|value| !value.is_empty());
        let lines = match given("lines").map(|text| text.parse::<usize>()) {
            None => 0,
            Some(Ok(lines)) if lines <= MESSAGES => lines,
            Some(_) => {
                return Err(ApiError::validation("lines", "lines must be an integer between 0 and 10000"));
            }
        };
        let follow = given("follow").is_some_and(|value| value == "true");
        let begin = match (lines, follow) {
            (0, false) => Begin::All,
            (lines, _) => Begin::Last(lines),
        };
        let streams = given("stream_types").map(|list| list.split(',').map(str::to_owned).collect());
        let process_type = parameters.get("process_type").cloned();
        Ok(Self { filter: Filter { job: given("job_id").cloned(), process_type, streams }, begin, follow })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Query, ApiError> {
        let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
        Query::parse(&pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    #[test]
    fn e4_lines_and_follow_mean_what_the_table_says() {
        for (text, begin, follow) in [
            ("", Begin::All, false),
            ("lines=0", Begin::All, false),
            ("lines=", Begin::All, false),
            ("lines=10000", Begin::Last(10_000), false),
            ("follow=true", Begin::Last(0), true),
            ("follow=true&lines=0", Begin::Last(0), true),
            ("follow=true&lines=7", Begin::Last(7), true),
            ("follow=false&lines=7", Begin::Last(7), false),
        ] {
            let query = parse(text).unwrap();
            assert_eq!((query.begin, query.follow), (begin, follow), "{text}");
        }
        for wrong in ["lines=10001", "lines=-1", "lines=many"] {
            let error = parse(wrong).unwrap_err();
            assert_eq!((error.status(), &*error.message), (400, "lines lines must be an integer between 0 and 10000"));
            assert_eq!(error.detail.unwrap()["field"], "lines");
        }
    }

    #[test]
    fn e5_filters_are_those_of_the_query() {
        let message = |process: &str, id: &str| {
            let raw = format!("<190>1 2026-05-01T10:00:00Z h a {process} {id} [flynn seq=\"1\"] x");
            Message::parse(raw.as_bytes()).unwrap()
        };
        let messages =
            [message("web.h-1", "ID1"), message("h-2", "ID2"), message("web.h-3", "ID3"), message("h-4", "-")];
        for (text, expected) in [
            ("", vec![0, 1, 2, 3]),
            ("process_type=", vec![1, 3]),
            ("process_type=web", vec![0, 2]),
            ("job_id=h-2", vec![1]),
            ("stream_types=stdout,stderr", vec![0, 1]),
            ("stream_types=init", vec![2]),
            ("stream_types=unknown", vec![3]),
            ("stream_types=stdout&process_type=", vec![]),
        ] {
            let filter = parse(text).unwrap().filter;
            let found: Vec<_> = (0..4).filter(|at| filter.matches(&messages[*at])).collect();
            assert_eq!(found, expected, "{text}");
        }
    }
}
