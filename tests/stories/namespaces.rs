//! `--watch-namespace-selector`: only namespaces with the right labels are served, as their labels are now.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::backend::Backend;
use crate::harness::client::Client;
use crate::harness::cluster::{Cluster, deploy};
use crate::harness::load::Load;
use crate::harness::lockgate::{
    Lockgate, backend, config_map, ingress, ingress_class, pair, tls_secret, without_settings,
};
use crate::harness::process::{SOON, eventually};

/// The whole of a host goes to `web`.
const ROOT: [(&str, &str, &str, u16); 1] = [("/", "Prefix", "web", 80)];

const SELECTOR: &str = "--watch-namespace-selector=team in (a, b), !internal";

/// What asks for namespaces.
const NAMESPACES: &str = "GET /api/v1/namespaces?";

/// The same objects in another namespace.
fn moved(yaml: &str, namespace: &str) -> String {
    yaml.replace("namespace: demo\n", &format!("namespace: {namespace}\n"))
}

/// A host whose requests go to `web`, all of it in one namespace.
fn house(namespace: &str, host: &str, web: &Backend) -> String {
    let objects = [ingress("one", host, &ROOT, &[]), backend("web", 80, &[web.addr()])];
    moved(&objects.concat(), namespace)
}

/// A namespace and its labels, as a manifest.
fn namespace(name: &str, labels: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{{labels}}}}}\n"
    )
}

async fn label(cluster: &Cluster, namespace: &str, labels: &[&str]) {
    let args = [&["label", "namespace", namespace, "--overwrite"], labels].concat();
    cluster.kubectl(&args).await.expect("it can be labelled");
}

/// Waits until `backend` answers for `host`.
async fn served(lockgate: &Lockgate, host: &str, backend: &str) {
    let url = format!("http://{host}/");
    eventually(&format!("{backend} at {url}"), SOON, async || {
        let reply = lockgate.client().get(&url).await.map_err(|error| error.to_string())?;
        let found = reply.backend();
        if found.as_deref() == Some(backend) { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

/// What a command of the program says of a cluster.
fn said(kubeconfig: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockgate"));
    without_settings(&mut command);
    command.args(args).arg("--kubeconfig").arg(kubeconfig).arg(SELECTOR);
    command.output().expect("it can be started")
}

/// What a command of the program says of objects.
fn said_of(yaml: &str, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockgate"));
    without_settings(&mut command);
    let pipes = command.args(args).args(["-f", "-"]).stdin(Stdio::piped());
    let mut child = pipes.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(yaml.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// Labels come and go under the same process, with the rights that are shipped; what flags and settings
/// name is read although its namespace does not count.
#[tokio::test(flavor = "multi_thread")]
async fn a_relabelled_namespace_brings_and_takes_its_routes() {
    let (cluster, web, shop, fallback) = tokio::join!(
        Cluster::installed(),
        Backend::outside("web"),
        Backend::outside("shop"),
        Backend::outside("fallback")
    );
    let theirs = pair(&["shop.test"]);
    let own = [
        backend("fallback", 80, &[fallback.addr()]),
        tls_secret("fallback", &theirs),
        config_map("added", &[("X-From", "settings")]),
    ];
    let objects = [
        namespace("shop", "team: a"),
        house("shop", "shop.test", &shop),
        house("demo", "demo.test", &web),
        moved(&own.concat(), "lockgate"),
        deploy("service.yaml"),
    ];
    cluster.apply(&objects.join("---\n")).await;
    let settings = json!({ "data": { "add-headers": "lockgate/added" } });
    cluster.patch_json("/api/v1/namespaces/lockgate/configmaps/lockgate", &settings).await;
    let balanced =
        json!({ "status": { "loadBalancer": { "ingress": [{ "ip": "198.51.100.8" }] } } });
    cluster.patch_json("/api/v1/namespaces/lockgate/services/lockgate/status", &balanced).await;
    let args = [
        SELECTOR,
        "--default-backend-service=lockgate/fallback",
        "--default-ssl-certificate=lockgate/fallback",
        "--publish-service=lockgate/lockgate",
    ];
    let lockgate = cluster.lockgate("lockgate").await.args(args).start().await;

    served(&lockgate, "shop.test", "shop").await;
    served(&lockgate, "demo.test", "fallback").await;
    eventually("the header field of the settings", SOON, async || {
        let reply = lockgate.client().get("http://shop.test/").await.ok()?;
        (reply.header("x-from") == Some("settings")).then_some(())
    })
    .await;
    let trusting = Client::new().ca(&theirs.certificate).connect_to(lockgate.https);
    eventually("the default certificate", SOON, async || trusting.get("https://shop.test/").await)
        .await;
    let address = async |namespace: &str| {
        let path = format!("/apis/networking.k8s.io/v1/namespaces/{namespace}/ingresses/one");
        let object = cluster.get_json(&path).await.unwrap_or_default();
        object["status"]["loadBalancer"]["ingress"][0]["ip"].as_str().map(str::to_owned)
    };
    eventually("the address", SOON, async || address("shop").await).await;
    assert_eq!(address("demo").await, None, "nothing is written where nothing counts");

    let load = Load::start(&lockgate.client(), "http://shop.test/", 3).await;
    for _ in 0..2 {
        label(&cluster, "demo", &["team=b"]).await;
        served(&lockgate, "demo.test", "web").await;
        label(&cluster, "demo", &["internal="]).await;
        served(&lockgate, "demo.test", "fallback").await;
        label(&cluster, "demo", &["internal-", "team=c"]).await;
        label(&cluster, "demo", &["team=a"]).await;
        served(&lockgate, "demo.test", "web").await;
        label(&cluster, "demo", &["team-"]).await;
        served(&lockgate, "demo.test", "fallback").await;
    }
    load.stop().await.assert_clean();

    // What is seen beside it follows the same flag.
    let kubeconfig = cluster.service_account("lockgate", "lockgate", "lockgate").await;
    let report = said(&kubeconfig, &["check", "--output=json"]);
    let report: Value = serde_json::from_slice(&report.stdout).expect("a report");
    let reviewed = report.as_array().into_iter().flatten().map(|it| &it["namespace"]);
    assert_eq!(reviewed.collect::<Vec<_>>(), ["shop"], "{report:#}");
    for (host, code) in [("shop", 0), ("demo", 1)] {
        let explained = said(&kubeconfig, &["explain", &format!("http://{host}.test/")]);
        let text = String::from_utf8_lossy(&explained.stdout);
        assert_eq!(explained.status.code(), Some(code), "{host}: {text}");
    }

    let asked = cluster.faults().matching(NAMESPACES);
    assert!(!asked.is_empty());
    for it in asked {
        assert!(it.path.contains("labelSelector=team"), "{it:?}");
    }
    for it in cluster.faults().requests() {
        assert!(!matches!(it.status, 401 | 403), "{it:?}");
    }
    assert!(!lockgate.stderr().contains("forbidden"), "{}", lockgate.stderr());
    lockgate.no_problem().await;

    // With the last one goes the last route.
    label(&cluster, "shop", &["team-"]).await;
    served(&lockgate, "shop.test", "fallback").await;
    let told = lockgate.problem("NoNamespace").await;
    assert!(told.contains("team in (a, b), !internal"), "{told}");
}

/// Before anybody knows which namespaces count, none does.
#[tokio::test(flavor = "multi_thread")]
async fn namespaces_that_may_not_be_listed_are_not_served() {
    let (cluster, web) = tokio::join!(Cluster::installed(), Backend::outside("web"));
    let objects = [house("demo", "demo.test", &web), namespace("demo", "team: a")];
    cluster.apply(&objects.concat()).await;
    let rights = deploy("rbac.yaml");
    let fewer = rights.replace("resources: [namespaces]", "resources: [nothing]");
    assert_ne!(fewer, rights);
    cluster.apply(&fewer).await;

    let faults = cluster.faults();
    faults.stall(NAMESPACES);
    let lockgate = cluster.lockgate("lockgate").await.args([SELECTOR]).launch();
    // Watches begin once there was a list.
    let kinds = ["ingressclasses", "ingresses", "services", "endpointslices", "secrets"];
    let watched = |it: &str| {
        faults.matching(&format!("GET /{it}?")).iter().any(|it| it.path.contains("watch="))
    };
    eventually("all other lists", SOON, async || kinds.iter().all(|it| watched(it))).await;
    assert_eq!(lockgate.admin("/readyz").await.unwrap().status, 503);
    assert_ne!(lockgate.client().get("http://demo.test/").await.unwrap().status, 200);

    faults.heal();
    lockgate.ready().await;
    let told = lockgate.problem("Unreadable").await;
    assert!(told.contains("Namespace objects may not be listed"), "{told}");
    lockgate.answers("http://demo.test/", 404).await;
    let problems = lockgate.metric("lockgate_problems", &["Namespace", "Unreadable"]).await;
    assert_eq!(problems.to_string(), "1");

    cluster.apply(&rights).await;
    eventually("the route", Duration::from_secs(60), async || {
        lockgate.client().get("http://demo.test/").await.is_ok_and(|it| it.status == 200)
    })
    .await;
    lockgate.no_problem().await;

    // What was seen before holds.
    faults.status(NAMESPACES, 403, &[], usize::MAX);
    faults.expire_watches("GET /api/v1/namespaces?");
    let told = lockgate.problem("Unreadable").await;
    assert!(told.contains("no longer"), "{told}");
    assert_eq!(lockgate.client().get("http://demo.test/").await.unwrap().status, 200);
}

/// In files, manifests of namespaces give the labels.
#[tokio::test(flavor = "multi_thread")]
async fn manifests_of_namespaces_choose_what_is_served() {
    let web = Backend::start("web").await;
    let houses = |labels: &str| {
        [
            ingress_class(),
            house("demo", "demo.test", &web),
            house("shop", "shop.test", &web),
            house("bare", "bare.test", &web),
            namespace("shop", "team: b"),
            namespace("demo", labels),
        ]
        .concat()
    };
    let lockgate = Lockgate::with_manifests(houses("team: a")).args([SELECTOR]).start().await;
    for (labels, expected) in [("team: a", 200), ("team: c", 404), ("team: b", 200), ("", 404)] {
        lockgate.edit(houses(labels));
        lockgate.answers("http://demo.test/", expected).await;
        lockgate.answers("http://shop.test/", 200).await;
        lockgate.answers("http://bare.test/", 404).await;
    }
    lockgate.no_problem().await;

    let yaml = houses("team: c");
    for (host, code) in [("shop", 0), ("demo", 1), ("bare", 1)] {
        let explained = said_of(&yaml, &["explain", &format!("http://{host}.test/"), SELECTOR]);
        assert_eq!(explained.status.code(), Some(code), "{host}: {explained:?}");
    }
    let report = said_of(&yaml, &["check", SELECTOR]);
    let text = String::from_utf8_lossy(&report.stdout);
    assert!(text.starts_with("Ingress shop/one: works\n"), "{text}");
    assert!(!text.contains("demo"), "{text}");
    let report = said_of(&yaml, &["check", "--watch-namespace-selector=team=z"]);
    let text = String::from_utf8_lossy(&report.stdout);
    assert!(text.contains("no namespace has labels"), "{text}");
    assert_eq!(report.status.code(), Some(1));
}

/// A mistake in the flag ends it at once, and names the flag.
#[test]
fn a_wrong_selector_ends_it_at_the_start() {
    for command in [&["serve"][..], &["check"], &["explain", "http://a.test/"], &[]] {
        for (flags, parts) in [
            (
                &["--watch-namespace=a", "--watch-namespace-selector=team=a"][..],
                ["--watch-namespace and", "--watch-namespace-selector exclude each other"],
            ),
            (
                &["--watch-namespace-selector", "team in (a"],
                ["--watch-namespace-selector", "ends where a comma or ) should stand"],
            ),
            (
                &["--watch-namespace-selector=team=a b"],
                ["--watch-namespace-selector", "\"b\" stands where"],
            ),
        ] {
            let mut lockgate = Command::new(env!("CARGO_BIN_EXE_lockgate"));
            without_settings(&mut lockgate);
            let output = lockgate.args(command).args(flags).output().unwrap();
            let text = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(2), "{command:?} {flags:?}: {text}");
            assert!(parts.iter().all(|it| text.contains(it)), "{command:?} {flags:?}: {text}");
            assert_eq!(text.lines().count(), 1, "{text}");
        }
    }
}
