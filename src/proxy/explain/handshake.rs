//! What happens before a request over TLS: the certificate that is shown, what is asked of clients.

use std::net::Ipv4Addr;

use super::walk::to;
use super::{Answer, Question, Told, words};
use crate::live::Live;
use crate::live::keys::Held;
use crate::live::policies::PolicyId;
use crate::model::client_tls::{HostTls, Verify};
use crate::model::host::{HostPattern, parent};
use crate::proxy::tls;

/// What came of the handshake.
pub(super) enum Shaken {
    /// It was for this policy.
    Policy(PolicyId),
    /// There is none.
    Over(Answer),
}

pub(super) fn look(live: &Live, question: &Question, told: &mut Told) -> Shaken {
    let host = &*question.authority.host;
    // RFC 6066 section 3: a client sends no address as a server name.
    let is_address = host.starts_with('[') || host.parse::<Ipv4Addr>().is_ok();
    let name = if is_address { String::new() } else { tls::canonical(host) };
    let paths = live.table.host(&name);
    if let Some(way) = paths.and_then(|it| it.through) {
        let way = live.way(way);
        told.ingress = Some(way.route.ingress.clone());
        let who = format!("Ingress {} (ssl-passthrough)", way.route.ingress);
        let Some(balancer) = way.balancer.as_deref().filter(|it| !it.is_empty()) else {
            told.say("TLS", format!("{who} has it handed on, and no endpoint is ready"));
            return Shaken::Over(Answer::Nobody);
        };
        let service = words::service(&balancer.id);
        told.say("TLS", format!("{who} has it handed on as it is to Service {service}"));
        return Shaken::Over(to(balancer, None));
    }
    if tls::is_stranger(live, &name) {
        let text = "no rule names this host, and the handshake is refused (ssl-reject-handshake)";
        told.say("TLS", text);
        return Shaken::Over(Answer::Nobody);
    }
    told.say("certificate", certificate(live, &name, question.now));
    let tls = paths.and_then(|it| it.client_tls.as_deref());
    told.say("TLS", format!("{}; {}", offered(live), asked(tls)));
    Shaken::Policy(live.policies.policy(tls).id)
}

fn offered(live: &Live) -> String {
    let settings = &live.plan.settings.tls;
    let versions = [(settings.versions.tls12, "1.2"), (settings.versions.tls13, "1.3")];
    let versions: Vec<_> = versions.iter().filter(|(it, _)| *it).map(|(_, it)| *it).collect();
    let h2 = if settings.h2 { "HTTP/2 and HTTP/1.1" } else { "HTTP/1.1" };
    format!("TLS {}, {h2}", versions.join(" and "))
}

fn asked(tls: Option<&HostTls>) -> &'static str {
    let demand = match tls {
        Some(HostTls::Asks(guard)) => guard.demand.as_ref(),
        _ => None,
    };
    match demand.map(|it| it.verify) {
        None | Some(Verify::Off) => "no client certificate is asked for",
        Some(Verify::On) => {
            "a client certificate is asked for and needed (auth-tls-verify-client: on)"
        }
        Some(Verify::Optional) => {
            "a client certificate is asked for, and has to be good if there is one \
             (auth-tls-verify-client: optional)"
        }
        Some(Verify::OptionalNoCa) => {
            "a client certificate is asked for, whoever issued it (auth-tls-verify-client: \
             optional_no_ca)"
        }
    }
}

/// Which certificate is shown, and where it is not the host's own, why.
fn certificate(live: &Live, name: &str, now: jiff::Timestamp) -> String {
    if let Some(held) = live.keys.own(name) {
        return format!("that of {}", of(held, now));
    }
    let why = why_not_own(live, name);
    match live.keys.chosen() {
        Some(held) => {
            format!("the default one (--default-ssl-certificate), {}: {why}", of(held, now))
        }
        None => format!("the self-signed one, which no client trusts: {why}"),
    }
}

fn of(held: &Held, now: jiff::Timestamp) -> String {
    const DAY: i64 = 86_400;
    let names: Vec<_> = held.keypair.names.iter().map(ToString::to_string).collect();
    let left = held.keypair.not_after - now.as_second();
    let end = jiff::Timestamp::from_second(held.keypair.not_after);
    let end = end.map(|it| it.to_string()).unwrap_or_default();
    let valid = if left < 0 {
        format!("EXPIRED on {end}")
    } else {
        format!("valid until {end}, {} days from now", left / DAY)
    };
    format!("Secret {}, for {}, {valid}", held.secret, names.join(" and "))
}

fn why_not_own(live: &Live, name: &str) -> String {
    if name.is_empty() {
        return "a client sends no server name for an address".to_owned();
    }
    let own = HostPattern::Exact(name.into());
    let above = parent(name).map(|it| HostPattern::Wildcard(it.into()));
    let found = [Some(own), above].into_iter().flatten().find_map(|it| {
        let certificate = live.plan.certificates.get(&it)?;
        Some((it, certificate))
    });
    let Some((host, certificate)) = found else {
        return format!("no Ingress with a rule for {name} has an entry under spec.tls");
    };
    match &certificate.secret {
        None => format!("the entry for {host} under spec.tls names no Secret"),
        Some(secret) if live.plan.awaits(secret, &host) => {
            format!("the certificate that Secret {secret} is for has yet to be obtained")
        }
        Some(secret) => {
            format!("Secret {secret} holds no certificate and key that are good for {host}")
        }
    }
}
