//! Rules about source files.

use crate::repository::{files, report, text, texts};

const LONGEST_FILE: usize = 700;

/// Crates that talk to the kernel, each with its `unsafe` in one `sys.rs`.
const UNSAFE_CRATES: [&str; 4] =
    ["crates/node/container/", "crates/node/network/", "crates/node/volume/", "bin/flynn-init/"];

fn is_crate_root(file: &str) -> bool {
    file.ends_with("src/lib.rs") || file.ends_with("src/main.rs")
}

#[test]
fn files_are_short_enough_to_be_one_idea() {
    let long = texts(".rs").into_iter().filter_map(|(file, text)| {
        let lines = text.lines().count();
        (lines > LONGEST_FILE).then(|| format!("{file}: {lines} lines"))
    });
    report(&format!("split by idea what is longer than {LONGEST_FILE} lines:"), long.collect());
}

#[test]
fn crate_roots_say_what_the_crate_is_for() {
    let mut wrong = Vec::new();
    for (file, text) in texts(".rs").into_iter().filter(|(file, _)| is_crate_root(file)) {
        if !text.starts_with("//! ") {
            wrong.push(format!("{file}: begins without //!"));
        }
        if file.starts_with("crates/") && !text.contains("**Invariant") {
            wrong.push(format!("{file}: names no **Invariant**"));
        }
    }
    report("the head of a crate says what it is for and what always holds:", wrong);
}

#[test]
fn unsafe_code_stays_where_it_talks_to_the_kernel() {
    let mut wrong = Vec::new();
    for (file, text) in texts(".rs") {
        let allowed = UNSAFE_CRATES.iter().any(|folder| file.starts_with(folder));
        if is_crate_root(&file) && !allowed && !text.contains("#![forbid(unsafe_code)]") {
            wrong.push(format!("{file}: lacks #![forbid(unsafe_code)]"));
        }
        let blocks = text.matches("unsafe {").count() + text.matches("unsafe extern").count();
        if blocks > 0 && !file.contains("/sys.rs") && !file.contains("/sys/") && !file.starts_with("test/tidy/") {
            wrong.push(format!("{file}: unsafe code belongs in the crate's sys.rs"));
        }
        if blocks > text.matches("// SAFETY:").count() && !file.starts_with("test/tidy/") {
            wrong.push(format!("{file}: an unsafe block without // SAFETY:"));
        }
    }
    report("unsafe code is in one sys.rs of the crates that talk to the kernel, each block with its argument:", wrong);
}

#[test]
fn nothing_of_one_machine_is_written_down() {
    // Put together here, so that this file does not contain them.
    let words = [["/wo", "rk/"].concat(), ["/root/", ".cargo"].concat(), [".libr", "ary/"].concat()];
    let mut wrong = Vec::new();
    for file in files() {
        let Some(text) = text(&file) else { continue };
        for (number, line) in text.lines().enumerate() {
            if let Some(word) = words.iter().find(|word| line.contains(word.as_str())) {
                wrong.push(format!("{file}:{}: {word}", number + 1));
            }
        }
    }
    report("paths of one machine work on no other:", wrong);
}

#[test]
fn names_say_the_idea() {
    let vague = ["utils", "util", "misc", "common", "helpers"];
    let wrong = files().into_iter().filter(|file| {
        file.split('/').any(|part| vague.contains(&part.trim_end_matches(".rs"))) && file.ends_with(".rs")
    });
    report("name the idea (backoff, loop_device) instead:", wrong.collect());
}

/// Beginnings of messages that existing clients compare to the letter.
const WIRE_MESSAGES: [&str; 1] = ["Service metadata for "];

#[test]
fn errors_are_lower_case_phrases() {
    let mut wrong = Vec::new();
    for (file, text) in texts(".rs").into_iter().filter(|(file, _)| !file.starts_with("test/tidy/")) {
        for (number, line) in text.lines().enumerate() {
            let Some((_, message)) = line.split_once("#[error(\"") else { continue };
            if WIRE_MESSAGES.iter().any(|known| message.starts_with(known)) {
                continue;
            }
            // An acronym or the name of a field may begin a message.
            let word = message.split([' ', '"']).next().unwrap_or_default();
            let sentence = word.starts_with(char::is_uppercase) && !word.chars().skip(1).any(char::is_uppercase);
            if sentence || message.contains(".\")]") {
                wrong.push(format!("{file}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    report("error messages are chained: lower case, without a full stop:", wrong);
}

#[test]
fn no_test_is_ignored() {
    let marker = ["#[ign", "ore"].concat();
    let wrong = texts(".rs").into_iter().filter(|(_, text)| text.contains(&marker)).map(|(file, _)| file);
    report("a test that needs another place lives in the virtual machine tier:", wrong.collect());
}

#[test]
fn scripts_stop_at_errors() {
    use std::os::unix::fs::PermissionsExt as _;
    let mut wrong = Vec::new();
    for file in files().into_iter().filter(|file| file.starts_with("script/") || file == ".ci/run") {
        let Some(text) = text(&file).filter(|text| text.starts_with("#!")) else { continue };
        if text.contains("bash") && !text.contains("set -euo pipefail") {
            wrong.push(format!("{file}: lacks `set -euo pipefail`"));
        }
        let mode =
            std::fs::metadata(crate::repository::root().join(&file)).expect("it was listed").permissions().mode();
        if mode & 0o111 == 0 {
            wrong.push(format!("{file}: is not executable"));
        }
    }
    report("scripts:", wrong);
}
