//! Rules about documents.

use std::path::Path;

use crate::repository::{files, report, root, text, texts};

/// Targets of `[text](target)` in a Markdown file, without code blocks.
fn links(text: &str) -> Vec<String> {
    let mut links = Vec::new();
    let mut code = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            code = !code;
        }
        let mut rest = if code { "" } else { line };
        while let Some((_, after)) = rest.split_once("](") {
            let Some((target, after)) = after.split_once(')') else { break };
            links.push(target.to_owned());
            rest = after;
        }
    }
    links
}

#[test]
fn links_lead_to_files() {
    let mut wrong = Vec::new();
    for (file, text) in texts(".md") {
        let folder = root().join(Path::new(&file).parent().expect("a file is in a folder"));
        for link in links(&text) {
            let path = link.split('#').next().unwrap_or_default();
            if !path.is_empty() && !path.contains("://") && !folder.join(path).exists() {
                wrong.push(format!("{file}: {link}"));
            }
        }
    }
    report("links to nothing:", wrong);
}

#[test]
fn the_map_has_every_package() {
    let map = text("ARCHITECTURE.md").expect("ARCHITECTURE.md is text");
    let packages = files().into_iter().filter_map(|file| file.strip_suffix("/Cargo.toml").map(str::to_owned));
    let missing = packages.filter(|folder| !map.contains(&format!("`{folder}`")));
    report("ARCHITECTURE.md lacks:", missing.collect());
}

#[test]
fn the_map_has_nothing_that_is_gone() {
    let map = text("ARCHITECTURE.md").expect("ARCHITECTURE.md is text");
    let named = map.split('`').skip(1).step_by(2);
    let folders = named.filter(|name| {
        ["crates/", "bin/", "test/", "docs/", "script/", "images/"].iter().any(|top| name.starts_with(top))
    });
    // `script/cluster up` names a script with its arguments.
    let gone = folders.filter(|name| {
        let path = name.split([' ', '*']).next().unwrap_or_default();
        !root().join(path).exists()
    });
    report("ARCHITECTURE.md names what is not there:", gone.map(str::to_owned).collect());
}
