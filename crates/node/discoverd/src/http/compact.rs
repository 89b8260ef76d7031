//! Go's compact form of JSON: what the Go server stores and shows.

/// Removes white space and escapes `<`, `>`, `&` and the two line separators that JavaScript does not allow in strings.
/// `json` must be valid.
pub(super) fn compact(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let (mut in_string, mut escaped) = (false, false);
    for c in json.chars() {
        if !in_string && c.is_ascii_whitespace() {
            continue;
        }
        match c {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            _ => out.push(c),
        }
        if in_string {
            (in_string, escaped) = match c {
                _ if escaped => (true, false),
                '\\' => (true, true),
                '"' => (false, false),
                _ => (true, false),
            };
        } else if c == '"' {
            in_string = true;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_is_stored_as_go_stores_it() {
        for (given, stored) in [
            (r#"{"b" : "<x>", "a":[1, 2]}"#, r#"{"b":"\u003cx\u003e","a":[1,2]}"#),
            (r#" "a \" b \\" "#, r#""a \" b \\""#),
            ("{ }", "{}"),
            ("\"\u{2028}&\"", r#""\u2028\u0026""#),
            (" null\n", "null"),
        ] {
            assert_eq!(compact(given), stored);
            let (a, b): (serde_json::Value, serde_json::Value) =
                (serde_json::from_str(given).unwrap(), serde_json::from_str(stored).unwrap());
            assert_eq!(a, b);
        }
    }
}
