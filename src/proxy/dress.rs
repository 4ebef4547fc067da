//! Header fields that Ingresses and settings put on requests and answers, or rewrite in them.

use http::header::{ACCEPT, LOCATION, REFRESH, SET_COOKIE};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, request};

use super::body::ReplyBody;
use super::cors;
use super::headers::{self, Vouched, X_REQUEST_ID};
use super::intercept;
use super::observe::Extra;
use super::phrase;
use super::reply::Failure;
use super::rewrite;
use super::snippet;
use super::{View, Visit};
use crate::model::answering::{Field, FieldValue, Replacement};
use crate::model::plan::{BackendId, Route, Target};
use crate::model::settings::Settings;

const X_ORIGINAL_URI: HeaderName = HeaderName::from_static("x-original-uri");
const X_CODE: HeaderName = HeaderName::from_static("x-code");
const X_FORMAT: HeaderName = HeaderName::from_static("x-format");
const X_NAMESPACE: HeaderName = HeaderName::from_static("x-namespace");
const X_INGRESS_NAME: HeaderName = HeaderName::from_static("x-ingress-name");
const X_SERVICE_NAME: HeaderName = HeaderName::from_static("x-service-name");
const X_SERVICE_PORT: HeaderName = HeaderName::from_static("x-service-port");

/// What a request is sent for.
#[derive(Clone, Copy)]
pub(super) enum Errand<'a> {
    /// For what its client wants.
    Request,
    /// For an answer in place of one with this status, to a request of this route.
    Error(StatusCode, &'a Route),
    /// For nothing: it is a copy.
    Copy,
}

/// Notes what the answer gets, whoever gives it; answers a preflight.
pub(super) fn begin(visit: &Visit<'_>, head: &request::Parts) -> Option<Response<ReplyBody>> {
    let Visit { settings, way, trace, .. } = *visit;
    let answers = way.route.answers.as_deref();
    if answers.is_none() && settings.fields.added.is_empty() {
        return None;
    }
    if let Some(answers) = answers {
        intercept::keep(visit, answers, head);
    }
    extras(&visit.view(), head, &mut trace.extras.borrow_mut())
}

/// Puts what the answer gets into a list; answers a preflight.
pub(super) fn extras(
    view: &View<'_>,
    head: &request::Parts,
    extras: &mut Vec<Extra>,
) -> Option<Response<ReplyBody>> {
    let View { settings, way, .. } = *view;
    for Field { name, value } in &settings.fields.added {
        if let FieldValue::Phrase(_) = value
            && let Some(value) = filled(value, head, view)
        {
            extras.push(Extra::Set(name.clone(), value));
        }
    }
    let answers = way.route.answers.as_deref()?;
    let headers = answers.headers.iter().cloned();
    extras.extend(headers.map(|(name, value)| Extra::Set(name, value)));
    cors::answer(answers.cors.as_ref()?, head, extras)
}

/// Puts on an answer what every answer gets (`add-headers`).
pub(super) fn add(headers: &mut HeaderMap, settings: &Settings) {
    for Field { name, value } in &settings.fields.added {
        if let FieldValue::Fixed(value) = value {
            put(headers, name.clone(), value.clone());
        }
    }
}

/// Turns the fields of a request into those that an endpoint gets.
pub(super) fn outward(
    view: &View<'_>,
    vouched: &Vouched,
    errand: Errand<'_>,
    head: &mut request::Parts,
) -> Result<(), Failure> {
    // These are read off the request as it came.
    let host = rewrite::host(view, head)?;
    let mut fields = fields(view, head, errand);
    snippet::fields(view, head, &mut fields);
    headers::to_upstream(&mut head.headers, view.asked, head.version, vouched, view.settings)
        .map_err(|headers::Loops| Failure::Loops)?;
    rewrite::name(&mut head.headers, host, view);
    for (name, value) in fields {
        put(&mut head.headers, name, value);
    }
    Ok(())
}

/// What an endpoint gets besides what every endpoint gets; to be read off the request as it came.
fn fields(
    view: &View<'_>,
    head: &request::Parts,
    errand: Errand<'_>,
) -> Vec<(HeaderName, HeaderValue)> {
    let View { settings, way, .. } = *view;
    let mut fields = Vec::new();
    if let Errand::Copy = errand {
        return fields;
    }
    if settings.fields.original_uri {
        fields.extend(original_uri(head));
    }
    for Field { name, value } in &settings.fields.sent {
        fields.extend(filled(value, head, view).map(|it| (name.clone(), it)));
    }
    if let Errand::Error(status, route) = errand {
        let backend = match (&route.target, &route.answers) {
            (_, Some(answers)) if answers.stands_in_for.is_some() => answers.stands_in_for.as_ref(),
            (Target::Backend(id), _) => Some(id),
            _ => None,
        };
        failed(&mut fields, status, route, backend, head);
        fields.extend(original_uri(head));
    } else if let Some(answers) = &way.route.answers
        && let Some(backend) = &answers.stands_in_for
    {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        failed(&mut fields, status, &way.route, Some(backend), head);
    }
    fields
}

/// Puts a field in place; an empty one is not sent, as with nginx.
fn put(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
    if value.is_empty() {
        headers.remove(name);
    } else {
        headers.insert(name, value);
    }
}

fn original_uri(head: &request::Parts) -> Option<(HeaderName, HeaderValue)> {
    let target = head.uri.path_and_query()?.as_str();
    Some((X_ORIGINAL_URI, HeaderValue::from_str(target).ok()?))
}

/// What a default backend is told of the request that went wrong.
fn failed(
    fields: &mut Vec<(HeaderName, HeaderValue)>,
    status: StatusCode,
    route: &Route,
    backend: Option<&BackendId>,
    head: &request::Parts,
) {
    let text = |it: &str| HeaderValue::from_str(it).ok();
    let told = [
        (X_CODE, text(status.as_str())),
        (X_FORMAT, headers::said(&head.headers, &ACCEPT)),
        (X_NAMESPACE, text(&route.ingress.namespace)),
        (X_INGRESS_NAME, text(&route.ingress.name)),
        (X_SERVICE_NAME, backend.and_then(|it| text(&it.service.name))),
        (X_SERVICE_PORT, backend.and_then(|it| text(&it.port))),
        (X_REQUEST_ID, head.headers.get(X_REQUEST_ID).cloned()),
    ];
    // What is not known is empty, so that no client speaks for us.
    let empty = HeaderValue::from_static("");
    fields.extend(told.map(|(name, value)| (name, value.unwrap_or_else(|| empty.clone()))));
}

fn filled(value: &FieldValue, head: &request::Parts, view: &View<'_>) -> Option<HeaderValue> {
    match value {
        FieldValue::Fixed(value) => Some(value.clone()),
        FieldValue::Phrase(phrase) => {
            let mut bytes = Vec::new();
            phrase::fill(phrase, head, view, &mut |it| bytes.extend_from_slice(it));
            HeaderValue::from_bytes(&bytes).ok()
        }
    }
}

/// Rewrites what an endpoint says of where things are: cookies and redirects.
pub(super) fn answer(visit: &Visit<'_>, headers: &mut HeaderMap) {
    let Some(answers) = visit.way.route.answers.as_deref() else { return };
    if !answers.rewrites() {
        return;
    }
    if answers.cookie_domain.is_some() || answers.cookie_path.is_some() {
        rewrite(headers, &SET_COOKIE, |it| {
            cookie(it, answers.cookie_domain.as_ref(), answers.cookie_path.as_ref())
        });
    }
    if let Some(replacement) = &answers.redirect {
        rewrite(headers, &LOCATION, |it| beginning(it, replacement));
        rewrite(headers, &REFRESH, |it| refresh(it, replacement));
    }
}

/// Rewrites each field of a name for which there is something else to say.
fn rewrite(headers: &mut HeaderMap, name: &HeaderName, say: impl Fn(&str) -> Option<String>) {
    let http::header::Entry::Occupied(mut fields) = headers.entry(name) else { return };
    for field in fields.iter_mut() {
        let said = field.to_str().ok().and_then(&say);
        if let Some(said) = said.and_then(|it| HeaderValue::try_from(it).ok()) {
            *field = said;
        }
    }
}

/// A text with another beginning, if it has this one.
fn beginning(text: &str, replacement: &Replacement) -> Option<String> {
    let rest = text.strip_prefix(&*replacement.from)?;
    Some(format!("{}{rest}", replacement.to))
}

/// What `Refresh` says, `5; url=...`, with another beginning of its URL.
fn refresh(text: &str, replacement: &Replacement) -> Option<String> {
    let at = text.to_ascii_lowercase().find("url=")? + "url=".len();
    let (before, url) = text.split_at(at);
    Some(format!("{before}{}", beginning(url, replacement)?))
}

/// A cookie (RFC 6265 section 4.1) with another domain or path: the domain as a whole, in either case and
/// whether or not a dot is before it; the path by its beginning. As nginx has it.
fn cookie(text: &str, domain: Option<&Replacement>, path: Option<&Replacement>) -> Option<String> {
    let bare = |it: &'_ str| it.strip_prefix('.').map_or(it.to_owned(), str::to_owned);
    let mut changed = false;
    let mut said = String::with_capacity(text.len());
    for (place, part) in text.split(';').enumerate() {
        if place > 0 {
            said.push(';');
        }
        let other =
            (place > 0).then(|| part.split_once('=')).flatten().and_then(|(name, value)| {
                let (key, value) = (name.trim(), value.trim());
                let value = if key.eq_ignore_ascii_case("domain") {
                    let domain = domain?;
                    bare(value).eq_ignore_ascii_case(&bare(&domain.from)).then(|| bare(&domain.to))
                } else if key.eq_ignore_ascii_case("path") {
                    beginning(value, path?)
                } else {
                    None
                };
                Some(format!("{name}={}", value?))
            });
        changed |= other.is_some();
        said.push_str(other.as_deref().unwrap_or(part));
    }
    changed.then_some(said)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replacement(from: &str, to: &str) -> Replacement {
        Replacement { from: from.into(), to: to.into() }
    }

    #[test]
    fn cookies_get_another_domain_or_path_where_they_have_the_one() {
        let domain = replacement(".one.test", "two.test");
        let path = replacement("/one/", "/");
        for (cookie_text, expected) in [
            ("a=1; Domain=one.test; Path=/one/x", Some("a=1; Domain=two.test; Path=/x")),
            ("a=1; domain=.ONE.test", Some("a=1; domain=two.test")),
            ("a=1; Domain=x.one.test", None),
            ("a=1; Path=/two/one/", None),
            ("a=1; Path=/one", None),
            ("a=1;Path= /one/; Secure", Some("a=1;Path=/; Secure")),
            // The cookie itself is no attribute.
            ("Domain=one.test; Secure", None),
            ("a=1", None),
        ] {
            let found = cookie(cookie_text, Some(&domain), Some(&path));
            assert_eq!(found.as_deref(), expected, "{cookie_text}");
        }
        assert_eq!(cookie("a=1; Domain=one.test; Path=/one/", None, None), None);
    }

    #[test]
    fn redirects_get_another_beginning() {
        let one = replacement("http://in.test:8080/", "https://out.test/");
        for (text, expected) in [
            ("http://in.test:8080/x", Some("https://out.test/x")),
            ("http://in.test/x", None),
            ("/x", None),
        ] {
            assert_eq!(beginning(text, &one).as_deref(), expected, "{text}");
        }
        for (text, expected) in [
            ("5; url=http://in.test:8080/x", Some("5; url=https://out.test/x")),
            ("0;URL=http://in.test:8080/", Some("0;URL=https://out.test/")),
            ("5", None),
            ("5; url=/x", None),
        ] {
            assert_eq!(refresh(text, &one).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn every_field_of_a_name_is_rewritten_in_its_place() {
        let mut headers = HeaderMap::new();
        for value in ["a=1; Path=/one/", "b=2", "c=3; Path=/one/c"] {
            headers.append(SET_COOKIE, HeaderValue::from_static(value));
        }
        let path = replacement("/one/", "/");
        rewrite(&mut headers, &SET_COOKIE, |it| cookie(it, None, Some(&path)));
        let cookies: Vec<_> = headers.get_all(SET_COOKIE).iter().collect();
        assert_eq!(cookies, ["a=1; Path=/", "b=2", "c=3; Path=/c"]);
    }
}
