//! Which request ids of clients are believed.

/// 20 to 200 characters of `A-Z a-z 0-9 + / = -`.
pub(crate) fn is_acceptable(id: &[u8]) -> bool {
    (20..=200).contains(&id.len()) && id.iter().all(|byte| byte.is_ascii_alphanumeric() || b"+/=-".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn b4_ids_of_the_right_shape_are_kept() {
        let letters = |count: usize| "a".repeat(count);
        for (id, kept) in [
            (String::new(), false),
            (letters(1), false),
            (letters(19), false),
            (letters(20), true),
            (letters(200), true),
            (letters(201), false),
            (letters(20) + "*", false),
            ("/-AZaz09+=/-AZaz09+=".into(), true),
            ("äaaaaaaaaaaaaaaaaaaaaaa".into(), false),
        ] {
            assert_eq!(is_acceptable(id.as_bytes()), kept, "{id}");
        }
    }
}
