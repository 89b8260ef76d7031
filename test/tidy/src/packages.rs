//! Rules about packages and what they depend on.

use std::collections::BTreeMap;

use crate::repository::{report, root, texts};

/// A package of the workspace, as `cargo metadata` tells.
struct Package {
    name: String,
    /// Relative to the root: `crates/base/types`.
    folder: String,
    /// Names of the workspace's packages it is built from.
    depends_on: Vec<String>,
}

fn packages() -> Vec<Package> {
    let output = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo prints JSON");
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let list = |value: &serde_json::Value| value.as_array().cloned().unwrap_or_default();
    let packages: Vec<_> = list(&metadata["packages"])
        .iter()
        .map(|package| {
            let manifest = text(&package["manifest_path"]);
            let folder = manifest.strip_prefix(&format!("{}/", root().display())).unwrap_or(&manifest);
            let ours = list(&package["dependencies"]).into_iter().filter(|dependency| {
                // A development dependency is no part of what the package is built from.
                dependency["path"].is_string() && dependency["kind"].is_null()
            });
            Package {
                name: text(&package["name"]),
                folder: folder.trim_end_matches("/Cargo.toml").to_owned(),
                depends_on: ours.map(|dependency| text(&dependency["name"])).collect(),
            }
        })
        .collect();
    assert!(packages.len() > 5, "cargo metadata knows the workspace");
    packages
}

/// Position of a folder in the order of layers, lowest first.
fn layer(folder: &str) -> usize {
    let layers = ["crates/base/", "crates/node/", "crates/control/", "crates/edge/", "crates/data/", "crates/build/"];
    let above = ["crates/ops/", "bin/", "test/"];
    layers.iter().chain(&above).position(|layer| folder.starts_with(layer)).unwrap_or_else(|| {
        panic!("{folder} is in no layer: see ARCHITECTURE.md, and add a new layer here");
    })
}

#[test]
fn dependencies_point_down() {
    let packages = packages();
    let folders: BTreeMap<_, _> = packages.iter().map(|package| (&package.name, &package.folder)).collect();
    let mut wrong = Vec::new();
    for package in &packages {
        for name in &package.depends_on {
            let to = folders[name];
            if layer(to) > layer(&package.folder) || to.starts_with("bin/") {
                wrong.push(format!("{} uses {to}", package.folder));
            }
        }
    }
    report("no package may use one of a higher layer, or a program:", wrong);
}

#[test]
fn clients_are_made_of_types_and_http() {
    let mut wrong = Vec::new();
    for package in packages() {
        let allowed: &[&str] = match package.name.as_str() {
            "flynn-types" => &[],
            name if name.ends_with("-client") => &["flynn-types", "flynn-http"],
            _ => continue,
        };
        let others = package.depends_on.iter().filter(|name| !allowed.contains(&name.as_str()));
        wrong.extend(others.map(|name| format!("{} uses {name}", package.name)));
    }
    report("a client depends only on types and http, types on nothing of ours:", wrong);
}

#[test]
fn versions_and_features_are_in_one_place() {
    let mut wrong = Vec::new();
    for (file, text) in manifests() {
        let mut section = String::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            if let Some(name) = line.strip_prefix('[') {
                section = name.trim_matches(['[', ']']).to_owned();
            } else if section.ends_with("dependencies") && !line.ends_with(".workspace = true") {
                wrong.push(format!("{file}: {line}"));
            }
        }
        for field in ["version", "edition", "rust-version", "license", "publish"] {
            if !text.contains(&format!("\n{field}.workspace = true")) {
                wrong.push(format!("{file}: lacks {field}.workspace = true"));
            }
        }
        if !text.contains("[lints]\nworkspace = true") {
            wrong.push(format!("{file}: lacks [lints] workspace = true"));
        }
    }
    report(
        "packages take versions, features and lints from the workspace's Cargo.toml (`name.workspace = true`):",
        wrong,
    );
}

#[test]
fn packages_say_what_they_are() {
    let manifests = manifests();
    let without = manifests.filter(|(_, text)| !text.contains("\ndescription = \"")).map(|(file, _)| file);
    report("Cargo.toml without a description:", without.collect());
}

/// The workspace's packages; the fuzz targets are a workspace of their own.
fn manifests() -> impl Iterator<Item = (String, String)> {
    texts("/Cargo.toml").into_iter().filter(|(file, _)| !file.starts_with("test/fuzz/"))
}
