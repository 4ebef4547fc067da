//! Redirects: where requests are sent instead of being served.

use super::super::Instead;
use super::{Annotation, missing, sets};
use super::{TRUTH, is_false, never};
use crate::model::value::boolean;

pub(super) const ROWS: &[Annotation] = &[
    sets(
        "ssl-redirect",
        "true",
        "`true` or `false`: send plain HTTP to HTTPS where the host has a `tls` entry.",
        |value, options| {
            options.ssl_redirect = boolean(value).ok_or(TRUTH)?;
            Ok(())
        },
    ),
    sets(
        "force-ssl-redirect",
        "false",
        "`true` or `false`: send plain HTTP to HTTPS even where the host has no `tls` entry.",
        |value, options| {
            options.force_ssl_redirect = boolean(value).ok_or(TRUTH)?;
            Ok(())
        },
    ),
    sets(
        "use-port-in-redirects",
        "false",
        "`true` or `false`: keep our HTTPS port in redirects.",
        |value, options| {
            options.port_in_redirects = boolean(value).ok_or(TRUTH)?;
            Ok(())
        },
    ),
    missing(
        "preserve-trailing-slash",
        "false",
        "Keep a trailing slash in redirects to HTTPS.",
        is_false,
        Instead::Serve,
    ),
    missing("app-root", "", "Where `/` of the host is redirected to.", never, Instead::Serve)
        .of_host(),
    missing("permanent-redirect", "", "Redirect instead of serving.", never, Instead::Serve),
    missing("permanent-redirect-code", "301", "Its status.", never, Instead::Serve),
    missing(
        "temporal-redirect",
        "",
        "Redirect instead of serving, for now.",
        never,
        Instead::Serve,
    ),
    missing("temporal-redirect-code", "302", "Its status.", never, Instead::Serve),
    missing(
        "from-to-www-redirect",
        "false",
        "Redirect between `www.` and the bare host.",
        is_false,
        Instead::Serve,
    )
    .of_host(),
    missing(
        "relative-redirects",
        "false",
        "Redirects without scheme and host.",
        is_false,
        Instead::Serve,
    ),
];
