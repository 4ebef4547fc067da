//! Paths of a host on which paths are regular expressions, and rewrites.
//!
//! As in ingress-nginx one `use-regex` or `rewrite-target` makes every path of a host such an expression,
//! whoever wrote it: anchored where paths begin and not where they end, in any case. The longest text is
//! tried first.

use super::pattern::{Groups, Pattern};
use super::phrase::Phrase;

/// A path that is a regular expression.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Location {
    /// What a path must begin with, in any case.
    begin: Box<str>,
    /// The whole expression, unless the beginning is all of it.
    pattern: Option<Pattern>,
}

impl Location {
    /// Reads a path of a rule; the error says what cannot be used.
    pub fn parse(path: &str) -> Result<Self, String> {
        if is_literal(path) {
            return Ok(Self { begin: path.into(), pattern: None });
        }
        let pattern = Some(Pattern::of_path(&format!("^{path}"))?);
        Ok(Self { begin: beginning(path).into(), pattern })
    }

    /// Takes at least all that a path would take which cannot be read; where nobody knows what that is,
    /// what begins alike. `None` where that would be everything.
    pub fn widened(path: &str) -> Option<Self> {
        let begin = beginning(path);
        let pattern = Pattern::widened_of_path(&format!("^{path}"));
        (pattern.is_some() || begin.len() > 1).then(|| Self { begin: begin.into(), pattern })
    }

    /// Whether it takes a canonical path. Costs a comparison where the path begins otherwise.
    pub fn takes(&self, path: &str) -> bool {
        let begin = self.begin.as_bytes();
        path.as_bytes().get(..begin.len()).is_some_and(|it| it.eq_ignore_ascii_case(begin))
            && self.pattern.as_ref().is_none_or(|it| it.is_match(path))
    }

    /// What every path begins with that it takes.
    pub fn beginning(&self) -> &str {
        &self.begin
    }
}

/// Whether an expression takes nothing but itself.
pub fn is_literal(path: &str) -> bool {
    path.bytes().all(|it| it.is_ascii_alphanumeric() || b"-_~/!&',;=:@%".contains(&it))
}

/// The longest text that all begin with which an expression takes.
fn beginning(path: &str) -> &str {
    if has_alternatives(path) {
        return "";
    }
    let plain = path.len()
        - path.trim_start_matches(|it: char| is_literal(it.encode_utf8(&mut [0; 4]))).len();
    // What may be there any number of times may be missing.
    let repeated = path[plain..].starts_with(['?', '*', '{']);
    &path[..plain - usize::from(repeated && plain > 0)]
}

/// Whether there is a `|` outside of groups. One in a class, or escaped, may count.
fn has_alternatives(path: &str) -> bool {
    let mut depth = 0_usize;
    path.bytes().any(|it| {
        match it {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        it == b'|' && depth == 0
    })
}

/// A rewrite: what becomes of a path that a rule takes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Rewrite {
    /// The rule's path, wherever it is found; `None` for one without groups, which is found always.
    pub pattern: Option<Pattern>,
    /// What the path becomes.
    pub target: RewriteTarget,
}

/// `rewrite-target`, with the meaning of nginx's `rewrite ... break`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RewriteTarget {
    /// As it was written.
    pub text: Box<str>,
    /// Whether it is a URL to redirect to.
    pub is_url: bool,
    path: Box<[Part]>,
    /// What stands behind the `?`; the client's own query is added unless it is empty.
    query: Option<Box<[Part]>>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Part {
    Phrase(Phrase),
    Group(u8),
}

impl RewriteTarget {
    /// Reads a path or URL with `$1` to `$9` and variables.
    pub fn parse(text: &str) -> Option<Self> {
        let fits = |it: u8| it.is_ascii_alphanumeric() || b"-._~/:$?&=%{}@!*+,()".contains(&it);
        if text.is_empty() || !text.bytes().all(fits) {
            return None;
        }
        let (path, query) = match text.split_once('?') {
            Some((path, query)) => (path, Some(parts(query)?)),
            None => (text, None),
        };
        let is_url = ["http://", "https://", "$scheme://"].iter().any(|it| path.starts_with(it));
        Some(Self { text: text.into(), is_url, path: parts(path)?, query })
    }

    /// The path, and the query that the client's is added to: nothing where the client's is not wanted.
    /// `fill` says what variables come to.
    pub fn fill(
        &self,
        groups: Option<&Groups<'_>>,
        query: Option<&str>,
        fill: &dyn Fn(&Phrase) -> String,
    ) -> (String, Option<String>) {
        let put = |parts: &[Part], escape: fn(&str) -> String| -> String {
            let part = |it: &Part| match it {
                Part::Phrase(phrase) => fill(phrase),
                Part::Group(number) => {
                    escape(groups.map_or("", |it| it.group(usize::from(*number))))
                }
            };
            parts.iter().map(part).collect()
        };
        let path = put(&self.path, str::to_owned);
        let query = match (&self.query, query) {
            (None, query) => query.map(str::to_owned),
            (Some(ours), _) if ours.is_empty() => None,
            (Some(ours), None) => Some(put(ours, in_query)),
            (Some(ours), Some(query)) => Some(format!("{}&{query}", put(ours, in_query))),
        };
        (path, query)
    }
}

/// What a part of a path is within a query, where `&` and `+` mean something.
fn in_query(text: &str) -> String {
    text.replace('&', "%26").replace('+', "%2B")
}

fn parts(text: &str) -> Option<Box<[Part]>> {
    let mut parts = Vec::new();
    let mut rest = text;
    let group = |it: &str| {
        it.match_indices('$').find_map(|(at, _)| {
            let digit = *it.as_bytes().get(at + 1)?;
            (b'1'..=b'9').contains(&digit).then_some((at, digit - b'0'))
        })
    };
    while let Some((at, number)) = group(rest) {
        if at > 0 {
            parts.push(Part::Phrase(Phrase::parse(&rest[..at]).ok()?));
        }
        parts.push(Part::Group(number));
        rest = &rest[at + 2..];
    }
    if !rest.is_empty() {
        parts.push(Part::Phrase(Phrase::parse(rest).ok()?));
    }
    Some(parts.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::phrase::Word;

    #[test]
    fn a_location_is_anchored_where_paths_begin() {
        for (location, path, expected) in [
            ("/foo", "/foo", true),
            ("/foo", "/foobar", true),
            ("/foo", "/FOO/x", true),
            ("/foo", "/fo", false),
            ("/foo", "/x/foo", false),
            ("/v1.0", "/v1x0", true),
            ("/id/[0-9]+", "/id/123a", true),
            ("/id/[0-9]+$", "/id/123a", false),
            ("/api(/|$)(.*)", "/api", true),
            ("/api(/|$)(.*)", "/apis", false),
            ("/apis?/x", "/api/x", true),
            ("/a|/b", "/x/b", true),
            ("/", "/anything", true),
            ("/.*", "/anything", true),
        ] {
            let takes = Location::parse(location).map(|it| it.takes(path));
            assert_eq!(takes, Ok(expected), "{location} {path}");
        }
    }

    #[test]
    fn what_cannot_be_read_takes_at_least_what_it_would_take() {
        for (location, path, expected) in [
            ("/api/(?!internal)(.*)", "/api/x", true),
            ("/api/(?!internal)(.*)", "/other", false),
            ("/(?!a)foo", "/foo", true),
            ("/(?!a)foo", "/bar", false),
            (r"/(a|b)/\1$", "/a/b", true),
            (r"/(a|b)/\1$", "/c/c", false),
            ("/x/(?(1)a|b)", "/x/y", true),
            ("/x/(?(1)a|b)", "/y", false),
            ("/(a", "/a", false),
        ] {
            assert!(Location::parse(location).is_err(), "{location}");
            let widened = Location::widened(location);
            assert_eq!(widened.is_some_and(|it| it.takes(path)), expected, "{location} {path}");
        }
    }

    #[test]
    fn a_target_is_filled_as_nginx_does() {
        let pattern = Pattern::of_path("/api(/|$)(.*)").expect("a pattern");
        let groups = pattern.captures("/api/a&b+c").expect("a match");
        let fill = |phrase: &Phrase| {
            let word = |it: &Word| match it {
                Word::Text(text) => text.to_string(),
                other => format!("<{other:?}>"),
            };
            phrase.0.iter().map(word).collect()
        };
        for (target, query, expected) in [
            ("/$2", None, ("/a&b+c", None)),
            ("/$2", Some("x=1"), ("/a&b+c", Some("x=1"))),
            ("/x$3", Some("x=1"), ("/x", Some("x=1"))),
            ("/new", Some(""), ("/new", Some(""))),
            ("/y?id=$2", None, ("/y", Some("id=a%26b%2Bc"))),
            ("/y?id=$2", Some("x=1"), ("/y", Some("id=a%26b%2Bc&x=1"))),
            ("/y?", Some("x=1"), ("/y", None)),
            ("/$host/$20", None, ("/<Host>/a&b+c0", None)),
        ] {
            let filled =
                RewriteTarget::parse(target).expect(target).fill(Some(&groups), query, &fill);
            assert_eq!((&*filled.0, filled.1.as_deref()), expected, "{target} {query:?}");
        }
    }

    #[test]
    fn a_target_is_a_path_or_a_url() {
        for (text, expected) in [
            ("/", Some(false)),
            ("$1", Some(false)),
            ("http://a.test/$1", Some(true)),
            ("https://$host/$1", Some(true)),
            ("", None),
            ("/a b", None),
            ("/a;return", None),
            ("/a\"", None),
            ("/$nope", None),
            ("/$0", None),
        ] {
            assert_eq!(RewriteTarget::parse(text).map(|it| it.is_url), expected, "{text:?}");
        }
    }
}
