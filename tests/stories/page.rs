//! The status page, as a browser shows it.

use std::process::Command;
use std::time::Duration;

use crate::harness::backend::Backend;
use crate::harness::lockgate::{Lockgate, backend, ingress, ingress_class};
use crate::harness::process::component;

/// What a person reads on the page, after a browser has made of it what it will.
fn shown(lockgate: &Lockgate) -> String {
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new("timeout")
        .arg(Duration::from_secs(180).as_secs().to_string())
        .arg(component("LOCKGATE_CHROMIUM"))
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .arg("--dump-dom")
        .arg(format!("http://{}/", lockgate.admin))
        .output()
        .unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_shows_routes_and_problems_and_runs_nothing() {
    let web = Backend::start("web").await;
    let root = [("/", "Prefix", "web", 80)];
    let evil = "<script>document.title='taken'</script>";
    let limit = "nginx.ingress.kubernetes.io/proxy-body-size";
    let objects = [
        ingress_class(),
        ingress("one", "a.test", &root, &[(limit, evil)]),
        backend("web", 80, &[web.addr()]),
    ];
    let lockgate = Lockgate::with_manifests(objects.concat()).start().await;
    let page = shown(&lockgate);
    assert!(page.contains("<td>a.test</td>"), "{page}");
    assert!(page.contains("demo/web:80"), "{page}");
    assert!(page.contains("proxy-body-size ignored"), "{page}");
    assert!(page.contains("<title>Lockgate</title>"), "{page}");
    assert!(!page.contains("<script>"), "{page}");
}
