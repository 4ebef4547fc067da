//! Copies, logs and traces: who else hears of a request.

use super::super::Instead;
use super::{Annotation, missing, moot};
use super::{is_false, is_true, never};

pub(super) const ROWS: &[Annotation] = &[
    missing("mirror-target", "", "Where copies of requests go.", never, Instead::Serve),
    moot("mirror-request-body", "on", "Has a meaning only with mirror-target."),
    missing("mirror-host", "", "Their Host.", never, Instead::Serve),
    missing(
        "enable-access-log",
        "true",
        "`false`: no access log for this Ingress.",
        is_true,
        Instead::Serve,
    ),
    moot("enable-rewrite-log", "false", "nginx's log."),
    missing("enable-opentelemetry", "false", "Traces.", is_false, Instead::Serve),
    missing("opentelemetry-operation-name", "", "Name of its spans.", never, Instead::Serve),
    moot("opentelemetry-trust-incoming-span", "true", "Trace headers pass untouched."),
];
