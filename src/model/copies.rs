//! Who else hears of a request: mirrors, the access log.

use std::sync::Arc;

use super::host::Authority;
use super::pattern::Pattern;
use super::phrase::{Phrase, Word};
use super::plan::Route;

/// Who else hears of a request: mirrors, the access log. As the annotations of an Ingress have it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Copies {
    /// `mirror-target`
    pub mirror: Option<Box<MirrorTarget>>,
    /// `mirror-host`: the `Host` of copies, where it is not that of the target.
    pub mirror_host: Option<Box<str>>,
    /// `mirror-request-body: off`: copies go without their bodies.
    pub without_body: bool,
    /// `enable-access-log: false`
    pub unlogged: bool,
}

/// Where copies of requests go.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MirrorTarget {
    /// Over TLS.
    pub https: bool,
    /// Host and port.
    pub authority: Authority,
    /// Path and query.
    pub target: Phrase,
}

impl MirrorTarget {
    /// Reads a URL of scheme http or https, whose path and query may have variables.
    pub fn parse(text: &str) -> Option<Self> {
        let (https, rest) = match text.strip_prefix("https://") {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix("http://")?),
        };
        let end = rest.find(['/', '?', '$']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let mut target = Phrase::parse(target).ok()?;
        // `$request_uri` begins with a slash of its own: people write one before it all the same.
        if let [Word::Text(slash), Word::RequestUri, rest @ ..] = &*target.0
            && **slash == *"/"
        {
            target = Phrase([&[Word::RequestUri], rest].concat().into());
        }
        let printable = |it: &Word| match it {
            Word::Text(text) => text.bytes().all(|it| it.is_ascii_graphic() && it != b'#'),
            _ => true,
        };
        let authority = authority.parse().ok()?;
        target.0.iter().all(printable).then_some(Self { https, authority, target })
    }

    /// The port that is asked.
    pub fn port(&self) -> u16 {
        self.authority.port.unwrap_or(if self.https { 443 } else { 80 })
    }
}

/// Where copies go, with everything that sending them takes.
#[derive(Clone, Debug, PartialEq)]
pub struct Mirror {
    /// Path and query.
    pub target: Phrase,
    /// What copies name as their host.
    pub host: Authority,
    /// Whether they have the request's body.
    pub body: bool,
    /// How the mirror is spoken to.
    pub route: Arc<Route>,
    /// Its name and port.
    pub address: (Box<str>, u16),
}

/// What the ConfigMap says of the access log beside its line.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Unlogged {
    /// `skip-access-log-urls`: requests that leave no line.
    pub targets: Vec<TargetPattern>,
    /// `enable-access-log-for-default-backend: false`: no lines of requests that no rule takes.
    pub unmatched: bool,
}

impl Unlogged {
    /// Whether every request leaves its line.
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty() && !self.unmatched
    }
}

/// Path and query as a client writes them: one text, or all that a pattern finds something in.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum TargetPattern {
    Exact(Box<str>),
    Regex(Pattern),
}

impl TargetPattern {
    /// Reads an entry of nginx's `map`: a text, `~` and a regular expression, or `~*` and one in which case
    /// does not matter.
    pub fn parse(text: &str) -> Option<Self> {
        let Some(regex) = text.strip_prefix('~') else { return Some(Self::Exact(text.into())) };
        let (regex, insensitive) = match regex.strip_prefix('*') {
            Some(regex) => (regex, true),
            None => (regex, false),
        };
        Pattern::parse(regex, insensitive).ok().map(Self::Regex)
    }

    /// Whether a request is for it.
    pub fn is(&self, target: &str) -> bool {
        match self {
            Self::Exact(text) => **text == *target,
            Self::Regex(pattern) => pattern.is_match(target),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_urls_whose_path_may_have_variables() {
        let text = |it: &str| Word::Text(it.into());
        for (target, expected) in [
            ("https://m.test/$request_uri", Some((true, 443, vec![Word::RequestUri]))),
            ("https://m.test$request_uri", Some((true, 443, vec![Word::RequestUri]))),
            ("http://m.test:8080", Some((false, 8080, vec![]))),
            ("http://m.test/copy?of=$uri", Some((false, 80, vec![text("/copy?of="), Word::Uri]))),
            ("http://$host/", None),
            ("ftp://m.test/", None),
            ("m.test", None),
            ("http://", None),
            ("http://m.test/$nope", None),
            ("http://m.test/a b", None),
        ] {
            let found = MirrorTarget::parse(target);
            let found = found.map(|it| (it.https, it.port(), it.target.0.into_vec()));
            assert_eq!(found, expected, "{target}");
        }
    }

    #[test]
    fn targets_are_texts_or_regular_expressions() {
        for (text, target, expected) in [
            ("/health", "/health", Some(true)),
            ("/health", "/health?deep=1", Some(false)),
            ("~^/health", "/healthz", Some(true)),
            ("~^/health", "/HEALTH", Some(false)),
            ("~*^/health", "/HEALTH", Some(true)),
            (r"~(?=x)", "/", None),
        ] {
            let found = TargetPattern::parse(text).map(|it| it.is(target));
            assert_eq!(found, expected, "{text} {target}");
        }
    }
}
