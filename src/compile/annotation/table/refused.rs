//! Never executed: what is nginx configuration, or gone from ingress-nginx.

use super::super::Instead;
use super::{Annotation, missing, moot};
use super::{is_false, never};

pub(super) const ROWS: &[Annotation] = &[
    missing("configuration-snippet", "", "nginx configuration.", never, Instead::Refuse),
    missing("server-snippet", "", "nginx configuration.", never, Instead::Refuse).of_host(),
    missing("auth-snippet", "", "nginx configuration.", never, Instead::Refuse),
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
