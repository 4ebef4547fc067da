//! Regular expressions, as nginx's users write them.
//!
//! nginx speaks PCRE, we speak Rust's `regex`, whose time is linear in what it looks at; how much that
//! is, and how large a pattern, has bounds, so that no request makes it slow. What both can say is read alike here, where their notations differ: a `{` that repeats
//! nothing and a `[` within a class are themselves. What only PCRE can say, look-around and
//! back-references, is an error that names what to write instead. As in nginx, a letter is an ASCII one
//! and `.` is a byte.

use std::cmp::Ordering;
use std::fmt::{self, Write as _};
use std::sync::Arc;

use regex::bytes::{Captures, Regex, RegexBuilder};

/// Longest text of a pattern, in bytes.
const LONGEST: usize = 4096;
/// Largest program that a text may become, in bytes; `(a{100}){100}` would be larger.
///
/// Its product with the longest text that is looked at is what one look may cost: some 50 ms at worst.
const PROGRAM: usize = 32 << 10;
/// What one thread may remember of a pattern to be faster, in bytes.
const MEMORY: usize = 256 << 10;

/// A regular expression; two with the same text are equal.
#[derive(Clone)]
pub struct Pattern {
    text: Box<str>,
    insensitive: bool,
    /// Its own clone would have memory of its own.
    regex: Arc<Regex>,
}

impl Pattern {
    /// Reads a pattern, in which case may matter or not; the error says what cannot be used, and what can.
    pub fn parse(text: &str, case_insensitive: bool) -> Result<Self, String> {
        let translated = Translation { rest: text, ..Translation::default() }.run()?;
        Self::build(text, &translated, case_insensitive)
    }

    /// Reads a pattern of canonical paths ([`canonical`](super::path::canonical)), in which case does not
    /// matter: a character that stands escaped in those is written as itself in the pattern.
    pub fn of_path(text: &str) -> Result<Self, String> {
        let translated =
            Translation { rest: text, escaped: true, ..Translation::default() }.run()?;
        Self::build(text, &translated, true)
    }

    /// Reads a pattern that [`Pattern::of_path`] refuses, as one that takes at least all that it would
    /// take: without look-around, and with anything for a back-reference. `None` where that cannot be
    /// had.
    pub fn widened_of_path(text: &str) -> Option<Self> {
        let widened = Translation { rest: text, escaped: true, widen: true, out: String::new() };
        Self::build(text, &widened.run().ok()?, true).ok()
    }

    fn build(text: &str, translated: &str, insensitive: bool) -> Result<Self, String> {
        if text.len() > LONGEST {
            return Err(format!("it has {} bytes, at most {LONGEST} are read", text.len()));
        }
        let built = RegexBuilder::new(translated)
            .unicode(false)
            .case_insensitive(insensitive)
            .size_limit(PROGRAM)
            .dfa_size_limit(MEMORY)
            .build();
        match built {
            Ok(regex) => Ok(Self { text: text.into(), insensitive, regex: regex.into() }),
            Err(regex::Error::CompiledTooBig(_)) => {
                Err("it is too large: repeat less, or write several".to_owned())
            }
            Err(error) => {
                let error = error.to_string();
                let last = error.lines().last().unwrap_or_default().trim();
                Err(last.strip_prefix("error: ").unwrap_or(last).to_owned())
            }
        }
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Longest path that is looked at, in bytes; nginx answers 414 to what is longer.
    pub const LONGEST_PATH: usize = 8 << 10;

    /// Whether it is found anywhere in a text.
    pub fn is_match(&self, text: impl AsRef<[u8]>) -> bool {
        self.regex.is_match(text.as_ref())
    }

    /// What its groups take where it is found first.
    pub fn captures<'a>(&self, text: &'a str) -> Option<Groups<'a>> {
        self.regex.captures(text.as_bytes()).map(Groups)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pattern {}

impl PartialOrd for Pattern {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Pattern {
    fn cmp(&self, other: &Self) -> Ordering {
        (&self.text, self.insensitive).cmp(&(&other.text, other.insensitive))
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.insensitive { "~*" } else { "~" }, self.text)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// What the groups of a pattern took.
#[derive(Debug)]
pub struct Groups<'a>(Captures<'a>);

impl<'a> Groups<'a> {
    /// What a group took, 0 for all of it; nothing where it took nothing or is not there.
    pub fn group(&self, number: usize) -> &'a str {
        let bytes = self.0.get(number).map_or(&b""[..], |it| it.as_bytes());
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

const LOOK: &str = "look-around, as in (?!...), cannot be used: leave it out, and write what it leaves out \
                    as a longer path or pattern of its own";
const BACK: &str = "a back-reference, as in \\1, cannot be used: write what it stands for";
const GREED: &str = "a group or repetition that gives nothing back, as in (?>...) or *+, cannot be used: \
                     write it as (?:...) or *";
const STRANGE: &str = "it uses what only PCRE has: write it with groups, classes and repetitions";
const OPEN: &str = "a [ or ( in it is not closed";

/// A text of PCRE on its way into Rust's notation.
#[derive(Default)]
struct Translation<'a> {
    rest: &'a str,
    out: String,
    /// Whether what it is to find stands escaped, as in a path.
    escaped: bool,
    widen: bool,
}

impl Translation<'_> {
    fn run(mut self) -> Result<String, &'static str> {
        while let Some(next) = self.next() {
            match next {
                '\\' => self.escape()?,
                '[' => self.class()?,
                '(' => self.group()?,
                '{' if self.quantifier().is_none() => self.itself(next),
                '*' | '+' | '?' | '{' => self.repetition(next)?,
                '^' | '$' | '.' | '|' | ')' => self.out.push(next),
                other => self.itself(other),
            }
        }
        Ok(self.out)
    }

    /// Adds what stands for itself.
    fn itself(&mut self, it: char) {
        if !self.escaped || is_path(it) {
            return self.literal(it);
        }
        self.out.push_str("(?:");
        for byte in it.encode_utf8(&mut [0; 4]).bytes() {
            // Writing to a text does not fail.
            let _ = write!(self.out, "%{byte:02X}");
        }
        self.out.push(')');
    }

    fn next(&mut self) -> Option<char> {
        let next = self.rest.chars().next()?;
        self.rest = &self.rest[next.len_utf8()..];
        Some(next)
    }

    fn takes(&mut self, text: &str) -> bool {
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// What a widened pattern has instead of what cannot be said.
    fn instead(&mut self, text: &str, why: &'static str) -> Result<(), &'static str> {
        self.out.push_str(text);
        if self.widen { Ok(()) } else { Err(why) }
    }

    fn escape(&mut self) -> Result<(), &'static str> {
        match self.next() {
            None => return Err("it ends with a backslash"),
            Some('1'..='9' | 'g' | 'k') => return self.instead(".*", BACK),
            Some('R' | 'K' | 'G' | 'Q' | 'E' | 'X' | 'C' | 'H' | 'V' | 'N') => return Err(STRANGE),
            Some('Z') => self.out.push_str("\\z"),
            Some('h') => self.out.push_str("[\\t ]"),
            Some(it) if it.is_ascii_alphanumeric() => self.out.extend(['\\', it]),
            Some(it) => self.itself(it),
        }
        Ok(())
    }

    /// Adds a character that must not mean anything.
    fn literal(&mut self, it: char) {
        if it.is_ascii_punctuation() && !matches!(it, '<' | '>') {
            self.out.push('\\');
        }
        self.out.push(it);
    }

    fn group(&mut self) -> Result<(), &'static str> {
        if self.rest.starts_with('*') {
            return Err(STRANGE);
        }
        if ["?=", "?!", "?<=", "?<!"].iter().any(|it| self.rest.starts_with(it)) {
            self.instead("", LOOK)?;
            return self.skip();
        }
        if self.takes("?#") {
            let end = self.rest.find(')').ok_or(OPEN)?;
            self.rest = &self.rest[end + 1..];
            return Ok(());
        }
        if self.takes("?>") {
            return self.instead("(?:", GREED);
        }
        if let Some(rest) = self.rest.strip_prefix('?')
            && (rest.starts_with(['|', '(', 'R', '&', '\'', '+']) || is_recursion(rest))
        {
            return Err(STRANGE);
        }
        self.out.push('(');
        if self.rest.starts_with('?') {
            // Flags, or the group's name.
            let end = self.rest.find([':', ')', '>']).ok_or(OPEN)? + 1;
            self.out.push_str(&self.rest[..end]);
            self.rest = &self.rest[end..];
        }
        Ok(())
    }

    /// Skips a group that has just begun, and what repeats it.
    fn skip(&mut self) -> Result<(), &'static str> {
        let (mut depth, mut class) = (1, false);
        while depth > 0 {
            match self.next().ok_or(OPEN)? {
                '\\' => drop(self.next()),
                '[' => class = true,
                ']' => class = false,
                '(' if !class => depth += 1,
                ')' if !class => depth -= 1,
                _ => {}
            }
        }
        self.rest = self.rest.trim_start_matches(['*', '+', '?']);
        Ok(())
    }

    /// How long a `{1,2}` is whose brace has just been taken.
    fn quantifier(&self) -> Option<usize> {
        let end = self.rest.find('}')?;
        let (least, most) = self.rest[..end].split_once(',').unwrap_or((&self.rest[..end], "1"));
        let number = |it: &str| it.bytes().all(|it| it.is_ascii_digit());
        (!least.is_empty() && number(least) && number(most)).then_some(end + 1)
    }

    fn repetition(&mut self, first: char) -> Result<(), &'static str> {
        self.out.push(first);
        if first == '{'
            && let Some(length) = self.quantifier()
        {
            self.out.push_str(&self.rest[..length]);
            self.rest = &self.rest[length..];
        }
        if self.takes("?") {
            self.out.push('?');
        }
        if self.takes("+") { self.instead("", GREED) } else { Ok(()) }
    }

    fn class(&mut self) -> Result<(), &'static str> {
        self.out.push('[');
        if self.takes("^") {
            self.out.push('^');
        }
        if self.takes("]") {
            self.out.push_str("\\]");
        }
        // Whether what comes before cannot begin a range, and whether what comes ends one.
        let (mut closed, mut ends) = (true, false);
        loop {
            let next = self.next().ok_or(OPEN)?;
            let mut set = std::mem::take(&mut ends);
            match next {
                ']' => break,
                '\\' => match self.next().ok_or(OPEN)? {
                    'b' => self.out.push_str("\\x08"),
                    'h' => self.out.push_str("\\t "),
                    it if it.is_ascii_alphanumeric() => {
                        set |= matches!(it, 'w' | 'W' | 'd' | 'D' | 's' | 'S');
                        self.out.extend(['\\', it]);
                    }
                    it => self.literal(it),
                },
                '[' if self.rest.starts_with(':') && self.rest.contains(":]") => {
                    let end = self.rest.find(":]").ok_or(OPEN)? + 2;
                    self.out.push('[');
                    self.out.push_str(&self.rest[..end]);
                    self.rest = &self.rest[end..];
                    set = true;
                }
                '-' if closed || self.rest.starts_with([']', '[']) || begins_set(self.rest) => {
                    self.out.push_str("\\-");
                }
                '-' if !set => {
                    self.out.push('-');
                    ends = true;
                }
                other => self.literal(other),
            }
            closed = set;
        }
        self.out.push(']');
        Ok(())
    }
}

/// Whether a character stands in a canonical path as itself.
fn is_path(it: char) -> bool {
    it.is_ascii_alphanumeric() || "-._~/!$&'()*+,;=:@%".contains(it)
}

fn begins_set(text: &str) -> bool {
    let mut chars = text.chars();
    chars.next() == Some('\\') && matches!(chars.next(), Some('w' | 'W' | 'd' | 'D' | 's' | 'S'))
}

/// `(?1)`, `(?-1)`, `(?P>name)`, `(?P=name)`: what stands behind the question mark.
fn is_recursion(text: &str) -> bool {
    let text = text.strip_prefix('-').unwrap_or(text);
    text.starts_with(|it: char| it.is_ascii_digit())
        || text.strip_prefix('P').is_some_and(|it| it.starts_with(['>', '=']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pcre_and_rust_both_say_is_read_alike() {
        for (pattern, text, expected) in [
            ("^/api(/|$)(.*)", "/api", true),
            ("^/api(/|$)(.*)", "/apis", false),
            ("^/id/[0-9]+", "/id/123a", true),
            ("^/id/[0-9]+$", "/id/123a", false),
            (r"^/a\/b\-c\_d", "/a/b-c_d", true),
            // A brace that repeats nothing is itself.
            ("^/{id}$", "/{id}", true),
            ("^/a{2}$", "/aa", true),
            ("^/a{2,}$", "/aaa", true),
            ("^/a{,2}$", "/a{,2}", true),
            ("^/a{x}$", "/a{x}", true),
            // In a class nearly everything is itself.
            (r"^/[\w-.]+$", "/a-b.c", true),
            (r"^/[a-z\d-]+$", "/a-1", true),
            ("^/[[:alnum:]_-]+$", "/a_1-b", true),
            ("^/[[]$", "/[", true),
            ("^/[]]$", "/]", true),
            ("^/[^]]$", "/a", true),
            ("^/[a&&b]+$", "/&b", true),
            ("^/[a-c-e]$", "/-", true),
            (r"^/[+--]$", "/,", true),
            (r"^/[a-\d]$", "/-", true),
            (r"^/\<a\>$", "/<a>", true),
            (r"^/a\Z", "/a", true),
            ("^/a(?#why)b$", "/ab", true),
            ("^/(?i:A)$", "/a", true),
            ("^/(?<name>a)$", "/a", true),
            ("^/a+?$", "/aa", true),
            // Letters are ASCII, `.` is a byte.
            (r"^\w$", "\u{e9}", false),
            ("^..$", "\u{e9}", true),
        ] {
            let parsed = Pattern::parse(pattern, false).map(|it| it.is_match(text));
            assert_eq!(parsed, Ok(expected), "{pattern} {text}");
        }
        assert!(Pattern::parse("^/A$", true).is_ok_and(|it| it.is_match("/a")));
    }

    #[test]
    fn what_cannot_be_said_is_told_and_can_be_widened() {
        for (pattern, why, text) in [
            ("^/a/(?!b)(.*)", "look-around", "/a/b"),
            ("^/a/(?=b[)])(.*)", "look-around", "/a/x"),
            ("^/a(?<!x)/b", "look-around", "/a/b"),
            ("^/(?>a+)b", "(?>", "/aab"),
            ("^/a++b", "*+", "/aab"),
            ("^/a{1,2}+b", "*+", "/aab"),
            (r"^/(a|b)/\1", r"\1", "/a/anything"),
        ] {
            let error = Pattern::parse(pattern, false).expect_err(pattern);
            assert!(error.contains(why), "{pattern}: {error}");
            let wide = Pattern::widened_of_path(pattern).expect(pattern);
            assert!(wide.is_match(text), "{pattern} {text}");
        }
        for (pattern, why) in [
            ("(?(1)a|b)", "PCRE"),
            ("(?|a|b)", "PCRE"),
            ("(?R)", "PCRE"),
            ("(?1)", "PCRE"),
            ("(?P>a)", "PCRE"),
            ("(*COMMIT)", "PCRE"),
            (r"a\Kb", "PCRE"),
            ("[a", "not closed"),
            ("(a", "unclosed"),
            ("a\\", "backslash"),
            ("a**", ""),
            ("(((a{100}){100}){100}){100}", "too large"),
        ] {
            if let Err(error) = Pattern::parse(pattern, false) {
                assert!(error.contains(why), "{pattern}: {error}");
            } else {
                assert_eq!(why, "", "{pattern}");
            }
        }
        assert!(Pattern::parse(&"a".repeat(LONGEST + 1), false).is_err());
    }

    #[test]
    fn a_pattern_of_paths_finds_what_is_escaped_there() {
        for (pattern, raw) in [
            ("^/caf\u{e9}+/x$", "/caf\u{e9}\u{e9}/x"),
            ("^/a b$", "/a%20b"),
            ("^/{id}$", "/{id}"),
            (r"^/a\[\]\?$", "/a[]%3f"),
            ("^/a%20b$", "/a%20b"),
            ("^/a/.+$", "/a/%41b%2fc"),
            ("^/A$", "/a"),
        ] {
            let path = crate::model::path::canonical(raw).expect("a path").path;
            assert!(Pattern::of_path(pattern).is_ok_and(|it| it.is_match(&*path)), "{pattern}");
        }
    }

    #[test]
    fn groups_that_took_nothing_are_empty() {
        let pattern = Pattern::parse("^/a(/)?(b)", false).expect("a pattern");
        let groups = pattern.captures("/ab").expect("a match");
        assert_eq!([0, 1, 2, 3].map(|it| groups.group(it)), ["/ab", "", "b", ""]);
        assert_eq!(Pattern::parse("a", true), Pattern::parse("a", true));
        assert_ne!(Pattern::parse("a", true), Pattern::parse("a", false));
    }

    proptest::proptest! {
        #[test]
        fn any_text_is_a_pattern_or_an_error(text in "[-a-c()\\[\\]{}*+?^$|.\\\\:&~!=<>#P0-9,é]{0,24}") {
            let _ = Pattern::parse(&text, true);
            let _ = Pattern::of_path(&text);
            let _ = Pattern::widened_of_path(&text);
        }
    }
}
