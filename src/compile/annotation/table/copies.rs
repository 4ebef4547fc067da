//! Copies, logs and traces: who else hears of a request.

use super::super::Instead;
use super::{Annotation, missing, moot, sets};
use super::{ON_OR_OFF, TRUTH, is_false, never};
use crate::model::copies::{Copies, MirrorTarget};
use crate::model::host::Authority;
use crate::model::options::Options;
use crate::model::value::{boolean, switch};

fn copies(options: &mut Options) -> &mut Copies {
    options.copies.get_or_insert_default()
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
    missing(
        "enable-opentelemetry",
        "false",
        "No spans are made; trace headers pass untouched.",
        is_false,
        Instead::Serve,
    ),
    missing("opentelemetry-operation-name", "", "Name of spans.", never, Instead::Serve),
    moot("opentelemetry-trust-incoming-span", "true", "Trace headers pass untouched."),
];
