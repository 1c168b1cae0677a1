//! The arrows of the architecture: which crate may know which.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use crate::harness::repository;

/// What each crate may depend on, of ours.
const ARROWS: &[(&str, &[&str])] = &[
    ("common", &[]),
    ("catalog", &["common"]),
    ("storage", &["catalog", "common"]),
    ("sql", &["catalog", "common"]),
    ("engine", &["catalog", "storage", "common"]),
    ("connectors", &["catalog", "storage", "common"]),
    ("sqllogictest", &[]),
    ("", &["sql", "engine", "connectors", "catalog", "storage", "common"]),
];

/// Libraries that only some crates may know.
const CONFINED: &[(&str, &[&str])] = &[
    ("rocksdb", &["storage"]),
    ("pgwire", &[""]),
    ("axum", &[""]),
    ("clap", &[""]),
    ("object_store", &["connectors"]),
    ("postgres-protocol", &["connectors"]),
    ("tokio-postgres", &["connectors", "sqllogictest"]),
    ("ring", &["catalog"]),
];

/// Crate (without `tidemark-`; the server is empty) -> its normal dependencies.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(repository())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let short =
        |name: &str| name.strip_prefix("tidemark-").unwrap_or(if name == "tidemark" { "" } else { name }).to_string();
    let mut crates = BTreeMap::new();
    for package in metadata["packages"].as_array().unwrap() {
        let names = package["dependencies"].as_array().unwrap().iter().filter(|d| d["kind"].is_null());
        let names = names.map(|d| d["name"].as_str().unwrap()).map(|n| match n.strip_prefix("tidemark-") {
            Some(ours) => format!("ours:{ours}"),
            None => n.to_string(),
        });
        crates.insert(short(package["name"].as_str().unwrap()), names.collect());
    }
    crates
}

#[test]
fn imports_point_down_only() {
    let mut wrong = Vec::new();
    for (name, dependencies) in dependencies() {
        let Some((_, allowed)) = ARROWS.iter().find(|(n, _)| *n == name) else {
            wrong.push(format!("crate \"{name}\" has no line in ARROWS"));
            continue;
        };
        for ours in dependencies.iter().filter_map(|d| d.strip_prefix("ours:")) {
            if !allowed.contains(&ours) {
                wrong.push(format!("{name} -> {ours}"));
            }
        }
    }
    assert!(wrong.is_empty(), "arrows that point the wrong way: {wrong:#?}");
}

#[test]
fn libraries_stay_where_they_belong() {
    let mut wrong = Vec::new();
    for (name, dependencies) in dependencies() {
        for (library, allowed) in CONFINED {
            if dependencies.contains(*library) && !allowed.contains(&name.as_str()) {
                wrong.push(format!("{} -> {library}", if name.is_empty() { "the server" } else { &name }));
            }
        }
    }
    assert!(wrong.is_empty(), "libraries known where they should not be: {wrong:#?}");
}
