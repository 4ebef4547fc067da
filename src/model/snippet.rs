//! The few directives of nginx that a snippet may hold: those that set header fields, and those that
//! answer or refuse outright.
//!
//! A snippet is never executed. It is read whole into [`Directive`]s, or not at all: what is not in this
//! closed set could mean that the rest must not stand alone. Syntax: nginx's own, with quotes, comments
//! and blocks.

use std::net::IpAddr;

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderName, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderValue, StatusCode};
use ipnet::IpNet;

use super::path;
use super::pattern::Pattern;
use super::phrase::Phrase;

/// Most directives of one snippet.
const MOST: usize = 100;

/// One directive.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Directive {
    /// `more_set_headers "NAME: VALUE"`: in the answer, in place of what it has.
    SetInAnswer(HeaderName, Phrase),
    /// `add_header NAME VALUE [always]`: in the answer, beside what it has; without `always` only in those
    /// of nginx's list of statuses.
    AddToAnswer(HeaderName, Phrase, bool),
    /// `more_clear_headers NAME`: not in the answer.
    ClearInAnswer(HeaderName),
    /// `proxy_set_header NAME VALUE`, `more_set_input_headers "NAME: VALUE"`: in the request an endpoint
    /// gets; an empty value removes it.
    SetInRequest(HeaderName, Phrase),
    /// `return STATUS [TEXT]`; of redirects the text is their target.
    Return(StatusCode, Option<Phrase>),
    /// `deny ADDRESS`, `allow ADDRESS`, in their order; `None` for `all`.
    Network {
        /// Whether it may pass.
        allow: bool,
        /// Who.
        network: Option<IpNet>,
    },
    /// `location = PATH { deny all; }`, also with `^~`, `~` and `~*`, and with `return STATUS;`.
    Location {
        /// Which paths.
        place: Place,
        /// What they are answered with.
        status: StatusCode,
    },
}

/// The paths of a `location`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Place {
    /// This one.
    Exact(Box<str>),
    /// All that begin so.
    Prefix(Box<str>),
    /// All in which a regular expression is found.
    Regex(Pattern),
}

impl Place {
    /// Whether a canonical path is there.
    pub fn has(&self, path: &str) -> bool {
        match self {
            Self::Exact(it) => **it == *path,
            Self::Prefix(it) => path.starts_with(&**it),
            // What is too long to be looked at is closed.
            Self::Regex(it) => path.len() > Pattern::LONGEST_PATH || it.is_match(path),
        }
    }
}

/// Which annotation a snippet is of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Context {
    /// `configuration-snippet`: the paths of an Ingress.
    Location,
    /// `server-snippet`: a host.
    Server,
    /// `auth-snippet`: what an external judge is asked.
    Auth,
}

/// The snippets of an Ingress, as its annotations have them.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Snippets {
    /// `configuration-snippet`
    pub location: Vec<Directive>,
    /// `server-snippet`
    pub server: Vec<Directive>,
    /// `auth-snippet`
    pub auth: Vec<(HeaderName, Phrase)>,
}

/// What the snippets of a host and of an Ingress come to for one route.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Translated {
    /// Paths of the host that are closed, and what they are answered with.
    pub places: Vec<(Place, StatusCode)>,
    /// What everything on the host is answered with.
    pub server_return: Option<(StatusCode, Option<Phrase>)>,
    /// What everything on the route is answered with.
    pub route_return: Option<(StatusCode, Option<Phrase>)>,
    /// Who may pass, in order; `None` for everybody. The first that is about a client decides.
    pub networks: Vec<(bool, Option<IpNet>)>,
    /// What is set, added and cleared in the answer, in order.
    pub answer: Vec<Directive>,
    /// What an endpoint gets.
    pub request: Vec<(HeaderName, Phrase)>,
}

impl Translated {
    /// Puts a host's snippet and an Ingress's together as nginx has a location inherit from its server.
    pub fn new(server: &[Directive], location: &[Directive]) -> Self {
        let mut all = Self::default();
        let is_added = |it: &&Directive| matches!(it, Directive::AddToAnswer(..));
        let is_network = |it: &&Directive| matches!(it, Directive::Network { .. });
        let adds = location.iter().any(|it| is_added(&it));
        let limits = location.iter().any(|it| is_network(&it));
        for it in server {
            match it {
                Directive::Location { place, status } => all.places.push((place.clone(), *status)),
                Directive::Return(status, text) => {
                    all.server_return.get_or_insert_with(|| (*status, text.clone()));
                }
                // Of these a location has its own or its server's.
                other if (adds && is_added(&other)) || (limits && is_network(&other)) => {}
                other => all.take(other),
            }
        }
        for it in location {
            match it {
                Directive::Return(status, text) => {
                    all.route_return.get_or_insert_with(|| (*status, text.clone()));
                }
                other => all.take(other),
            }
        }
        all
    }

    fn take(&mut self, it: &Directive) {
        match it {
            Directive::Network { allow, network } => self.networks.push((*allow, *network)),
            Directive::SetInRequest(name, value) => {
                self.request.push((name.clone(), value.clone()));
            }
            Directive::Return(..) | Directive::Location { .. } => {}
            answer => self.answer.push(answer.clone()),
        }
    }

    /// Whether a client's address may pass.
    pub fn lets_pass(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        let about = |network: &Option<IpNet>| network.is_none_or(|it| it.contains(&address));
        self.networks.iter().find(|(_, it)| about(it)).is_none_or(|(allow, _)| *allow)
    }
}

/// Reads the snippet of an annotation; refuses what has no meaning there.
pub fn read(text: &str, context: Context, snippets: &mut Snippets) -> Result<(), SnippetError> {
    let mut rest = text;
    let mut directives = Vec::new();
    while let Some(statement) = statement(&mut rest)? {
        let before = directives.len();
        if before >= MOST {
            return Err(statement.wrong("is one directive too many"));
        }
        statement.read(&mut directives)?;
        for it in &directives[before..] {
            let fits = match (it, context) {
                (Directive::SetInRequest(..), Context::Server) => {
                    // Each location of ingress-nginx has fields of its own.
                    return Err(statement.wrong("has no effect in a server-snippet"));
                }
                (it, Context::Auth) => matches!(it, Directive::SetInRequest(..)),
                (it, Context::Location) => !matches!(it, Directive::Location { .. }),
                _ => true,
            };
            if !fits {
                return Err(statement.wrong("has no place in this annotation"));
            }
        }
    }
    match context {
        Context::Location => snippets.location = directives,
        Context::Server => snippets.server = directives,
        Context::Auth => {
            let fields = directives.into_iter().filter_map(|it| match it {
                Directive::SetInRequest(name, value) => Some((name, value)),
                _ => None,
            });
            snippets.auth = fields.collect();
        }
    }
    Ok(())
}

/// Why a snippet is not taken: the directive as it is written, and what is wrong with it.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{line:?} {why}")]
pub struct SnippetError {
    /// The directive.
    pub line: String,
    /// What is wrong with it.
    pub why: &'static str,
}

fn parse(text: &str) -> Result<Vec<Directive>, SnippetError> {
    let mut rest = text;
    let mut directives = Vec::new();
    while let Some(statement) = statement(&mut rest)? {
        if directives.len() >= MOST {
            return Err(statement.wrong("is one directive too many"));
        }
        statement.read(&mut directives)?;
    }
    Ok(directives)
}

/// Words up to a semicolon or a block.
#[derive(Debug)]
struct Statement<'a> {
    words: Vec<String>,
    /// What stands in its braces.
    block: Option<&'a str>,
    line: &'a str,
}

/// The next statement; `None` at the end.
fn statement<'a>(rest: &mut &'a str) -> Result<Option<Statement<'a>>, SnippetError> {
    *rest = skip(rest);
    let whole = *rest;
    if whole.is_empty() {
        return Ok(None);
    }
    let error = |why| SnippetError { line: first_line(whole).to_owned(), why };
    let mut words = Vec::new();
    loop {
        *rest = skip(rest);
        let line = &whole[..whole.len() - rest.len()];
        match rest.chars().next() {
            None => return Err(error("ends without a semicolon")),
            Some('}') => return Err(error("holds a brace that was not opened")),
            Some(';') => {
                *rest = &rest[1..];
                return Ok(Some(Statement { words, block: None, line }));
            }
            Some('{') => {
                let inside = &rest[1..];
                // None of the blocks that are known holds another.
                let end = inside.find(['{', '}']).filter(|at| inside[*at..].starts_with('}'));
                let end = end.ok_or_else(|| error("holds a block that cannot be read"))?;
                *rest = &inside[end + 1..];
                return Ok(Some(Statement { words, block: Some(&inside[..end]), line }));
            }
            Some(_) => words.push(word(rest).ok_or_else(|| error("holds an open quote"))?),
        }
    }
}

/// Past spaces and comments.
fn skip(text: &str) -> &str {
    let mut text = text.trim_start();
    while let Some(comment) = text.strip_prefix('#') {
        text = comment.split_once('\n').map_or("", |(_, rest)| rest).trim_start();
    }
    text
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default().trim_end()
}

/// A word, quoted or not; `None` for a quote without its end.
fn word(rest: &mut &str) -> Option<String> {
    let quote = rest.chars().next().filter(|it| matches!(it, '"' | '\''));
    let mut word = String::new();
    let mut letters = rest.char_indices().skip(usize::from(quote.is_some()));
    loop {
        let Some((at, letter)) = letters.next() else {
            *rest = "";
            return quote.is_none().then_some(word);
        };
        match (letter, quote) {
            ('\\', _) => {
                let (_, next) = letters.next()?;
                // Of others the backslash stays, as regular expressions want it.
                if !matches!(next, '"' | '\'' | '\\' | ' ' | ';') {
                    word.push('\\');
                }
                word.push(next);
            }
            (it, Some(quote)) if it == quote => {
                *rest = &rest[at + 1..];
                return Some(word);
            }
            (' ' | '\t' | '\r' | '\n' | ';' | '{' | '}', None) => {
                *rest = &rest[at..];
                return Some(word);
            }
            (it, _) => word.push(it),
        }
    }
}

impl Statement<'_> {
    fn wrong(&self, why: &'static str) -> SnippetError {
        SnippetError { line: first_line(self.line).to_owned(), why }
    }

    fn read(&self, directives: &mut Vec<Directive>) -> Result<(), SnippetError> {
        let words: Vec<&str> = self.words.iter().map(String::as_str).collect();
        if let Some(block) = self.block {
            directives.push(self.location(&words, block)?);
            return Ok(());
        }
        match *words {
            ["more_set_headers", ref fields @ ..] if !fields.is_empty() => {
                for field in fields {
                    let (name, value) = self.field(field)?;
                    directives.push(if value.0.is_empty() {
                        Directive::ClearInAnswer(name)
                    } else {
                        Directive::SetInAnswer(name, value)
                    });
                }
            }
            ["more_clear_headers", ref names @ ..] if !names.is_empty() => {
                for name in names {
                    directives.push(Directive::ClearInAnswer(self.name(name)?));
                }
            }
            ["more_set_input_headers", ref fields @ ..] if !fields.is_empty() => {
                for field in fields {
                    let (name, value) = self.field(field)?;
                    directives.push(Directive::SetInRequest(name, value));
                }
            }
            ["add_header", name, value] => {
                let (name, value) = (self.name(name)?, self.phrase(value)?);
                directives.push(Directive::AddToAnswer(name, value, false));
            }
            ["add_header", name, value, "always"] => {
                let (name, value) = (self.name(name)?, self.phrase(value)?);
                directives.push(Directive::AddToAnswer(name, value, true));
            }
            ["proxy_set_header", name, value] => {
                let (name, value) = (self.name(name)?, self.phrase(value)?);
                directives.push(Directive::SetInRequest(name, value));
            }
            ["return", status] => directives.push(Directive::Return(self.status(status)?, None)),
            ["return", status, text] => {
                let (status, text) = (self.status(status)?, self.phrase(text)?);
                directives.push(Directive::Return(status, Some(text)));
            }
            [verb @ ("deny" | "allow"), who] => {
                let network = match who {
                    "all" => None,
                    it => Some(self.network(it)?),
                };
                directives.push(Directive::Network { allow: verb == "allow", network });
            }
            _ => return Err(self.wrong("is not among the directives that are translated")),
        }
        Ok(())
    }

    fn location(&self, words: &[&str], block: &str) -> Result<Directive, SnippetError> {
        let place = match *words {
            ["location", "=", path] => Place::Exact(self.canonical(path)?),
            ["location", path] | ["location", "^~", path] => Place::Prefix(self.canonical(path)?),
            // Closed in any case, though `~` means one: rather more than less.
            ["location", "~" | "~*", pattern] => Place::Regex(self.pattern(pattern)?),
            _ => return Err(self.wrong("is not among the blocks that are translated")),
        };
        let status = match parse(block)?.as_slice() {
            [Directive::Network { allow: false, network: None }] => StatusCode::FORBIDDEN,
            [Directive::Return(status, None)] if !status.is_redirection() => *status,
            _ => return Err(self.wrong("does more than deny all or return a status")),
        };
        Ok(Directive::Location { place, status })
    }

    fn canonical(&self, path: &str) -> Result<Box<str>, SnippetError> {
        let slash = path.len() > 1 && path.ends_with('/');
        let canonical = path::canonical(path).map_err(|_| self.wrong("names no path"))?.path;
        Ok(if slash && !canonical.ends_with('/') {
            format!("{canonical}/").into()
        } else {
            canonical.into()
        })
    }

    fn pattern(&self, text: &str) -> Result<Pattern, SnippetError> {
        Pattern::of_path(text).map_err(|_| self.wrong("has a pattern that cannot be read"))
    }

    /// `NAME: VALUE`
    fn field(&self, text: &str) -> Result<(HeaderName, Phrase), SnippetError> {
        let (name, value) =
            text.split_once(':').ok_or_else(|| self.wrong("sets no value, or has options"))?;
        Ok((self.name(name)?, self.phrase(value.trim())?))
    }

    fn name(&self, text: &str) -> Result<HeaderName, SnippetError> {
        let name: HeaderName =
            text.trim().parse().map_err(|_| self.wrong("names no header field"))?;
        if [CONNECTION, CONTENT_LENGTH, TE, TRANSFER_ENCODING, UPGRADE].contains(&name) {
            return Err(self.wrong("sets a field that frames messages, which is ours to do"));
        }
        if name == HOST {
            return Err(self.wrong("sets Host: use the annotation upstream-vhost"));
        }
        Ok(name)
    }

    fn phrase(&self, text: &str) -> Result<Phrase, SnippetError> {
        HeaderValue::from_str(text)
            .map_err(|_| self.wrong("has a value that no header field can have"))?;
        Phrase::parse(text).map_err(|_| self.wrong("has a variable that is not known"))
    }

    fn status(&self, text: &str) -> Result<StatusCode, SnippetError> {
        let status = text.parse().ok().filter(|it| (200..600).contains(it));
        let status = status.and_then(|it| StatusCode::from_u16(it).ok());
        status.ok_or_else(|| self.wrong("returns no status from 200 to 599"))
    }

    fn network(&self, text: &str) -> Result<IpNet, SnippetError> {
        let single = text.parse::<IpAddr>().map(IpNet::from);
        single.or_else(|_| text.parse()).map_err(|_| self.wrong("names no network"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phrase(text: &str) -> Phrase {
        Phrase::parse(text).expect("a phrase")
    }

    #[test]
    fn the_closed_set_is_read() {
        let name = HeaderName::from_static;
        for (text, expected) in [
            ("", vec![]),
            ("# nothing\n  ", vec![]),
            (
                "more_set_headers \"X-Frame-Options: DENY\" 'X-A: b; c';",
                vec![
                    Directive::SetInAnswer(name("x-frame-options"), phrase("DENY")),
                    Directive::SetInAnswer(name("x-a"), phrase("b; c")),
                ],
            ),
            ("more_set_headers 'Server:';", vec![Directive::ClearInAnswer(name("server"))]),
            (
                "more_clear_headers X-A X-B;",
                vec![Directive::ClearInAnswer(name("x-a")), Directive::ClearInAnswer(name("x-b"))],
            ),
            (
                "add_header X-A 1 always; # why\nadd_header X-B \"two words\";",
                vec![
                    Directive::AddToAnswer(name("x-a"), phrase("1"), true),
                    Directive::AddToAnswer(name("x-b"), phrase("two words"), false),
                ],
            ),
            (
                "proxy_set_header X-Forwarded-Host $http_host;\nproxy_set_header X-Gone \"\";",
                vec![
                    Directive::SetInRequest(name("x-forwarded-host"), phrase("$http_host")),
                    Directive::SetInRequest(name("x-gone"), phrase("")),
                ],
            ),
            (
                "return 301 https://b.test$request_uri;",
                vec![Directive::Return(
                    StatusCode::MOVED_PERMANENTLY,
                    Some(phrase("https://b.test$request_uri")),
                )],
            ),
            (
                "allow 10.0.0.0/8; deny 192.0.2.1; deny all;",
                vec![
                    Directive::Network { allow: true, network: "10.0.0.0/8".parse().ok() },
                    Directive::Network { allow: false, network: "192.0.2.1/32".parse().ok() },
                    Directive::Network { allow: false, network: None },
                ],
            ),
            (
                "location ~ /\\.git { deny all; } location = /x { return 404; }",
                vec![
                    Directive::Location {
                        place: Place::Regex(Pattern::of_path("/\\.git").expect("a pattern")),
                        status: StatusCode::FORBIDDEN,
                    },
                    Directive::Location {
                        place: Place::Exact("/x".into()),
                        status: StatusCode::NOT_FOUND,
                    },
                ],
            ),
        ] {
            assert_eq!(parse(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn a_location_inherits_from_its_server_as_in_nginx() {
        let made = |server: &str, location: &str| {
            let mut snippets = Snippets::default();
            read(server, Context::Server, &mut snippets).expect("a server's");
            read(location, Context::Location, &mut snippets).expect("a location's");
            Translated::new(&snippets.server, &snippets.location)
        };
        let both = made("add_header X-A 1; more_set_headers 'X-B: 2';", "add_header X-C 3;");
        assert_eq!(both.answer.len(), 2, "{both:?}");
        assert_eq!(made("add_header X-A 1;", "more_set_headers 'X-B: 2';").answer.len(), 2);
        for (server, location, address, passes) in [
            ("", "", "192.0.2.1", true),
            ("deny all;", "", "192.0.2.1", false),
            ("deny all;", "allow 192.0.2.0/24;", "192.0.2.1", true),
            ("", "allow 192.0.2.0/24; deny all;", "192.0.2.1", true),
            ("", "allow 192.0.2.0/24; deny all;", "::ffff:192.0.2.1", true),
            ("", "allow 192.0.2.0/24; deny all;", "198.51.100.1", false),
            ("", "deny 192.0.2.1; allow all;", "192.0.2.1", false),
        ] {
            let translated = made(server, location);
            let address = address.parse().expect("an address");
            assert_eq!(translated.lets_pass(address), passes, "{server} {location} {address}");
        }
    }

    #[test]
    fn each_annotation_has_its_own_set() {
        for (text, context, fits) in [
            ("proxy_set_header X-A 1;", Context::Location, true),
            ("proxy_set_header X-A 1;", Context::Auth, true),
            ("proxy_set_header X-A 1;", Context::Server, false),
            ("add_header X-A 1;", Context::Auth, false),
            ("location /a { deny all; }", Context::Server, true),
            ("location /a { deny all; }", Context::Location, false),
        ] {
            let read = read(text, context, &mut Snippets::default());
            assert_eq!(read.is_ok(), fits, "{text} {context:?}");
        }
    }

    #[test]
    fn a_closed_place_is_closed_however_it_is_spelled() {
        for (block, path, closed) in [
            ("location ^~ \"/top secret\" { deny all; }", "/top%20secret/x", true),
            ("location = /a%3Ab { deny all; }", "/a:b", true),
            ("location /x/ { deny all; }", "/x/y", true),
            ("location /x/ { deny all; }", "/xy", false),
            ("location ~ \"/int ernal\" { deny all; }", "/int%20ernal", true),
            ("location ~ /\\.git { deny all; }", "/a/.git/config", true),
            ("location ~ /\\.git { deny all; }", "/a/git", false),
        ] {
            let mut snippets = Snippets::default();
            read(block, Context::Server, &mut snippets).expect(block);
            let translated = Translated::new(&snippets.server, &[]);
            let found = translated.places.iter().any(|(it, _)| it.has(path));
            assert_eq!(found, closed, "{block} {path}");
        }
    }

    #[test]
    fn all_else_is_refused_with_its_line() {
        for (text, line, why) in [
            ("proxy_pass http://evil;", "proxy_pass http://evil", "is not among"),
            ("lua_code_cache off;", "lua_code_cache off", "is not among"),
            ("return 200", "return 200", "ends without"),
            ("return 99;", "return 99", "returns no status"),
            ("more_set_headers 'X-A 1';", "more_set_headers 'X-A 1'", "sets no value"),
            ("add_header X-A $nope;", "add_header X-A $nope", "has a variable"),
            ("proxy_set_header Host evil;", "proxy_set_header Host evil", "sets Host"),
            ("add_header Transfer-Encoding x;", "add_header Transfer-Encoding x", "frames"),
            ("add_header 'X A' x;", "add_header 'X A' x", "names no header"),
            ("add_header X-A \"a\nb\";", "add_header X-A \"a", "has a value"),
            ("deny 10.0.0.0/33;", "deny 10.0.0.0/33", "names no network"),
            ("if ($host = a) { return 403; }", "if ($host = a)", "is not among the blocks"),
            ("location / { proxy_pass http://a; }", "proxy_pass http://a", "is not among"),
            ("location / { allow all; }", "location /", "does more"),
            ("location / { location /a { deny all; } }", "location / {", "holds a block"),
            ("} return 200;", "} return 200;", "holds a brace"),
            ("add_header X-A \"open;", "add_header X-A \"open;", "holds an open quote"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.line.starts_with(line), "{text}: {error}");
            assert!(error.to_string().contains(why), "{text}: {error}");
        }
    }
}
