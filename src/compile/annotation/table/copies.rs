//! Copies, logs and traces: who else hears of a request.

use super::{Annotation, moot, sets};
use super::{ON_OR_OFF, TRUTH};
use crate::model::copies::{Copies, MirrorTarget};
use crate::model::host::Authority;
use crate::model::options::Options;
use crate::model::phrase::Phrase;
use crate::model::trace::Spans;
use crate::model::value::{boolean, switch};

fn copies(options: &mut Options) -> &mut Copies {
    options.copies.get_or_insert_default()
}

fn spans(options: &mut Options) -> &mut Spans {
    options.spans.get_or_insert_default()
}

pub(super) const ROWS: &[Annotation] = &[
    sets(
        "mirror-target",
        "",
        "Where a copy of each request goes, such as `https://test.example.org$request_uri`; what it answers is \
         ignored. In a cluster none go to a loopback or link-local address.",
        |value, options| {
            let target = MirrorTarget::parse(value).ok_or("a URL whose host has no variables")?;
            copies(options).mirror = Some(Box::new(target));
            Ok(())
        },
    ),
    sets(
        "mirror-request-body",
        "on",
        "`off`: copies go without the request's body. Requests with more than 1 MiB have no copy otherwise.",
        |value, options| {
            let without = !switch(value).ok_or(ON_OR_OFF)?;
            if without || options.copies.is_some() {
                copies(options).without_body = without;
            }
            Ok(())
        },
    ),
    sets(
        "mirror-host",
        "",
        "Their `Host`; that of `mirror-target` where it is not given.",
        |value, options| {
            value.parse::<Authority>().map_err(|_| "a host")?;
            copies(options).mirror_host = Some(value.into());
            Ok(())
        },
    ),
    sets(
        "enable-access-log",
        "true",
        "`false`: its requests leave no line in the access log.",
        |value, options| {
            let unlogged = !boolean(value).ok_or(TRUTH)?;
            if unlogged || options.copies.is_some() {
                copies(options).unlogged = unlogged;
            }
            Ok(())
        },
    ),
    moot("enable-rewrite-log", "false", "nginx's log."),
    sets(
        "enable-opentelemetry",
        "false",
        "`true`: a span of each request goes to `otlp-collector-host`, and the endpoint gets its `traceparent`.",
        |value, options| {
            let on = boolean(value).ok_or(TRUTH)?;
            if on || options.spans.is_some() {
                spans(options).on = on;
            }
            Ok(())
        },
    ),
    sets(
        "opentelemetry-operation-name",
        "",
        "Name of the spans, may have variables; the path of the rule where it is not given.",
        |value, options| {
            let name = Phrase::parse(value).map_err(|_| "a text with variables that are known")?;
            spans(options).name = Some(Box::new(name)).filter(|it| !it.0.is_empty());
            Ok(())
        },
    ),
    sets(
        "opentelemetry-trust-incoming-span",
        "true",
        "`false`: what the client says in `traceparent` and `tracestate` is not believed, and each request begins a \
         trace.",
        |value, options| {
            let distrust = !boolean(value).ok_or(TRUTH)?;
            if distrust || options.spans.is_some() {
                spans(options).distrust = distrust;
            }
            Ok(())
        },
    ),
];
