//! Hosts and paths: what a rule takes and what its backend is asked for.

use http::HeaderValue;

use super::{Annotation, guards, sets, switch};
use crate::model::location::RewriteTarget;
use crate::model::routing::{Alias, host};

pub(super) const ROWS: &[Annotation] = &[
    guards(
        "use-regex",
        "false",
        "`true` or `false`: every path of the host is a regular expression, in any case, that ends \
         where it ends; the longest is tried first.",
        |value, options| switch(value, options, |it| &mut it.use_regex),
    )
    .of_host(),
    guards(
        "rewrite-target",
        "",
        "The path that the backend sees, with `$1` to `$9` for the groups of the rule's path, or a URL \
         to redirect to; does what `use-regex` does, too.",
        |value, options| {
            let target = RewriteTarget::parse(value).ok_or("a path such as /$1")?;
            options.routing.get_or_insert_default().rewrite = Some(target);
            Ok(())
        },
    )
    .of_host(),
    sets(
        "x-forwarded-prefix",
        "",
        "Value of `X-Forwarded-Prefix` where `rewrite-target` rewrites.",
        |value, options| {
            let visible = value.bytes().all(|it| it.is_ascii_graphic());
            let value = visible.then(|| HeaderValue::from_str(value).ok()).flatten();
            options.routing.get_or_insert_default().prefix = Some(value.ok_or("a path")?);
            Ok(())
        },
    ),
    sets(
        "server-alias",
        "",
        "More names of the host, with commas between; `~` begins a regular expression.",
        |value, options| {
            let aliases = Alias::list(value);
            options.routing.get_or_insert_default().aliases =
                aliases.ok_or("a list of hosts such as a.example.org, *.example.com, ~^b[0-9]")?;
            Ok(())
        },
    )
    .of_host(),
    sets(
        "upstream-vhost",
        "",
        "The `Host` that the backend sees, perhaps with variables.",
        |value, options| {
            let host = host(value).ok_or("a host, or a text with known variables")?;
            options.routing.get_or_insert_default().upstream_host = Some(host);
            Ok(())
        },
    ),
];
