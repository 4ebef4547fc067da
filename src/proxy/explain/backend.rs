//! What is known of a backend, of what it is sent and of what becomes of its answer, in words.

use http::header::{HOST, HeaderName};
use http::{HeaderMap, request};

use super::Step;
use super::words::{service, size, step};
use crate::live::balance::Balancer;
use crate::model::options::Options;
use crate::model::upstream::{Balance, RetryOn};
use crate::proxy::View;
use crate::proxy::affinity::Session;
use crate::proxy::observe::Extra;

pub(super) fn name(view: &View<'_>, balancer: &Balancer) -> String {
    let name = service(&balancer.id);
    let route = &view.way.route;
    let stands_in = route.answers.as_ref().and_then(|it| it.stands_in_for.as_ref());
    match stands_in {
        Some(own) => format!(
            "Service {name} (default-backend) in place of {}, which has no endpoint",
            service(own)
        ),
        None if route.ingress.name.is_empty() => {
            format!("Service {name} (--default-backend-service)")
        }
        None => format!("Service {name}"),
    }
}

pub(super) fn span(view: &View<'_>) -> Option<Step> {
    let spans = view.way.route.options.spans.as_ref().filter(|it| it.on)?;
    let whose =
        if spans.distrust { "a trace of its own" } else { "the client's trace, or its own" };
    let told = match &view.settings.tracing.collector {
        Some(host) => format!("a collector at {host} is told where it is sampled"),
        None => "no collector is told (otlp-collector-host)".to_owned(),
    };
    let text =
        format!("in {whose}: the endpoint gets traceparent, and {told} (enable-opentelemetry)");
    Some(step("trace", text))
}

pub(super) fn mirror(view: &View<'_>) -> Option<Step> {
    let mirror = view.way.route.mirror.as_ref()?;
    let (host, port) = &mirror.address;
    let body = if mirror.body { "" } else { ", without the body" };
    Some(step("mirror", format!("a copy goes to {host} at port {port}{body} (mirror-target)")))
}

pub(super) fn addresses(balancer: &Balancer) -> Vec<String> {
    let backend = &balancer.backend;
    let external = backend.external.iter().map(|(name, port)| format!("{name}:{port}"));
    backend.addresses.iter().map(ToString::to_string).chain(external).collect()
}

pub(super) fn endpoints(view: &View<'_>, balancer: &Balancer, headers: &HeaderMap) -> String {
    let all = addresses(balancer);
    let listed = listed(&all);
    if balancer.backend.external.is_some() {
        return format!("{listed}, looked up for each connection (ExternalName)");
    }
    if let Some(session) = Session::of(balancer, headers) {
        if let Some(held) = session.held() {
            return format!(
                "{held}, where the client's cookie keeps it (affinity: cookie), of {listed}"
            );
        }
        if let Some(affinity) = &balancer.backend.affinity
            && view.way.route.options.sharing.as_ref().is_some_and(|it| it.affinity)
        {
            let cookie = affinity.cookie.name();
            return format!(
                "{listed}; the answer sets the cookie {cookie}, which keeps the client on one of them (affinity: cookie)"
            );
        }
    }
    if all.len() < 2 {
        return listed;
    }
    let how = match &balancer.backend.balance {
        Balance::RoundRobin => "in turn",
        Balance::Ewma => "the quicker of two random ones (load-balance: ewma)",
        Balance::Hash(_) => "always the same one for what upstream-hash-by makes of the request",
        Balance::Subset(..) => "one of those for what upstream-hash-by makes of the request",
    };
    format!("{listed}: {how}")
}

/// The first few.
fn listed(all: &[String]) -> String {
    const MOST: usize = 8;
    match all.len().checked_sub(MOST) {
        Some(more) if more > 0 => format!("{} and {more} more", all[..MOST].join(", ")),
        _ => all.join(", "),
    }
}

pub(super) fn transport(view: &View<'_>) -> String {
    let transport = view.way.transports.of(view.peer.https);
    let version = if transport.h2 { "HTTP/2" } else { "HTTP/1.1" };
    let tls = view.way.route.upstream_tls.as_ref().filter(|_| transport.tls.is_some());
    let Some(tls) = tls else { return format!("{version} without TLS (backend-protocol)") };
    let secret = tls.secret.as_ref().map(ToString::to_string).unwrap_or_default();
    if tls.authorities.is_none() {
        return format!(
            "{version} over TLS; their certificate is not looked at (proxy-ssl-verify: off)"
        );
    }
    let name = tls.name.to_str();
    format!(
        "{version} over TLS; their certificate has to be for {name} and signed by ca.crt of Secret {secret}"
    )
}

/// What an endpoint is asked for, and which fields are not what the client sent. Of those that somebody
/// wrote into a ConfigMap only the names are told: they may be keys.
pub(super) fn sent(view: &View<'_>, head: &request::Parts, fields: &HeaderMap) -> String {
    let values = |headers: &HeaderMap, name: &HeaderName| {
        headers.get_all(name).iter().cloned().collect::<Vec<_>>()
    };
    let text = |name: &HeaderName| {
        let value = fields.get(name).map(|it| String::from_utf8_lossy(it.as_bytes()).into_owned());
        value.unwrap_or_default()
    };
    let set: Vec<_> = fields
        .keys()
        .filter(|it| *it != HOST && values(fields, it) != values(&head.headers, it))
        .map(|it| match it.as_str() {
            "x-real-ip" | "via" | "x-scheme" => format!("{it}: {}", text(it)),
            name if name.starts_with("x-forwarded-") => format!("{it}: {}", text(it)),
            name => name.to_owned(),
        })
        .collect();
    let gone: Vec<_> = head
        .headers
        .keys()
        .filter(|it| !fields.contains_key(*it))
        .map(HeaderName::as_str)
        .collect();
    let target = view.asked.outbound(&head.uri);
    let mut said = format!("{} {target}, host {}", head.method, text(&HOST));
    if !set.is_empty() {
        said.push_str("; set: ");
        said.push_str(&set.join(", "));
    }
    if !gone.is_empty() {
        said.push_str("; taken out: ");
        said.push_str(&gone.join(", "));
    }
    said
}

pub(super) fn patience(options: &Options) -> String {
    let Options { connect_timeout, read_timeout, send_timeout, retry, .. } = options;
    let on = &retry.on;
    let words = [
        (on.error, "no connection or a broken one"),
        (on.timeout, "none in time"),
        (on.invalid_header, "no HTTP"),
    ];
    let words: Vec<_> =
        words.iter().filter(|(it, _)| *it).map(|(_, it)| (*it).to_owned()).collect();
    let statuses = RetryOn::STATUSES.iter().filter(|it| on.status(**it)).map(ToString::to_string);
    let words: Vec<_> = words.into_iter().chain(statuses).collect();
    let another = if words.is_empty() {
        "no other endpoint is asked".to_owned()
    } else {
        let tries = retry.tries.map_or("all of them".to_owned(), |it| format!("{it} at most"));
        let time = retry.timeout.map(|it| format!(", within {it:?}")).unwrap_or_default();
        format!("another endpoint is asked after {}, {tries}{time}", words.join(", "))
    };
    format!(
        "{connect_timeout:?} for a connection, {read_timeout:?} between two reads, {send_timeout:?} between \
         two writes; {another}"
    )
}

pub(super) fn body(options: &Options) -> String {
    match options.body_limit {
        Some(limit) => format!("up to {} (proxy-body-size)", size(limit)),
        None => "of any size (proxy-body-size: 0)".to_owned(),
    }
}

/// What is done to the answer.
pub(super) fn answers(view: &View<'_>, extras: &[Extra]) -> Vec<Step> {
    let mut steps = Vec::new();
    let settings = view.settings;
    let mut fields: Vec<String> = Vec::new();
    if view.peer.tls
        && let Some(hsts) = &settings.hsts
    {
        fields.push(format!("strict-transport-security: {hsts}"));
    }
    fields.extend(settings.fields.added.iter().map(|it| it.name.to_string()));
    for it in extras {
        fields.push(match it {
            Extra::Clear(name) => format!("no {name}"),
            Extra::Set(name, value)
            | Extra::Add(name, value)
            | Extra::AddToSuccess(name, value) => {
                format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))
            }
        });
    }
    if !fields.is_empty() {
        steps.push(step("the answer gets", fields.join(", ")));
    }
    let Some(answers) = &view.way.route.answers else { return steps };
    if answers.rewrites() {
        let text = "cookies and redirects in it are rewritten (proxy-cookie-*, proxy-redirect-*)";
        steps.push(step("the answer", text.to_owned()));
    }
    if answers.errors.is_some() && !answers.leaves_errors {
        let text = "for some statuses the default backend answers instead (custom-http-errors)";
        steps.push(step("the answer", text.to_owned()));
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_is_cut() {
        let many: Vec<String> = (0..11).map(|it| it.to_string()).collect();
        for (length, expected) in [
            (0, ""),
            (2, "0, 1"),
            (8, "0, 1, 2, 3, 4, 5, 6, 7"),
            (11, "0, 1, 2, 3, 4, 5, 6, 7 and 3 more"),
        ] {
            assert_eq!(listed(&many[..length]), expected, "{length}");
        }
    }
}
