//! What a host asks of its clients, for one Ingress and for two.

use super::*;
use crate::compile::compile;
use crate::compile::objects::{Ingress, Path, Port, Rule, Secret, Service, ServicePort};
use crate::model::keypair::KeypairError;
use crate::model::texts::Texts;
use crate::model::upstream::Authorities;

const HOST: &str = "a.test";

/// An Ingress with one path of the host.
fn ingress(created: i64, path: &str, annotations: &[(&str, &str)]) -> Arc<Ingress> {
    let backend = Some(ServicePort { service: "web".into(), port: "80".into() });
    let path = Path { path: path.into(), exact: false, backend };
    Arc::new(Ingress {
        created: Some(created),
        rules: [Rule { host: HOST.into(), paths: Some([path].into()) }].into(),
        annotations: annotations
            .iter()
            .map(|(name, value)| (format!("nginx.ingress.kubernetes.io/{name}"), *value))
            .collect(),
        ..Ingress::default()
    })
}

fn secret(name: &str) -> Arc<Secret> {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
    Arc::new(Secret {
        keypair: Err(KeypairError::Missing("tls.crt")),
        authorities: Some(Ok(Arc::new(Authorities(vec![made.cert.der().clone()])))),
        revocations: None,
        annotations: Texts::default(),
        htpasswd: None,
        users: None,
        thumbprint: None,
    })
}

fn plan(ingresses: &[(&str, Arc<Ingress>)], passthrough: bool) -> (Plan, Vec<Problem>) {
    let mut objects = Objects::default();
    for namespace in ["demo", "other"] {
        let port = Port { name: "".into(), port: 80, target: "8080".into(), udp: false };
        let service = Service { ports: [port].into(), ..Service::default() };
        objects.services.insert(ObjectName::new(namespace, "web"), Arc::new(service));
    }
    let ca = secret("ca");
    for (name, secret) in [
        ("demo/ca", ca.clone()),
        ("other/ca", ca),
        ("demo/strange", secret("strange")),
        ("demo/empty", Arc::new(Secret { authorities: None, ..Secret::clone(&secret("x")) })),
    ] {
        objects.secrets.insert(name.parse().expect("a name"), secret);
    }
    for (name, ingress) in ingresses {
        objects.ingresses.insert(name.parse().expect("a name"), ingress.clone());
    }
    let policy = Policy { watch_without_class: true, passthrough, ..Policy::default() };
    compile(&objects, &policy)
}

/// What a host asks for, in a word.
fn word(plan: &Plan) -> String {
    let host = &plan.hosts[&HOST.parse().expect("a host")];
    let told: HashSet<_> = host.paths.values().map(|it| format!("{:?}", it.client_tls)).collect();
    assert_eq!(told.len(), 1, "the same for all of a host");
    match host.client_tls() {
        None => "open".to_owned(),
        Some(HostTls::Denied) => "denied".to_owned(),
        Some(HostTls::Through) => "through".to_owned(),
        Some(HostTls::Asks(guard)) => match &guard.demand {
            None => "off".to_owned(),
            Some(demand) => {
                let subjects = guard.subjects.len();
                format!("{:?} {} {subjects}", demand.verify, demand.depth)
            }
        },
    }
}

/// Paths that answer 503.
fn closed(plan: &Plan) -> Vec<&str> {
    let host = &plan.hosts[&HOST.parse().expect("a host")];
    let refused = |it: &&Arc<Route>| matches!(it.target, Target::Refused(_));
    host.paths.values().filter(refused).map(|it| &*it.path).collect()
}

const ASKS: (&str, &str) = ("auth-tls-secret", "demo/ca");

#[test]
fn one_ingress_speaks_for_its_host() {
    for (annotations, expected, shut) in [
        (&[][..], "open", &[][..]),
        (&[ASKS], "On 1 0", &[]),
        (&[("auth-tls-secret", "ca")], "On 1 0", &[]),
        (&[ASKS, ("auth-tls-verify-client", "optional")], "Optional 1 0", &[]),
        (&[ASKS, ("auth-tls-verify-client", "off")], "off", &[]),
        (&[ASKS, ("auth-tls-verify-depth", "3")], "On 3 0", &[]),
        (&[ASKS, ("auth-tls-match-cn", "CN=a")], "On 1 1", &[]),
        (&[ASKS, ("auth-tls-verify-client", "yes")], "denied", &["/old"]),
        (&[ASKS, ("auth-tls-verify-depth", "deep")], "denied", &["/old"]),
        (&[ASKS, ("auth-tls-match-cn", "a")], "denied", &["/old"]),
        (&[("auth-tls-secret", "demo/gone")], "denied", &[]),
        (&[("auth-tls-secret", "demo/empty")], "denied", &[]),
        (&[("auth-tls-secret", "other/ca")], "denied", &[]),
        (&[("auth-tls-verify-client", "on")], "open", &["/old"]),
        (&[("auth-tls-match-cn", "CN=a")], "open", &["/old"]),
        (&[("auth-tls-verify-client", "off")], "open", &[]),
        (&[("auth-tls-pass-certificate-to-upstream", "true")], "open", &[]),
    ] {
        let (plan, problems) = plan(&[("demo/web", ingress(1, "/old", annotations))], false);
        assert_eq!(word(&plan), expected, "{annotations:?}");
        let root = plan.hosts[&HOST.parse().expect("a host")].paths.len() - 1;
        let found = closed(&plan).into_iter().filter(|it| *it != "/").collect::<Vec<_>>();
        assert_eq!((root, &found[..]), (1, shut), "{annotations:?}");
        let quiet = expected != "denied" && shut.is_empty();
        assert_eq!(problems.is_empty(), quiet, "{annotations:?}: {problems:?}");
    }
}

/// In whatever order two Ingresses of a namespace came.
#[test]
fn of_two_the_strictest_holds() {
    for (one, other, expected) in [
        (&[ASKS][..], &[ASKS][..], "On 1 0"),
        (&[ASKS], &[], "On 1 0"),
        (&[ASKS], &[ASKS, ("auth-tls-verify-client", "off")], "On 1 0"),
        (&[ASKS], &[ASKS, ("auth-tls-verify-client", "optional_no_ca")], "On 1 0"),
        (&[ASKS], &[ASKS, ("auth-tls-verify-depth", "0")], "On 0 0"),
        (&[ASKS], &[ASKS, ("auth-tls-match-cn", "CN=a")], "On 1 1"),
        (&[ASKS], &[("auth-tls-match-cn", "CN=a")], "On 1 1"),
        (
            &[ASKS, ("auth-tls-verify-client", "optional")],
            &[("auth-tls-verify-client", "on")],
            "On 1 0",
        ),
    ] {
        for (first, second) in [(one, other), (other, one)] {
            let (plan, _) = plan(
                &[
                    ("demo/older", ingress(1, "/old", first)),
                    ("demo/younger", ingress(2, "/new", second)),
                ],
                false,
            );
            assert_eq!(word(&plan), expected, "{first:?} {second:?}");
            assert_eq!(closed(&plan), [""; 0], "{first:?} {second:?}");
        }
    }
}

#[test]
fn what_cannot_be_had_together_closes_the_younger() {
    let strange = ("auth-tls-secret", "demo/strange");
    for (older, name, younger, expected, shut) in [
        (&[ASKS][..], "demo/younger", &[strange][..], "On 1 0", true),
        (&[ASKS], "demo/younger", &[("auth-tls-secret", "demo/gone")], "On 1 0", true),
        (&[ASKS], "demo/younger", &[ASKS, ("auth-tls-verify-client", "1")], "On 1 0", true),
        (
            &[ASKS, ("auth-tls-verify-client", "off")],
            "demo/younger",
            &[("auth-tls-verify-client", "on")],
            "off",
            true,
        ),
        // Another namespace may agree, or be content with less.
        (&[ASKS], "other/younger", &[("auth-tls-secret", "other/ca")], "On 1 0", false),
        (
            &[ASKS],
            "other/younger",
            &[("auth-tls-secret", "other/ca"), ("auth-tls-verify-client", "optional")],
            "On 1 0",
            false,
        ),
        (
            &[ASKS],
            "other/younger",
            &[("auth-tls-secret", "other/ca"), ("auth-tls-match-cn", "CN=a")],
            "On 1 0",
            true,
        ),
        (&[ASKS], "other/younger", &[ASKS], "On 1 0", true),
        (&[ASKS], "other/younger", &[("auth-tls-match-cn", "CN=a")], "On 1 0", true),
        // It has no say over what is another's.
        (&[], "other/younger", &[("auth-tls-secret", "other/ca")], "open", true),
        (&[], "other/younger", &[("auth-tls-secret", "other/gone")], "open", true),
    ] {
        let (plan, problems) = plan(
            &[("demo/older", ingress(1, "/old", older)), (name, ingress(2, "/new", younger))],
            false,
        );
        assert_eq!(word(&plan), expected, "{older:?} {younger:?}");
        let expected: &[&str] = if shut { &["/new"] } else { &[] };
        assert_eq!(closed(&plan), expected, "{older:?} {younger:?}");
        let told = |it: &Problem| it.reason == "ClientTls" && it.text.contains("503");
        assert_eq!(problems.iter().any(told), shut, "{younger:?}: {problems:?}");
    }
}

#[test]
fn the_owner_says_that_tls_is_handed_on() {
    const PASS: (&str, &str) = ("ssl-passthrough", "true");
    for (flag, root, annotations, expected, shut) in [
        (true, "/", &[PASS][..], "through", false),
        (true, "/", &[("ssl-passthrough", "false")], "open", false),
        (false, "/", &[PASS], "open", true),
        (true, "/sub", &[PASS], "open", true),
        (true, "/", &[PASS, ASKS], "denied", false),
        (true, "/", &[PASS, ("auth-tls-secret", "demo/gone")], "denied", false),
    ] {
        let (plan, problems) = plan(&[("demo/web", ingress(1, root, annotations))], flag);
        assert_eq!(word(&plan), expected, "{annotations:?}");
        assert_eq!(closed(&plan).contains(&root), shut, "{annotations:?} {root}");
        assert_eq!(problems.is_empty(), !shut && expected != "denied", "{problems:?}");
    }
    let ingresses =
        [("demo/older", ingress(1, "/", &[])), ("demo/younger", ingress(2, "/new", &[PASS]))];
    let (plan, _) = plan(&ingresses, true);
    assert_eq!((word(&plan).as_str(), closed(&plan)), ("open", vec!["/new"]));
}

#[test]
fn secrets_are_read_as_long_as_they_are_named() {
    for (secret, expected) in [("demo/ca", true), ("demo/gone", true), ("other/ca", false)] {
        let (plan, _) =
            plan(&[("demo/web", ingress(1, "/", &[("auth-tls-secret", secret)]))], false);
        let secret: ObjectName = secret.parse().expect("a name");
        assert_eq!(plan.unlisted.contains(&secret), expected, "{secret}");
    }
}
