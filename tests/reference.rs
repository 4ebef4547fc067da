//! The reference in README.md is the tables of the source.
//!
//! `LOCKGATE_WRITE_REFERENCE=1 cargo test --test it reference` writes it anew.

use std::fmt::Write as _;
use std::path::PathBuf;

use lockgate::compile::annotation::{self, Annotation, Effect, Instead, Scope};
use lockgate::compile::config;

const BEGIN: &str = "<!-- What follows is written by a test from the tables of the source. -->\n";
const END: &str = "<!-- Here that ends. -->\n";

fn cell(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    text.replace('|', "\\|")
}

fn state(row: &Annotation) -> &'static str {
    match row.effect {
        Effect::Sets(_) => "yes",
        Effect::Guards(_) => "yes; what cannot be read: 503",
        Effect::Snippet(_) => "with `--translate-snippets`, in part; else 503",
        Effect::Moot => "nothing to do",
        Effect::Missing { instead: Instead::Serve, .. } => "no: told, and served without",
        Effect::Missing { instead: Instead::Refuse, .. } => "no: told, and 503",
    }
}

fn scope(row: &Annotation) -> &'static str {
    match row.scope {
        Scope::Path => "its paths",
        Scope::Host => "the host",
        Scope::Backend => "the Service's port",
    }
}

fn reference() -> String {
    let mut out = String::from(BEGIN);
    for chapter in annotation::TABLE {
        let _ = write!(
            out,
            "\n#### {}\n\n| annotation | default | holds for | honoured | meaning |\n|---|---|---|---|---|\n",
            chapter.title
        );
        for row in chapter.rows {
            let name = row.name;
            let default =
                if row.default.is_empty() { String::new() } else { format!("`{}`", row.default) };
            let _ = writeln!(
                out,
                "| <a id=\"annotation-{name}\"></a>`{name}` | {} | {} | {} | {} |",
                cell(&default),
                scope(row),
                state(row),
                cell(row.help)
            );
        }
    }
    let _ = write!(out, "\n#### Keys of the ConfigMap\n\n| key | meaning |\n|---|---|\n");
    for key in config::keys() {
        let name = key.name;
        let _ = writeln!(
            out,
            "| <a id=\"key-{name}\"></a>`{name}` | {} |",
            cell(&key.help.replace(
                "Default of the annotation.",
                &format!("Default of [the annotation](#annotation-{name}).")
            ))
        );
    }
    let _ = writeln!(
        out,
        "\nKnown and without effect, because they tune nginx itself: {}.",
        config::without_effect().map(|it| format!("`{it}`")).collect::<Vec<_>>().join(", ")
    );
    let told: Vec<_> = config::not_built().collect();
    if !told.is_empty() {
        let told = told.iter().map(|it| format!("`{it}`")).collect::<Vec<_>>().join(", ");
        let _ = writeln!(
            out,
            "\nKnown and not built; a value that asks for something is told: {told}."
        );
    }
    out.push_str(END);
    out
}

#[test]
fn the_readme_shows_the_tables() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let begin = readme.find(BEGIN).expect("the reference begins");
    let end = readme.find(END).expect("the reference ends") + END.len();
    let fresh = reference();
    if std::env::var_os("LOCKGATE_WRITE_REFERENCE").is_some() {
        let written = format!("{}{fresh}{}", &readme[..begin], &readme[end..]);
        std::fs::write(&path, written).unwrap();
        return;
    }
    let same = readme[begin..end] == fresh;
    assert!(same, "README.md is behind: run this test with LOCKGATE_WRITE_REFERENCE=1");
}
