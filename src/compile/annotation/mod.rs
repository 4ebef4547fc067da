//! Annotations: what an Ingress says about itself, read by one table.
//!
//! Every annotation of ingress-nginx has its row in [`TABLE`], built or not, so that one which is not
//! honoured is told to its owner and one that protects something never looks as if it did. A new
//! feature turns a `Missing` row into one that `Sets` something.

mod table;

use std::collections::BTreeMap;

pub(super) use table::access;
pub use table::{Chapter, TABLE, row, rows};

use super::Policy;
use super::objects::Ingress;
use crate::model::options::Options;
use crate::model::snippet::{self, Context};
use crate::model::value::boolean;

/// The prefix before ingress-nginx 0.9, which kube-lego's users still have.
const LEGACY: &str = "ingress.kubernetes.io";

/// One annotation: its name without the prefix, what it is for, and what is done with it.
pub struct Annotation {
    /// As `proxy-body-size`.
    pub name: &'static str,
    /// What holds where it is not set, as it would be written; empty for nothing.
    pub default: &'static str,
    /// Value and meaning, for people.
    pub help: &'static str,
    /// What it holds for.
    pub scope: Scope,
    /// What is done with it.
    pub effect: Effect,
}

/// What an annotation holds for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scope {
    /// The paths of the Ingress that has it.
    Path,
    /// The whole host: of several Ingresses the oldest that has it decides.
    Host,
    /// The Service's port, whoever names it.
    Backend,
}

/// What is done with an annotation.
#[derive(Clone, Copy)]
pub enum Effect {
    /// Read into the options; the error says what the value should have been, and the default holds.
    Sets(fn(&str, &mut Options) -> Result<(), &'static str>),
    /// Likewise, but a value that cannot be read makes the paths answer 503: with the default they would be
    /// open, or speak to endpoints in a way that their owner did not mean.
    Guards(fn(&str, &mut Options) -> Result<(), &'static str>),
    /// A snippet of nginx's configuration: never executed; read into the closed set of directives that are
    /// translated, with `--translate-snippets`, else refused.
    Snippet(Context),
    /// Not built. A value that asks for what happens anyway is let pass.
    Missing {
        /// Whether a value asks for nothing.
        inert: fn(&str) -> bool,
        /// What happens to an Ingress that asks for something.
        instead: Instead,
    },
    /// Tunes something nginx has and this program has not; nobody loses anything.
    Moot,
}

/// What happens to an Ingress that asks for what is not built.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Instead {
    /// It is served without; its owner is told.
    Serve,
    /// Its paths answer 503, because without it they would be open or mean something else.
    Refuse,
}

/// What the annotations of one Ingress come to.
pub(super) struct Reading {
    pub(super) options: Options,
    /// Why its paths answer 503.
    pub(super) refusal: Option<String>,
    /// An annotation about TLS towards endpoints that could not be read: whoever would take it over, as
    /// others on a host do, does not know what was asked for.
    pub(super) unread_tls: Option<&'static str>,
    /// Whether snippets are translated.
    translate: bool,
    /// Reason and text of each problem.
    pub(super) problems: Vec<(&'static str, String)>,
}

/// Reads the annotations of an Ingress on top of what the ConfigMap set.
pub(super) fn read(ingress: &Ingress, policy: &Policy, base: &Options) -> Reading {
    let mut reading = Reading::of(base, policy);
    let named = named(ingress, policy);
    // A canary's paths are those of another Ingress: only what it says about its Service counts.
    let is_canary = named.get("canary").is_some_and(|it| boolean(it) == Some(true));
    for (name, value) in named {
        if is_canary && row(name).is_some_and(|it| it.scope != Scope::Backend) {
            continue;
        }
        reading.take(name, value);
    }
    if reading.options.buffers != base.buffers
        && let Some(text) = reading.options.buffers.shortened()
    {
        reading.problems.push(("BadAnnotation", text));
    }
    reading
}

/// What comes of one annotation by itself.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Judged<'a> {
    /// Without its prefix.
    pub name: &'a str,
    /// As it is written.
    pub value: &'a str,
    /// What comes of it.
    pub verdict: Verdict,
    /// What is wrong and what happens instead; empty where nothing is.
    pub text: String,
}

/// What comes of a setting.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Verdict {
    /// It does what it does in ingress-nginx, or there is nothing for it to do.
    Works,
    /// It is served otherwise than was asked for.
    Differs,
    /// Something is not served because of it.
    Refused,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Works => "works",
            Self::Differs => "differs",
            Self::Refused => "refused",
        })
    }
}

/// Judges each annotation of an Ingress that is under our prefixes, on top of what the ConfigMap set.
pub fn judge<'a>(ingress: &'a Ingress, policy: &Policy, base: &Options) -> Vec<Judged<'a>> {
    let judged = |(name, value): (&'a str, &'a str)| {
        let mut reading = Reading::of(base, policy);
        reading.take(name, value);
        let verdict = if reading.refusal.is_some() {
            Verdict::Refused
        } else if reading.problems.is_empty() {
            Verdict::Works
        } else {
            Verdict::Differs
        };
        let text = reading.problems.into_iter().map(|(_, text)| text).collect::<Vec<_>>();
        Judged { name, value, verdict, text: text.join("; ") }
    };
    named(ingress, policy).into_iter().map(judged).collect()
}

/// Reads a value into the options as the annotation of that name would; one that is not built sets
/// nothing.
pub(super) fn set(name: &str, value: &str, options: &mut Options) -> Result<(), &'static str> {
    match row(name).map(|it| it.effect) {
        Some(Effect::Sets(read) | Effect::Guards(read)) => read(value, options),
        _ => Ok(()),
    }
}

/// The annotations under our prefixes without these; the newer prefix wins over the legacy one.
fn named<'a>(ingress: &'a Ingress, policy: &Policy) -> BTreeMap<&'a str, &'a str> {
    let mut named = BTreeMap::new();
    if policy.legacy_annotations {
        named.extend(under(LEGACY, ingress));
    }
    named.extend(under(&policy.prefix, ingress));
    named
}

fn under<'a>(prefix: &str, ingress: &'a Ingress) -> impl Iterator<Item = (&'a str, &'a str)> {
    ingress.annotations.iter().filter_map(move |(name, value)| {
        Some((name.strip_prefix(prefix)?.strip_prefix('/')?, value))
    })
}

fn unknown(name: &str) -> String {
    if super::config::is_known(name) {
        return format!(
            "annotation {name} has no effect: it is a key of the ConfigMap, for all Ingresses"
        );
    }
    format!("annotation {name} is not known and has no effect")
}

impl Reading {
    fn of(base: &Options, policy: &Policy) -> Self {
        Self {
            translate: policy.translate_snippets,
            options: base.clone(),
            refusal: None,
            unread_tls: None,
            problems: Vec::new(),
        }
    }

    fn take(&mut self, name: &str, value: &str) {
        // One that is empty is not set, as ingress-nginx has it.
        if value.trim().is_empty() {
            return;
        }
        match row(name) {
            Some(row) => self.apply(row, value.trim()),
            None => self.problems.push(("UnknownAnnotation", unknown(name))),
        }
    }

    fn translate(&mut self, name: &str, value: &str, context: Context) {
        const CLOSED: &str = "the paths of this Ingress answer 503";
        let text = if self.translate {
            let mut snippets = self.options.snippets.take().unwrap_or_default();
            let read = snippet::read(value, context, &mut snippets);
            self.options.snippets = Some(snippets);
            let Err(error) = read else { return };
            format!("annotation {name}: {error}: {CLOSED}")
        } else {
            format!(
                "annotation {name} is nginx configuration, which is never executed: {CLOSED}; \
                 --translate-snippets reads what sets header fields, returns or denies"
            )
        };
        self.refusal.get_or_insert_with(|| text.clone());
        self.problems.push(("Snippet", text));
    }

    fn apply(&mut self, row: &Annotation, value: &str) {
        let Annotation { name, effect, .. } = row;
        match effect {
            Effect::Sets(read) => {
                if let Err(wanted) = read(value, &mut self.options) {
                    self.problems.push((
                        "BadAnnotation",
                        format!("annotation {name} ignored: {value:?} is not {wanted}"),
                    ));
                }
            }
            Effect::Guards(read) => {
                if let Err(wanted) = read(value, &mut self.options) {
                    let text = format!(
                        "annotation {name}: {value:?} is not {wanted}: the paths of this Ingress answer 503"
                    );
                    if name.starts_with("proxy-ssl-") {
                        self.unread_tls.get_or_insert(name);
                    }
                    self.refusal.get_or_insert_with(|| text.clone());
                    self.problems.push(("BadAnnotation", text));
                }
            }
            Effect::Snippet(context) => self.translate(name, value, *context),
            Effect::Moot => {}
            Effect::Missing { inert, .. } if inert(value) => {}
            Effect::Missing { instead, .. } => {
                let what = format!("annotation {name}: {value:?} is not supported yet");
                let text = match instead {
                    Instead::Serve => format!("{what}: served without it"),
                    Instead::Refuse => {
                        let text = format!("{what}: the paths of this Ingress answer 503");
                        self.refusal.get_or_insert_with(|| text.clone());
                        text
                    }
                };
                self.problems.push(("NotSupported", text));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::options::Buffers;

    fn reading(annotations: &[(&str, &str)]) -> Reading {
        let annotations = annotations.iter().copied().collect();
        read(
            &Ingress { annotations, ..Ingress::default() },
            &Policy::default(),
            &Options::default(),
        )
    }

    #[test]
    fn the_newer_prefix_wins_over_the_legacy_one() {
        let both = reading(&[
            ("ingress.kubernetes.io/proxy-body-size", "1k"),
            ("nginx.ingress.kubernetes.io/proxy-body-size", "2k"),
        ]);
        assert_eq!(both.options.body_limit, Some(2048));
        let legacy = reading(&[("ingress.kubernetes.io/proxy-body-size", "1k")]);
        assert_eq!(legacy.options.body_limit, Some(1024));
    }

    #[test]
    fn every_row_that_protects_refuses_and_lets_pass_what_asks_for_nothing() {
        for (name, value, refused) in [
            ("auth-url", "http://auth/", false),
            ("auth-url", "http://au..th/", true),
            ("allowlist-source-range", "10.0.0.0/8", false),
            ("allowlist-source-range", "10.0.0.0/33", true),
            ("whitelist-source-range", "10.0.0.0/8", false),
            ("whitelist-source-range", ",", true),
            ("denylist-source-range", "10.0.0.0/8", false),
            ("denylist-source-range", "all", true),
            ("satisfy", "any", false),
            ("satisfy", "some", true),
            ("auth-tls-secret", "a/b", false),
            ("auth-tls-secret", "a/b/c", true),
            ("auth-tls-verify-client", "yes", true),
            ("auth-tls-verify-depth", "-1", true),
            ("auth-tls-match-cn", "O=Acme", true),
            ("auth-tls-match-cn", "CN=(?!a)", true),
            ("auth-tls-error-page", "later", false),
            ("auth-tls-pass-certificate-to-upstream", "perhaps", false),
            ("ssl-passthrough", "perhaps", true),
            ("satisfy", "all", false),
            ("proxy-ssl-verify", "on", false),
            ("proxy-ssl-verify", "off", false),
            ("proxy-ssl-verify", "true", true),
            ("proxy-ssl-protocols", "SSLv3", true),
            ("enable-modsecurity", "true", true),
            ("enable-modsecurity", "false", false),
            ("enable-modsecurity", "maybe", true),
            ("use-regex", "true", false),
            ("use-regex", "false", false),
            ("use-regex", "yes", true),
            ("rewrite-target", "/$1", false),
            ("rewrite-target", "/$nope", true),
            ("configuration-snippet", "deny all;", true),
            ("backend-protocol", "HTTPS", false),
            ("backend-protocol", "http", false),
            ("backend-protocol", "FCGI", true),
            ("secure-backends", "yes", true),
            ("limit-rps", "5", false),
        ] {
            let name = format!("nginx.ingress.kubernetes.io/{name}");
            let reading = reading(&[(&name, value)]);
            assert_eq!(reading.refusal.is_some(), refused, "{name}: {value}");
            assert!(!refused || !reading.problems.is_empty(), "{name}: {value}");
        }
    }

    #[test]
    fn a_bad_value_keeps_the_default_and_is_told() {
        for (name, value) in [
            ("ssl-redirect", "maybe"),
            ("proxy-body-size", "15r"),
            ("proxy-read-timeout", "60s"),
            ("proxy-connect-timeout", "50k"),
        ] {
            let reading = reading(&[(&format!("nginx.ingress.kubernetes.io/{name}"), value)]);
            assert_eq!(reading.options, Options::default(), "{name}");
            assert_eq!(reading.problems.len(), 1, "{name}");
        }
    }

    #[test]
    fn routing_is_set_as_it_is_written_and_only_then() {
        for (name, good, bad) in [
            ("preserve-trailing-slash", "true", "on"),
            ("app-root", "/app", "https://a.test/"),
            ("permanent-redirect", "https://a.test$request_uri", "a.test"),
            ("permanent-redirect-code", "308", "309"),
            ("temporal-redirect", "/a", "/$nope"),
            ("temporal-redirect-code", "307", "308"),
            ("from-to-www-redirect", "true", "yes"),
            ("relative-redirects", "true", "yes"),
            ("use-regex", "true", "yes"),
            ("rewrite-target", "/$1", "/a b"),
            ("x-forwarded-prefix", "/api", "/a b"),
            ("server-alias", "b.test, ~^c", "~("),
            ("upstream-vhost", "b.test", "b test"),
        ] {
            let name = format!("nginx.ingress.kubernetes.io/{name}");
            let good = reading(&[(&name, good)]);
            assert_eq!(good.problems, [], "{name}");
            assert!(good.options.routing.is_some(), "{name}");
            assert_eq!(good.refusal, None, "{name}");
            let bad = reading(&[(&name, bad)]);
            assert_eq!(bad.options, Options::default(), "{name}");
            assert_eq!(bad.problems.len(), 1, "{name}");
        }
        for name in ["use-regex", "from-to-www-redirect", "relative-redirects"] {
            let off = reading(&[(&format!("nginx.ingress.kubernetes.io/{name}"), "false")]);
            assert_eq!((off.options, off.problems), (Options::default(), vec![]), "{name}");
        }
    }

    #[test]
    fn reading_ahead_beyond_its_bound_is_told_to_who_asks_for_it() {
        let base = Options {
            buffers: Buffers { on: true, number: 4, size: 1 << 20 },
            ..Options::default()
        };
        let read_on = |name: &str, value: &str| {
            let name = format!("nginx.ingress.kubernetes.io/{name}");
            let annotations = [(name, value)].into();
            let ingress = Ingress { annotations, ..Ingress::default() };
            read(&ingress, &Policy::default(), &base).problems.len()
        };
        for (name, value, told) in [
            ("proxy-read-timeout", "5", 0),
            ("proxy-buffering", "off", 0),
            ("proxy-buffer-size", "8k", 0),
            ("proxy-buffer-size", "512k", 1),
            ("proxy-buffers-number", "4", 0),
            ("proxy-buffers-number", "-4", 1),
            ("proxy-buffering", "yes", 1),
        ] {
            assert_eq!(read_on(name, value), told, "{name}: {value}");
        }
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<_> = rows().map(|it| it.name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|it| it[0] != it[1]));
    }
}
