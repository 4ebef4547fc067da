//! The user's side of certificates: commands, what is told of each one, alerts, accounts that are bound.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::harness::acme;
use crate::harness::backend::Backend;
use crate::harness::cluster::Cluster;
use crate::harness::lockgate::{
    Lockgate, backend, ingress_class, ingress_tls, pair, tls_secret, without_settings,
};
use crate::harness::pebble::{Pebble, PebbleOptions};
use crate::harness::process::{SOON, component, eventually, free_port};

/// Asks for a certificate; what this machine's resolver says of the host is no matter here.
const ASK: [(&str, &str); 2] = [acme::ASK, acme::UNCHECKED];

/// The objects of `host`, which asks for a certificate in the Secret `web-tls`.
fn house(host: &str, web: &Backend) -> String {
    let rule = [("/", "Prefix", "web", 80)];
    ingress_class()
        + &backend("web", 80, &[web.addr()])
        + &ingress_tls("web", host, &rule, &ASK, "web-tls")
}

/// A CA, and a replica without a cluster that orders there.
async fn issued(options: PebbleOptions, args: &[&str]) -> (Pebble, Lockgate) {
    let http = free_port();
    let pebble = Pebble::start(PebbleOptions { http_port: http, ..options }).await;
    let web = Backend::start("web").await;
    let trust = pebble.ca_file().display().to_string();
    let lockgate = Lockgate::with_manifests(house("a.test", &web))
        .http_port(http)
        .args(["--acme-directory", &pebble.directory(), "--acme-ca-file", &trust])
        .args(args.iter().copied())
        .start()
        .await;
    (pebble, lockgate)
}

/// Runs `lockgate cert` with these arguments.
fn cert(args: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockgate"));
    without_settings(&mut command);
    let Output { status, stdout, stderr } = command.arg("cert").args(args).output().unwrap();
    let text = |it: Vec<u8>| String::from_utf8(it).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

async fn certified(lockgate: &Lockgate) -> Value {
    eventually("a certificate", SOON * 2, async || {
        let all = lockgate.admin_json("/api/certificates").await;
        let held = all["managed"][0].clone();
        if held["notAfter"].is_string() { Ok(held) } else { Err(lockgate.stderr()) }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_told_of_from_the_command_line() {
    let (pebble, lockgate) = issued(PebbleOptions::default(), &[]).await;
    let held = certified(&lockgate).await;
    assert_eq!(held["secret"], "demo/web-tls", "{held:#}");
    assert_eq!(held["ingresses"][0], "demo/web", "{held:#}");
    eventually("the serial that is served", SOON, async || {
        let all = lockgate.admin_json("/api/certificates").await;
        let same = all["managed"][0]["servedSerial"] == all["served"][0]["serial"];
        if same && all["served"][0]["serial"].is_string() { Ok(()) } else { Err(all.to_string()) }
    })
    .await;

    let admin = format!("--admin=http://{}", lockgate.admin);
    let (code, out, err) = cert(&["list", &admin]);
    assert_eq!(code, 0, "{err}");
    let row = out.lines().nth(1).unwrap();
    assert!(row.starts_with("demo/web-tls") && row.ends_with("a.test"), "{out}");
    let (code, out, err) = cert(&["list", &admin, "--output=json"]);
    assert_eq!(code, 0, "{err}");
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json[0]["names"][0], "a.test", "{out}");

    for of in ["demo/web-tls", "web-tls", "a.test"] {
        let (_, out, err) = cert(&["describe", of, &admin]);
        for part in ["demo/web-tls", "a.test", "demo/web", &pebble.directory(), "Good until"] {
            assert!(out.contains(part), "{of}: {part} in {out} {err}");
        }
    }
    let (code, _, err) = cert(&["describe", "b.test", &admin]);
    assert_eq!(code, 1);
    assert!(err.contains("b.test") && err.lines().count() == 1, "{err}");
    let nobody = format!("--admin=http://127.0.0.1:{}", free_port());
    let (code, _, err) = cert(&["list", &nobody]);
    assert_eq!(code, 1);
    assert!(err.contains("no replica answers"), "{err}");
    for mistake in [&["list", "--outptu=json"][..], &["renew", "nonamespace"], &["revoke"], &[]] {
        let (code, _, err) = cert(mistake);
        assert_eq!(code, 2, "{mistake:?}: {err}");
        assert_eq!(err.lines().count(), 1, "{mistake:?}: {err}");
    }
}

/// What is measured of a certificate goes when the Ingress that wanted it goes.
#[tokio::test(flavor = "multi_thread")]
async fn r_vis_certificates_are_measured_while_they_are_there() {
    let (_pebble, lockgate) = issued(PebbleOptions::default(), &[]).await;
    let held = certified(&lockgate).await;
    let secret = ["namespace=\"demo\"", "secret=\"web-tls\""];
    let managed = "lockgate_acme_certificate_not_after_timestamp_seconds";
    let served = "lockgate_tls_certificate_not_after_timestamp_seconds";
    let end: jiff::Timestamp = held["notAfter"].as_str().unwrap().parse().unwrap();
    let expected = end.as_second().to_string();
    eventually("the end of what is served", SOON, async || {
        let found = [
            lockgate.metric(managed, &secret).await.to_string(),
            lockgate.metric(served, &["sni=\"a.test\""]).await.to_string(),
        ];
        if found.iter().all(|it| *it == expected) { Ok(()) } else { Err(found.join(" ")) }
    })
    .await;
    let begin = lockgate.metric("lockgate_acme_certificate_not_before_timestamp_seconds", &secret);
    let renewal = lockgate.metric("lockgate_acme_certificate_renew_at_timestamp_seconds", &secret);
    let (begin, renewal) = (begin.await, renewal.await);
    assert!(0.0 < begin && begin < renewal, "{begin} {renewal}");
    let state = lockgate.metric("lockgate_acme_certificate_state", &secret).await;
    assert_eq!(state.to_string(), "1", "it is in one state");
    assert_eq!(lockgate.metric("lockgate_acme_is_leader", &[]).await.to_string(), "1");

    for endpoint in ["directory", "newNonce", "signed"] {
        let labels = [&*format!("endpoint=\"{endpoint}\""), "status=\"200\""];
        let asked = lockgate.metric("lockgate_acme_http_requests_total", &labels).await;
        assert!(asked >= 1.0, "{endpoint}: {asked}");
    }
    assert_eq!(lockgate.metric("lockgate_acme_ca_up", &[]).await.to_string(), "1");

    let page = lockgate.metrics().await;
    let mut promtool = Command::new(component("LOCKGATE_PROMTOOL"));
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut promtool = promtool.spawn().unwrap();
    promtool.stdin.take().unwrap().write_all(page.as_bytes()).unwrap();
    let said = String::from_utf8(promtool.wait_with_output().unwrap().stderr).unwrap();
    // It has opinions on ingress-nginx's names, which are as they are.
    let ours: Vec<&str> =
        said.lines().filter(|it| it.contains("acme") || it.contains("tls_")).collect();
    assert!(ours.is_empty() && !said.contains("error while linting"), "{said}");

    lockgate.edit(ingress_class());
    eventually("nothing left", SOON, async || {
        let page = lockgate.metrics().await;
        let left = page.lines().find(|it| it.contains("web-tls") || it.contains("sni=\"a.test\""));
        left.map_or(Ok(()), |it| Err(it.to_owned()))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_checked_as_a_ca_would() {
    let (pebble, lockgate) = issued(PebbleOptions::default(), &[]).await;
    certified(&lockgate).await;
    let admin = format!("--admin=http://{}", lockgate.admin);
    let dns = format!("--dns-server={}", pebble.dns());
    let port = format!("--port={}", lockgate.http.port());
    let check = |host: &str| cert(&["check", host, &admin, &dns, &port]);

    let (code, out, err) = check("a.test");
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("127.0.0.1") && out.contains("Ok: a.test is ready"), "{out}");

    // Nobody asks for this one.
    let (code, out, _) = check("b.test");
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("NotAsked: no Ingress asks"), "{out}");

    // A port where somebody else answers.
    let other = Backend::start("other").await;
    let elsewhere = format!("--port={}", other.addr().port());
    let (code, out, _) = cert(&["check", "a.test", &admin, &dns, &elsewhere, "--output=json"]);
    assert_eq!(code, 1, "{out}");
    let json: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["seen"], "Foreign", "{out}");
    assert_eq!(json["addresses"][0]["address"], "127.0.0.1", "{out}");

    // Another machine, where nobody listens.
    pebble.set_address("a.test", "127.0.0.9").await;
    let (code, out, _) = check("a.test");
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("Unreachable: a.test cannot be reached"), "{out}");

    pebble.servfail("a.test").await;
    let (code, out, _) = check("a.test");
    assert_eq!(code, 1, "{out}");
    assert!(out.contains("SERVFAIL"), "{out}");
}

/// The leader acts on what is asked of it, once.
#[tokio::test(flavor = "multi_thread")]
async fn commands_are_obeyed_and_forgotten() {
    let budget = ["--acme-max-issues=100/7d", "--acme-min-reissue=1s"];
    let (_pebble, lockgate) = issued(PebbleOptions::default(), &budget).await;
    certified(&lockgate).await;
    let place = format!("--manifests={}", lockgate.dir().display());
    let serial = async || {
        let all = lockgate.admin_json("/api/certificates").await;
        all["managed"][0]["servedSerial"].as_str().map(str::to_owned)
    };
    let mut last = eventually("a certificate that is shown", SOON, &serial).await;
    let commands: [&[&str]; 3] = [
        &["renew", "demo/web-tls"],
        &["renew", "demo/web-tls", "--force"],
        &["revoke", "demo/web-tls", "--reason=superseded"],
    ];
    for command in commands {
        let (code, out, err) = cert(&[command, &[&place]].concat());
        assert_eq!(code, 0, "{command:?}: {out}{err}");
        last = eventually(&format!("{command:?}"), SOON * 2, async || {
            let now = serial().await.filter(|it| *it != last);
            now.ok_or_else(|| lockgate.stderr())
        })
        .await;
        eventually("the request is taken away", SOON, async || {
            let file = lockgate.file("issued/demo.web-tls.secret.json").unwrap_or_default();
            let left = ["lockgate.dev/renew", "lockgate.dev/revoke"];
            if left.iter().any(|it| file.contains(&format!("{it}\""))) { Err(file) } else { Ok(()) }
        })
        .await;
    }
}

/// The object is otherwise left as it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_in_a_cluster_is_adopted_by_an_annotation() {
    let cluster = Cluster::installed().await;
    cluster.apply(&tls_secret("web-tls", &pair(&["a.test"]))).await;
    // What the program itself may is what `kubectl exec` into its pod may.
    let kubeconfig = cluster.service_account("lockgate", "lockgate", "lockgate").await;
    let kubeconfig = format!("--kubeconfig={}", kubeconfig.display());
    let path = "/api/v1/namespaces/demo/secrets/web-tls";
    let before = cluster.get_json(path).await.unwrap();

    // The API server takes a moment to learn of the rights that were just given.
    eventually("what to do instead", SOON, async || {
        let (code, _, err) = cert(&["renew", "demo/web-tls", &kubeconfig]);
        assert_eq!(code, 1);
        if err.contains("cert adopt demo/web-tls") { Ok(()) } else { Err(err) }
    })
    .await;

    let (code, out, err) = cert(&["adopt", "demo/web-tls", &kubeconfig]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("demo/web-tls"), "{out}");
    let after = cluster.get_json(path).await.unwrap();
    assert_eq!(after["metadata"]["annotations"]["lockgate.dev/adopt"], "true", "{after:#}");
    for same in ["data", "type"] {
        assert_eq!(before[same], after[same], "{same}");
    }
    assert_eq!(before["metadata"]["uid"], after["metadata"]["uid"]);
}

/// A CA that wants to know whose the account is gets its binding, with the key that is stored.
#[tokio::test(flavor = "multi_thread")]
async fn an_account_is_bound_to_what_the_ca_handed_out() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    writeln!(file, "{key}").unwrap();
    let flags =
        ["--acme-eab-kid=kid-1", "--acme-eab-hmac-file", &file.path().display().to_string()];
    let binding = Some(("kid-1".to_owned(), key.to_owned()));
    let options = PebbleOptions { account_binding: binding, ..PebbleOptions::default() };
    let (_pebble, lockgate) = issued(options, &flags).await;
    let held = certified(&lockgate).await;
    assert!(held["issuer"].as_str().is_some_and(|it| it.contains("/dir")), "{held:#}");
    assert!(!lockgate.stderr().contains(key), "a credential in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_binding_is_told_to_the_owner() {
    let binding =
        Some(("kid-1".to_owned(), "c2VjcmV0LWtleS1vZi10aGUtY2EtYS1sb25nLW9uZQ".to_owned()));
    let options = PebbleOptions { account_binding: binding, ..PebbleOptions::default() };
    let (_pebble, lockgate) = issued(options, &[]).await;
    eventually("the reason", SOON, async || {
        let log = lockgate.stderr();
        let told = log
            .lines()
            .find(|it| it.contains("demo/web") && it.contains("externalAccountRequired"));
        told.filter(|it| it.contains("--acme-eab-kid")).map(str::to_owned).ok_or(log.clone())
    })
    .await;

    // Half of the flags is a mistake at once.
    let (code, _, err) = {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lockgate"));
        without_settings(&mut command);
        let output = command.args(["serve", "--acme-eab-kid=kid-1"]).output().unwrap();
        (output.status.code(), output.stdout, String::from_utf8(output.stderr).unwrap())
    };
    assert_eq!(code, Some(2), "{err}");
    assert!(err.contains("--acme-eab-hmac-file"), "{err}");
}

/// The rules that ship are ones that Prometheus loads, and they ring when they should.
#[test]
fn the_alerts_ring() {
    let rules = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/alerts.yaml");
    let promtool = |args: &[&str]| {
        let output = Command::new(component("LOCKGATE_PROMTOOL")).args(args).output().unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
    };
    promtool(&["check", "rules", rules]);

    // A certificate of 1000 minutes, of which 3 replicas tell; the time of a test begins at 0.
    let labels = r#"namespace="shop",secret="web-tls""#;
    let tests = format!(
        r#"
rule_files: ['{rules}']
evaluation_interval: 1m
tests:
- interval: 1m
  input_series:
  - {{series: 'lockgate_acme_certificate_not_before_timestamp_seconds{{{labels}}}', values: '0x2000'}}
  - {{series: 'lockgate_acme_certificate_not_after_timestamp_seconds{{{labels}}}', values: '60000x2000'}}
  - {{series: 'lockgate_tls_certificate_not_after_timestamp_seconds{{sni="a.test"}}', values: '60000x2000'}}
  - {{series: 'lockgate_acme_certificate_state{{{labels},state="Backoff"}}', values: '1x1000 _x3 1x1000'}}
  - {{series: 'lockgate_acme_is_leader{{pod="a"}}', values: '1x100 0x1900'}}
  - {{series: 'lockgate_acme_is_leader{{pod="b"}}', values: '0x1000 1x1000'}}
  - {{series: 'lockgate_acme_ca_up{{issuer="ca"}}', values: '1x10 0x1990'}}
  - {{series: 'lockgate_acme_clock_skew_seconds{{pod="a"}}', values: '0x100 -301x1900'}}
  alert_rule_test:
  - {{eval_time: 799m, alertname: LockgateCertificateNotRenewed, exp_alerts: []}}
  - {{eval_time: 60m, alertname: LockgateCaDown, exp_alerts: []}}
  - {{eval_time: 90m, alertname: LockgateNoLeader, exp_alerts: []}}
  - {{eval_time: 1400m, alertname: LockgateNoLeader, exp_alerts: []}}
  - {{eval_time: 1000m, alertname: LockgateExpiredCertificateServed, exp_alerts: []}}
  - {{eval_time: 1430m, alertname: LockgateCertificateFailing, exp_alerts: []}}
  - {{eval_time: 90m, alertname: LockgateClockSkew, exp_alerts: []}}
"#
    );
    let rings = [
        ("LockgateCertificateNotRenewed", 810),
        ("LockgateCaDown", 80),
        ("LockgateNoLeader", 110),
        ("LockgateExpiredCertificateServed", 1010),
        ("LockgateCertificateFailing", 1450),
        ("LockgateClockSkew", 120),
    ];
    // Which alerts are there, without their texts.
    let rings: Vec<String> = rings
        .iter()
        .map(|(name, minute)| {
            format!(
                "  - {{eval_time: {minute}m, expr: 'count(ALERTS{{alertname=\"{name}\",\
                 alertstate=\"firing\"}})', exp_samples: [{{labels: '{{}}', value: 1}}]}}\n"
            )
        })
        .collect();
    let mut file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    write!(file, "{tests}  promql_expr_test:\n{}", rings.concat()).unwrap();
    promtool(&["test", "rules", &file.path().display().to_string()]);
}
