//! Objects in texts: documents in YAML or JSON, and what is made of them.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::api::networking::v1 as networking;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{ByteString, Metadata};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::files::Seen;
use crate::compile::objects::Objects;
use crate::model::name::{Kind, ObjectName};
use crate::model::problem::Problem;
use crate::store::{Selection, convert};

/// The documents of a text, those of lists one by one.
pub(super) fn parse(text: &str, json: bool) -> Result<Vec<Value>, String> {
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

/// The Secret of this name; the last one, if there are several.
pub(super) fn find(files: &[(&PathBuf, &Seen)], name: &ObjectName) -> Option<core::Secret> {
    let objects = files.iter().flat_map(|(_, it)| &it.objects);
    let secrets = objects.filter(|it| it["kind"] == "Secret");
    let mut matching = secrets.filter_map(|it| secret(it.clone()).ok()).rev();
    matching.find(|(it, _)| it == name).map(|(_, it)| it)
}

/// All objects of all files that count; what cannot be read is a problem of its file.
pub(super) fn gather(files: &[(&PathBuf, &Seen)], selection: Option<&Selection>) -> Objects {
    let mut objects = Objects::default();
    let mut namespaces = selection.map(|_| Namespaces::default());
    for (path, seen) in files {
        let problem = |reason, text| {
            let object = ObjectName::new("", path.display().to_string());
            Problem { kind: Kind::File, object, reason, text }
        };
        if let Some(trouble) = &seen.trouble {
            objects.problems.push(problem("BadFile", trouble.clone()));
        }
        for value in &seen.objects {
            let added = match &mut namespaces {
                Some(it) if Namespaces::is_one(value) => it.add(value),
                _ => add(&mut objects, value.clone()),
            };
            if let Err(trouble) = added {
                let kind = value["kind"].as_str().unwrap_or("an object");
                let name = value["metadata"]["name"].as_str().unwrap_or("");
                let text = format!("{kind} {name:?} is left out: {trouble}");
                objects.problems.push(problem("BadObject", text));
            }
        }
    }
    if let (Some(selection), Some(namespaces)) = (selection, namespaces) {
        let counting = namespaces.counting(selection, &objects);
        selection.narrow(&mut objects, &counting);
    }
    objects
}

/// The labels of namespaces, as far as there are manifests of them.
#[derive(Default)]
struct Namespaces {
    labels: BTreeMap<Arc<str>, BTreeMap<String, String>>,
    /// Nobody knows their labels: they never count.
    unreadable: BTreeSet<Arc<str>>,
}

impl Namespaces {
    fn is_one(value: &Value) -> bool {
        value["apiVersion"] == "v1" && value["kind"] == "Namespace"
    }

    fn add(&mut self, value: &Value) -> Result<(), String> {
        let name: Arc<str> = value["metadata"]["name"].as_str().unwrap_or_default().into();
        match typed::<core::Namespace>(value.clone()) {
            Ok(it) => {
                self.unreadable.remove(&name);
                self.labels.insert(name, it.metadata.labels.unwrap_or_default());
                Ok(())
            }
            Err(trouble) => {
                self.labels.remove(&name);
                self.unreadable.insert(name);
                Err(trouble)
            }
        }
    }

    fn counting(&self, selection: &Selection, objects: &Objects) -> HashSet<Arc<str>> {
        let used = objects.ingresses.keys().chain(objects.services.keys());
        let used = used.chain(objects.slices.keys()).chain(objects.secrets.keys());
        let used = used.chain(objects.config_maps.keys()).map(|it| &it.namespace);
        let known = used.chain(self.labels.keys()).filter(|it| !self.unreadable.contains(*it));
        selection.of(known, &self.labels)
    }
}

fn add(objects: &mut Objects, value: Value) -> Result<(), String> {
    let version = value["apiVersion"].as_str().unwrap_or_default().to_owned();
    let kind = value["kind"].as_str().unwrap_or_default().to_owned();
    match (version.as_str(), kind.as_str()) {
        ("networking.k8s.io/v1", "Ingress") => {
            let (name, it) = namespaced::<networking::Ingress>(value)?;
            objects.ingresses.insert(name, Arc::new(convert::ingress(it)));
        }
        ("networking.k8s.io/v1", "IngressClass") => {
            let it: networking::IngressClass = typed(value)?;
            objects.classes.insert(convert::name(&it.metadata), Arc::new(convert::class(it)));
        }
        ("v1", "Service") => {
            let (name, it) = namespaced::<core::Service>(value)?;
            objects.services.insert(name, Arc::new(convert::service(it)));
        }
        ("discovery.k8s.io/v1", "EndpointSlice") => {
            let (name, it) = namespaced::<EndpointSlice>(value)?;
            objects.slices.insert(name, Arc::new(convert::slice(it)));
        }
        ("v1", "Secret") => {
            let (name, it) = secret(value)?;
            objects.secrets.insert(name, Arc::new(convert::secret(it)));
        }
        ("v1", "ConfigMap") => {
            let (name, it) = namespaced::<core::ConfigMap>(value)?;
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

/// `stringData` is `data` that an API server would have encoded.
fn secret(value: Value) -> Result<(ObjectName, core::Secret), String> {
    let (name, mut secret) = namespaced::<core::Secret>(value)?;
    for (entry, text) in secret.string_data.take().into_iter().flatten() {
        secret.data.get_or_insert_default().insert(entry, ByteString(text.into_bytes()));
    }
    Ok((name, secret))
}

/// An object and its name. `kubectl` puts those without a namespace into `default`.
fn namespaced<T>(value: Value) -> Result<(ObjectName, T), String>
where
    T: DeserializeOwned + Metadata<Ty = ObjectMeta>,
{
    let mut object: T = typed(value)?;
    object.metadata_mut().namespace.get_or_insert_with(|| "default".to_owned());
    Ok((convert::name(object.metadata()), object))
}

fn typed<T: DeserializeOwned>(value: Value) -> Result<T, String> {
    serde_json::from_value(value).map_err(|it| discreet(&it.to_string()))
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::Directory;
    use super::super::files::Files;
    use super::*;

    pub(in crate::store::directory) const OBJECTS: &str = r"
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
        let objects = gather(&store.ordered(&files), None);
        assert_eq!(objects.problems, []);
        assert!(objects.services.contains_key(&ObjectName::new("a", "web")));
        assert!(objects.ingresses.contains_key(&ObjectName::new("default", "web")));
        assert!(!store.look(&mut files), "nothing changed");
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
        let objects = gather(&store.ordered(&files), None);
        assert_eq!((objects.config_maps.len(), objects.problems), (3_000, vec![]));
    }

    #[test]
    fn manifests_of_namespaces_give_their_labels() {
        const NAMESPACES: &str = r"
{apiVersion: v1, kind: Namespace, metadata: {name: a, labels: {team: one}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: broken, labels: {team: 1}}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: m, namespace: a}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: m, namespace: broken}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: m, namespace: bare}}
";
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("a.yaml");
        std::fs::write(&path, NAMESPACES).expect("written");
        for (selector, expected, problems) in [
            (None, &["a/m", "bare/m", "broken/m"][..], &[][..]),
            (Some("team=one"), &["a/m"], &["BadObject"]),
            // What cannot be read could be labelled in any way.
            (Some("team!=one"), &["bare/m"], &["BadObject"]),
            (Some("!x"), &["a/m", "bare/m"], &["BadObject"]),
            (Some("team=two"), &[], &["BadObject", "NoNamespace"]),
        ] {
            let selection = selector.map(|it| Selection {
                selector: it.parse().expect("a selector"),
                ..Selection::default()
            });
            let objects =
                Directory::once(std::slice::from_ref(&path), selection.as_ref()).expect("objects");
            let found: Vec<_> = objects.config_maps.keys().map(ToString::to_string).collect();
            assert_eq!(found, expected, "{selector:?}");
            let told: Vec<_> = objects.problems.iter().map(|it| it.reason).collect();
            assert_eq!(told, problems, "{selector:?}");
        }
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
}
