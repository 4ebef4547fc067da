//! `spec.tls` → which certificate a host shows, and which Secrets we are to fill.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::objects::{ISSUED_AT, ISSUER, Ingress, MANAGED, Objects, PREFIX, Secret, TLS_ACME, Tls};
use super::routes::{CHALLENGES, Ours, hosts_of, is_challenge_path};
use super::{IssuerKind, Policy};
use crate::model::host::HostPattern;
use crate::model::keypair::Keypair;
use crate::model::name::{Kind, ObjectName};
use crate::model::path::PathPattern;
use crate::model::plan::{Certificate, Declined, Plan, Wanted};
use crate::model::problem::Problem;

/// Set by cert-manager on Secrets it fills.
const CERT_MANAGER_SECRET: &str = "cert-manager.io/certificate-name";
/// Annotations by which an Ingress asks cert-manager for a certificate.
const CERT_MANAGER: [&str; 2] = ["cert-manager.io/cluster-issuer", "cert-manager.io/issuer"];
/// On an Ingress: `off` orders without asking the hosts first.
const SELF_CHECK: &str = "lockgate.dev/self-check";
/// On an Ingress: `true` keeps the private key when a certificate is renewed.
const REUSE_KEY: &str = "lockgate.dev/reuse-key";
/// On an Ingress: whose the challenges are where a path takes them away, `ours` or `theirs`.
const CHALLENGE_PATH: &str = "lockgate.dev/challenge-path";
/// On a Secret: `true` hands it over to us.
const ADOPT: &str = "lockgate.dev/adopt";

/// Adds certificates, the account's thumbprint and wanted Secrets to the plan.
pub(super) fn add(
    ours: &[Ours<'_>],
    objects: &Objects,
    policy: &Policy,
    plan: &mut Plan,
    problems: &mut Vec<Problem>,
) {
    plan.thumbprint =
        objects.secrets.get(&policy.account).and_then(|secret| secret.thumbprint.clone());
    if let Some(name) = &policy.default_certificate {
        let keypair = look_up(name, objects, plan, |text| {
            problems.push(Problem {
                kind: Kind::Secret,
                object: name.clone(),
                reason: "DefaultCertificate",
                text: format!("{text}: the self-signed certificate is shown"),
            });
        });
        plan.default_certificate =
            Some(Certificate { secret: Some(name.clone()), keypair, keeps_last: true });
    }
    for it in ours {
        want(it, objects, policy, plan, problems);
    }
    let most = policy.most_names;
    let declined = &mut plan.declined;
    plan.wanted.retain(|secret, it| {
        let few = it.names.len() <= most;
        if !few {
            let text = format!(
                "no certificate is ordered for {secret}: {} names, at most {most}",
                it.names.len()
            );
            let told = it.ingresses.iter();
            problems.extend(told.map(|it| Problem::ingress(it, "TooManyNames", text.clone())));
            let Wanted { names, ingresses, held, .. } = it.clone();
            let reason = "TooManyNames";
            let why = Declined { names, ingresses, reason, text, held };
            declined.insert(secret.clone(), why);
        }
        few
    });
    // What one Ingress may have, another's mistake does not take away.
    plan.declined.retain(|secret, _| !plan.wanted.contains_key(secret));
    for it in ours {
        show(it, objects, plan, problems);
    }
}

/// Gives the hosts of an Ingress with `tls` entries their certificates. They come from the namespace that
/// owns the host; of its Ingresses the oldest with `tls` entries decides.
fn show(ours: &Ours<'_>, objects: &Objects, plan: &mut Plan, problems: &mut Vec<Problem>) {
    if ours.ingress.tls.is_empty() {
        return;
    }
    for host in hosts_of(ours.ingress) {
        let mut report = |reason, text| problems.push(Problem::ingress(ours.name, reason, text));
        match plan.hosts.get_mut(&host) {
            None => continue,
            Some(known) if known.owner.namespace != ours.name.namespace => {
                let text =
                    format!("its certificate is not for {host}: {} has the host", known.owner);
                report("HostTaken", text);
                continue;
            }
            Some(known) if known.tls => continue,
            Some(known) => known.tls = true,
        }
        let secret = secret_of(&host, ours, objects, plan);
        let awaited = secret.as_ref().is_some_and(|it| plan.awaits(it, &host));
        let mut complain = |text: String| {
            if !awaited {
                report("Certificate", format!("{text}: {host} shows the default certificate"));
            }
        };
        let mut keeps_last = true;
        let keypair = secret.as_ref().and_then(|name| {
            let found = look_up(name, objects, plan, &mut complain)?;
            if host == HostPattern::Any || found.covers(&host) {
                return Some(found);
            }
            keeps_last = false;
            complain(format!("the certificate in Secret {name} is not for this host"));
            None
        });
        plan.certificates.insert(host, Certificate { secret, keypair, keeps_last });
    }
}

/// ingress-nginx's choice: the entry that lists the host, else one whose certificate is for it, or will be.
fn secret_of(
    host: &HostPattern,
    ours: &Ours<'_>,
    objects: &Objects,
    plan: &Plan,
) -> Option<ObjectName> {
    let full = |secret: &str| ObjectName::new(ours.name.namespace.clone(), secret);
    let is_host = |it: &str| it.parse::<HostPattern>().is_ok_and(|it| it == *host);
    let listed = |it: &&Tls| it.hosts.iter().any(|it| is_host(it));
    if let Some(entry) = ours.ingress.tls.iter().find(listed) {
        return entry.secret.as_deref().map(full);
    }
    let names: Vec<ObjectName> =
        ours.ingress.tls.iter().filter_map(|it| it.secret.as_deref().map(full)).collect();
    let covering = names.iter().find(|name| {
        let keypair = objects.secrets.get(name).and_then(|it| it.keypair.as_ref().ok());
        keypair.is_some_and(|it| it.covers(host)) || plan.awaits(name, host)
    });
    // One that is not listed may still turn out to be for it, once it was read.
    covering.or_else(|| names.iter().find(|it| !objects.secrets.contains_key(it))).cloned()
}

/// The pair in a Secret; a Secret that no list held is noted, to be read by its name.
fn look_up(
    name: &ObjectName,
    objects: &Objects,
    plan: &mut Plan,
    report: impl FnOnce(String),
) -> Option<Arc<Keypair>> {
    let found = objects.secrets.get(name);
    if found.is_none_or(|it| !it.is_listed()) {
        plan.unlisted.insert(name.clone());
    }
    match found {
        None => {
            report(format!("Secret {name} is not there"));
            None
        }
        Some(secret) => match &secret.keypair {
            Ok(keypair) => Some(keypair.clone()),
            Err(error) => {
                report(format!("Secret {name}: {error}"));
                None
            }
        },
    }
}

/// Notes the Secrets an Ingress asks us to fill.
fn want(
    ours: &Ours<'_>,
    objects: &Objects,
    policy: &Policy,
    plan: &mut Plan,
    problems: &mut Vec<Problem>,
) {
    if !asks(ours.ingress, policy) {
        return;
    }
    let says = |name: &str| ours.ingress.annotations.get(name).map(str::trim);
    let theirs = says(CHALLENGE_PATH) == Some("theirs");
    for host in hosts_of(ours.ingress) {
        if let Some(known) = plan.hosts.get_mut(&host)
            && known.owner.namespace == ours.name.namespace
        {
            known.acme |= !(theirs && takes_challenges(known));
        }
    }
    let mut report =
        |reason, text: String| problems.push(Problem::ingress(ours.name, reason, text));
    if policy.issuer == IssuerKind::None {
        let text = "asks for a certificate, but --issuer=none: its Secrets come from elsewhere";
        return report("NoIssuer", text.to_owned());
    }
    if objects.unreadable.contains(&Kind::Secret) {
        // Not seen is not the same as not there.
        return report(
            "NoSecrets",
            "no certificate is ordered while Secrets may not be read".into(),
        );
    }
    for entry in &ours.ingress.tls {
        let Some(secret) = entry.secret.as_deref().filter(|_| !entry.hosts.is_empty()) else {
            report(
                "NoSecretName",
                "a tls entry needs hosts and secretName to get a certificate".into(),
            );
            continue;
        };
        let name = ObjectName::new(ours.name.namespace.clone(), secret);
        if !name.is_valid() {
            report("NoSecretName", format!("{secret:?} cannot be the name of a Secret"));
            continue;
        }
        let found = objects.secrets.get(&name);
        if found.is_none_or(|it| !it.is_listed()) {
            // Not listed is not the same as not there: it may be of another type.
            plan.unlisted.insert(name.clone());
        }
        let names = match unfit(&name, found.map(|it| &**it), policy) {
            Some(why) => {
                let text = format!("Secret {name} is only read, never written: {why}");
                Err(("SecretNotManaged", text))
            }
            None => names(&entry.hosts, ours, policy, plan).map_err(|(reason, text)| {
                (reason, format!("no certificate is ordered for {name}: {text}"))
            }),
        };
        match names {
            Err((reason, text)) => {
                report(reason, text.clone());
                let declined = plan.declined.entry(name).or_default();
                let readable = entry.hosts.iter().filter_map(|it| it.parse::<HostPattern>().ok());
                declined.names.extend(readable.map(|it| it.to_string()));
                declined.ingresses.insert(ours.name.clone());
                declined.held = found.and_then(|it| it.keypair.as_ref().ok()).cloned();
                (declined.reason, declined.text) = (reason, text);
            }
            Ok(names) => {
                let wanted =
                    plan.wanted.entry(name).or_insert_with(|| Wanted::new(found.map(|it| &**it)));
                wanted.names.extend(names);
                wanted.ingresses.insert(ours.name.clone());
                wanted.self_check &= !says(SELF_CHECK).is_some_and(is_off);
                wanted.reuse_key |= says(REUSE_KEY).is_some_and(|it| it == "true");
            }
        }
    }
}

/// YAML's spellings of no, for what would otherwise depend on quotation marks.
fn is_off(text: &str) -> bool {
    ["off", "false", "no"].iter().any(|it| text.eq_ignore_ascii_case(it))
}

impl Wanted {
    fn new(found: Option<&Secret>) -> Self {
        let annotation = |name| found.and_then(|it| it.annotations.get(name));
        Self {
            names: BTreeSet::new(),
            ingresses: BTreeSet::new(),
            exists: found.is_some(),
            held: found.and_then(|it| it.keypair.as_ref().ok()).cloned(),
            issuer: annotation(ISSUER).map(ToString::to_string),
            issued_at: annotation(ISSUED_AT).and_then(|it| it.parse().ok()),
            marks: found.into_iter().flat_map(marks).collect(),
            marked: found.is_none() || annotation(MANAGED).is_some(),
            self_check: true,
            reuse_key: false,
        }
    }
}

/// Our annotations, without their common beginning.
fn marks(secret: &Secret) -> impl Iterator<Item = (&str, &str)> {
    let all = secret.annotations.iter();
    all.filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?, value)))
}

fn asks(ingress: &Ingress, policy: &Policy) -> bool {
    let marked = |name: &str| ingress.annotations.get(name).is_some_and(|it| !it.is_empty());
    let others = CERT_MANAGER.iter().any(|it| marked(it));
    let lego = ingress.annotations.get(TLS_ACME).is_some_and(|it| it.eq_ignore_ascii_case("true"));
    if others { policy.adopt_cert_manager } else { lego }
}

/// Why a certificate cannot be written into a Secret.
fn unfit(name: &ObjectName, found: Option<&Secret>, policy: &Policy) -> Option<&'static str> {
    if is_own(name, policy) {
        return Some("Lockgate keeps keys of its own there; name another");
    }
    let found = found?;
    if !found.is_listed() {
        return Some(
            "it is not of type kubernetes.io/tls, and a type cannot be changed; delete it, or name another",
        );
    }
    not_ours(found)
}

/// Whether we keep something else under this name, which a certificate would destroy.
fn is_own(name: &ObjectName, policy: &Policy) -> bool {
    let ours = *name.name == *"lockgate-local-ca" || name.name.starts_with("lockgate-order-");
    *name == policy.account || (name.namespace == policy.account.namespace && ours)
}

/// Why a Secret is not ours to write; one that kube-lego filled is.
fn not_ours(secret: &Secret) -> Option<&'static str> {
    let truth =
        |name| secret.annotations.get(name).is_some_and(|it| it.eq_ignore_ascii_case("true"));
    if truth(ADOPT) {
        return None;
    }
    if secret.annotations.contains(CERT_MANAGER_SECRET) {
        return Some("cert-manager fills it");
    }
    let ours = secret.annotations.contains(MANAGED) || truth(TLS_ACME);
    (!ours).then_some(
        "somebody else made it; annotate it with lockgate.dev/adopt: \"true\" to hand it over",
    )
}

/// The names a certificate must cover, or why none can be had.
fn names(
    hosts: &[Box<str>],
    ours: &Ours<'_>,
    policy: &Policy,
    plan: &Plan,
) -> Result<BTreeSet<String>, (&'static str, String)> {
    let mut names = BTreeSet::new();
    for text in hosts {
        let host: HostPattern =
            text.parse().map_err(|error| ("NotIssuable", format!("{text:?}: {error}")))?;
        if policy.issuer == IssuerKind::Acme && !is_issuable(&host) {
            let why = "a public CA gives no certificate for it over HTTP-01";
            return Err(("NotIssuable", format!("{host}: {why}")));
        }
        if host == HostPattern::Any {
            return Err(("NotIssuable", "an empty host is no name".to_owned()));
        }
        let above = || plan.hosts.get(&host.above()?);
        if let Some(known) = plan.hosts.get(&host).or_else(above) {
            if known.owner.namespace != ours.name.namespace {
                let text = format!("{host} belongs to {}, which is older", known.owner);
                return Err(("HostTaken", text));
            }
            let decided = ours.ingress.annotations.get(CHALLENGE_PATH).map(str::trim);
            if policy.issuer == IssuerKind::Acme
                && takes_challenges(known)
                && decided != Some("ours")
            {
                let text = format!(
                    "a path of {host} takes {CHALLENGES} away; {CHALLENGE_PATH} says whose it is, \
                     ours or theirs"
                );
                return Err(("ChallengePathTaken", text));
            }
        }
        names.insert(host.to_string());
    }
    Ok(names)
}

fn is_issuable(host: &HostPattern) -> bool {
    const PRIVATE: [&str; 5] = ["local", "internal", "localhost", "localdomain", "invalid"];
    match host {
        HostPattern::Exact(name) => name.rsplit_once('.').is_some_and(|(_, last)| {
            !PRIVATE.contains(&last) && !last.bytes().all(|it| it.is_ascii_digit())
        }),
        HostPattern::Wildcard(_) | HostPattern::Any => false,
    }
}

/// Whether somebody routes the challenge path by a prefix; one exact token is a solver's and is fine.
fn takes_challenges(host: &crate::model::plan::Host) -> bool {
    let locations = host.locations.iter().flatten();
    let mut beginnings = locations.map(|(it, _)| it.beginning());
    if beginnings.any(is_challenge_path) {
        return true;
    }
    host.paths.keys().any(|it| match it {
        PathPattern::Prefix(path) => is_challenge_path(path),
        PathPattern::Exact(_) => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A public CA is not asked for what it cannot give.
    #[test]
    fn r_ord_3_what_no_public_ca_gives_is_not_ordered() {
        for (host, expected) in [
            ("a.test", true),
            ("xn--bcher-kva.example", true),
            ("a.local.example", true),
            ("1.2.3.4a", true),
            ("*.a.test", false),
            ("", false),
            ("intranet", false),
            ("a.local", false),
            ("a.internal", false),
            ("a.localhost", false),
            ("router.localdomain", false),
            ("a.invalid", false),
            ("10.0.0.1", false),
        ] {
            let host: HostPattern = host.parse().expect("a host");
            assert_eq!(is_issuable(&host), expected, "{host}");
        }
    }

    /// kube-lego's annotation is a request to us, unless the same Ingress asks cert-manager by name.
    #[test]
    fn r_own_2_an_ingress_asks_us_or_cert_manager() {
        let (lego, cluster) = ((TLS_ACME, "true"), ("cert-manager.io/cluster-issuer", "le"));
        let issuer = ("cert-manager.io/issuer", "le");
        for (own, usual, adopting) in [
            (&[][..], false, false),
            (&[lego], true, true),
            (&[(TLS_ACME, "True")], true, true),
            (&[(TLS_ACME, "false")], false, false),
            (&[(TLS_ACME, "yes")], false, false),
            (&[cluster], false, true),
            (&[issuer], false, true),
            (&[lego, cluster], false, true),
            (&[lego, issuer], false, true),
            (&[lego, ("cert-manager.io/issuer", "")], true, true),
        ] {
            let ingress =
                Ingress { annotations: own.iter().copied().collect(), ..Ingress::default() };
            for (adopt_cert_manager, expected) in [(false, usual), (true, adopting)] {
                let policy = Policy { adopt_cert_manager, ..Policy::default() };
                assert_eq!(asks(&ingress, &policy), expected, "{own:?} {adopt_cert_manager}");
            }
        }
    }

    #[test]
    fn what_we_keep_for_ourselves_is_no_place_for_a_certificate() {
        for (namespace, name, expected) in [
            ("lockgate", "lockgate-acme-account", true),
            ("lockgate", "lockgate-local-ca", true),
            ("lockgate", "lockgate-order-0011223344556677", true),
            ("lockgate", "lockgate-tls", false),
            ("shop", "lockgate-local-ca", false),
            ("shop", "lockgate-order-0011223344556677", false),
        ] {
            let found = unfit(&ObjectName::new(namespace, name), None, &Policy::default());
            assert_eq!(found.is_some(), expected, "{namespace}/{name}");
        }
    }
}
