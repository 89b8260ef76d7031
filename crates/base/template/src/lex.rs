//! Texts and actions of a template, and the tokens of an action.

use crate::TemplateError;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Segment {
    Text(String),
    /// What stands between the braces.
    Action(String),
}

/// Splits a template, with `{{-` and `-}}` carried out and comments left out.
pub(crate) fn segments(template: &str) -> Result<Vec<Segment>, TemplateError> {
    let (mut segments, mut rest, mut trims) = (Vec::new(), template, false);
    loop {
        let (text, after) = rest.split_once("{{").map_or((rest, None), |(text, after)| (text, Some(after)));
        let text = if trims { text.trim_start() } else { text };
        let trimmed = after.and_then(trim_mark);
        let text = if trimmed.is_some() { text.trim_end() } else { text };
        if !text.is_empty() {
            segments.push(Segment::Text(text.to_owned()));
        }
        let Some(after) = trimmed.or(after) else { return Ok(segments) };
        let end = action_end(after).ok_or_else(|| TemplateError::Unclosed(template.to_owned()))?;
        let action = &after[..end];
        rest = &after[end + 2..];
        trims = action.strip_suffix('-').is_some_and(|action| action.ends_with(char::is_whitespace));
        let action = if trims { &action[..action.len() - 1] } else { action }.trim();
        if !(action.starts_with("/*") && action.ends_with("*/")) {
            segments.push(Segment::Action(action.to_owned()));
        }
    }
}

/// What follows a `- ` that trims the text before.
fn trim_mark(action: &str) -> Option<&str> {
    action.strip_prefix('-').filter(|action| action.starts_with(char::is_whitespace))
}

/// Where the `}}` is that ends the action: not in a comment, not in quotes.
fn action_end(text: &str) -> Option<usize> {
    let begin = text.trim_start();
    if begin.starts_with("/*") {
        let skipped = text.len() - begin.len();
        let comment = begin.find("*/")? + skipped + 2;
        return text[comment..].find("}}").map(|at| comment + at);
    }
    let mut at = 0;
    while at < text.len() {
        let rest = &text[at..];
        let first = rest.chars().next()?;
        if rest.starts_with("}}") {
            return Some(at);
        }
        at += if matches!(first, '"' | '`') { quoted_len(rest)? } else { first.len_utf8() };
    }
    None
}

/// Length of the quoted text at the begin, quotes included.
fn quoted_len(text: &str) -> Option<usize> {
    let quote = text.chars().next()?;
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        if c == quote && !escaped {
            return Some(at + c.len_utf8());
        }
        escaped = quote == '"' && c == '\\' && !escaped;
    }
    None
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Token {
    /// A name: keyword, function, `true`, `nil`.
    Word(String),
    /// `$` or `$name`, with the dollar.
    Variable(String),
    /// `.`
    Dot,
    /// `.Name`; attached when nothing stands between it and what comes before.
    Field {
        name: String,
        attached: bool,
    },
    Literal(serde_json::Value),
    Open,
    Close,
    Pipe,
    Declare,
    Assign,
    Comma,
}

/// The tokens of an action.
pub(crate) fn tokens(action: &str) -> Result<Vec<Token>, TemplateError> {
    let mut tokens = Vec::new();
    let (mut at, mut gap) = (0, true);
    while let Some(first) = action[at..].chars().next() {
        let rest = &action[at..];
        if first.is_whitespace() {
            at += first.len_utf8();
            gap = true;
            continue;
        }
        let (token, len) = token(rest, gap, action)?;
        tokens.push(token);
        at += len;
        gap = false;
    }
    Ok(tokens)
}

fn token(rest: &str, gap: bool, action: &str) -> Result<(Token, usize), TemplateError> {
    let unexpected = |found: &str| TemplateError::Unexpected { found: format!("{found:?}"), action: action.to_owned() };
    for (text, token) in [("(", Token::Open), (")", Token::Close), ("|", Token::Pipe), (",", Token::Comma)] {
        if rest.starts_with(text) {
            return Ok((token, 1));
        }
    }
    if rest.starts_with(":=") {
        return Ok((Token::Declare, 2));
    }
    if rest.starts_with('=') {
        return Ok((Token::Assign, 1));
    }
    if rest.starts_with(['"', '`']) {
        let len = quoted_len(rest).ok_or_else(|| TemplateError::Quote(action.to_owned()))?;
        let quoted = &rest[..len];
        let text = match quoted.strip_prefix('`') {
            Some(raw) => raw.trim_end_matches('`').to_owned(),
            None => serde_json::from_str(quoted).map_err(|_| TemplateError::Quote(action.to_owned()))?,
        };
        return Ok((Token::Literal(text.into()), len));
    }
    let name_len = |text: &str| text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
    if let Some(after) = rest.strip_prefix('$') {
        let len = name_len(after) + 1;
        return Ok((Token::Variable(rest[..len].to_owned()), len));
    }
    if let Some(after) = rest.strip_prefix('.') {
        let len = name_len(after);
        let token = if len == 0 { Token::Dot } else { Token::Field { name: after[..len].to_owned(), attached: !gap } };
        return Ok((token, len + 1));
    }
    if rest.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+') {
        let len = rest.find(|c: char| !(c.is_ascii_alphanumeric() || ".+-_".contains(c))).unwrap_or(rest.len());
        let number = serde_json::from_str(rest[..len].trim_start_matches('+')).map_err(|_| unexpected(&rest[..len]))?;
        return Ok((Token::Literal(serde_json::Value::Number(number)), len));
    }
    match name_len(rest) {
        0 => Err(unexpected(rest.get(..1).unwrap_or(rest))),
        len => Ok((Token::Word(rest[..len].to_owned()), len)),
    }
}
