//! Access: who may ask.

use super::super::Instead;
use super::{Annotation, missing, moot};
use super::{is_all, never};

pub(super) const ROWS: &[Annotation] = &[
    missing("allowlist-source-range", "", "Addresses that may pass.", never, Instead::Refuse),
    missing(
        "whitelist-source-range",
        "",
        "Older name of `allowlist-source-range`.",
        never,
        Instead::Refuse,
    ),
    missing("denylist-source-range", "", "Addresses that may not pass.", never, Instead::Refuse),
    missing(
        "satisfy",
        "all",
        "`all` or `any`: how many of the checks must pass.",
        is_all,
        Instead::Refuse,
    ),
    missing("auth-type", "", "`basic` or `digest`: ask for a password.", never, Instead::Refuse),
    missing("auth-secret", "", "The Secret with the passwords.", never, Instead::Refuse),
    missing(
        "auth-secret-type",
        "auth-file",
        "`auth-file` or `auth-map`: how that Secret is laid out.",
        never,
        Instead::Refuse,
    ),
    missing("auth-realm", "", "Text of the password prompt.", never, Instead::Refuse),
    missing(
        "auth-url",
        "",
        "URL that is asked whether a request may pass.",
        never,
        Instead::Refuse,
    ),
    missing("auth-signin", "", "URL to send those to who may not.", never, Instead::Refuse),
    missing(
        "auth-signin-redirect-param",
        "rd",
        "Name of the parameter that brings them back.",
        never,
        Instead::Refuse,
    ),
    missing(
        "auth-response-headers",
        "",
        "Headers of that answer the backend gets.",
        never,
        Instead::Refuse,
    ),
    missing("auth-method", "GET", "Method of that question.", never, Instead::Refuse),
    missing(
        "auth-request-redirect",
        "$request_uri",
        "Value of its X-Auth-Request-Redirect.",
        never,
        Instead::Refuse,
    ),
    missing(
        "auth-proxy-set-headers",
        "",
        "ConfigMap of headers for that question.",
        never,
        Instead::Refuse,
    ),
    missing(
        "auth-always-set-cookie",
        "false",
        "Pass its cookies on with errors too.",
        never,
        Instead::Refuse,
    ),
    missing("auth-cache-key", "", "Cache its answers under this key.", never, Instead::Refuse),
    missing(
        "auth-cache-duration",
        "200 202 401 5m",
        "How long they are cached.",
        never,
        Instead::Refuse,
    ),
    moot("auth-keepalive", "0", "nginx's connections to the auth host."),
    moot("auth-keepalive-requests", "1000", "nginx's connections to the auth host."),
    moot("auth-keepalive-timeout", "60", "nginx's connections to the auth host."),
    moot("auth-keepalive-share-vars", "false", "nginx's connections to the auth host."),
    moot("enable-global-auth", "true", "No global auth is built; the ConfigMap's key refuses."),
];
