//! Spans of requests (OpenTelemetry), and who caused them (W3C Trace Context).
//!
//! A request whose route has them gets a place in a trace: the client's, where it says one and is believed,
//! else a new one. The endpoint is told of it, and where the trace is sampled a span is made when the request
//! is over. Names of attributes are those of nginx's OpenTelemetry module.

use http::header::USER_AGENT;
use http::{HeaderMap, HeaderName, HeaderValue, Version, request};
use tokio::time::Instant;

use super::Visit;
use super::observe::Record;
use super::phrase;
use crate::model::trace::{Context, Span, Value};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// Of a longer text only the beginning is told, in bytes: spans that wait are not to fill the memory.
const LONGEST: usize = 2048;

/// A span that is not over.
pub(super) struct Begun {
    context: Context,
    parent: Option<[u8; 8]>,
    state: Box<str>,
    name: Box<str>,
    agent: Option<HeaderValue>,
}

/// Gives a request its place in a trace, where its route has that.
pub(super) fn begin(visit: &Visit<'_>, head: &mut request::Parts) {
    let Some(spans) = visit.way.route.options.spans.as_deref().filter(|it| it.on) else { return };
    let tracing = &visit.settings.tracing;
    let worker = &visit.link.worker;
    let parent = if spans.distrust { None } else { said(&head.headers) };
    let trace = parent.map_or_else(|| worker.fresh_trace(), |it| it.trace);
    let sampled = tracing.samples(trace, parent.as_ref());
    let context = Context { trace, span: worker.random().max(1).to_be_bytes(), sampled };
    if parent.is_none() {
        head.headers.remove(TRACESTATE);
    }
    if let Ok(value) = HeaderValue::try_from(context.text()) {
        head.headers.insert(TRACEPARENT, value);
    }
    if !sampled || tracing.collector.is_none() {
        return;
    }
    let name = match &spans.name {
        Some(name) => short(&phrase::text(name, head, &visit.view())),
        None => short(&visit.way.route.path),
    };
    visit.trace.span.set(Some(Box::new(Begun {
        context,
        parent: parent.map(|it| it.span),
        state: state(&head.headers),
        name,
        agent: head.headers.get(USER_AGENT).cloned(),
    })));
}

/// The place in a trace that a request says it has; none where it says several.
fn said(headers: &HeaderMap) -> Option<Context> {
    let mut said = headers.get_all(TRACEPARENT).iter();
    let only = said.next().filter(|_| said.next().is_none())?;
    Context::parse(only.as_bytes().trim_ascii())
}

/// What others than we keep of a trace: all fields together are one list (section 3.3.1).
fn state(headers: &HeaderMap) -> Box<str> {
    let fields = headers.get_all(TRACESTATE).iter().filter_map(|it| it.to_str().ok());
    let state = fields.collect::<Vec<_>>().join(",");
    // A part of a list might be another list.
    if state.len() > LONGEST { Box::default() } else { state.into() }
}

impl Begun {
    /// The span of a request that is over at `now`.
    pub(super) fn end(self, record: &Record, now: Instant) -> Span {
        let nanoseconds = |it: i128| u64::try_from(it).unwrap_or_default();
        let ended = record.link.worker.wall().as_nanosecond();
        let lasted = i128::try_from((now - record.began).as_nanos()).unwrap_or_default();
        let Self { context, parent, state, name, ref agent } = self;
        Span {
            context,
            parent,
            state,
            name,
            began: nanoseconds(ended - lasted),
            ended: nanoseconds(ended),
            attributes: attributes(record, agent.as_ref()),
            failed: record.status.is_server_error(),
        }
    }
}

fn attributes(record: &Record, agent: Option<&HeaderValue>) -> Vec<(&'static str, Value)> {
    let text = |it: &str| Value::Text(short(it));
    let number = |it: u16| Value::Number(it.into());
    let peer = record.peer();
    let mut all = vec![
        ("http.method", text(record.method.as_str())),
        ("http.flavor", text(flavor(record.version))),
        ("http.target", text(record.uri.path_and_query().map_or("", |it| it.as_str()))),
        ("http.scheme", text(peer.scheme())),
        ("http.status_code", number(record.status.as_u16())),
        ("net.host.port", number(peer.port)),
        ("net.peer.ip", text(&peer.address.ip().to_canonical().to_string())),
    ];
    if peer.address.port() > 0 {
        all.push(("net.peer.port", number(peer.address.port())));
    }
    let host = record.host.as_ref().map(|it| String::from_utf8_lossy(it.as_bytes()));
    if let Some(host) = record.uri.authority().map(http::uri::Authority::as_str).or(host.as_deref())
    {
        all.push(("http.host", text(host)));
    }
    if let Some(agent) = agent {
        all.push(("http.user_agent", text(&String::from_utf8_lossy(agent.as_bytes()))));
    }
    let Some(way) = record.trace.way.get().map(|it| record.trace.seen.live.way(it)) else {
        return all;
    };
    let route = &way.route;
    all.push(("http.server_name", text(&route.host)));
    all.push(("http.route", text(&route.path)));
    if !route.ingress.name.is_empty() {
        all.push(("ingress.namespace", text(&route.ingress.namespace)));
        all.push(("ingress.name", text(&route.ingress.name)));
    }
    let canary = way.canary.as_ref().filter(|_| record.trace.canary.get());
    if let Some(balancer) = canary.or(way.balancer.as_ref()) {
        all.push(("ingress.service_name", text(&balancer.id.service.name)));
        all.push(("ingress.upstream", text(&balancer.name)));
    }
    all
}

/// As nginx's module writes versions.
fn flavor(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "2.0",
        Version::HTTP_10 => "1.0",
        _ => "1.1",
    }
}

fn short(text: &str) -> Box<str> {
    text[..text.floor_char_boundary(LONGEST)].into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn one_place_is_said_or_none() {
        for (fields, expected) in [
            (&[("traceparent", ONE)][..], true),
            (&[("traceparent", ONE), ("traceparent", ONE)], false),
            (&[("traceparent", "nothing")], false),
            (&[("tracestate", "a=b")], false),
        ] {
            let mut headers = HeaderMap::new();
            for (name, value) in fields {
                headers.append(*name, HeaderValue::from_static(value));
            }
            assert_eq!(said(&headers).is_some(), expected, "{fields:?}");
        }
    }

    #[test]
    fn states_are_one_list() {
        let mut headers = HeaderMap::new();
        assert_eq!(&*state(&headers), "");
        for value in ["a=1,b=2", "c=3"] {
            headers.append(TRACESTATE, HeaderValue::from_static(value));
        }
        assert_eq!(&*state(&headers), "a=1,b=2,c=3");
        let long = HeaderValue::try_from("x".repeat(LONGEST)).expect("a value");
        headers.append(TRACESTATE, long);
        assert_eq!(&*state(&headers), "");
    }
}
