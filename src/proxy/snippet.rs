//! What translated snippets do to a request and its answer.

use http::header::LOCATION;
use http::{HeaderName, HeaderValue, Response, StatusCode, request};

use super::body::ReplyBody;
use super::observe::Extra;
use super::phrase;
use super::reply::{self, Failure};
use super::{View, Visit};
use crate::model::phrase::Phrase;
use crate::model::snippet::{Directive, Translated};

/// What a host's snippet answers by itself; also notes what the answer gets, whoever gives it.
pub(super) fn begin(visit: &Visit<'_>, head: &request::Parts) -> Option<Response<ReplyBody>> {
    visit.way.route.snippet.as_ref()?;
    at_host(&visit.view(), head, &mut visit.trace.extras.borrow_mut())
}

/// The same, with what the answer gets put into a list.
pub(super) fn at_host(
    view: &View<'_>,
    head: &request::Parts,
    extras: &mut Vec<Extra>,
) -> Option<Response<ReplyBody>> {
    let snippet = view.way.route.snippet.as_deref()?;
    for it in &snippet.answer {
        let filled = |it: &Phrase| value(it, head, view);
        extras.extend(match it {
            Directive::SetInAnswer(name, text) => {
                filled(text).map(|it| Extra::Set(name.clone(), it))
            }
            Directive::AddToAnswer(name, text, true) => {
                filled(text).map(|it| Extra::Add(name.clone(), it))
            }
            Directive::AddToAnswer(name, text, false) => {
                filled(text).map(|it| Extra::AddToSuccess(name.clone(), it))
            }
            Directive::ClearInAnswer(name) => Some(Extra::Clear(name.clone())),
            _ => None,
        });
    }
    let path = view.asked.path(&head.uri);
    if let Some((_, status)) = snippet.places.iter().find(|(place, _)| place.has(path)) {
        return Some(returned(*status, None, head, view));
    }
    let (status, text) = snippet.server_return.as_ref()?;
    Some(returned(*status, text.as_ref(), head, view))
}

/// What the snippet of the Ingress answers by itself.
pub(super) fn answer(view: &View<'_>, head: &request::Parts) -> Option<Response<ReplyBody>> {
    let (status, text) = view.way.route.snippet.as_deref()?.route_return.as_ref()?;
    Some(returned(*status, text.as_ref(), head, view))
}

/// Refuses clients that `deny` is about.
pub(super) fn check(view: &View<'_>) -> Result<(), Failure> {
    let passes = |it: &Translated| it.lets_pass(view.peer.address.ip());
    if view.way.route.snippet.as_deref().is_none_or(passes) {
        return Ok(());
    }
    Err(Failure::Blocked)
}

/// Adds the fields that an endpoint gets, to be read off the request as it came.
pub(super) fn fields(
    view: &View<'_>,
    head: &request::Parts,
    fields: &mut Vec<(HeaderName, HeaderValue)>,
) {
    let Some(snippet) = view.way.route.snippet.as_deref() else { return };
    let filled = snippet.request.iter();
    fields.extend(filled.filter_map(|(name, text)| Some((name.clone(), value(text, head, view)?))));
}

fn value(text: &Phrase, head: &request::Parts, view: &View<'_>) -> Option<HeaderValue> {
    HeaderValue::try_from(phrase::text(text, head, view)).ok()
}

/// nginx's `return`: a redirect to the text, a text, or the page of a status.
fn returned(
    status: StatusCode,
    text: Option<&Phrase>,
    head: &request::Parts,
    view: &View<'_>,
) -> Response<ReplyBody> {
    let Some(text) = text else { return reply::page(status, "") };
    let text = phrase::text(text, head, view);
    if matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308) {
        let mut answer = reply::redirect(status, &text);
        // A text that fits no field would make a redirect to nowhere.
        if !answer.headers().contains_key(LOCATION) {
            answer = reply::page(StatusCode::BAD_REQUEST, "");
        }
        return answer;
    }
    reply::with(status, "text/plain", text)
}
