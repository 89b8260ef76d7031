//! Output that proves its own completeness.

/// Checks lines `line 1`, `line 2` …: none is missing, doubled, torn or out of order. Gives the last number.
pub fn numbered(lines: &[String]) -> Result<u64, String> {
    for (line, number) in lines.iter().zip(1_u64..) {
        if *line != format!("line {number}") {
            let around = &lines[usize::try_from(number).unwrap_or(0).saturating_sub(4)..];
            return Err(format!("where line {number} should be: {:?}", &around[..around.len().min(8)]));
        }
    }
    Ok(lines.len() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_doubled_or_torn_is_found() {
        let check = |lines: &[&str]| numbered(&lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>());
        assert_eq!(check(&["line 1", "line 2"]), Ok(2));
        for bad in [&["line 2"][..], &["line 1", "line 3"], &["line 1", "line 1"], &["line 1", "ne 2"]] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }
}
