//! Objects in files: YAML or JSON, as `kubectl get -o yaml` prints them, read again when they change.
//!
//! Changes are found by looking once a second: mounted ConfigMaps swap symbolic links, which confuses
//! whoever waits for notifications. A file that cannot be read keeps the objects it held before.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1 as core;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::watch;

use super::{Rest, Snapshots, StoreError, StoredMap, StoredSecret, convert};
use crate::compile::objects::Objects;
use crate::model::name::{Kind, ObjectName};
use crate::model::problem::Problem;

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Largest file that is read, in bytes.
const LARGEST: u64 = 64 << 20;

/// Directories of manifests, and one to write to.
#[derive(Clone, Debug)]
pub struct Directory {
    read: Arc<[PathBuf]>,
    write: Arc<Path>,
}

/// Files as last seen, by path.
type Files = BTreeMap<PathBuf, Seen>;

/// One file as last seen.
#[derive(Debug, Default)]
struct Seen {
    stamp: Option<(SystemTime, u64)>,
    /// Of its last good reading.
    objects: Vec<Value>,
    /// Why the present content cannot be read.
    trouble: Option<String>,
}

impl Directory {
    /// Reads from `read` and from `write`; writes to `write`, which is made when it is needed.
    pub fn new(read: impl IntoIterator<Item = PathBuf>, write: PathBuf) -> Self {
        let mut read: Vec<PathBuf> = read.into_iter().collect();
        if !read.iter().any(|it| write.starts_with(it)) {
            read.push(write.clone());
        }
        Self { read: read.into(), write: write.into() }
    }

    /// What is in files and directories right now; `-` is standard input, in YAML or JSON. Fails for a
    /// path that is not there, or is a file that nobody would take for objects.
    pub fn once(paths: &[PathBuf]) -> io::Result<Objects> {
        let files = Self::files(paths)?;
        Ok(gather(&files.iter().collect::<Vec<_>>()))
    }

    /// Likewise, as they are written; fails for what cannot be read, too.
    pub fn documents(paths: &[PathBuf]) -> io::Result<Vec<Value>> {
        let mut documents = Vec::new();
        for (path, seen) in Self::files(paths)? {
            if let Some(trouble) = seen.trouble {
                return Err(io::Error::other(format!("{}: {trouble}", path.display())));
            }
            documents.extend(seen.objects);
        }
        Ok(documents)
    }

    fn files(paths: &[PathBuf]) -> io::Result<Files> {
        let mut files = Files::new();
        let (typed, read): (Vec<&PathBuf>, Vec<&PathBuf>) =
            paths.iter().partition(|it| it.as_os_str() == "-");
        for path in &read {
            let named = |error: io::Error| {
                io::Error::new(error.kind(), format!("{}: {error}", path.display()))
            };
            if !std::fs::metadata(path).map_err(named)?.is_dir() && !is_manifest(path) {
                let text = "neither a directory nor .yaml, .yml or .json";
                return Err(named(io::Error::other(text)));
            }
        }
        let read: Arc<[PathBuf]> = read.into_iter().cloned().collect();
        Self { read, write: Path::new("").into() }.look(&mut files);
        if let Some(path) = typed.first() {
            let text = io::read_to_string(io::stdin())?;
            let seen = match parse(&text, false) {
                Ok(objects) => Seen { objects, ..Seen::default() },
                Err(trouble) => Seen { trouble: Some(trouble), ..Seen::default() },
            };
            files.insert((*path).clone(), seen);
        }
        Ok(files)
    }

    pub(super) fn snapshots(&self) -> Snapshots {
        let (sender, receiver) = watch::channel(None);
        let directory = self.clone();
        tokio::spawn(async move {
            let mut files = Files::new();
            let mut first = true;
            loop {
                let directory = directory.clone();
                let looked = tokio::task::spawn_blocking(move || {
                    let changed = directory.look(&mut files);
                    let objects = (changed || first).then(|| gather(&directory.ordered(&files)));
                    (files, objects)
                });
                let (kept, objects) = match looked.await {
                    Ok(looked) => looked,
                    Err(error) => {
                        tracing::error!(%error, "reading manifests failed and is begun again");
                        (Files::new(), None)
                    }
                };
                files = kept;
                first = false;
                if let Some(objects) = objects {
                    sender.send_replace(Some(Arc::new(objects)));
                }
                if sender.is_closed() {
                    return;
                }
                tokio::time::sleep(LOOK).await;
            }
        });
        receiver
    }

    pub(super) async fn secret(
        &self,
        name: &ObjectName,
    ) -> Result<Option<StoredSecret>, StoreError> {
        let (directory, wanted) = (self.clone(), name.clone());
        let looked = tokio::task::spawn_blocking(move || {
            let mut files = Files::new();
            directory.look(&mut files);
            find(&directory.ordered(&files), &wanted)
        });
        let found = looked.await.map_err(|it| StoreError::Unavailable(it.to_string()))?;
        Ok(found.map(|secret| stored(name, secret)))
    }

    pub(super) async fn secrets_like(
        &self,
        namespace: &str,
        prefix: &str,
    ) -> Result<Vec<StoredSecret>, StoreError> {
        let (directory, begin) = (self.clone(), format!("{namespace}.{prefix}"));
        let listed = tokio::task::spawn_blocking(move || names_in(&directory.write));
        let files = match listed.await.map_err(|it| StoreError::Unavailable(it.to_string()))? {
            Ok(files) => files,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(StoreError::Unavailable(error.to_string())),
        };
        let mut found = Vec::new();
        for file in files {
            let name = file.file_name().and_then(|it| it.to_str()).unwrap_or_default();
            let name = name.strip_suffix(".secret.json").filter(|it| it.starts_with(&begin));
            if let Some(name) = name.and_then(|it| it.strip_prefix(&format!("{namespace}."))) {
                found.extend(self.secret(&ObjectName::new(namespace, name)).await?);
            }
        }
        Ok(found)
    }

    pub(super) async fn write_secret(
        &self,
        secret: &StoredSecret,
        rehearse: bool,
    ) -> Result<Option<String>, StoreError> {
        if !secret.name.is_valid() {
            return Err(StoreError::Forbidden(format!("{} is no name of a Secret", secret.name)));
        }
        let held = self.secret(&secret.name).await?.and_then(|it| it.version);
        if held != secret.version {
            return Err(StoreError::Conflict(secret.name.clone()));
        }
        let StoredSecret { name, kind, data, annotations, labels, version, .. } = secret;
        let object = serde_json::json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": {
                "namespace": &*name.namespace,
                "name": &*name.name,
                "annotations": annotations,
                "labels": labels,
            },
            "type": kind,
            "data": data
                .iter()
                .map(|(name, value)| (name.clone(), ByteString(value.clone())))
                .collect::<BTreeMap<_, _>>(),
        });
        let (path, new) = (self.file(name), version.is_none());
        let written = tokio::task::spawn_blocking(move || {
            let directory = path.parent().unwrap_or(Path::new("."));
            std::fs::create_dir_all(directory)?;
            if rehearse { Ok(()) } else { write_private(&path, &object, new) }
        });
        written.await.map_err(|it| StoreError::Unavailable(it.to_string()))?.map_err(|error| {
            match error.kind() {
                io::ErrorKind::AlreadyExists => StoreError::Conflict(name.clone()),
                _ => StoreError::Unavailable(format!("{}: {error}", self.file(name).display())),
            }
        })?;
        Ok(Some(version_of(data, annotations)))
    }

    pub(super) async fn config_map(
        &self,
        name: &ObjectName,
    ) -> Result<Option<StoredMap>, StoreError> {
        let path = self.map_file(name);
        match tokio::fs::read(&path).await {
            Ok(text) => {
                let data: BTreeMap<String, String> =
                    serde_json::from_slice(&text).unwrap_or_default();
                let version = Some(version_of(&data, &BTreeMap::new()));
                Ok(Some(StoredMap { name: name.clone(), data, version }))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StoreError::Unavailable(format!("{}: {error}", path.display()))),
        }
    }

    pub(super) async fn write_config_map(
        &self,
        map: &StoredMap,
    ) -> Result<Option<String>, StoreError> {
        let held = self.config_map(&map.name).await?.and_then(|it| it.version);
        if held != map.version {
            return Err(StoreError::Conflict(map.name.clone()));
        }
        let (path, object) = (self.map_file(&map.name), serde_json::json!(map.data));
        let shown = path.display().to_string();
        let written = tokio::task::spawn_blocking(move || {
            std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
            write_private(&path, &object, false)
        });
        written
            .await
            .map_err(|it| StoreError::Unavailable(it.to_string()))?
            .map_err(|it| StoreError::Unavailable(format!("{shown}: {it}")))?;
        Ok(Some(version_of(&map.data, &BTreeMap::new())))
    }

    pub(super) async fn delete_secret(&self, secret: &StoredSecret) -> Result<(), StoreError> {
        let held = self.secret(&secret.name).await?;
        if held.is_some_and(|it| it.version != secret.version) {
            return Err(StoreError::Conflict(secret.name.clone()));
        }
        match tokio::fs::remove_file(self.file(&secret.name)).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::Unavailable(error.to_string()))
            }
            _ => Ok(()),
        }
    }

    fn file(&self, name: &ObjectName) -> PathBuf {
        self.write.join(format!("{}.{}.secret.json", name.namespace, name.name))
    }

    /// Where a ConfigMap of our own is; not among the manifests, for nobody else reads it.
    fn map_file(&self, name: &ObjectName) -> PathBuf {
        self.write.join(format!(".{}.{}.configmap", name.namespace, name.name))
    }
}

/// Changes whenever what is held does.
fn version_of(data: &impl Hash, annotations: &BTreeMap<String, String>) -> String {
    let mut hasher = DefaultHasher::new();
    (data, annotations).hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// A Secret as others see it; its version is a hash of what it holds.
fn stored(name: &ObjectName, secret: core::Secret) -> StoredSecret {
    let data: BTreeMap<String, Vec<u8>> =
        secret.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0)).collect();
    let annotations = secret.metadata.annotations.unwrap_or_default();
    StoredSecret {
        name: name.clone(),
        kind: secret.type_.unwrap_or_default(),
        version: Some(version_of(&data, &annotations)),
        data,
        annotations,
        labels: secret.metadata.labels.unwrap_or_default(),
        rest: Rest::default(),
    }
}

/// Writes a file nobody else may read, whole or not at all; a new one only where there is none.
fn write_private(path: &Path, object: &Value, new: bool) -> io::Result<()> {
    let draft = path.with_extension(format!("{:016x}.draft", rand::random::<u64>()));
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&draft)?;
    serde_json::to_writer_pretty(&mut file, object)?;
    file.write_all(b"\n")?;
    file.sync_all()?;
    if new {
        let linked = std::fs::hard_link(&draft, path);
        std::fs::remove_file(&draft)?;
        return linked;
    }
    std::fs::rename(&draft, path)
}

impl Directory {
    /// Reads what changed; says whether anything did.
    fn look(&self, files: &mut Files) -> bool {
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
    fn ordered<'a>(&self, files: &'a Files) -> Vec<(&'a PathBuf, &'a Seen)> {
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

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|it| it == "yaml" || it == "yml" || it == "json")
}

fn names_in(directory: &Path) -> io::Result<Vec<PathBuf>> {
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

fn parse(text: &str, json: bool) -> Result<Vec<Value>, String> {
    let documents: Vec<Value> = if json {
        serde_json::Deserializer::from_str(text)
            .into_iter()
            .collect::<Result<_, _>>()
            .map_err(|it| discreet(&it.to_string()))?
    } else {
        serde_saphyr::from_multiple_with_options(text, generous())
            .map_err(|it| discreet(&it.to_string()))?
    };
    Ok(documents.into_iter().flat_map(unfold).collect())
}

/// The YAML parser's limits, for files of ten thousand objects; those on depth and aliases, by which a
/// small file would become a large one, stay.
fn generous() -> serde_saphyr::Options {
    const MANY: usize = 100_000_000;
    let mut options = serde_saphyr::Options::default();
    if let Some(budget) = &mut options.budget {
        budget.max_documents = MANY;
        budget.max_nodes = MANY;
        budget.max_events = MANY;
    }
    options
}

/// What a parser says, without what it quotes: that may be a key.
fn discreet(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    let mut quoted = false;
    line.chars()
        .filter(|it| {
            let mark = matches!(it, '"' | '`');
            quoted ^= mark;
            mark || !quoted
        })
        .collect()
}

/// The objects of a `List`, or the object itself.
fn unfold(document: Value) -> Vec<Value> {
    match document {
        Value::Object(mut map) if matches!(map.get("items"), Some(Value::Array(_))) => {
            match map.remove("items") {
                Some(Value::Array(items)) => items.into_iter().flat_map(unfold).collect(),
                _ => Vec::new(),
            }
        }
        Value::Null => Vec::new(),
        other => vec![other],
    }
}

fn find(files: &[(&PathBuf, &Seen)], name: &ObjectName) -> Option<core::Secret> {
    let objects = files.iter().flat_map(|(_, it)| &it.objects);
    let secrets = objects.filter(|it| it["kind"] == "Secret");
    let matching = secrets.filter_map(|it| with_string_data(it.clone()).ok());
    let mut matching = matching.rev();
    matching.find(|it| convert::name(&it.metadata) == *name)
}

/// `stringData` is `data` that an API server would have encoded.
fn with_string_data(value: Value) -> Result<core::Secret, String> {
    let mut secret: core::Secret = typed(value)?;
    for (name, text) in secret.string_data.take().into_iter().flatten() {
        secret.data.get_or_insert_default().insert(name, ByteString(text.into_bytes()));
    }
    default_namespace(&mut secret.metadata.namespace);
    Ok(secret)
}

fn typed<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_json::from_value(value).map_err(|it| discreet(&it.to_string()))
}

/// `kubectl` puts objects without a namespace into this one.
fn default_namespace(namespace: &mut Option<String>) {
    namespace.get_or_insert_with(|| "default".to_owned());
}

fn gather(files: &[(&PathBuf, &Seen)]) -> Objects {
    let mut objects = Objects::default();
    for (path, seen) in files {
        let mut report = |text: String| {
            let object = ObjectName::new("", path.display().to_string());
            objects.problems.push(Problem { kind: Kind::File, object, reason: "BadFile", text });
        };
        if let Some(trouble) = &seen.trouble {
            report(trouble.clone());
        }
        let mut troubles = Vec::new();
        for value in &seen.objects {
            if let Err(trouble) = add(&mut objects, value.clone()) {
                troubles.push(format!(
                    "{} {:?} is left out: {trouble}",
                    value["kind"].as_str().unwrap_or("an object"),
                    value["metadata"]["name"].as_str().unwrap_or(""),
                ));
            }
        }
        for text in troubles {
            let object = ObjectName::new("", path.display().to_string());
            objects.problems.push(Problem { kind: Kind::File, object, reason: "BadObject", text });
        }
    }
    objects
}

fn add(objects: &mut Objects, value: Value) -> Result<(), String> {
    let version = value["apiVersion"].as_str().unwrap_or_default().to_owned();
    let kind = value["kind"].as_str().unwrap_or_default().to_owned();
    match (version.as_str(), kind.as_str()) {
        ("networking.k8s.io/v1", "Ingress") => {
            let mut it: k8s_openapi::api::networking::v1::Ingress = typed(value)?;
            default_namespace(&mut it.metadata.namespace);
            let name = convert::name(&it.metadata);
            objects.ingresses.insert(name, Arc::new(convert::ingress(it)));
        }
        ("networking.k8s.io/v1", "IngressClass") => {
            let it: k8s_openapi::api::networking::v1::IngressClass = typed(value)?;
            objects.classes.insert(convert::name(&it.metadata), Arc::new(convert::class(it)));
        }
        ("v1", "Service") => {
            let mut it: core::Service = typed(value)?;
            default_namespace(&mut it.metadata.namespace);
            let name = convert::name(&it.metadata);
            objects.services.insert(name, Arc::new(convert::service(it)));
        }
        ("discovery.k8s.io/v1", "EndpointSlice") => {
            let mut it: k8s_openapi::api::discovery::v1::EndpointSlice = typed(value)?;
            default_namespace(&mut it.metadata.namespace);
            let name = convert::name(&it.metadata);
            objects.slices.insert(name, Arc::new(convert::slice(it)));
        }
        ("v1", "Secret") => {
            let it = with_string_data(value)?;
            let name = convert::name(&it.metadata);
            objects.secrets.insert(name, Arc::new(convert::secret(it)));
        }
        ("v1", "ConfigMap") => {
            let mut it: core::ConfigMap = typed(value)?;
            default_namespace(&mut it.metadata.namespace);
            let name = convert::name(&it.metadata);
            objects.config_maps.insert(name, Arc::new(convert::config_map(it)));
        }
        ("extensions/v1beta1" | "networking.k8s.io/v1beta1", "Ingress") => {
            return Err(format!(
                "{version} is gone since Kubernetes 1.22: write networking.k8s.io/v1"
            ));
        }
        // Deployments and the like stand in the same files; they are nobody's mistake.
        _ => {}
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const OBJECTS: &str = r"
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Service, metadata: {name: web, namespace: a}, spec: {ports: [{port: 80, targetPort: http}]}}
---
apiVersion: networking.k8s.io/v1
kind: Ingress
metadata: {name: web}
spec: {rules: [{host: a.test, http: {paths: [{path: /, pathType: Prefix, backend: {service: {name: web, port: {number: 80}}}}]}}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
";

    #[test]
    fn lists_documents_and_strangers_are_read() {
        let directory = tempfile::tempdir().expect("a directory");
        std::fs::write(directory.path().join("a.yaml"), OBJECTS).expect("written");
        let store = Directory::new([directory.path().to_owned()], directory.path().join("issued"));
        let mut files = Files::new();
        assert!(store.look(&mut files));
        let objects = gather(&store.ordered(&files));
        assert_eq!(objects.problems, []);
        assert!(objects.services.contains_key(&ObjectName::new("a", "web")));
        assert!(objects.ingresses.contains_key(&ObjectName::new("default", "web")));
        assert!(!store.look(&mut files), "nothing changed");
    }

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
        let objects = gather(&store.ordered(&files));
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
        let objects = gather(&store.ordered(&files));
        assert_eq!((objects.ingresses.len(), objects.problems.len()), (1, 1));
        assert!(!store.look(&mut files), "told once");
    }

    #[test]
    fn many_objects_fit_into_one_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Directory::new([directory.path().to_owned()], directory.path().join("issued"));
        let document =
            |it| format!("---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m{it}}}\n");
        let text: String = (0..3_000).map(document).collect();
        std::fs::write(directory.path().join("a.yaml"), text).expect("written");
        let mut files = Files::new();
        store.look(&mut files);
        let objects = gather(&store.ordered(&files));
        assert_eq!((objects.config_maps.len(), objects.problems), (3_000, vec![]));
    }

    #[test]
    fn what_a_parser_quotes_is_not_told() {
        for (text, expected) in [
            (
                "invalid type: string \"key\", expected a map\n  5 | key",
                "invalid type: string \"\", expected a map",
            ),
            ("unknown field `x`", "unknown field ``"),
        ] {
            assert_eq!(discreet(text), expected);
        }
    }

    #[tokio::test]
    async fn a_secret_is_written_privately_and_read_back() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().expect("a directory");
        let store = Directory::new([], directory.path().join("issued"));
        let secret = StoredSecret {
            name: ObjectName::new("a", "b"),
            kind: "Opaque".into(),
            data: BTreeMap::from([("key".into(), b"\x00value".to_vec())]),
            ..StoredSecret::default()
        };
        store.write_secret(&secret, false).await.expect("written");
        let read = store.secret(&secret.name).await.expect("read").expect("there");
        assert_eq!((read.kind, read.data), (secret.kind.clone(), secret.data.clone()));
        let meta = std::fs::metadata(store.file(&secret.name)).expect("a file");
        assert_eq!(meta.permissions().mode() & 0o777, 0o600);
        // What was written since it was read is somebody's who goes on with it.
        let seen = store.secret(&secret.name).await.expect("read").expect("there");
        let mut newer = seen.clone();
        newer.data.insert("key".into(), b"other".to_vec());
        newer.version = store.write_secret(&newer, false).await.expect("written");
        let refused = store.delete_secret(&seen).await;
        assert_eq!(refused, Err(StoreError::Conflict(secret.name.clone())));
        store.delete_secret(&newer).await.expect("deleted");
        store.delete_secret(&newer).await.expect("gone already");
        assert_eq!(store.secret(&secret.name).await, Ok(None));
    }
}
