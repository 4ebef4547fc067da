//! Answers: what clients get back.

use super::super::Instead;
use super::{Annotation, missing, moot};
use super::{is_false, is_off, never};

pub(super) const ROWS: &[Annotation] = &[
    missing(
        "enable-cors",
        "false",
        "Answer browsers' cross-origin questions.",
        is_false,
        Instead::Serve,
    ),
    missing("cors-allow-origin", "*", "Origins that may.", never, Instead::Serve),
    missing(
        "cors-allow-methods",
        "GET, PUT, POST, DELETE, PATCH, OPTIONS",
        "Methods they may use.",
        never,
        Instead::Serve,
    ),
    missing(
        "cors-allow-headers",
        "DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,Range,Authorization",
        "Headers they may send.",
        never,
        Instead::Serve,
    ),
    missing("cors-expose-headers", "", "Headers they may see.", never, Instead::Serve),
    missing("cors-allow-credentials", "true", "Whether with cookies.", never, Instead::Serve),
    missing("cors-max-age", "1728000", "How long that holds.", never, Instead::Serve),
    missing("custom-headers", "", "ConfigMap of response headers.", never, Instead::Serve),
    missing(
        "custom-http-errors",
        "",
        "Answers that the default backend replaces.",
        never,
        Instead::Serve,
    ),
    missing(
        "disable-proxy-intercept-errors",
        "false",
        "Leave error answers alone.",
        is_false,
        Instead::Serve,
    ),
    missing(
        "default-backend",
        "",
        "Service that answers when this one cannot.",
        never,
        Instead::Serve,
    ),
    missing("proxy-cookie-domain", "off", "Rewrite the domain of cookies.", never, Instead::Serve),
    missing("proxy-cookie-path", "off", "Rewrite the path of cookies.", never, Instead::Serve),
    missing("proxy-redirect-from", "off", "Rewrite Location.", is_off, Instead::Serve),
    missing("proxy-redirect-to", "", "Rewrite Location.", never, Instead::Serve),
    moot("http2-push-preload", "false", "Browsers dropped HTTP/2 push."),
];
