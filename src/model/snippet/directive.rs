//! What a statement means: one of the directives that are translated, or a mistake.

use std::net::IpAddr;

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, HeaderName, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderValue, StatusCode};
use ipnet::IpNet;

use super::syntax::Statement;
use super::{Directive, Place, SnippetError, parse};
use crate::model::path;
use crate::model::pattern::Pattern;
use crate::model::phrase::Phrase;

impl Statement<'_> {
    /// Adds what it says; one statement may say several things.
    pub(super) fn read(&self, directives: &mut Vec<Directive>) -> Result<(), SnippetError> {
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
