//! Objects in files: YAML or JSON, as `kubectl get -o yaml` prints them, read again when they change.
//!
//! Changes are found by looking once a second: mounted ConfigMaps swap symbolic links, which confuses
//! whoever waits for notifications. A file that cannot be read keeps the objects it held before.

mod files;
mod objects;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1 as core;
use serde_json::Value;
use tokio::sync::watch;

use super::{Rest, Selection, Snapshots, StoreError, StoredMap, StoredSecret};
use crate::compile::objects::Objects;
use crate::model::name::ObjectName;
use files::{Files, Seen, is_manifest, names_in};
use objects::{find, gather, parse};

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// Directories of manifests, and one to write to.
#[derive(Clone, Debug)]
pub struct Directory {
    read: Arc<[PathBuf]>,
    write: Arc<Path>,
    /// `None` where every namespace counts.
    selection: Option<Arc<Selection>>,
}

impl Directory {
    /// Reads from `read` and from `write`; writes to `write`, which is made when it is needed.
    pub fn new(read: impl IntoIterator<Item = PathBuf>, write: PathBuf) -> Self {
        let mut read: Vec<PathBuf> = read.into_iter().collect();
        if !read.iter().any(|it| write.starts_with(it)) {
            read.push(write.clone());
        }
        Self { read: read.into(), write: write.into(), selection: None }
    }

    /// Leaves out objects of namespaces that do not count.
    #[must_use]
    pub fn selecting(self, selection: Option<Selection>) -> Self {
        Self { selection: selection.map(Arc::new), ..self }
    }

    /// What is in files and directories right now; `-` is standard input, in YAML or JSON. Fails for a
    /// path that is not there, or is a file that nobody would take for objects.
    pub fn once(paths: &[PathBuf], selection: Option<&Selection>) -> io::Result<Objects> {
        let files = Self::files(paths)?;
        Ok(gather(&files.iter().collect::<Vec<_>>(), selection))
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
        Self { read, write: Path::new("").into(), selection: None }.look(&mut files);
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
                    let selection = directory.selection.as_deref();
                    let gathered = || gather(&directory.ordered(&files), selection);
                    let objects = (changed || first).then(gathered);
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
        let found = blocking(move || {
            let mut files = Files::new();
            directory.look(&mut files);
            find(&directory.ordered(&files), &wanted)
        });
        let found = found.await?;
        Ok(found.map(|secret| stored(name, secret)))
    }

    pub(super) async fn secrets_like(
        &self,
        namespace: &str,
        prefix: &str,
    ) -> Result<Vec<StoredSecret>, StoreError> {
        let (directory, begin) = (self.clone(), format!("{namespace}.{prefix}"));
        let files = match blocking(move || names_in(&directory.write)).await? {
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
        let written = blocking(move || {
            let directory = path.parent().unwrap_or(Path::new("."));
            std::fs::create_dir_all(directory)?;
            if rehearse { Ok(()) } else { write_private(&path, &object, new) }
        });
        written.await?.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => StoreError::Conflict(name.clone()),
            _ => StoreError::Unavailable(format!("{}: {error}", self.file(name).display())),
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
        let written = blocking(move || {
            std::fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
            write_private(&path, &object, false)
        });
        written.await?.map_err(|it| StoreError::Unavailable(format!("{shown}: {it}")))?;
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

/// Does beside the runtime what waits for a disk.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, StoreError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|it| StoreError::Unavailable(it.to_string()))
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

#[cfg(test)]
mod tests {
    use super::*;

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
