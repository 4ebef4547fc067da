//! Which files there are, and what they held when they were last read.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde_json::Value;

use super::Directory;
use super::objects::parse;

/// Largest file that is read, in bytes.
const LARGEST: u64 = 64 << 20;

/// Files as last seen, by path.
pub(super) type Files = BTreeMap<PathBuf, Seen>;

/// One file as last seen.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// When it was written and how long it is; `None` for what is to be read again.
    pub(super) stamp: Option<(SystemTime, u64)>,
    /// Of its last good reading.
    pub(super) objects: Vec<Value>,
    /// Why the present content cannot be read.
    pub(super) trouble: Option<String>,
}

impl Directory {
    /// Reads what changed; says whether anything did.
    pub(super) fn look(&self, files: &mut Files) -> bool {
        let mut found = Vec::new();
        let mut troubles = Vec::new();
        for root in &*self.read {
            list(root, &mut found, &mut troubles);
        }
        // Nothing was issued yet where the directory for it is not there.
        troubles.retain(|(path, error)| {
            error.kind() != io::ErrorKind::NotFound || **path != *self.write
        });
        let before = files.len();
        let unknown = |path: &Path| troubles.iter().any(|(it, _)| path.starts_with(it));
        files.retain(|path, _| unknown(path) || found.iter().any(|(it, _)| it == path));
        let mut changed = files.len() != before;
        for (path, error) in &troubles {
            let text = format!("what is below cannot be read and is kept as it was: {error}");
            changed |= files.entry(path.clone()).or_default().has_trouble(text);
        }
        for (path, stamp) in found {
            let seen = files.entry(path.clone()).or_default();
            if seen.stamp == Some(stamp) {
                continue;
            }
            match read(&path, stamp.1) {
                Ok(objects) => {
                    *seen = Seen { stamp: Some(stamp), objects, trouble: None };
                    changed = true;
                }
                // Looked at again each second: what is wrong may not be in the file.
                Err(error) => {
                    let text = format!("cannot be read, what it held before is kept: {error}");
                    changed |= seen.has_trouble(text);
                }
            }
        }
        changed
    }

    /// The files in the order in which a later object replaces an earlier one: what was issued comes last.
    pub(super) fn ordered<'a>(&self, files: &'a Files) -> Vec<(&'a PathBuf, &'a Seen)> {
        let issued = |it: &&(&PathBuf, &Seen)| it.0.starts_with(&*self.write);
        let all: Vec<_> = files.iter().collect();
        let ours = all.iter().filter(issued).copied();
        all.iter().filter(|it| !issued(it)).copied().chain(ours).collect()
    }
}

impl Seen {
    /// Notes what is wrong; says whether that is news.
    fn has_trouble(&mut self, text: String) -> bool {
        let news = self.trouble.as_ref() != Some(&text);
        self.stamp = None;
        self.trouble = Some(text);
        news
    }
}

/// Files with objects under a path, without hidden ones; and what could not be looked at.
fn list(
    path: &Path,
    found: &mut Vec<(PathBuf, (SystemTime, u64))>,
    troubles: &mut Vec<(PathBuf, io::Error)>,
) {
    match std::fs::metadata(path) {
        Err(error) => troubles.push((path.to_owned(), error)),
        Ok(meta) if meta.is_dir() => match names_in(path) {
            Err(error) => troubles.push((path.to_owned(), error)),
            Ok(names) => names.iter().for_each(|it| list(it, found, troubles)),
        },
        Ok(meta) if is_manifest(path) => {
            let modified = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
            found.push((path.to_owned(), (modified, meta.len())));
        }
        Ok(_) => {}
    }
}

pub(super) fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|it| it == "yaml" || it == "yml" || it == "json")
}

/// What is in a directory, hidden files aside, in order.
pub(super) fn names_in(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|it| !it.as_encoded_bytes().starts_with(b".")) {
            names.push(path);
        }
    }
    names.sort_unstable();
    Ok(names)
}

fn read(path: &Path, length: u64) -> Result<Vec<Value>, String> {
    if length > LARGEST {
        return Err(format!("larger than {} MiB", LARGEST >> 20));
    }
    let text = std::fs::read_to_string(path).map_err(|it| it.to_string())?;
    parse(&text, path.extension().is_some_and(|it| it == "json"))
}

#[cfg(test)]
mod tests {
    use super::super::objects::gather;
    use super::super::objects::tests::OBJECTS;
    use super::*;

    #[test]
    fn a_broken_file_keeps_what_it_held_and_is_told() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Directory::new([directory.path().to_owned()], directory.path().join("issued"));
        let file = directory.path().join("a.yaml");
        let mut files = Files::new();
        for text in [OBJECTS, "stringData:\n  key: TOPSECRET\nkind: [broken"] {
            std::fs::write(&file, text).expect("written");
            store.look(&mut files);
        }
        let objects = gather(&store.ordered(&files), None);
        assert_eq!(objects.ingresses.len(), 1);
        assert_eq!(objects.problems.len(), 1);
        assert!(!objects.problems[0].text.contains("TOPSECRET"), "{:?}", objects.problems);
    }

    #[test]
    fn a_directory_that_went_away_keeps_what_it_held_and_is_told() {
        let parent = tempfile::tempdir().expect("a directory");
        let root = parent.path().join("manifests");
        std::fs::create_dir(&root).expect("made");
        std::fs::write(root.join("a.yaml"), OBJECTS).expect("written");
        let store = Directory::new([root.clone()], root.join("issued"));
        let mut files = Files::new();
        store.look(&mut files);
        std::fs::rename(&root, parent.path().join("elsewhere")).expect("moved");
        assert!(store.look(&mut files));
        let objects = gather(&store.ordered(&files), None);
        assert_eq!((objects.ingresses.len(), objects.problems.len()), (1, 1));
        assert!(!store.look(&mut files), "told once");
    }
}
