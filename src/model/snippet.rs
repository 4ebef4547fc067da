//! The few directives of nginx that a snippet may hold: those that set header fields, and those that
//! answer or refuse outright.
//!
//! A snippet is never executed. It is read whole into [`Directive`]s, or not at all: what is not in this
//! closed set could mean that the rest must not stand alone. Syntax: nginx's own, with quotes, comments
//! and blocks.

mod directive;
mod syntax;
#[cfg(test)]
mod tests;
mod translated;

use http::StatusCode;
use http::header::HeaderName;
use ipnet::IpNet;

use super::pattern::Pattern;
use super::phrase::Phrase;
use syntax::statement;

pub use translated::Translated;

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
