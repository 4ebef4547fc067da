//! The table: every annotation of ingress-nginx 1.15 and some that older manifests still hold, by
//! chapters.

pub(in crate::compile) mod access;
mod answers;
mod bodies;
mod client_tls;
mod copies;
mod limits;
mod paths;
mod redirects;
mod refused;
mod sharing;
mod upstreams;

use super::{Annotation, Effect, Instead, Scope};
use crate::model::options::Options;
use crate::model::routing::Routing;
use crate::model::snippet::Context;
use crate::model::value::boolean;

const TRUTH: &str = "true or false";
const SECONDS: &str = "a whole number of seconds, at least 1";
const ON_OR_OFF: &str = "on or off";
const NUMBER: &str = "a whole number, at least 1";
const BUFFER: &str = "a size such as 4k or 16k";

/// Annotations that belong together.
pub struct Chapter {
    /// As people look for it.
    pub title: &'static str,
    /// Its annotations.
    pub rows: &'static [Annotation],
}

/// Every annotation.
pub const TABLE: &[Chapter] = &[
    Chapter { title: "Redirects", rows: redirects::ROWS },
    Chapter { title: "Hosts and paths", rows: paths::ROWS },
    Chapter { title: "Access", rows: access::ROWS },
    Chapter { title: "TLS towards clients", rows: client_tls::ROWS },
    Chapter { title: "Endpoints", rows: upstreams::ROWS },
    Chapter { title: "Canaries and affinity", rows: sharing::ROWS },
    Chapter { title: "Bodies and times", rows: bodies::ROWS },
    Chapter { title: "Answers", rows: answers::ROWS },
    Chapter { title: "Limits", rows: limits::ROWS },
    Chapter { title: "Copies, logs and traces", rows: copies::ROWS },
    Chapter { title: "Never executed", rows: refused::ROWS },
];

/// The row of a name without its prefix.
pub fn row(name: &str) -> Option<&'static Annotation> {
    rows().find(|it| it.name == name)
}

/// All rows, in the order of the table.
pub fn rows() -> impl Iterator<Item = &'static Annotation> {
    TABLE.iter().flat_map(|it| it.rows)
}

impl Annotation {
    const fn of_host(self) -> Self {
        Self { scope: Scope::Host, ..self }
    }

    const fn of_backend(self) -> Self {
        Self { scope: Scope::Backend, ..self }
    }
}

type Reader = fn(&str, &mut Options) -> Result<(), &'static str>;

const fn sets(
    name: &'static str,
    default: &'static str,
    help: &'static str,
    read: Reader,
) -> Annotation {
    Annotation { name, default, help, scope: Scope::Path, effect: Effect::Sets(read) }
}

const fn guards(
    name: &'static str,
    default: &'static str,
    help: &'static str,
    read: Reader,
) -> Annotation {
    Annotation { name, default, help, scope: Scope::Path, effect: Effect::Guards(read) }
}

const fn missing(
    name: &'static str,
    default: &'static str,
    help: &'static str,
    inert: fn(&str) -> bool,
    instead: Instead,
) -> Annotation {
    Annotation {
        name,
        default,
        help,
        scope: Scope::Path,
        effect: Effect::Missing { inert, instead },
    }
}

const fn snippet(name: &'static str, help: &'static str, context: Context) -> Annotation {
    Annotation { name, default: "", help, scope: Scope::Path, effect: Effect::Snippet(context) }
}

const fn moot(name: &'static str, default: &'static str, help: &'static str) -> Annotation {
    Annotation { name, default, help, scope: Scope::Path, effect: Effect::Moot }
}

/// Sets a truth value of the routing; what is false by default and set to false stays unset.
fn switch(
    value: &str,
    options: &mut Options,
    place: fn(&mut Routing) -> &mut bool,
) -> Result<(), &'static str> {
    let on = boolean(value).ok_or(TRUTH)?;
    if on {
        *place(options.routing.get_or_insert_default()) = true;
    } else if let Some(routing) = &mut options.routing {
        *place(routing) = false;
    }
    Ok(())
}

/// A number of something, of which there are none below 0, as in ingress-nginx.
fn count(value: &str) -> Option<u32> {
    let number: i64 = value.parse().ok()?;
    Some(u32::try_from(number.max(0)).unwrap_or(u32::MAX))
}

fn never(_: &str) -> bool {
    false
}

fn is_false(value: &str) -> bool {
    boolean(value) == Some(false)
}

fn is_one_one(value: &str) -> bool {
    value == "1.1"
}
