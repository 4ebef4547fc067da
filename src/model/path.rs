//! Paths: one canonical form for what a request asks and what a rule says.
//!
//! Two programs that read one path differently are a hole. So a path is brought into one form here,
//! every decision uses that form, and a path on which readers are known to disagree is refused:
//!
//! * characters that may stand for themselves in a path are decoded, every other escape is written in upper
//!   case (RFC 3986 sections 3.3 and 6.2.2);
//! * `.` and `..`, also as `%2e`, are resolved (section 5.2.4), and `//` counts as `/`, as in nginx;
//! * `%2F` and `%5C` are data, not separators;
//! * refused are a backslash, a control character raw or encoded, a broken escape, and a segment that
//!   becomes `.` or `..` for a reader who decodes `%2F` and `%5C` or cuts at `;`.
//!
//! Rules of an Ingress go through the same function.

use std::borrow::Cow;
use std::fmt;

/// A path in canonical form.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Canonical<'a> {
    /// The form every decision uses; begins with `/`.
    pub path: Cow<'a, str>,
    /// Whether a dot segment was resolved. The upstream then gets the canonical form, else the raw.
    pub resolved: bool,
}

/// Why a path is refused with 400.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PathError {
    /// RFC 9112 section 3.2.1: the origin form begins with a slash.
    #[error("the path does not begin with /")]
    Relative,
    /// A backslash is a slash to some readers.
    #[error("the path holds a backslash")]
    Backslash,
    /// NUL and its kin end a name for some readers.
    #[error("the path holds a control character")]
    Control,
    /// RFC 3986 section 2.1: `%` is followed by two hexadecimal digits.
    #[error("the path holds a % that two hexadecimal digits do not follow")]
    Escape,
    /// `..;`, `..%2F` and the like: a parent directory to some readers only.
    #[error("the path holds a segment that some readers take for . or ..")]
    Ambiguous,
}

/// Brings a path (without its query) into canonical form.
///
/// Costs one look at each byte and no allocation when the path is canonical already.
pub fn canonical(raw: &str) -> Result<Canonical<'_>, PathError> {
    if !raw.starts_with('/') {
        return Err(PathError::Relative);
    }
    if is_canonical(raw.as_bytes()) {
        return Ok(Canonical { path: Cow::Borrowed(raw), resolved: false });
    }
    let decoded = decode(raw.as_bytes())?;
    let (path, resolved) = resolve(&decoded)?;
    Ok(Canonical { path: Cow::Owned(path), resolved })
}

/// Whether nothing needs doing: only plain characters, no empty segment, none that begins with a dot,
/// no `;` (which might hide one).
fn is_canonical(raw: &[u8]) -> bool {
    let mut previous = 0;
    raw.iter().all(|&it| {
        let fine = match it {
            b'/' | b'.' => previous != b'/',
            b';' => false,
            _ => is_plain(it),
        };
        previous = it;
        fine
    })
}

/// Characters that stand for themselves in a path (RFC 3986 `pchar` without `%`).
fn is_plain(byte: u8) -> bool {
    is_unreserved(byte) || matches!(byte, b'!' | b'$' | b'&'..=b',' | b';' | b'=' | b':' | b'@')
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// Decodes what may stand raw, encodes what may not.
fn decode(raw: &[u8]) -> Result<String, PathError> {
    let mut out = String::with_capacity(raw.len() + 8);
    let mut at = 0;
    while at < raw.len() {
        let (byte, escaped) = match raw[at] {
            b'%' => {
                let digits = raw.get(at + 1..at + 3).ok_or(PathError::Escape)?;
                let high = hex(digits[0]).ok_or(PathError::Escape)?;
                let low = hex(digits[1]).ok_or(PathError::Escape)?;
                at += 3;
                (high << 4 | low, true)
            }
            byte => {
                at += 1;
                (byte, false)
            }
        };
        match byte {
            0..0x20 | 0x7f => return Err(PathError::Control),
            b'\\' if !escaped => return Err(PathError::Backslash),
            b'/' if !escaped => out.push('/'),
            // Escaped or not, to an endpoint these are the same.
            _ if is_plain(byte) => out.push(char::from(byte)),
            _ => {
                const DIGITS: [char; 16] = [
                    '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F',
                ];
                out.push('%');
                out.push(DIGITS[usize::from(byte >> 4)]);
                out.push(DIGITS[usize::from(byte & 15)]);
            }
        }
    }
    Ok(out)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|it| u8::try_from(it).ok())
}

/// Resolves dot segments and merges slashes; says whether there were dot segments.
fn resolve(path: &str) -> Result<(String, bool), PathError> {
    let mut out: Vec<&str> = Vec::new();
    let mut resolved = false;
    let mut directory = false;
    for segment in path.split('/').skip(1) {
        directory = true;
        match segment {
            "" => {}
            "." => resolved = true,
            ".." => {
                resolved = true;
                out.pop();
            }
            _ if is_ambiguous(segment) => return Err(PathError::Ambiguous),
            _ => {
                directory = false;
                out.push(segment);
            }
        }
    }
    let mut text = String::with_capacity(path.len());
    for segment in &out {
        text.push('/');
        text.push_str(segment);
    }
    if directory || out.is_empty() {
        text.push('/');
    }
    Ok((text, resolved))
}

/// Whether a reader who takes `%2F` and `%5C` for separators, or drops what follows a `;`, sees a dot
/// segment.
fn is_ambiguous(segment: &str) -> bool {
    let mut rest = segment;
    loop {
        let end = ["%2F", "%5C"].iter().filter_map(|it| rest.find(it)).min();
        let piece = &rest[..end.unwrap_or(rest.len())];
        let cut = [";", "%3B"].iter().filter_map(|it| piece.find(it)).min();
        let name = &piece[..cut.unwrap_or(piece.len())];
        if name == "." || name == ".." {
            return true;
        }
        match end {
            Some(end) => rest = &rest[end + 3..],
            None => return false,
        }
    }
}

/// How a rule matches, in canonical form.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum PathPattern {
    /// `pathType: Exact`
    Exact(Box<str>),
    /// `pathType: Prefix` and `ImplementationSpecific`, as the rule writes it: a trailing slash does
    /// not matter to what is covered, but ingress-nginx redirects `/a` to `/a/` when only `/a/` is there.
    Prefix(Box<str>),
}

impl PathPattern {
    /// The path as the rule has it.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Exact(it) | Self::Prefix(it) => it,
        }
    }

    /// Whether it names one path and no other.
    pub fn is_exact(&self) -> bool {
        matches!(self, Self::Exact(_))
    }
}

impl fmt::Display for PathPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(it) => write!(f, "={it}"),
            Self::Prefix(it) => f.write_str(it),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_canonical_form() {
        for (raw, expected) in [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/", "/a/"),
            ("//a///b//", "/a/b/"),
            ("/%61%2Fb", "/a%2Fb"),
            ("/a%2fb%5c", "/a%2Fb%5C"),
            ("/a/./b/../c", "/a/c"),
            ("/a/%2e%2E/c", "/c"),
            ("/../..", "/"),
            ("/a/..", "/"),
            ("/a/b/.", "/a/b/"),
            ("/.well-known/x", "/.well-known/x"),
            ("/a/...", "/a/..."),
            ("/caf\u{e9}", "/caf%C3%A9"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/a;v=1/b", "/a;v=1/b"),
            ("/a%20b", "/a%20b"),
            ("/%40admin/a%3Ab%24%2b", "/@admin/a:b$+"),
            ("/a%3Bv=1", "/a;v=1"),
            ("/%252e%252e/", "/%252e%252e/"),
        ] {
            assert_eq!(canonical(raw).as_ref().map(|it| &*it.path), Ok(expected), "{raw}");
        }
    }

    #[test]
    fn what_readers_disagree_on_is_refused() {
        for (raw, expected) in [
            ("a", PathError::Relative),
            ("", PathError::Relative),
            ("/a\\b", PathError::Backslash),
            ("/%00", PathError::Control),
            ("/a%0d%0ab", PathError::Control),
            ("/%7f", PathError::Control),
            ("/%", PathError::Escape),
            ("/%4", PathError::Escape),
            ("/%zz", PathError::Escape),
            ("/a/..;/b", PathError::Ambiguous),
            ("/a/.;x/b", PathError::Ambiguous),
            ("/a/..%3B/b", PathError::Ambiguous),
            ("/..%2Fadmin", PathError::Ambiguous),
            ("/a%5c..%5cb", PathError::Ambiguous),
            ("/..%3Bx/b", PathError::Ambiguous),
        ] {
            assert_eq!(canonical(raw), Err(expected), "{raw}");
        }
    }

    #[test]
    fn only_dot_segments_change_what_the_upstream_gets() {
        for (raw, expected) in
            [("/a//b", false), ("/%61", false), ("/a/./b", true), ("/x/..", true)]
        {
            assert_eq!(canonical(raw).expect("canonical").resolved, expected, "{raw}");
        }
    }

    proptest::proptest! {
        #[test]
        fn a_canonical_path_is_its_own_canonical_form(raw in "/[a-zA-Z0-9./%;\\\\ é-]{0,40}") {
            if let Ok(first) = canonical(&raw) {
                let again = canonical(&first.path).expect("canonical again");
                proptest::prop_assert_eq!(&again.path, &first.path);
                proptest::prop_assert!(!again.resolved);
            }
        }
    }
}
