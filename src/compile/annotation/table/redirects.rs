//! Redirects: where requests are sent instead of being served.

use super::TRUTH;
use super::{Annotation, sets, switch};
use crate::model::routing::{location, path};
use crate::model::value::boolean;

const LOCATION: &str = "a URL of http or https, or a path, with known variables";

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
    sets(
        "preserve-trailing-slash",
        "false",
        "`true` or `false`: keep a slash at the end in redirects to HTTPS.",
        |value, options| switch(value, options, |it| &mut it.keep_slash),
    ),
    sets(
        "app-root",
        "",
        "A path, perhaps with variables: where `/` of the host is redirected to, with 302.",
        |value, options| {
            options.routing.get_or_insert_default().app_root =
                Some(path(value).ok_or("a path such as /app")?);
            Ok(())
        },
    )
    .of_host(),
    sets("permanent-redirect", "", "Where requests go instead of being served.", |value, options| {
        let to = location(value).ok_or(LOCATION)?;
        options.routing.get_or_insert_default().permanent = Some(to);
        Ok(())
    }),
    sets("permanent-redirect-code", "301", "Its status, from 300 to 308.", |value, options| {
        let code = value.parse().ok().filter(|it| (300..=308).contains(it));
        let code = code.ok_or("a status from 300 to 308; it is 301")?;
        options.routing.get_or_insert_default().permanent_code = Some(code);
        Ok(())
    }),
    sets(
        "temporal-redirect",
        "",
        "Where requests go for now; stronger than `permanent-redirect`.",
        |value, options| {
            let to = location(value).ok_or(LOCATION)?;
            options.routing.get_or_insert_default().temporal = Some(to);
            Ok(())
        },
    ),
    sets("temporal-redirect-code", "302", "Its status, from 300 to 307.", |value, options| {
        let code = value.parse().ok().filter(|it| (300..=307).contains(it));
        let code = code.ok_or("a status from 300 to 307; it is 302")?;
        options.routing.get_or_insert_default().temporal_code = Some(code);
        Ok(())
    }),
    sets(
        "from-to-www-redirect",
        "false",
        "`true` or `false`: redirect `www.` of the host to it, or the bare name to a host with `www.`.",
        |value, options| switch(value, options, |it| &mut it.www),
    )
    .of_host(),
    sets(
        "relative-redirects",
        "false",
        "`true` or `false`: redirects within the host have neither scheme nor host.",
        |value, options| switch(value, options, |it| &mut it.relative),
    ),
];
