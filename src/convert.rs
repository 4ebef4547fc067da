//! `lockgate convert`: manifests of old clusters → those of today, with a report of what was changed.
//!
//! Floor 7. Nothing is applied: the new objects go to standard output, the report to standard error.
//! Ingresses become `networking.k8s.io/v1` with an `ingressClassName`; annotations under the prefix that
//! ingress-nginx left in 0.9 get the present one; what kube-lego made for its challenges is left out.
//! Whatever else is in the files passes as it is.

use std::process::ExitCode;

use serde_json::{Map, Value, json};

use crate::app;
use crate::args;
use crate::compile::annotation;
use crate::store::Directory;

const OLD_PREFIX: &str = "ingress.kubernetes.io/";
const PREFIX: &str = "nginx.ingress.kubernetes.io/";
const CLASS: &str = "kubernetes.io/ingress.class";
const LEGO_CHALLENGES: &str = "kubernetes.io/tls-acme-challenge-endpoints";
/// Annotations that others took the place of.
const REPLACED: [(&str, &str, &str); 3] = [
    ("secure-backends", "backend-protocol", "HTTPS"),
    ("grpc-backend", "backend-protocol", "GRPC"),
    ("session-cookie-hash", "", ""),
];

/// Reads manifests, prints those of today.
pub fn run(args: &args::Convert) -> anyhow::Result<ExitCode> {
    let documents = Directory::documents(&args.files)?;
    let mut report = Vec::new();
    let converted: Vec<Value> =
        documents.into_iter().filter_map(|it| convert(it, &mut report)).collect();
    app::say(&serde_saphyr::to_string_multiple(&converted)?);
    for line in &report {
        eprintln!("{line}");
    }
    eprintln!("{} objects, {} changes; nothing was applied", converted.len(), report.len());
    Ok(ExitCode::SUCCESS)
}

/// What an object is today; `None` for one that should be deleted.
fn convert(mut object: Value, report: &mut Vec<String>) -> Option<Value> {
    let kind = object["kind"].as_str().unwrap_or_default().to_owned();
    let name = match (&object["metadata"]["namespace"], &object["metadata"]["name"]) {
        (Value::String(namespace), Value::String(name)) => format!("{kind} {namespace}/{name}"),
        (_, Value::String(name)) => format!("{kind} {name}"),
        _ => kind.clone(),
    };
    let mut say = |text: String| report.push(format!("{name}: {text}"));
    if kind != "Ingress" {
        let lego = matches!(kind.as_str(), "Service" | "Deployment" | "ConfigMap")
            && object["metadata"]["name"].as_str().is_some_and(|it| it.starts_with("kube-lego"));
        if lego {
            say("is kube-lego's and no longer needed: delete it once certificates were issued"
                .into());
        }
        return Some(object);
    }
    if object["metadata"]["annotations"][LEGO_CHALLENGES] == "true" {
        say("left out: kube-lego answered challenges by it; delete it from the cluster".to_owned());
        return None;
    }
    let metadata = object["metadata"].as_object_mut()?;
    for field in ["creationTimestamp", "generation", "resourceVersion", "selfLink", "uid"] {
        metadata.remove(field);
    }
    metadata.remove("managedFields");
    let class = annotations(metadata, &mut say);
    let before = object["apiVersion"].as_str().unwrap_or_default().to_owned();
    object.as_object_mut()?.remove("status");
    if matches!(before.as_str(), "extensions/v1beta1" | "networking.k8s.io/v1beta1") {
        object["apiVersion"] = json!("networking.k8s.io/v1");
        say(format!("{before} → networking.k8s.io/v1"));
        if let Some(spec) = object["spec"].as_object_mut() {
            update_spec(spec, &mut say);
        }
    }
    if let (Some(class), Some(spec)) = (class, object["spec"].as_object_mut()) {
        if spec.contains_key("ingressClassName") {
            say(format!("annotation {CLASS} removed: the field ingressClassName decides"));
        } else {
            say(format!("annotation {CLASS} → ingressClassName: {class}"));
            spec.insert("ingressClassName".to_owned(), json!(class));
        }
    }
    Some(object)
}

/// Brings annotations up to date; gives the class.
fn annotations(metadata: &mut Map<String, Value>, say: &mut impl FnMut(String)) -> Option<String> {
    let annotations = metadata.get_mut("annotations")?.as_object_mut()?;
    let old: Vec<String> =
        annotations.keys().filter(|it| it.starts_with(OLD_PREFIX)).cloned().collect();
    for key in old {
        let name = key.trim_start_matches(OLD_PREFIX);
        let Some(value) = annotations.remove(&key) else { continue };
        let new = format!("{PREFIX}{name}");
        if annotation::row(name).is_none() {
            say(format!("annotation {key} kept: nobody reads {new}"));
            annotations.insert(key, value);
        } else if annotations.contains_key(&new) {
            say(format!("annotation {key} removed: {new} is there and wins"));
        } else {
            say(format!("annotation {key} → {new}"));
            annotations.insert(new, value);
        }
    }
    for (name, new, value) in REPLACED {
        let Some(old) = annotations.remove(&format!("{PREFIX}{name}")) else { continue };
        if new.is_empty() || old != "true" {
            say(format!("annotation {PREFIX}{name} removed: it has no effect"));
            continue;
        }
        say(format!("annotation {PREFIX}{name} → {new}: {value}"));
        annotations.entry(format!("{PREFIX}{new}")).or_insert_with(|| json!(value));
    }
    let class = annotations.remove(CLASS)?;
    class.as_str().map(str::to_owned)
}

/// v1beta1 → v1.
fn update_spec(spec: &mut Map<String, Value>, say: &mut impl FnMut(String)) {
    if let Some(backend) = spec.remove("backend") {
        spec.insert("defaultBackend".to_owned(), update_backend(backend));
    }
    let rules = spec.get_mut("rules").and_then(Value::as_array_mut);
    let paths = rules.into_iter().flatten().filter_map(|it| it["http"]["paths"].as_array_mut());
    for path in paths.flatten() {
        if let Some(backend) = path.get_mut("backend") {
            *backend = update_backend(backend.take());
        }
        if path["pathType"].is_null() {
            // What ingress-nginx takes it for; a regular expression is no prefix to an API server.
            let text = path["path"].as_str().unwrap_or_default().to_owned();
            let plain = text.chars().all(|it| it.is_ascii_alphanumeric() || "/-._~%".contains(it));
            let kind = if plain { "Prefix" } else { "ImplementationSpecific" };
            path["pathType"] = json!(kind);
            if text.is_empty() {
                path["path"] = json!("/");
            }
            say(format!("path {:?} has pathType {kind}", path["path"].as_str().unwrap_or("/")));
        }
    }
}

fn update_backend(mut old: Value) -> Value {
    let (name, port) = (old["serviceName"].take(), old["servicePort"].take());
    if name.is_null() {
        return old;
    }
    let number = port.as_u64().or_else(|| port.as_str().and_then(|it| it.parse().ok()));
    let port = match number {
        Some(number) => json!({ "number": number }),
        None => json!({ "name": port }),
    };
    json!({ "service": { "name": name, "port": port } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ingress_of_2017_becomes_one_of_today() {
        let old = json!({
            "apiVersion": "extensions/v1beta1",
            "kind": "Ingress",
            "metadata": {
                "name": "web",
                "creationTimestamp": null,
                "annotations": {
                    "kubernetes.io/ingress.class": "nginx",
                    "kubernetes.io/tls-acme": "true",
                    "ingress.kubernetes.io/ssl-redirect": "false",
                    "ingress.kubernetes.io/nobody-knows": "x",
                    "nginx.ingress.kubernetes.io/secure-backends": "true",
                },
            },
            "spec": {
                "backend": { "serviceName": "fallback", "servicePort": "http" },
                "rules": [{ "host": "a.test", "http": { "paths": [
                    { "path": "/current", "backend": { "serviceName": "app", "servicePort": 3000 } },
                    { "path": "/id/[0-9]+", "backend": { "serviceName": "app", "servicePort": "3000" } },
                    { "backend": { "serviceName": "static", "servicePort": 8082 } },
                ] } }],
            },
            "status": { "loadBalancer": {} },
        });
        let mut report = Vec::new();
        let new = convert(old, &mut report).expect("an object");
        let service = |name: &str, number: u16| json!({ "service": { "name": name, "port": { "number": number } } });
        assert_eq!(
            new,
            json!({
                "apiVersion": "networking.k8s.io/v1",
                "kind": "Ingress",
                "metadata": {
                    "name": "web",
                    "annotations": {
                        "kubernetes.io/tls-acme": "true",
                        "ingress.kubernetes.io/nobody-knows": "x",
                        "nginx.ingress.kubernetes.io/ssl-redirect": "false",
                        "nginx.ingress.kubernetes.io/backend-protocol": "HTTPS",
                    },
                },
                "spec": {
                    "ingressClassName": "nginx",
                    "defaultBackend": { "service": { "name": "fallback", "port": { "name": "http" } } },
                    "rules": [{ "host": "a.test", "http": { "paths": [
                        { "path": "/current", "pathType": "Prefix", "backend": service("app", 3000) },
                        { "path": "/id/[0-9]+", "pathType": "ImplementationSpecific", "backend": service("app", 3000) },
                        { "path": "/", "pathType": "Prefix", "backend": service("static", 8082) },
                    ] } }],
                },
            })
        );
        assert!(report.len() >= 7, "{report:?}");
    }

    #[test]
    fn what_kube_lego_left_goes_and_all_else_stays() {
        let challenge = json!({
            "kind": "Ingress",
            "metadata": { "name": "kube-lego-nginx", "annotations": { LEGO_CHALLENGES: "true" } },
        });
        let mut report = Vec::new();
        assert_eq!(convert(challenge, &mut report), None);
        assert_eq!(report.len(), 1);
        let service = json!({ "kind": "Service", "metadata": { "name": "web" } });
        assert_eq!(convert(service.clone(), &mut report), Some(service));
        let today = json!({
            "apiVersion": "networking.k8s.io/v1",
            "kind": "Ingress",
            "metadata": { "name": "web" },
            "spec": { "rules": [] },
        });
        assert_eq!(convert(today.clone(), &mut report), Some(today));
        assert_eq!(report.len(), 1, "{report:?}");
    }
}
