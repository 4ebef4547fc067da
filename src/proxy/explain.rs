//! What would become of a request, told step by step: `lockgate explain`.
//!
//! The steps are those of [`super::answer`], in its order, and are decided by the same functions. Nothing is
//! sent: no endpoint, no external judge, no resolver is asked, and no limit counts the request.

mod handshake;
mod words;

use std::cell::RefCell;
use std::net::IpAddr;

use http::header::{AUTHORIZATION, HOST, LOCATION};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, request};

use super::access::{self, Foreseen};
use super::body::ReplyBody;
use super::canary::{self, Choice};
use super::canonical::Asked;
use super::challenge;
use super::client_tls;
use super::clock::Clock;
use super::dress::{self, Errand};
use super::forwarded;
use super::headers::{self, Vouched};
use super::intercept;
use super::peer::Peer;
use super::redirect;
use super::reply::Failure;
use super::rewrite;
use super::snippet;
use super::upload::Fault;
use super::{Ports, View};
use crate::live::balance::Balancer;
use crate::live::table::{By, Match, Paths};
use crate::live::{Live, Way, WayId};
use crate::model::host::{Authority, HostPattern};
use crate::model::name::ObjectName;
use crate::model::plan::{BackendId, Target};
use crate::model::routing::Alias;
use handshake::Shaken;

/// A request that is only thought of.
#[derive(Clone, Debug)]
pub struct Question {
    /// Whether it comes over TLS.
    pub https: bool,
    /// The host of its URL, with a port where that names one.
    pub authority: Authority,
    /// Path and query as a client sends them.
    pub target: String,
    /// Its method.
    pub method: Method,
    /// Its fields; without `Host` among them it is that of the URL.
    pub headers: HeaderMap,
    /// The other end of its connection.
    pub client: IpAddr,
    /// The ports as the world sees them.
    pub ports: Ports,
    /// When it is asked.
    pub now: jiff::Timestamp,
}

/// What one step found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Step {
    /// The step's name, one or two words.
    pub name: &'static str,
    /// What it found.
    pub text: String,
}

/// Who answers in the end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Answer {
    /// An endpoint of a Service.
    Backend {
        /// The Service and its port.
        backend: BackendId,
        /// Its endpoints, or the name and port of an `ExternalName` Service.
        addresses: Vec<String>,
        /// The status of an error in whose place the default backend answers.
        error: Option<u16>,
    },
    /// The proxy itself, with what was asked for: a redirect, a fixed answer, a challenge, a preflight.
    Own {
        /// Its status.
        status: u16,
        /// Where it redirects to.
        location: Option<String>,
    },
    /// The proxy itself, with an error.
    Refused {
        /// Its status.
        status: u16,
    },
    /// Nobody: there is not even a connection.
    Nobody,
}

/// What becomes of a request.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Explanation {
    /// The steps that had a say, in their order.
    pub steps: Vec<Step>,
    /// Who answers.
    pub answer: Answer,
    /// The Ingress whose rule takes it.
    pub ingress: Option<ObjectName>,
    /// What that depends on, as clauses: a judge who is not asked, chance.
    pub conditions: Vec<String>,
}

impl Answer {
    /// Whether the request gets what somebody wanted it to get.
    pub fn is_served(&self) -> bool {
        matches!(self, Self::Backend { .. } | Self::Own { .. })
    }

    fn own(response: &Response<ReplyBody>) -> Self {
        let location = response.headers().get(LOCATION);
        let location = location.map(|it| String::from_utf8_lossy(it.as_bytes()).into_owned());
        Self::Own { status: response.status().as_u16(), location }
    }

    fn status(&self) -> Option<StatusCode> {
        let (Self::Own { status, .. } | Self::Refused { status }) = self else { return None };
        StatusCode::from_u16(*status).ok()
    }
}

/// Tells what becomes of a request.
pub fn explain(live: &Live, question: &Question) -> Explanation {
    let mut told = Told::default();
    let answer = walk(live, question, &mut told);
    let answer = instead(live, &mut told, answer);
    let Told { steps, ingress, conditions, .. } = told;
    Explanation { steps, answer, ingress, conditions }
}

/// What was told so far.
#[derive(Default)]
struct Told {
    steps: Vec<Step>,
    ingress: Option<ObjectName>,
    conditions: Vec<String>,
    /// The way it takes.
    way: Option<WayId>,
    /// Whether somebody else may answer by now in place of an error.
    replaceable: bool,
}

impl Told {
    fn say(&mut self, name: &'static str, text: impl Into<String>) {
        self.steps.push(Step { name, text: text.into() });
    }

    /// An answer of ours that somebody asked for.
    fn own(&mut self, name: &'static str, what: &str, response: &Response<ReplyBody>) -> Answer {
        let answer = Answer::own(response);
        let status = words::status(response.status());
        self.say(
            name,
            match &answer {
                Answer::Own { location: Some(location), .. } => {
                    format!("{what}: {status} to {location}")
                }
                _ => format!("{what}: {status}"),
            },
        );
        answer
    }

    fn fail(&mut self, name: &'static str, what: &str, failure: &Failure) -> Answer {
        let status = failure.status();
        let text = words::status(status);
        self.say(
            name,
            match failure {
                Failure::Refused(refused) if what.is_empty() => format!("{}: {text}", refused.why),
                Failure::Refused(refused) => format!("{what}: {}: {text}", refused.why),
                _ => format!("{what}: {text}"),
            },
        );
        Answer::Refused { status: status.as_u16() }
    }
}

/// The steps of a request, as in `proxy::walk`.
fn walk(live: &Live, question: &Question, told: &mut Told) -> Answer {
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

    let asked = match Asked::read(&head, peer) {
        Ok(asked) => asked,
        Err(refused) => return told.fail("path", "", &Failure::Refused(refused)),
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
    told.say("host", of_host(live, asked.host(), found));
    let paths = found.map(|(_, it)| it);
    let wrong = client_tls::look(shaken, None, paths);
    if let Some(to) = paths.and_then(|it| it.moved.as_deref()) {
        if let Some(wrong) = wrong {
            return told.fail("client certificate", "", &wrong.failure());
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
                return told.fail("client certificate", "", &wrong.failure());
            }
            let answer = redirect::add_slash(&asked, &head.uri, peer, &way.route.options);
            return told.own("redirect", "the rule's path ends with a slash", &answer);
        }
        Some(Match::Exact(found) | Match::Prefix(found) | Match::Expression(found)) => found,
        None => {
            if let Some(wrong) = wrong {
                return told.fail("client certificate", "", &wrong.failure());
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

    if let Some(wrong) = wrong {
        let what = "this host asks its clients for a certificate (auth-tls-secret), and explain shows none";
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
    told.steps.extend(words::limits(way, view.peer.address.ip(), settings));
    if let Err(failure) = snippet::check(view) {
        return told.fail("snippet", "a snippet's deny is about this client", &failure);
    }
    if let Some(guard) = &route.guard {
        let (found, foreseen) = access::foresee(guard, view, &head);
        found.into_iter().for_each(|it| told.say("access", it));
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
    told.say("backend", words::backend(view, balancer));
    let limit = way.route.options.body_limit;
    if let (Some(length), Some(limit)) = (headers::length(&head.headers), limit)
        && length > limit
    {
        let what = format!("the body has {length} bytes, {limit} may come (proxy-body-size)");
        return told.fail("body", &what, &Failure::Body(Fault::Large));
    }
    told.steps.extend(words::mirror(view));
    if balancer.is_empty() {
        let what = format!("no endpoint of Service {} is ready", balancer.id.service);
        return told.fail("endpoints", &what, &Failure::NoEndpoint);
    }
    told.say("endpoints", words::endpoints(view, balancer, &head.headers));
    told.say("towards them", words::transport(view));
    match outgoing(view, vouched, &head) {
        Ok(fields) => told.say("they get", words::sent(view, &head, &fields)),
        Err(failure) => return told.fail("they get", "upstream-vhost", &failure),
    }
    told.say("patience", words::patience(&way.route.options));
    told.say("body", words::body(&way.route.options));
    told.steps.extend(words::answers(view, &extras));
    to(balancer, None)
}

/// Who of Service and canary takes the request.
fn share<'a>(told: &mut Told, way: &'a Way, headers: &HeaderMap) -> Option<&'a Balancer> {
    let main = way.balancer.as_deref()?;
    let Some(canary) = way.canary.as_deref() else { return Some(main) };
    let name = words::service(&canary.id);
    let (takes, why) = match canary::choice(main, canary, headers) {
        Choice::Main(why) => (false, why.to_owned()),
        Choice::Canary(why) => (true, why.to_owned()),
        Choice::Chance(split) => {
            let (weight, all) = (split.weight, split.out_of());
            if (1..all).contains(&weight) {
                told.conditions.push(format!("unless chance chooses Service {name}"));
            }
            let why =
                format!("of requests that do not say, {weight} of {all} are its (canary-weight)");
            (weight >= all, why)
        }
    };
    let who = if takes { "takes it" } else { "does not take it" };
    let who =
        if told.conditions.iter().any(|it| it.starts_with("unless")) { "may take it" } else { who };
    told.say("canary", format!("Service {name} {who}: {why}"));
    Some(if takes { canary } else { main })
}

/// The fields that an endpoint gets, as `Outbound` writes them.
fn outgoing(
    view: &View<'_>,
    vouched: &Vouched,
    head: &request::Parts,
) -> Result<HeaderMap, Failure> {
    let host = rewrite::host(view, head)?;
    let mut headers = head.headers.clone();
    headers::to_upstream(&mut headers, view.asked, head.version, vouched, view.settings)
        .map_err(|headers::Loops| Failure::Loops)?;
    rewrite::name(&mut headers, host, view);
    let fields = dress::fields(view, head, Errand::Request);
    fields.into_iter().for_each(|(name, value)| dress::put(&mut headers, name, value));
    snippet::put(&mut headers, snippet::fields(view, head));
    Ok(headers)
}

/// Who answers in place of an error, where the route wants that (`custom-http-errors`).
fn instead(live: &Live, told: &mut Told, answer: Answer) -> Answer {
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

fn to(balancer: &Balancer, error: Option<u16>) -> Answer {
    let addresses = words::addresses(balancer);
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

/// By what of the name the host's rules are found.
fn of_host(live: &Live, host: &str, found: Option<(By<'_>, &Paths)>) -> String {
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

#[cfg(test)]
mod tests;
