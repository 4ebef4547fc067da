//! `auth-tls-*` and `ssl-passthrough` → what each host asks of its clients.
//!
//! As in ingress-nginx this holds for a host as a whole, and the oldest Ingress that says anything decides.
//! It never fails open: what cannot be read, is not there or contradicts closes paths.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;

use super::Policy;
use super::objects::Objects;
use super::routes::{Ours, hosts_of};
use crate::model::client_tls::{ClientTls, Demand, Guard, HostTls, Revocations, Subject, Verify};
use crate::model::host::HostPattern;
use crate::model::name::ObjectName;
use crate::model::path::PathPattern;
use crate::model::plan::{Host, Plan, Route, Target};
use crate::model::problem::Problem;
use crate::model::upstream::Authorities;

/// Decides for each host. Costs nothing where no Ingress says anything.
pub(super) fn add(
    ours: &[Ours<'_>],
    objects: &Objects,
    policy: &Policy,
    plan: &mut Plan,
    problems: &mut Vec<Problem>,
) {
    let saying: Vec<Saying<'_>> = ours.iter().filter_map(Saying::of).collect();
    if saying.is_empty() {
        return;
    }
    let mut found: HashMap<&ObjectName, Found> = HashMap::new();
    for it in &saying {
        if let Some(secret) = it.secret() {
            // Named ones are read again and again, as long as they are named.
            plan.unlisted.insert(secret);
        }
        found.insert(it.name, look_up(it, objects));
    }
    for (pattern, host) in &mut plan.hosts {
        // Also those that only have a path there.
        let present: HashSet<&ObjectName> = host.paths.values().map(|it| &it.ingress).collect();
        let here = |it: &&Saying<'_>| it.hosts.contains(pattern) || present.contains(it.name);
        let here: Vec<_> = saying.iter().filter(here).collect();
        if here.is_empty() {
            continue;
        }
        let Outcome { tls, told, refused } = decide(pattern, host, &here, &found, policy);
        for (name, text) in &refused {
            refuse(host, name, text);
        }
        let told = told.into_iter().chain(refused);
        problems.extend(told.map(|(name, text)| Problem::ingress(&name, "ClientTls", text)));
        let Some(tls) = tls.map(Arc::new) else { continue };
        for route in host.paths.values_mut() {
            Arc::make_mut(route).client_tls = Some(tls.clone());
        }
    }
}

/// Closes hosts whose TLS is to be handed on while somebody has to be asked for a password, or a judge for his
/// leave: nobody can in TLS that is not read here. To be called when the guards are there.
pub(super) fn close_guarded(plan: &mut Plan, problems: &mut Vec<Problem>) {
    for (pattern, host) in &mut plan.hosts {
        if host.client_tls() != Some(&HostTls::Through) {
            continue;
        }
        let owner = host.owner.clone();
        let asks =
            host.paths.values().filter(|it| it.ingress == owner).any(|it| {
                it.guard.as_ref().is_some_and(|it| it.basic.is_some() || it.judge.is_some())
            });
        if !asks {
            continue;
        }
        for route in host.paths.values_mut() {
            Arc::make_mut(route).client_tls = None;
        }
        let text = format!(
            "ssl-passthrough: TLS of {pattern} cannot be handed on where passwords or an external judge are \
             asked for: its paths answer 503"
        );
        refuse(host, &owner, &text);
        problems.push(Problem::ingress(&owner, "ClientTls", text));
    }
}

/// An Ingress that says something of TLS towards clients.
struct Saying<'a> {
    name: &'a ObjectName,
    words: &'a ClientTls,
    hosts: std::collections::BTreeSet<HostPattern>,
}

impl<'a> Saying<'a> {
    fn of(ours: &'a Ours<'_>) -> Option<Self> {
        let words = ours.options.client_tls.as_deref()?;
        (words.asks() || words.passthrough).then(|| Self {
            name: ours.name,
            words,
            hosts: hosts_of(ours.ingress),
        })
    }

    /// The Secret it names, unless that is in another namespace.
    fn secret(&self) -> Option<ObjectName> {
        let text = self.words.secret.as_ref()?;
        let own = || ObjectName::new(self.name.namespace.clone(), text.clone());
        let secret = text.parse().unwrap_or_else(|_| own());
        (secret.namespace == self.name.namespace).then_some(secret)
    }
}

/// What the words of one Ingress come to.
enum Found {
    /// It says nothing of certificates, or nothing by itself: it names no Secret.
    Nothing,
    Guard(Guard),
    /// Something is not there or cannot be read.
    Broken(String),
}

fn look_up(saying: &Saying<'_>, objects: &Objects) -> Found {
    let ClientTls { secret, verify, depth, error_page, pass_certificate, subject, unread, .. } =
        saying.words;
    if *unread {
        return Found::Broken("an annotation auth-tls-... cannot be read".to_owned());
    }
    let Some(text) = secret else { return Found::Nothing };
    let Some(name) = saying.secret() else {
        return Found::Broken(format!("auth-tls-secret {text} is in another namespace"));
    };
    let verify = verify.unwrap_or(Verify::On);
    let demand = match demand(&name, verify, depth.unwrap_or(1), objects) {
        Ok(demand) => (verify != Verify::Off).then(|| Arc::new(demand)),
        Err(why) => return Found::Broken(format!("auth-tls-secret {name}{why}")),
    };
    Found::Guard(Guard {
        demand,
        error_page: error_page.clone(),
        pass_certificate: *pass_certificate,
        subjects: subject.iter().cloned().collect(),
    })
}

/// The error goes on after the Secret's name.
fn demand(
    name: &ObjectName,
    verify: Verify,
    depth: u8,
    objects: &Objects,
) -> Result<Demand, String> {
    let secret = objects.secrets.get(name).ok_or(" is not there")?;
    let authorities = match &secret.authorities {
        Some(Ok(authorities)) => authorities.clone(),
        Some(Err(error)) => return Err(format!(": ca.crt {error}")),
        None => return Err(": ca.crt is missing".to_owned()),
    };
    let revocations = match &secret.revocations {
        Some(Ok(revocations)) => Some(revocations.clone()),
        Some(Err(error)) => return Err(format!(": ca.crl {error}")),
        None => None,
    };
    if !is_usable(&authorities, revocations.as_deref()) {
        return Err(": ca.crl holds what is no list of version 2 (RFC 5280)".to_owned());
    }
    Ok(Demand { authorities, revocations, verify, depth })
}

/// Whether certificates can be checked with these.
fn is_usable(authorities: &Authorities, revocations: Option<&Revocations>) -> bool {
    let Some(revocations) = revocations else { return true };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(authorities.0.iter().cloned());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
    builder.with_crls(revocations.0.iter().cloned()).build().is_ok()
}

/// What is decided for a host.
#[derive(Default)]
struct Outcome {
    /// For all of it.
    tls: Option<HostTls>,
    /// What Ingresses are told of that.
    told: Vec<(ObjectName, String)>,
    /// Ingresses whose paths answer 503, and why.
    refused: Vec<(ObjectName, String)>,
}

impl Outcome {
    fn tell(&mut self, saying: &Saying<'_>, text: String) {
        self.told.push((saying.name.clone(), text));
    }

    fn refuse(&mut self, saying: &Saying<'_>, why: &str) {
        self.refused.push((saying.name.clone(), format!("{why}: its paths answer 503")));
    }
}

/// `here` is what Ingresses with this host say, the oldest first.
fn decide(
    pattern: &HostPattern,
    host: &Host,
    here: &[&Saying<'_>],
    found: &HashMap<&ObjectName, Found>,
    policy: &Policy,
) -> Outcome {
    let mut outcome = Outcome::default();
    let through = passes_through(pattern, host, here, policy, &mut outcome);
    // The namespace that has the host speaks for it; others may only agree.
    let is_own = |it: &Saying<'_>| it.name.namespace == host.owner.namespace;
    let first = here.iter().filter(|it| is_own(it));
    let first = { first }.find(|it| it.words.secret.is_some() || it.words.unread);
    let mut asked = None;
    if let Some(first) = first {
        match &found[first.name] {
            Found::Guard(guard) => asked = Some((*first, guard.clone())),
            Found::Broken(why) => {
                outcome.tls = Some(HostTls::Denied);
                outcome.tell(first, format!("{why}: all of {pattern} answers 403"));
            }
            Found::Nothing => {}
        }
    }
    let rest = here.iter().filter(|it| it.words.asks());
    for it in rest.filter(|it| first.is_none_or(|first| first.name != it.name)) {
        match &mut asked {
            Some((first, guard)) => {
                join(guard, first, it, &found[it.name], is_own(it), &mut outcome);
            }
            // Where everything answers 403 there is nothing left to close.
            None if outcome.tls.is_some() => {}
            None => match &found[it.name] {
                Found::Broken(why) => outcome.refuse(it, why),
                Found::Nothing => outcome.refuse(it, "auth-tls-... needs auth-tls-secret"),
                Found::Guard(_) => {
                    let why = format!(
                        "auth-tls-...: {pattern} belongs to {}, which asks for none",
                        host.owner
                    );
                    outcome.refuse(it, &why);
                }
            },
        }
    }
    match (through, asked) {
        (Some(owner), Some(_)) => {
            outcome.tls = Some(HostTls::Denied);
            let text = "auth-tls-... and ssl-passthrough contradict each other";
            outcome.tell(owner, format!("{text}: all of {pattern} answers 403"));
        }
        (Some(_), None) if outcome.tls.is_none() => outcome.tls = Some(HostTls::Through),
        (None, Some((_, guard))) => outcome.tls = Some(HostTls::Asks(guard)),
        _ => {}
    }
    outcome
}

/// Brings what one more Ingress says to what is asked for already: of two the strictest holds. Where there is
/// none, because they trust different authorities, the paths of that Ingress are closed.
fn join(
    guard: &mut Guard,
    first: &Saying<'_>,
    it: &Saying<'_>,
    found: &Found,
    own: bool,
    outcome: &mut Outcome,
) {
    let before = guard.clone();
    let joined = match found {
        Found::Broken(why) => return outcome.refuse(it, why),
        Found::Nothing => own && guard.tighten(it.words),
        Found::Guard(theirs) => guard.join(theirs),
    };
    // Another namespace closes nothing for the host's own.
    if !joined || (!own && *guard != before) {
        *guard = before;
        let why = format!("auth-tls-... cannot hold beside that of {}", first.name);
        return outcome.refuse(it, &why);
    }
    let differs = match found {
        Found::Guard(theirs) => *theirs != before,
        _ => *guard != before,
    };
    if differs {
        let text = "auth-tls-... differs on one host from that of";
        outcome.tell(it, format!("{text} {}: the strictest of both holds", first.name));
    }
}

/// Who has TLS of a host handed on: its owner decides, and its path `/` says where to.
fn passes_through<'a, 'b>(
    pattern: &HostPattern,
    host: &Host,
    here: &[&'b Saying<'a>],
    policy: &Policy,
    outcome: &mut Outcome,
) -> Option<&'b Saying<'a>> {
    let mut through = None;
    for it in here.iter().filter(|it| it.words.passthrough) {
        let root = host.paths.get(&PathPattern::Prefix("/".into()));
        let leads = root.is_some_and(|it| matches!(it.target, Target::Backend(_)));
        if !policy.passthrough {
            outcome.refuse(it, "ssl-passthrough needs --enable-ssl-passthrough");
        } else if *it.name != host.owner {
            let why =
                format!("ssl-passthrough: {pattern} belongs to {}, which decides", host.owner);
            outcome.refuse(it, &why);
        } else if *pattern == HostPattern::Any {
            outcome.refuse(it, "ssl-passthrough needs a host");
        } else if !leads {
            let why = format!("ssl-passthrough: path / of {pattern} leads to no Service");
            outcome.refuse(it, &why);
        } else {
            through = Some(*it);
        }
    }
    through
}

fn refuse(host: &mut Host, ingress: &ObjectName, text: &str) {
    for route in host.paths.values_mut().filter(|it| it.ingress == *ingress) {
        let route: &mut Route = Arc::make_mut(route);
        if !matches!(route.target, Target::Refused(_)) {
            route.target = Target::Refused(text.into());
        }
    }
}

impl Guard {
    /// Takes over what words without a Secret ask for, where that is stricter. `false`: there is nobody to ask
    /// for it, with `auth-tls-verify-client: off`.
    fn tighten(&mut self, words: &ClientTls) -> bool {
        let verify = words.verify.unwrap_or(Verify::Off);
        match &mut self.demand {
            Some(demand) => {
                let demand = Arc::make_mut(demand);
                demand.verify = demand.verify.max(verify);
                demand.depth = words.depth.map_or(demand.depth, |it| it.min(demand.depth));
            }
            None if verify != Verify::Off => return false,
            None => {}
        }
        self.match_also(words.subject.as_slice());
        true
    }

    /// Makes it the strictest of both. `false`: they trust different authorities.
    fn join(&mut self, other: &Self) -> bool {
        match (&mut self.demand, &other.demand) {
            (Some(own), Some(theirs)) => {
                if (&own.authorities, &own.revocations)
                    != (&theirs.authorities, &theirs.revocations)
                {
                    return false;
                }
                let own = Arc::make_mut(own);
                own.verify = own.verify.max(theirs.verify);
                own.depth = own.depth.min(theirs.depth);
            }
            (None, Some(theirs)) => self.demand = Some(theirs.clone()),
            (_, None) => {}
        }
        self.match_also(&other.subjects);
        true
    }

    fn match_also(&mut self, subjects: &[Subject]) {
        for subject in subjects {
            if !self.subjects.contains(subject) {
                self.subjects.push(subject.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::compile;
    use crate::compile::objects::{Ingress, Path, Port, Rule, Secret, Service, ServicePort};
    use crate::model::keypair::KeypairError;

    const HOST: &str = "a.test";

    /// An Ingress with one path of the host.
    fn ingress(created: i64, path: &str, annotations: &[(&str, &str)]) -> Arc<Ingress> {
        let backend = Some(ServicePort { service: "web".into(), port: "80".into() });
        let path = Path { path: path.into(), exact: false, backend };
        let annotation = |(name, value): &(&str, &str)| {
            (format!("nginx.ingress.kubernetes.io/{name}").into(), (*value).into())
        };
        Arc::new(Ingress {
            created: Some(created),
            rules: vec![Rule { host: HOST.into(), paths: Some(vec![path]) }],
            annotations: annotations.iter().map(annotation).collect(),
            ..Ingress::default()
        })
    }

    fn secret(name: &str) -> Arc<Secret> {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        Arc::new(Secret {
            keypair: Err(KeypairError::Missing("tls.crt")),
            authorities: Some(Ok(Arc::new(Authorities(vec![made.cert.der().clone()])))),
            revocations: None,
            annotations: std::collections::BTreeMap::new(),
            htpasswd: None,
            users: None,
            thumbprint: None,
        })
    }

    fn plan(ingresses: &[(&str, Arc<Ingress>)], passthrough: bool) -> (Plan, Vec<Problem>) {
        let mut objects = Objects::default();
        for namespace in ["demo", "other"] {
            let port = Port { name: "".into(), port: 80, target: "8080".into() };
            let service = Service { ports: vec![port], ..Service::default() };
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
        let told: HashSet<_> =
            host.paths.values().map(|it| format!("{:?}", it.client_tls)).collect();
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
}
