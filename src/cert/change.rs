//! What is asked of the leader: annotations on the Secret, which it acts on and takes away again.

use anyhow::{Context, bail, ensure};

use crate::args::{Place, Reason};
use crate::compile::objects::{MANAGED, TLS_ACME};
use crate::model::name::ObjectName;
use crate::store::{Cluster, ClusterOptions, Directory, Store, StoreError, StoredSecret};

/// `now`, or `force` for one certificate more than the limit allows.
const RENEW: &str = "lockgate.dev/renew";
/// `true`: the Secret becomes ours.
const ADOPT: &str = "lockgate.dev/adopt";
/// Why, in RFC 5280's words.
const REVOKE: &str = "lockgate.dev/revoke";

/// How often somebody else may write in between.
const TRIES: u32 = 5;

pub(super) async fn renew(place: &Place, name: &ObjectName, force: bool) -> anyhow::Result<()> {
    annotate(place, name, RENEW, if force { "force" } else { "now" }, |secret| {
        is_managed(secret).map(|()| true)
    })
    .await?;
    println!("Renewal of {name} is asked for. The leader acts on it within seconds:");
    println!("  lockgate cert describe {name}");
    Ok(())
}

pub(super) async fn adopt(place: &Place, name: &ObjectName) -> anyhow::Result<()> {
    let asked = annotate(place, name, ADOPT, "true", |secret| {
        ensure!(
            secret.kind == "kubernetes.io/tls",
            "Secret {name} is of type {:?}, and only kubernetes.io/tls can be adopted",
            secret.kind
        );
        Ok(is_managed(secret).is_err())
    })
    .await?;
    let Some(secret) = asked else {
        println!("{name} is managed already.");
        return Ok(());
    };
    println!("Adoption of {name} is asked for. What it holds is kept, and renewed when it is due.");
    if let Some(certificate) = secret.annotations.get("cert-manager.io/certificate-name") {
        println!(
            "cert-manager wrote it: delete its Certificate, or both will write. The Secret stays.\n  \
             kubectl --namespace {} delete certificate {certificate}",
            name.namespace
        );
    }
    println!(
        "An Ingress keeps it alive that names it under spec.tls and is annotated {TLS_ACME}: \"true\"."
    );
    Ok(())
}

pub(super) async fn revoke(place: &Place, name: &ObjectName, reason: Reason) -> anyhow::Result<()> {
    annotate(place, name, REVOKE, reason.as_str(), |secret| is_managed(secret).map(|()| true))
        .await?;
    println!(
        "Revocation of {name} ({}) is asked for. While an Ingress asks for a certificate,",
        reason.as_str()
    );
    println!("another takes its place:\n  lockgate cert describe {name}");
    Ok(())
}

fn is_managed(secret: &StoredSecret) -> anyhow::Result<()> {
    let lego = secret.annotations.get(TLS_ACME).is_some_and(|it| it.eq_ignore_ascii_case("true"));
    let name = &secret.name;
    ensure!(
        lego || secret.annotations.contains_key(MANAGED),
        "Secret {name} is not managed by Lockgate, which therefore never writes it; \
         `lockgate cert adopt {name}` hands it over"
    );
    Ok(())
}

/// Writes one annotation, if `wanted` agrees to what the Secret is; gives the Secret as it was.
async fn annotate(
    place: &Place,
    name: &ObjectName,
    key: &str,
    value: &str,
    wanted: impl Fn(&StoredSecret) -> anyhow::Result<bool>,
) -> anyhow::Result<Option<StoredSecret>> {
    let store = store(place).await?;
    for _ in 0..TRIES {
        let found = store.secret(name).await.with_context(|| format!("Secret {name}"))?;
        let Some(found) = found else { bail!("there is no Secret {name}") };
        if !wanted(&found)? {
            return Ok(None);
        }
        let mut secret = found.clone();
        secret.annotations.insert(key.to_owned(), value.to_owned());
        match store.write_secret(&secret, false).await {
            Ok(_) => return Ok(Some(found)),
            // Somebody wrote in between: what is there now may be another matter.
            Err(StoreError::Conflict(_)) => {}
            Err(error) => return Err(error).with_context(|| format!("Secret {name}")),
        }
    }
    bail!("Secret {name} is being written by others all the time; try again")
}

async fn store(place: &Place) -> anyhow::Result<Store> {
    if let Some(directory) = &place.manifests {
        ensure!(directory.is_dir(), "--manifests: {} is no directory", directory.display());
        let issued = directory.join("issued");
        return Ok(Store::Directory(Directory::new([directory.clone()], issued)));
    }
    let options = ClusterOptions {
        kubeconfig: place.kubeconfig.clone(),
        host: place.apiserver_host.clone(),
        ..ClusterOptions::default()
    };
    let cluster = Cluster::connect(options).await;
    Ok(Store::Cluster(cluster.context("no way to the API server is configured")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with a Secret that bears this annotation.
    fn directory(annotation: &str) -> (tempfile::TempDir, Place) {
        let files = tempfile::tempdir().expect("a directory");
        let yaml = format!(
            "{{apiVersion: v1, kind: Secret, metadata: {{namespace: shop, name: web, annotations: \
             {{{annotation}}}}}, type: kubernetes.io/tls, data: {{tls.crt: YQ==, tls.key: Yg==}}}}"
        );
        std::fs::write(files.path().join("objects.yaml"), yaml).expect("a file");
        let manifests = Some(files.path().to_owned());
        (files, Place { manifests, kubeconfig: None, apiserver_host: None })
    }

    async fn read(place: &Place) -> StoredSecret {
        let store = store(place).await.expect("a store");
        let found = store.secret(&ObjectName::new("shop", "web")).await.expect("files");
        found.expect("a Secret")
    }

    #[tokio::test]
    async fn commands_are_annotations_on_managed_secrets() {
        let name = ObjectName::new("shop", "web");
        let (_files, ours) = directory("lockgate.dev/managed: v1");
        renew(&ours, &name, false).await.expect("done");
        assert_eq!(read(&ours).await.annotations[RENEW], "now");
        renew(&ours, &name, true).await.expect("done");
        revoke(&ours, &name, Reason::KeyCompromise).await.expect("done");
        let secret = read(&ours).await;
        assert_eq!(secret.annotations[RENEW], "force");
        assert_eq!(secret.annotations[REVOKE], "keyCompromise");
        assert_eq!(secret.annotations[MANAGED], "v1");
        assert_eq!((&*secret.data["tls.crt"], &*secret.data["tls.key"]), (&b"a"[..], &b"b"[..]));
        // There is nothing to adopt, which is said and is no mistake.
        adopt(&ours, &name).await.expect("done");
        assert!(!read(&ours).await.annotations.contains_key(ADOPT));
    }

    #[tokio::test]
    async fn somebody_elses_secret_is_only_adopted() {
        let name = ObjectName::new("shop", "web");
        let (_files, theirs) = directory("cert-manager.io/certificate-name: web");
        for refused in
            [renew(&theirs, &name, true).await, revoke(&theirs, &name, Reason::Unspecified).await]
        {
            let error = refused.expect_err("not ours").to_string();
            assert!(error.contains("lockgate cert adopt shop/web"), "{error}");
        }
        adopt(&theirs, &name).await.expect("done");
        let secret = read(&theirs).await;
        assert_eq!(secret.annotations[ADOPT], "true");
        assert!(!secret.annotations.contains_key(MANAGED), "the leader decides");

        let none = adopt(&theirs, &ObjectName::new("shop", "none")).await.expect_err("not there");
        assert!(none.to_string().contains("no Secret shop/none"), "{none}");
    }
}
