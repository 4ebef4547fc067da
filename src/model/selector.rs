//! Label selectors: which objects count, by their labels.
//!
//! The text is that of `kubectl --selector`: equality (`a=b`, `a==b`, `a!=b`), sets (`a in (b,c)`,
//! `a notin (b,c)`), presence (`a`, `!a`) and numbers (`a>1`, `a<1`), joined by commas, all of which have to
//! hold. As in Kubernetes, `a!=b` and `a notin (b)` hold for objects without that label, too.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

/// What labels have to be like; the empty one takes everything.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Selector {
    /// As it was written.
    text: Box<str>,
    requirements: Vec<Requirement>,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Requirement {
    label: Box<str>,
    test: Test,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Test {
    In(BTreeSet<Box<str>>),
    NotIn(BTreeSet<Box<str>>),
    Present,
    Absent,
    Above(i64),
    Below(i64),
}

impl Selector {
    /// Whether it takes everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether an object with these labels is taken.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements.iter().all(|it| it.test.holds(labels.get(&*it.label).map(String::as_str)))
    }
}

impl Test {
    fn holds(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|it| it.parse::<i64>().ok());
        match self {
            Self::In(values) => value.is_some_and(|it| values.contains(it)),
            Self::NotIn(values) => value.is_none_or(|it| !values.contains(it)),
            Self::Present => value.is_some(),
            Self::Absent => value.is_none(),
            Self::Above(bound) => number().is_some_and(|it| it > *bound),
            Self::Below(bound) => number().is_some_and(|it| it < *bound),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Why a text is not a selector.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SelectorError {
    /// Something else stands where this should.
    #[error("{found:?} stands where {expected} should")]
    Unexpected {
        /// What stands there.
        found: String,
        /// What should.
        expected: &'static str,
    },
    /// It ends too early.
    #[error("it ends where {0} should stand")]
    Ended(&'static str),
    /// Kubernetes knows no such label.
    #[error(
        "{0:?} is no name of a label: 1 to 63 letters, digits, -, _ and ., the first and the last a letter or \
         digit, perhaps behind a DNS name and a slash"
    )]
    Label(String),
    /// No label has such a value.
    #[error(
        "{0:?} is no value of a label: at most 63 letters, digits, -, _ and ., the first and the last a letter \
         or digit"
    )]
    Value(String),
    /// Only whole numbers can be compared.
    #[error("{0:?} is no whole number to compare a label with")]
    Number(String),
    /// Nothing is in a set of nothing.
    #[error("there is no value between ( and )")]
    NoValues,
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let mut tokens = Tokens(text);
        let mut requirements = Vec::new();
        if tokens.peek().is_some() {
            requirements.push(tokens.requirement()?);
        }
        while let Some(token) = tokens.next() {
            if token != "," {
                return Err(unexpected(Some(token), "a comma or the end"));
            }
            requirements.push(tokens.requirement()?);
        }
        Ok(Self { text: text.trim_matches(WHITE).into(), requirements })
    }
}

const WHITE: &[char] = &[' ', '\t', '\r', '\n'];
/// What stands between words, besides white space.
const MARKS: &[char] = &['=', '!', '(', ')', ',', '<', '>'];

/// The rest of a text, word by word and mark by mark.
#[derive(Clone)]
struct Tokens<'a>(&'a str);

impl<'a> Iterator for Tokens<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let rest = self.0.trim_start_matches(WHITE);
        let length = match rest.chars().next()? {
            _ if rest.starts_with("==") || rest.starts_with("!=") => 2,
            it if MARKS.contains(&it) => 1,
            _ => rest
                .find(|it: char| MARKS.contains(&it) || WHITE.contains(&it))
                .unwrap_or(rest.len()),
        };
        let (token, rest) = rest.split_at(length);
        self.0 = rest;
        Some(token)
    }
}

impl<'a> Tokens<'a> {
    fn peek(&self) -> Option<&'a str> {
        self.clone().next()
    }

    /// Takes a word, if one comes next.
    fn word(&mut self) -> Option<&'a str> {
        let word = self.peek().filter(|it| !it.starts_with(MARKS))?;
        self.next();
        Some(word)
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let absent = self.peek() == Some("!");
        if absent {
            self.next();
        }
        let Some(word) = self.word() else {
            return Err(unexpected(self.peek(), "the name of a label"));
        };
        let label = label(word)?;
        let ends = matches!(self.peek(), None | Some(","));
        let test = match self.peek() {
            _ if absent => Test::Absent,
            _ if ends => Test::Present,
            operator => {
                self.next();
                self.test(operator)?
            }
        };
        Ok(Requirement { label, test })
    }

    /// What follows an operator.
    fn test(&mut self, operator: Option<&str>) -> Result<Test, SelectorError> {
        Ok(match operator {
            Some("=" | "==") => Test::In([self.value()?].into()),
            Some("!=") => Test::NotIn([self.value()?].into()),
            Some("in") => Test::In(self.values()?),
            Some("notin") => Test::NotIn(self.values()?),
            Some(">") => Test::Above(self.number()?),
            Some("<") => Test::Below(self.number()?),
            other => return Err(unexpected(other, "=, ==, !=, in, notin, a comma or the end")),
        })
    }

    /// One value, which is empty where the requirement ends.
    fn value(&mut self) -> Result<Box<str>, SelectorError> {
        match self.word() {
            Some(word) => value(word),
            None if matches!(self.peek(), None | Some(",")) => Ok(Box::default()),
            None => Err(unexpected(self.peek(), "a value")),
        }
    }

    /// `(a,b)`; empty values count, but not an empty set.
    fn values(&mut self) -> Result<BTreeSet<Box<str>>, SelectorError> {
        let open = self.next();
        if open != Some("(") {
            return Err(unexpected(open, "("));
        }
        if self.peek() == Some(")") {
            return Err(SelectorError::NoValues);
        }
        let mut values = BTreeSet::new();
        loop {
            values.insert(value(self.word().unwrap_or_default())?);
            match self.next() {
                Some(",") => {}
                Some(")") => return Ok(values),
                other => return Err(unexpected(other, "a comma or )")),
            }
        }
    }

    fn number(&mut self) -> Result<i64, SelectorError> {
        let Some(word) = self.word() else {
            return Err(unexpected(self.peek(), "a number"));
        };
        word.parse().map_err(|_| SelectorError::Number(word.to_owned()))
    }
}

fn unexpected(found: Option<&str>, expected: &'static str) -> SelectorError {
    match found {
        Some(found) => SelectorError::Unexpected { found: found.to_owned(), expected },
        None => SelectorError::Ended(expected),
    }
}

fn label(text: &str) -> Result<Box<str>, SelectorError> {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    if is_plain(name) && prefix.is_none_or(is_subdomain) {
        Ok(text.into())
    } else {
        Err(SelectorError::Label(text.to_owned()))
    }
}

fn value(text: &str) -> Result<Box<str>, SelectorError> {
    let good = text.is_empty() || is_plain(text);
    if good { Ok(text.into()) } else { Err(SelectorError::Value(text.to_owned())) }
}

fn is_plain(text: &str) -> bool {
    let inner = |it: &u8| it.is_ascii_alphanumeric() || matches!(it, b'-' | b'_' | b'.');
    text.len() <= 63 && text.bytes().all(|it| inner(&it)) && has_plain_ends(text)
}

/// RFC 1123, lower-cased as Kubernetes wants it.
fn is_subdomain(text: &str) -> bool {
    let inner = |it: u8| matches!(it, b'a'..=b'z' | b'0'..=b'9' | b'-');
    text.len() <= 253 && text.split('.').all(|it| it.bytes().all(inner) && has_plain_ends(it))
}

fn has_plain_ends(text: &str) -> bool {
    let plain = |it: Option<&u8>| it.is_some_and(u8::is_ascii_alphanumeric);
    plain(text.as_bytes().first()) && plain(text.as_bytes().last())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a text takes of these, by place.
    fn taken(text: &str) -> Result<Vec<usize>, String> {
        let selector: Selector = text.parse().map_err(|it: SelectorError| it.to_string())?;
        let all: [&[(&str, &str)]; 5] = [
            &[],
            &[("a", "b")],
            &[("a", "c"), ("x", "")],
            &[("a", "7"), ("example.org/x_y", "1.0")],
            &[("in", "b"), ("x", "y")],
        ];
        let labels = all.map(|it| {
            it.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
        });
        Ok((0..all.len()).filter(|it| selector.matches(&labels[*it])).collect())
    }

    #[test]
    fn labels_are_compared_as_kubernetes_does() {
        for (text, expected) in [
            ("", &[0, 1, 2, 3, 4][..]),
            ("  ", &[0, 1, 2, 3, 4]),
            ("a=b", &[1]),
            ("a==b", &[1]),
            (" a = b ", &[1]),
            ("A=b", &[]),
            ("a=B", &[]),
            ("a!=b", &[0, 2, 3, 4]),
            ("a", &[1, 2, 3]),
            ("!a", &[0, 4]),
            ("! a", &[0, 4]),
            ("a in (b,c)", &[1, 2]),
            ("a in(b , c)", &[1, 2]),
            ("a notin (b,c)", &[0, 3, 4]),
            ("a,x", &[2]),
            ("a,!x", &[1, 3]),
            ("a!=b,a!=c,a", &[3]),
            ("x=", &[2]),
            ("x==,a", &[2]),
            ("x!=", &[0, 1, 3, 4]),
            ("x in (,y)", &[2, 4]),
            ("x in (y,)", &[2, 4]),
            ("x notin (,)", &[0, 1, 3, 4]),
            ("a>6", &[3]),
            ("a > 7", &[]),
            ("a<8", &[3]),
            ("in", &[4]),
            ("in in (b,in)", &[4]),
            ("in=b,x=y", &[4]),
            ("example.org/x_y=1.0", &[3]),
            ("a=b,a=c", &[]),
        ] {
            assert_eq!(taken(text).as_deref(), Ok(expected), "{text:?}");
        }
    }

    #[test]
    fn a_mistake_is_named() {
        let long = "a".repeat(64);
        let (long_value, long_label) = (format!("a={long}"), format!("{long}=a"));
        for (text, part) in [
            (",", "\",\" stands where the name of a label should"),
            ("a,", "it ends where the name of a label should stand"),
            ("a,,b", "\",\" stands where the name of a label should"),
            ("=a", "\"=\" stands where the name of a label should"),
            ("!", "it ends where the name of a label should stand"),
            ("!!a", "\"!\" stands where the name of a label should"),
            ("!a=b", "\"=\" stands where a comma or the end should"),
            ("a b", "\"b\" stands where =, ==, !=, in, notin, a comma or the end should"),
            ("a=b c", "\"c\" stands where a comma or the end should"),
            ("a=b=c", "\"=\" stands where a comma or the end should"),
            ("a===b", "\"=\" stands where a value should"),
            ("a=(b)", "\"(\" stands where a value should"),
            ("a in", "it ends where ( should stand"),
            ("a in b", "\"b\" stands where ( should"),
            ("a in (", "it ends where a comma or ) should stand"),
            ("a in (b", "it ends where a comma or ) should stand"),
            ("a in (b c)", "\"c\" stands where a comma or ) should"),
            ("a in ()", "no value between ( and )"),
            ("a notin ()", "no value between ( and )"),
            ("a In (b)", "\"In\" stands where ="),
            ("a>b", "\"b\" is no whole number"),
            ("a>", "it ends where a number should stand"),
            ("a)", "\")\" stands where ="),
            ("-a=b", "\"-a\" is no name"),
            ("a/b/c=d", "\"a/b/c\" is no name"),
            ("/a", "\"/a\" is no name"),
            ("a/", "\"a/\" is no name"),
            ("Example.org/a", "\"Example.org/a\" is no name"),
            ("a..b/c", "\"a..b/c\" is no name"),
            ("ü=a", "\"ü\" is no name"),
            ("a=b-", "\"b-\" is no value"),
            ("a=b/c", "\"b/c\" is no value"),
            ("a in (b,c:d)", "\"c:d\" is no value"),
            (&long_value, "is no value"),
            (&long_label, "is no name"),
        ] {
            let error = taken(text).expect_err(text);
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }

    #[test]
    fn it_is_shown_as_it_was_written() {
        let selector: Selector = " a in (b, c) ".parse().expect("a selector");
        assert_eq!(selector.to_string(), "a in (b, c)");
        assert!(!selector.is_empty());
        assert!(Selector::default().is_empty());
    }
}
