//! Hosts and paths: what a rule takes and what its backend is asked for.

use super::super::Instead;
use super::{Annotation, missing};
use super::{is_false, never};

pub(super) const ROWS: &[Annotation] = &[
    missing("use-regex", "false", "Paths are regular expressions.", is_false, Instead::Refuse)
        .of_host(),
    missing(
        "rewrite-target",
        "",
        "Path the backend sees; makes every path of the host a regular expression.",
        never,
        Instead::Refuse,
    )
    .of_host(),
    missing("x-forwarded-prefix", "", "Value of that header with rewrites.", never, Instead::Serve),
    missing("server-alias", "", "More names of the host.", never, Instead::Serve).of_host(),
    missing("upstream-vhost", "", "The Host the backend sees.", never, Instead::Serve),
];
