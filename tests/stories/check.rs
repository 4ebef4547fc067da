//! `lockgate check`: what a user reads before anything is served.

use std::io::Write;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::harness::lockgate::{backend, ingress, ingress_class, without_settings};

fn check(files: &str, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockgate"));
    without_settings(&mut command);
    let mut child = command
        .args(["check", "-f", "-"])
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may end without having read them.
    let _ = child.stdin.take().unwrap().write_all(files.as_bytes());
    child.wait_with_output().unwrap()
}

fn annotated(annotations: &[(&str, &str)]) -> String {
    let root = [("/", "Prefix", "web", 80)];
    let web = backend("web", 80, &["192.0.2.1:80".parse().unwrap()]);
    [ingress_class(), ingress("one", "a.test", &root, annotations), web].concat()
}

#[test]
fn each_annotation_is_judged_and_something_refused_is_an_exit_code() {
    for (name, value, verdict, code) in [
        ("proxy-body-size", "8m", "works", 0),
        ("proxy-body-size", "8 parsecs", "differs", 0),
        ("proxy-buffer-size", "8k", "works", 0),
        ("no-such-annotation", "x", "differs", 0),
        ("backend-protocol", "GOPHER", "refused", 1),
        ("modsecurity-snippet", "SecRuleEngine On", "refused", 1),
    ] {
        let output = check(&annotated(&[(name, value)]), &["--output", "json"]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{name}: {value}: {stderr}");
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let findings = report[0]["findings"].as_array().unwrap();
        let what = format!("{name}: {value}");
        let found = findings.iter().find(|it| it["what"] == what.as_str());
        let found = found.unwrap_or_else(|| panic!("{what}: {report}"));
        assert_eq!(found["verdict"], verdict, "{what}");
        let link = format!("README.md#annotation-{name}");
        assert_eq!(found["link"] == link.as_str(), verdict != "works", "{what}: {found}");
    }
}

#[test]
fn people_read_one_line_a_finding_and_a_sum() {
    let output = check(&annotated(&[("proxy-read-timeout", "soon")]), &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.starts_with("Ingress demo/one: differs\n"), "{text}");
    assert!(text.contains("  differs  proxy-read-timeout: soon: "), "{text}");
    let sum = "1 objects: 0 work, 1 differ, 0 have something refused\n";
    assert!(text.ends_with(sum), "{text}");
}

#[test]
fn what_cannot_be_read_is_said_and_no_panic() {
    let output = check("kind: [", &[]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("refused"), "{text}");
    let output = check(&annotated(&[]), &["--ingress-class-nam=x"]);
    assert_eq!(output.status.code(), Some(2));
}
