//! The steps, in the order of the proxy's own walk.

use std::cell::RefCell;

use http::header::{AUTHORIZATION, HOST, LOCATION};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, request};

use super::handshake::{self, Shaken};
use super::{Answer, Question, Told, backend, words};
use crate::live::balance::Balancer;
use crate::live::table::{Match, Paths};
use crate::live::{Live, Way};
use crate::model::path;
use crate::model::plan::Target;
use crate::proxy::View;
use crate::proxy::access::{self, Foreseen};
use crate::proxy::canary::{self, Choice};
use crate::proxy::canonical::{self, Asked};
use crate::proxy::clock::Clock;
use crate::proxy::dress::{self, Errand};
use crate::proxy::headers::{self, Vouched};
use crate::proxy::peer::Peer;
use crate::proxy::reply::Failure;
use crate::proxy::upload::Fault;
use crate::proxy::{challenge, client_tls, forwarded, intercept, redirect, rewrite, snippet};

/// The steps of a request, as in `proxy::walk`.
pub(super) fn walk(live: &Live, question: &Question, told: &mut Told) -> Answer {
    let settings = &*live.plan.settings;
    let port = if question.https { question.ports.https } else { question.ports.http };
    let peer = Peer::new((question.client, 0).into(), question.https, port);
    told.say("request", words::request(question, port));
    let shaken = match question.https.then(|| handshake::look(live, question, told)) {
        Some(Shaken::Over(answer)) => return answer,
        Some(Shaken::Policy(policy)) => Some(policy),
        None => None,
    };
    let Some(head) = head(question) else {
        let text = "what is asked for is no path and query of HTTP: 400 Bad Request";
        told.say("path", text);
        return Answer::Refused { status: 400 };
    };

    let client = forwarded::told(&settings.trust, &peer, question.ports, &head.headers);
    told.steps.extend(words::client(&settings.trust, &peer, client.as_deref()));
    let own = Vouched::new(&peer);
    let (peer, vouched) = client.as_ref().map_or((&peer, &own), |it| (&it.peer, &it.vouched));

    let fits = canonical::check_length(&head, settings.connections.heads);
    let asked = match fits.and_then(|()| Asked::read(&head, peer)) {
        Ok(asked) => asked,
        Err(refused) => {
            let why = path::canonical(head.uri.path()).err();
            let why = why.map(|it| it.to_string()).unwrap_or_default();
            return told.fail("path", &why, &Failure::Refused(refused));
        }
    };
    if asked.asterisk {
        told.say("path", "OPTIONS * asks about the proxy and no path: 200 OK");
        return Answer::Own { status: 200, location: None };
    }
    let path = asked.path(&head.uri);
    told.say("path", words::path(path, head.uri.path()));

    if let Some(answer) = challenge::answer(live, &head.method, asked.host(), path) {
        let what = "a challenge of the CA (HTTP-01), answered for whatever token";
        return told.own("challenge", what, &answer);
    }
    if let Some(blocked) = &settings.access.blocked {
        if access::is_blocked(blocked, peer.address.ip(), &head.headers) {
            let what = "the ConfigMap blocks this client (block-cidrs, block-user-agents or block-referers)";
            return told.fail("blocked", what, &Failure::Blocked);
        }
        told.say("blocked", "the ConfigMap blocks clients, and not this one");
    }

    let found = live.table.found(asked.host());
    told.say("host", words::host(live, asked.host(), found));
    let paths = found.map(|(_, it)| it);
    let wrong = client_tls::look(shaken, None, paths);
    if let Some(to) = paths.and_then(|it| it.moved.as_deref()) {
        if let Some(wrong) = wrong {
            return told.fail("client certificate", words::wrong(wrong), &wrong.failure());
        }
        let answer = redirect::to_name(to, &asked, &head.uri, peer, settings.redirect_code);
        return told.own("redirect", "to the host's other name (from-to-www-redirect)", &answer);
    }
    let matched = paths.and_then(|it| it.find(path));
    let found = match matched {
        Some(Match::Slash(found)) => {
            let way = live.way(found);
            told.ingress = Some(way.route.ingress.clone());
            told.say("rule", words::rule(&way.route, matched));
            if let Some(wrong) = wrong {
                return told.fail("client certificate", words::wrong(wrong), &wrong.failure());
            }
            let answer = redirect::add_slash(&asked, &head.uri, peer, &way.route.options);
            return told.own("redirect", "the rule's path ends with a slash", &answer);
        }
        Some(Match::Exact(found) | Match::Prefix(found) | Match::Expression(found)) => found,
        None => {
            if let Some(wrong) = wrong {
                return told.fail("client certificate", words::wrong(wrong), &wrong.failure());
            }
            let Some(fallback) = live.fallback else {
                let what = "no rule takes it, and there is no --default-backend-service";
                return told.fail("rule", what, &Failure::NotFound);
            };
            fallback
        }
    };
    told.way = Some(found);
    let way = live.way(found);
    if !way.route.ingress.name.is_empty() {
        told.ingress = Some(way.route.ingress.clone());
    }
    told.say("rule", words::rule(&way.route, matched));
    let clock = RefCell::new(Clock::at(question.now));
    let view = View { settings, way, asked: &asked, peer, ports: question.ports, clock: &clock };
    told.steps.extend(backend::span(&view));

    if let Some(wrong) = wrong {
        let what = words::wrong(wrong);
        return match client_tls::answer(wrong, &view, paths, &head.uri) {
            Ok(answer) => told.own("client certificate", what, &answer),
            Err(failure) => told.fail("client certificate", what, &failure),
        };
    }
    if let Some(text) = paths.and_then(|it| it.client_tls.as_deref()).and_then(words::host_tls) {
        told.say("client certificate", text);
    }
    decide(live, told, &view, paths, (head, vouched))
}

/// The steps at a rule.
fn decide(
    live: &Live,
    told: &mut Told,
    view: &View<'_>,
    paths: Option<&Paths>,
    (mut head, vouched): (request::Parts, &Vouched),
) -> Answer {
    let (way, settings) = (view.way, view.settings);
    let route = &*way.route;
    let mut extras = Vec::new();
    if let Some(answer) = snippet::at_host(view, &head, &mut extras) {
        return told.own("snippet", "the host's server-snippet answers", &answer);
    }
    if let Some(answer) = redirect::to_app_root(view, paths, &head) {
        return told.own("redirect", "/ leads to where the application begins (app-root)", &answer);
    }
    if let Target::Refused(why) = &route.target {
        return told.fail("refused", why, &Failure::Denied);
    }

    let preflight = dress::extras(view, &head, &mut extras);
    told.replaceable = true;
    if let Some(answer) = preflight {
        return told.own("CORS", "a browser's preflight (enable-cors)", &answer);
    }
    if let Some(answer) = redirect::elsewhere(view, &head) {
        let what =
            "everything the rule takes goes elsewhere (permanent-redirect or temporal-redirect)";
        return told.own("redirect", what, &answer);
    }
    if let Some(answer) = snippet::answer(view, &head) {
        return told.own("snippet", "the configuration-snippet answers", &answer);
    }
    match rewrite::apply(view, &head) {
        Ok(Some(answer)) => return told.own("rewrite", "to another URL (rewrite-target)", &answer),
        Ok(None) => told.steps.extend(words::rewrite(view, &head)),
        Err(failure) => return told.fail("rewrite", "rewrite-target", &failure),
    }
    if let Some(answer) = redirect::to_https(view, &head.uri) {
        return told.own("to HTTPS", words::why_https(live, route), &answer);
    }
    if let Some(balancer) = way.balancer.as_deref().filter(|it| it.is_empty()) {
        told.say("backend", backend::name(view, balancer));
        return nobody(told, balancer);
    }
    told.steps.extend(words::limits(way, view.peer.address.ip(), settings));
    if let Err(failure) = snippet::check(view) {
        return told.fail("snippet", "a snippet's deny is about this client", &failure);
    }
    if let Some(guard) = &route.guard {
        let (found, foreseen) = access::foresee(guard, view, &head, live.plan.near);
        for it in found {
            told.say("access", it);
        }
        if let Foreseen::Unjudged(why) = &foreseen {
            return told.fail("access", why, &Failure::Unjudged);
        }
        if let Foreseen::Judged = foreseen {
            told.conditions.push("if auth-url lets it pass".to_owned());
        }
        if guard.basic.is_some() {
            head.headers.remove(AUTHORIZATION);
        }
        if let Foreseen::Refused(answer) = foreseen {
            if answer.headers().contains_key(LOCATION) {
                return told.own("access", "refused, and sent to sign in", &answer);
            }
            told.say("access", format!("refused: {}", words::status(answer.status())));
            return Answer::Refused { status: answer.status().as_u16() };
        }
    }

    let mut way = way;
    if route.target == Target::Fallback {
        let Some(fallback) = live.fallback else {
            let what =
                "the rule leads to the default backend, and there is no --default-backend-service";
            return told.fail("backend", what, &Failure::NotFound);
        };
        way = live.way(fallback);
    }
    let view = &View { way, ..*view };
    let Some(balancer) = share(told, way, &head.headers) else {
        return told.fail("backend", "the rule names no Service", &Failure::NotFound);
    };
    told.say("backend", backend::name(view, balancer));
    let limit = way.route.options.body_limit;
    if let (Some(length), Some(limit)) = (headers::length(&head.headers), limit)
        && length > limit
    {
        let what = format!("the body has {length} bytes, {limit} may come (proxy-body-size)");
        return told.fail("body", &what, &Failure::Body(Fault::Large));
    }
    told.steps.extend(backend::mirror(view));
    if balancer.is_empty() {
        return nobody(told, balancer);
    }
    told.say("endpoints", backend::endpoints(view, balancer, &head.headers));
    told.say("towards them", backend::transport(view));
    let mut sent = head.clone();
    match dress::outward(view, vouched, Errand::Request, &mut sent) {
        Ok(()) => told.say("they get", backend::sent(view, &head, &sent.headers)),
        Err(failure) => return told.fail("they get", "upstream-vhost", &failure),
    }
    told.say("patience", backend::patience(&way.route.options));
    told.say("body", backend::body(&way.route.options));
    told.steps.extend(backend::answers(view, &extras));
    to(balancer, None)
}

fn nobody(told: &mut Told, balancer: &Balancer) -> Answer {
    let what = format!("no endpoint of Service {} is ready", balancer.id.service);
    told.fail("endpoints", &what, &Failure::NoEndpoint)
}

/// Who of Service and canary takes the request.
fn share<'a>(told: &mut Told, way: &'a Way, headers: &HeaderMap) -> Option<&'a Balancer> {
    let main = way.balancer.as_deref()?;
    let Some(canary) = way.canary.as_deref() else { return Some(main) };
    let name = words::service(&canary.id);
    let (takes, why) = match canary::choice(main, canary, headers) {
        Choice::Main(why) => (false, why.to_owned()),
        Choice::Canary(why) => (true, why.to_owned()),
        Choice::Chance(split) if split.weight == 0 => {
            (false, "the request does not ask for it, and no others go there".to_owned())
        }
        Choice::Chance(split) => {
            let (weight, all) = (split.weight, split.out_of());
            (weight >= all, format!("{weight} of {all} requests go there (canary-weight)"))
        }
    };
    if !takes && why.ends_with("(canary-weight)") {
        told.conditions.push(format!("unless chance chooses Service {name}"));
        told.say("canary", format!("Service {name}, may take it by chance: {why}"));
        return Some(main);
    }
    let who = if takes { "takes it" } else { "does not take it" };
    told.say("canary", format!("Service {name}, {who}: {why}"));
    Some(if takes { canary } else { main })
}

/// Who answers in place of an error, where the route wants that (`custom-http-errors`).
pub(super) fn instead(live: &Live, told: &mut Told, answer: Answer) -> Answer {
    let way = told.way.filter(|_| told.replaceable).map(|it| live.way(it));
    let (Some(way), Some(status)) = (way, answer.status()) else { return answer };
    let Some(default) = intercept::stand_in(live, way, status, false) else { return answer };
    let Some(balancer) = default.balancer.as_deref() else { return answer };
    let name = words::service(&balancer.id);
    if balancer.is_empty() {
        let text = format!(
            "Service {name} would answer in its place (custom-http-errors) and has no endpoint"
        );
        told.say("error", text);
        return answer;
    }
    told.say("error", format!("Service {name} answers in its place (custom-http-errors)"));
    to(balancer, Some(status.as_u16()))
}

pub(super) fn to(balancer: &Balancer, error: Option<u16>) -> Answer {
    let addresses = backend::addresses(balancer);
    Answer::Backend { backend: balancer.id.clone(), addresses, error }
}

/// The head of the request, as hyper would give it; `None` where that would refuse the target.
fn head(question: &Question) -> Option<request::Parts> {
    let target = PathAndQuery::try_from(question.target.as_str()).ok()?;
    let (mut head, ()) = Request::new(()).into_parts();
    head.method = question.method.clone();
    head.uri = target.into();
    head.headers = question.headers.clone();
    if !head.headers.contains_key(HOST) {
        let host = HeaderValue::try_from(question.authority.to_string()).ok()?;
        head.headers.insert(HOST, host);
    }
    Some(head)
}
