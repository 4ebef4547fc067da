//! What is done to answers on their way to clients.

use std::sync::Arc;

use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderName, HeaderValue};

use super::cors::Cors;
use super::name::ObjectName;
use super::phrase::{Phrase, Word};
use super::plan::{BackendId, Route};
use super::value::entries_of;

/// What is done to answers on their way to clients. As the annotations of an Ingress have it.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Answering {
    /// `enable-cors` and the settings beside it.
    pub cors: Cors,
    /// `custom-headers`: the ConfigMap with header fields for answers.
    pub custom_headers: Option<Box<str>>,
    /// `custom-http-errors`: statuses for which the default backend answers.
    pub errors: Option<Statuses>,
    /// `disable-proxy-intercept-errors`: what endpoints answer is left alone even so.
    pub leaves_errors: bool,
    /// `default-backend`: a Service of the same namespace.
    pub default_backend: Option<Box<str>>,
    /// `proxy-cookie-domain`
    pub cookie_domain: Option<Replacement>,
    /// `proxy-cookie-path`
    pub cookie_path: Option<Replacement>,
    /// `proxy-redirect-from`
    pub redirect_from: Option<Box<str>>,
    /// `proxy-redirect-to`
    pub redirect_to: Option<Box<str>>,
    /// `connection-proxy-header`: what endpoints are told of the connection.
    pub connection: Option<HeaderValue>,
}

/// A list of statuses, 300 to 599.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Statuses(Box<[u16]>);

impl Statuses {
    /// Reads numbers with commas between them.
    pub fn parse(text: &str) -> Option<Self> {
        let words = entries_of(text);
        let read = |it: &str| it.parse().ok().filter(|it| (300..=599).contains(it));
        let statuses = words.map(read).collect::<Option<Vec<u16>>>()?;
        (!statuses.is_empty()).then(|| Self(statuses.into()))
    }

    /// Whether a status is among them.
    pub fn cover(&self, status: u16) -> bool {
        self.0.contains(&status)
    }
}

/// One text in place of another.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Replacement {
    /// What is looked for.
    pub from: Box<str>,
    /// What stands there instead.
    pub to: Box<str>,
}

impl Replacement {
    /// Reads `from to`, or `off` for none. nginx's regular expressions and variables are not known.
    pub fn parse(text: &str) -> Option<Option<Self>> {
        let words: Vec<&str> = text.split_whitespace().collect();
        match words[..] {
            ["off"] => Some(None),
            [from, to] if is_plain(from) && is_plain(to) => {
                Some(Some(Self { from: from.into(), to: to.into() }))
            }
            _ => None,
        }
    }
}

/// Whether nginx would take a text as it stands, and it fits into a header field.
pub fn is_plain(text: &str) -> bool {
    let plain = |it: u8| it.is_ascii_graphic() && !matches!(it, b'$' | b';' | b'"');
    !text.is_empty() && !text.starts_with('~') && text.bytes().all(plain)
}

/// A value of `connection-proxy-header`.
pub fn connection(text: &str) -> Option<HeaderValue> {
    match text {
        "close" => Some(HeaderValue::from_static("close")),
        "keep-alive" => Some(HeaderValue::from_static("keep-alive")),
        _ => None,
    }
}

/// What is done to the answers of a route, with everything looked up.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Answers {
    /// Of a route that answers browsers' cross-origin questions.
    pub cors: Option<Cors>,
    /// Fields of the ConfigMap of `custom-headers`, in place of the endpoint's.
    pub headers: Box<[(HeaderName, HeaderValue)]>,
    /// Statuses for which the default backend answers.
    pub errors: Option<Statuses>,
    /// Whether those of endpoints are left alone.
    pub leaves_errors: bool,
    /// The route of the `default-backend` that the Ingress names; without one it is everybody's.
    pub default: Option<Arc<Route>>,
    /// The backend that had nobody to answer, so that the route leads to the default backend.
    pub stands_in_for: Option<BackendId>,
    /// Domains of cookies.
    pub cookie_domain: Option<Replacement>,
    /// Beginnings of paths of cookies.
    pub cookie_path: Option<Replacement>,
    /// Beginnings of `Location` and `Refresh`.
    pub redirect: Option<Replacement>,
    /// The `Connection` that endpoints get.
    pub connection: Option<HeaderValue>,
}

impl Answers {
    /// Whether anything is done to the header fields of an endpoint's answer.
    pub fn rewrites(&self) -> bool {
        self.cookie_domain.is_some() || self.cookie_path.is_some() || self.redirect.is_some()
    }
}

/// What the ConfigMap sets for all requests and answers.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Fields {
    /// `add-headers`: the ConfigMap with fields for every answer.
    pub add_headers: Option<ObjectName>,
    /// `proxy-set-headers`: the ConfigMap with fields for every endpoint.
    pub set_headers: Option<ObjectName>,
    /// `global-allowed-response-headers`: what `custom-headers` may set.
    pub allowed: Vec<HeaderName>,
    /// `hide-headers`: fields of endpoints that clients do not get.
    pub hidden: Vec<HeaderName>,
    /// `proxy-add-original-uri-header`: endpoints get `X-Original-URI`.
    pub original_uri: bool,
    /// What was found under `add_headers`.
    pub added: Vec<Field>,
    /// What was found under `set_headers`.
    pub sent: Vec<Field>,
}

/// A header field that is set.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Field {
    /// Its name.
    pub name: HeaderName,
    /// Its value; an empty one removes the field.
    pub value: FieldValue,
}

/// What a field is set to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum FieldValue {
    /// The same for every request.
    Fixed(HeaderValue),
    /// What its variables come to.
    Phrase(Phrase),
}

impl Field {
    /// Reads a field as a ConfigMap has it. The error completes "entry NAME ...".
    pub fn parse(name: &str, value: &str) -> Result<Self, String> {
        let name = field_name(name)?;
        let phrase = Phrase::parse(value.trim())
            .map_err(|unknown| format!("has the variable {unknown}, which is not known"))?;
        let fixed = match &*phrase.0 {
            [] => Some(""),
            [Word::Text(text)] => Some(&**text),
            _ => None,
        };
        let value = match fixed {
            None => FieldValue::Phrase(phrase),
            Some(text) => FieldValue::Fixed(field_value(text)?),
        };
        Ok(Self { name, value })
    }
}

/// The name of a field that may be set. The error completes "entry NAME ...".
pub fn field_name(text: &str) -> Result<HeaderName, String> {
    let name: HeaderName = text.parse().map_err(|_| "is no name of a header field")?;
    if frames(&name) {
        return Err("is about the connection, which nobody but the proxy speaks of".to_owned());
    }
    Ok(name)
}

/// A value that fits into a field. The error completes "entry NAME ...".
pub fn field_value(text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(text).map_err(|_| "has a value that is none of a header field".to_owned())
}

/// Whether a field is about one connection, or about where a message ends (RFC 9110 section 7.6.1, RFC 9112
/// section 6).
fn frames(name: &HeaderName) -> bool {
    [
        CONNECTION,
        CONTENT_LENGTH,
        EXPECT,
        PROXY_AUTHENTICATE,
        PROXY_AUTHORIZATION,
        TE,
        TRAILER,
        TRANSFER_ENCODING,
        UPGRADE,
    ]
    .contains(name)
        || ["keep-alive", "proxy-connection", "http2-settings"].contains(&name.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_a_list() {
        for (text, covered) in [
            ("404,503", Some((true, true))),
            ("404, 415,", Some((true, false))),
            ("503", Some((false, true))),
            ("", None),
            (",", None),
            ("200", None),
            ("600", None),
            ("4xx", None),
            ("404 503", None),
        ] {
            let found = Statuses::parse(text).map(|it| (it.cover(404), it.cover(503)));
            assert_eq!(found, covered, "{text:?}");
        }
    }

    #[test]
    fn replacements_are_two_words_or_off() {
        let both =
            |from: &str, to: &str| Some(Some(Replacement { from: from.into(), to: to.into() }));
        for (text, expected) in [
            ("off", Some(None)),
            ("a.test b.test", both("a.test", "b.test")),
            ("/one/  /", both("/one/", "/")),
            ("a.test", None),
            ("a b c", None),
            (r"~\.test$ b.test", None),
            ("a.test $host", None),
            ("/a /b;Secure", None),
            ("", None),
        ] {
            assert_eq!(Replacement::parse(text), expected, "{text:?}");
        }
    }

    #[test]
    fn fields_are_set_but_for_those_of_the_connection() {
        let fixed = |it: &'static str| FieldValue::Fixed(HeaderValue::from_static(it));
        for (name, value, expected) in [
            ("X-One", "1", Ok(fixed("1"))),
            ("X-One", "", Ok(fixed(""))),
            ("Host", "a.test", Ok(fixed("a.test"))),
            ("X-Uri", "$uri", Ok(FieldValue::Phrase(Phrase(Box::new([Word::Uri]))))),
            ("X-Uri", "$nope", Err("variable $nope")),
            ("X One", "1", Err("no name")),
            ("X-One", "a\nb", Err("none of a header field")),
            ("Content-Length", "0", Err("connection")),
            ("Transfer-Encoding", "chunked", Err("connection")),
            ("Keep-Alive", "1", Err("connection")),
        ] {
            match (Field::parse(name, value), expected) {
                (Ok(found), Ok(value)) => assert_eq!(found.value, value, "{name}"),
                (Err(found), Err(part)) => assert!(found.contains(part), "{name}: {found}"),
                (found, _) => panic!("{name}: {value:?}: {found:?}"),
            }
        }
    }
}
