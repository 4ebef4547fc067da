//! What the steps up to the backend found, in words.

use std::net::IpAddr;

use http::{StatusCode, request};

use super::{Question, Step};
use crate::live::table::{By, Match, Paths};
use crate::live::{Live, Way};
use crate::model::client_tls::{HostTls, Verify};
use crate::model::host::HostPattern;
use crate::model::plan::{BackendId, Route, Target};
use crate::model::routing::Alias;
use crate::model::settings::{Settings, Trust};
use crate::proxy::View;
use crate::proxy::client_tls::Wrong;
use crate::proxy::forwarded::Told;
use crate::proxy::peer::Peer;

pub(super) fn step(name: &'static str, text: String) -> Step {
    Step { name, text }
}

/// `404 Not Found`
pub(super) fn status(status: StatusCode) -> String {
    let reason = status.canonical_reason().unwrap_or_default();
    format!("{} {reason}", status.as_u16()).trim_end().to_owned()
}

/// `demo/web, port 80`
pub(super) fn service(id: &BackendId) -> String {
    format!("{}, port {}", id.service, id.port)
}

pub(super) fn request(question: &Question, port: u16) -> String {
    let Question { method, authority, target, client, .. } = question;
    let scheme = if question.https { "HTTPS" } else { "plain HTTP" };
    format!("{method} {target} of {authority} from {client}, over {scheme} at port {port}")
}

/// Who asks, where that is a question.
pub(super) fn client(trust: &Trust, peer: &Peer, told: Option<&Told>) -> Option<Step> {
    let address = peer.address.ip();
    let text = match told.map(|it| &it.peer) {
        Some(it)
            if it.address.ip() != address || it.https != peer.https || it.port != peer.port =>
        {
            format!(
                "{address} is trusted to say who asks: {} over {}, at port {}",
                it.address.ip(),
                it.scheme(),
                it.port
            )
        }
        None if trust.expects_proxy_header(address) => format!(
            "connections from {address} have to begin with a PROXY header (use-proxy-protocol): give \
             --client the address that it names"
        ),
        None if trust.reads_requests() => format!(
            "{address} is not among the proxies that are trusted to say who asks (proxy-real-ip-cidr)"
        ),
        _ => return None,
    };
    Some(step("client", text))
}

pub(super) fn path(canonical: &str, raw: &str) -> String {
    if canonical == raw {
        return canonical.to_owned();
    }
    format!("{canonical}, which is {raw} in canonical form: all that follows goes by it")
}

/// By what of the name the host's rules are found.
pub(super) fn host(live: &Live, host: &str, found: Option<(By<'_>, &Paths)>) -> String {
    let owner = |is: &dyn Fn(&Alias) -> bool| {
        let mut hosts = live.plan.hosts.iter();
        let (pattern, _) = hosts.find(|(_, it)| it.aliases.iter().any(|(it, _)| is(it)))?;
        Some(pattern.to_string())
    };
    let named = |name: HostPattern| {
        if live.plan.hosts.contains_key(&name) {
            return None;
        }
        owner(&|it| matches!(it, Alias::Host(it) if *it == name))
    };
    match found {
        None => format!("no rule is for {host}, and none is without a host"),
        Some((By::Any, _)) => format!("no rule is for {host}: those without a host hold"),
        Some((By::Name, Paths { moved: Some(to), .. })) => {
            format!("{host} is but another name of {to}")
        }
        Some((By::Name, _)) => match named(HostPattern::Exact(host.into())) {
            Some(of) => format!("the rules of {of}, of which {host} is an alias (server-alias)"),
            None => format!("the rules of {host}"),
        },
        Some((By::Wildcard(above), _)) => match named(HostPattern::Wildcard(above.into())) {
            Some(of) => format!("the rules of {of}, of which *.{above} is an alias (server-alias)"),
            None => format!("the rules of *.{above}: none are for {host} itself"),
        },
        Some((By::Pattern(pattern), _)) => {
            let of = owner(&|it| matches!(it, Alias::Pattern(it) if it == pattern));
            let of = of.unwrap_or_default();
            format!("the rules of {of}, whose alias ~{pattern} is found in {host} (server-alias)")
        }
    }
}

pub(super) fn rule(route: &Route, matched: Option<Match>) -> String {
    let (ingress, path) = (&route.ingress, &route.path);
    match matched {
        None => "none takes it: the default backend does (--default-backend-service)".to_owned(),
        Some(_) if route.target == Target::Fallback => format!(
            "none of this host's takes it: what is left goes to the default backend, with the settings of \
             Ingress {ingress}"
        ),
        Some(Match::Exact(_)) => format!("Ingress {ingress}, path {path}, exactly"),
        Some(Match::Prefix(_)) => format!("Ingress {ingress}, path {path} and what is below it"),
        Some(Match::Slash(_)) => format!("Ingress {ingress}, path {path}, without its last slash"),
        Some(Match::Expression(_)) => format!(
            "Ingress {ingress}, path {path}, a regular expression like all paths of this host (use-regex \
             or rewrite-target)"
        ),
    }
}

/// What a host asks of clients that may still pass without a certificate.
pub(super) fn host_tls(tls: &HostTls) -> Option<String> {
    let HostTls::Asks(guard) = tls else { return None };
    let verify = guard.demand.as_ref()?.verify;
    Some(format!(
        "none is shown, and none has to be (auth-tls-verify-client: {})",
        match verify {
            Verify::Optional => "optional",
            Verify::OptionalNoCa => "optional_no_ca",
            _ => "off",
        }
    ))
}

/// Why a request without a client certificate is not for this host.
pub(super) fn wrong(wrong: Wrong) -> &'static str {
    match wrong {
        Wrong::Connection => {
            "the handshake was for another host, which asks something else of its clients"
        }
        Wrong::Denied => "what this host's auth-tls-secret asks for cannot be had",
        Wrong::Missing | Wrong::Bad | Wrong::Subject => {
            "this host asks its clients for a certificate (auth-tls-secret), and explain shows none"
        }
    }
}

pub(super) fn rewrite(view: &View<'_>, head: &request::Parts) -> Option<Step> {
    let rewrite = view.way.route.rewrite.as_ref()?;
    let target = &rewrite.target.text;
    let text = match view.asked.rewritten.get() {
        Some(it) => format!("endpoints are asked for {it} (rewrite-target: {target})"),
        None => format!(
            "the rule's path is not found in {}: it stays (rewrite-target: {target})",
            view.asked.path(&head.uri)
        ),
    };
    Some(step("rewrite", text))
}

pub(super) fn why_https(live: &Live, route: &Route) -> &'static str {
    if route.options.force_ssl_redirect {
        return "force-ssl-redirect";
    }
    let own = live.plan.hosts.iter().find(|(it, _)| it.to_string() == *route.host);
    match own {
        Some((_, host)) if host.tls => "the host has an entry under spec.tls (ssl-redirect)",
        _ => "a wildcard above the host has an entry under spec.tls (ssl-redirect)",
    }
}

pub(super) fn limits(way: &Way, client: IpAddr, settings: &Settings) -> Vec<Step> {
    let Some(rates) = &way.route.options.rates else { return Vec::new() };
    let mut steps = Vec::new();
    if way.zone.is_some() && rates.exempt.contains(client) {
        steps.push(step("limits", format!("none for {client} (limit-allowlist)")));
    } else if way.zone.is_some() {
        let statuses = &settings.limit_statuses;
        let each = [
            (rates.second, "requests a second (limit-rps)", statuses.requests),
            (rates.minute, "requests a minute (limit-rpm)", statuses.requests),
            (rates.connections, "requests at a time (limit-connections)", statuses.connections),
        ];
        let each: Vec<_> = each
            .iter()
            .filter(|(many, ..)| *many > 0)
            .map(|(many, of, status)| format!("{many} {of}, else {status}"))
            .collect();
        let text = format!(
            "what one client may ask for: {}; what it has asked for lately is not known here",
            each.join("; ")
        );
        steps.push(step("limits", text));
    }
    if rates.bytes > 0 {
        let after = match rates.bytes_after {
            0 => String::new(),
            after => format!(" after the first {}", size(after)),
        };
        let rate = size(rates.bytes);
        steps.push(step("limits", format!("answers leave at {rate} a second{after} (limit-rate)")));
    }
    steps
}

/// Bytes as people write them.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let whole = UNITS.iter().find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit));
    whole
        .map_or_else(|| format!("{bytes} bytes"), |(unit, name)| format!("{} {name}", bytes / unit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_units() {
        for (bytes, expected) in [
            (0, "0 bytes"),
            (1000, "1000 bytes"),
            (1 << 20, "1 MiB"),
            (1536 << 10, "1536 KiB"),
            (3 << 30, "3 GiB"),
        ] {
            assert_eq!(size(bytes), expected, "{bytes}");
        }
    }
}
