//! Never executed: what is nginx configuration, or gone from ingress-nginx.

use super::super::Instead;
use super::{Annotation, missing, moot, snippet};
use super::{is_false, never};
use crate::model::snippet::Context;

pub(super) const ROWS: &[Annotation] = &[
    snippet(
        "configuration-snippet",
        "nginx configuration for the paths; never executed. With `--translate-snippets` these are read: \
         `more_set_headers`, `more_clear_headers`, `add_header`, `proxy_set_header`, \
         `more_set_input_headers`, `return`, `deny`, `allow`.",
        Context::Location,
    ),
    snippet(
        "server-snippet",
        "Likewise for the host, with `location … { deny all; }` and `{ return STATUS; }`, and without \
         what sets fields of requests.",
        Context::Server,
    )
    .of_host(),
    snippet(
        "auth-snippet",
        "Likewise for the question to an external judge: `proxy_set_header` only.",
        Context::Auth,
    ),
    missing("stream-snippet", "", "nginx configuration.", never, Instead::Refuse),
    missing("modsecurity-snippet", "", "ModSecurity configuration.", never, Instead::Refuse),
    missing(
        "modsecurity-transaction-id",
        "",
        "ModSecurity's id of a request.",
        never,
        Instead::Refuse,
    ),
    missing("enable-modsecurity", "false", "Web application firewall.", is_false, Instead::Refuse),
    missing("enable-owasp-core-rules", "false", "Its rule set.", is_false, Instead::Refuse),
    missing("global-rate-limit", "", "Removed from ingress-nginx.", never, Instead::Serve),
    missing("global-rate-limit-window", "", "Removed from ingress-nginx.", never, Instead::Serve),
    missing("global-rate-limit-key", "", "Removed from ingress-nginx.", never, Instead::Serve),
    missing(
        "global-rate-limit-ignored-cidrs",
        "",
        "Removed from ingress-nginx.",
        never,
        Instead::Serve,
    ),
    missing("add-base-url", "", "Removed from ingress-nginx.", never, Instead::Serve),
    missing("base-url-scheme", "", "Removed from ingress-nginx.", never, Instead::Serve),
    moot("enable-opentracing", "", "Removed from ingress-nginx."),
    moot("opentracing-trust-incoming-span", "", "Removed from ingress-nginx."),
    moot("enable-influxdb", "", "Removed from ingress-nginx."),
];
