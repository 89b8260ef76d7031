//! Names of hosts as requests and routes write them. Pure.

use std::borrow::Cow;

/// The name in an authority such as `Shop.example.com.:8080`: lower case, without port and without one final dot.
pub fn host_name(authority: &str) -> Cow<'_, str> {
    let name = match authority.strip_prefix('[') {
        // An IPv6 address; its colons are no port.
        Some(rest) => rest.split_once(']').map_or(authority, |(address, _)| address),
        None => authority.split_once(':').map_or(authority, |(name, _)| name),
    };
    canonical(name)
}

/// A domain as tables store it: lower case, without one final dot.
pub fn canonical(domain: &str) -> Cow<'_, str> {
    let domain = domain.strip_suffix('.').unwrap_or(domain);
    if domain.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(domain.to_ascii_lowercase())
    } else {
        Cow::Borrowed(domain)
    }
}

/// What a wildcard `*.<suffix>` may have as its suffix for a host, most specific first.
///
/// The host itself counts, and at most four labels are left out (spec router section 9).
pub(super) fn wildcard_suffixes(host: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(host), |rest| rest.split_once('.').map(|(_, rest)| rest)).take(5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_dots_and_case_are_no_part_of_a_name() {
        for (authority, name) in [
            ("example.com", "example.com"),
            ("Example.COM:80", "example.com"),
            ("example.com.", "example.com"),
            ("example.com.:443", "example.com"),
            ("example.com..", "example.com."),
            ("[::1]:80", "::1"),
            ("[::1", "[::1"),
            ("", ""),
            (":80", ""),
        ] {
            assert_eq!(host_name(authority), name, "{authority}");
        }
    }

    #[test]
    fn a_wildcard_reaches_four_labels_down() {
        let suffixes: Vec<_> = wildcard_suffixes("a.b.c.d.e.f").collect();
        assert_eq!(suffixes, ["a.b.c.d.e.f", "b.c.d.e.f", "c.d.e.f", "d.e.f", "e.f"]);
        assert_eq!(wildcard_suffixes("x").collect::<Vec<_>>(), ["x"]);
    }
}
