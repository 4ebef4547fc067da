//! The house rules that a machine can check.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Floors of the modules, as the crate's documentation gives them.
const FLOORS: [(&str, u8); 18] = [
    ("model", 0),
    ("args", 1),
    ("compile", 1),
    ("metrics", 1),
    ("live", 2),
    ("spans", 2),
    ("store", 2),
    ("lease", 3),
    ("proxy", 3),
    ("certs", 4),
    ("status", 4),
    ("admin", 5),
    ("app", 6),
    ("cert", 7),
    ("check", 7),
    ("convert", 7),
    ("demo", 7),
    ("explain", 7),
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources() -> Vec<(PathBuf, String)> {
    fn collect(directory: &Path, found: &mut Vec<(PathBuf, String)>) {
        for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                collect(&path, found);
            } else if path.extension().is_some_and(|it| it == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    let mut found = Vec::new();
    collect(&root().join("src"), &mut found);
    found
}

fn floor(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == module).map(|(_, floor)| *floor)
}

#[test]
fn modules_use_only_floors_below_their_own() {
    let src = root().join("src");
    for (path, text) in sources() {
        let relative = path.strip_prefix(&src).unwrap();
        let own = relative.components().next().unwrap().as_os_str().to_string_lossy();
        let own = own.trim_end_matches(".rs");
        if own == "lib" || own == "main" {
            continue;
        }
        let here = floor(own).unwrap_or_else(|| panic!("{own} has no floor"));
        for used in text.split("crate::").skip(1) {
            let name: String =
                used.chars().take_while(|it| it.is_alphanumeric() || *it == '_').collect();
            let there = floor(&name).unwrap_or_else(|| panic!("{name} has no floor"));
            // The demo starts the application; both stand on top.
            let allowed = name == own || there < here || (own == "demo" && name == "app");
            assert!(allowed, "{} uses {name}", relative.display());
        }
    }
}

#[test]
fn each_outside_library_has_its_place() {
    for (library, place) in [
        ("kube::", "store/"),
        ("k8s_openapi::", "store/"),
        ("instant_acme::", "certs/"),
        ("clap::", "args"),
        ("prometheus::", "metrics"),
    ] {
        for (path, text) in sources() {
            let relative = path.strip_prefix(root().join("src")).unwrap().to_owned();
            let used =
                text.lines().any(|it| it.trim_start().starts_with(&format!("use {library}")));
            assert!(
                !used || relative.to_string_lossy().starts_with(place),
                "{} uses {library}",
                relative.display()
            );
        }
    }
}

#[test]
fn ring_is_never_compiled() {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--target", "all", "-e", "normal,build", "-i", "ring"])
        .current_dir(root())
        .output()
        .unwrap();
    let found = String::from_utf8_lossy(&tree.stdout);
    assert!(found.trim().is_empty(), "{found}");
}

#[test]
fn nothing_is_left_unfinished() {
    for (path, text) in sources() {
        for mark in ["todo!(", "unimplemented!(", ".unwrap()", "unreachable!("] {
            assert!(!text.contains(mark), "{} holds {mark}", path.display());
        }
    }
}
