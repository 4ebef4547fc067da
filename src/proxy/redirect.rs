//! Redirects: to HTTPS, to another place or name, and to the path with its slash.

use http::{Response, StatusCode, Uri, request};

use super::View;
use super::body::ReplyBody;
use super::canonical::Asked;
use super::peer::Peer;
use super::phrase;
use super::reply;
use crate::live::table::Paths;
use crate::model::options::Options;

/// Sends plain HTTP to HTTPS where the route says so.
///
/// The target is ingress-nginx's: the host without its port, the request target without one trailing
/// slash.
pub(super) fn to_https(view: &View<'_>, uri: &Uri) -> Option<Response<ReplyBody>> {
    let View { way, asked, settings, ports, .. } = *view;
    if !way.route.to_https || view.peer.https {
        return None;
    }
    let options = &*way.route.options;
    let host = asked.host();
    let target = asked.target(uri);
    let target = target.as_str();
    let keep = options.routing.as_ref().is_some_and(|it| it.keep_slash);
    let target = if keep { target } else { target.strip_suffix('/').unwrap_or(target) };
    let location = if options.port_in_redirects {
        format!("https://{host}:{}{target}", ports.https)
    } else {
        format!("https://{host}{target}")
    };
    Some(reply::redirect(status(settings.redirect_code), &location))
}

/// Adds the slash that a rule for `/a/` has and a request for `/a` lacks, as nginx does.
pub(super) fn add_slash(
    asked: &Asked,
    uri: &Uri,
    peer: &Peer,
    options: &Options,
) -> Response<ReplyBody> {
    let query = uri.query().map(|it| format!("?{it}")).unwrap_or_default();
    let path = asked.path(uri);
    let location = if options.routing.as_ref().is_some_and(|it| it.relative) {
        format!("{path}/{query}")
    } else {
        format!("{}{path}/{query}", origin(asked, peer))
    };
    reply::redirect(StatusCode::MOVED_PERMANENTLY, &location)
}

/// Redirects a name without rules to the host of which it is the other name: with the port, and without
/// one trailing slash, as ingress-nginx does.
pub(super) fn to_name(
    to: &str,
    asked: &Asked,
    uri: &Uri,
    peer: &Peer,
    code: u16,
) -> Response<ReplyBody> {
    let target = asked.target(uri);
    let target = target.as_str();
    let target = target.strip_suffix('/').unwrap_or(target);
    let location = format!("{}://{to}:{}{target}", peer.scheme(), peer.port);
    reply::redirect(status(code), &location)
}

/// Redirects `/` where its host says so (`app-root`), to the same scheme, host and port.
pub(super) fn to_app_root(
    view: &View<'_>,
    paths: Option<&Paths>,
    head: &request::Parts,
) -> Option<Response<ReplyBody>> {
    let phrase = paths?.app_root.as_deref()?;
    let View { asked, peer, .. } = *view;
    if asked.path(&head.uri) != "/" {
        return None;
    }
    let location = format!("{}{}", origin(asked, peer), phrase::text(phrase, head, view));
    Some(reply::redirect(StatusCode::FOUND, &location))
}

/// Redirects everything that a route takes (`permanent-redirect`, `temporal-redirect`). A path becomes a
/// URL of the host without its port, unless redirects are relative or name ports.
pub(super) fn elsewhere(view: &View<'_>, head: &request::Parts) -> Option<Response<ReplyBody>> {
    let options = &*view.way.route.options;
    let routing = options.routing.as_ref()?;
    let (code, phrase) = routing.redirect()?;
    let mut location = phrase::text(phrase, head, view);
    let host = view.asked.host();
    if location.starts_with('/') && !routing.relative && !host.is_empty() {
        let peer = view.peer;
        let usual = if peer.https { 443 } else { 80 };
        let port = if options.port_in_redirects && peer.port != usual {
            format!(":{}", peer.port)
        } else {
            String::new()
        };
        location = format!("{}://{host}{port}{location}", peer.scheme());
    }
    let mut answer = reply::redirect(status(code), &location);
    if answer.status() == StatusCode::NOT_MODIFIED {
        // RFC 9110 section 15.4.5: it has no content.
        *answer.body_mut() = ReplyBody::empty();
    }
    Some(answer)
}

/// Scheme, host and port as the client has them.
fn origin(asked: &Asked, peer: &Peer) -> String {
    let scheme = peer.scheme();
    match &asked.authority {
        Some(authority) => format!("{scheme}://{authority}"),
        None => format!("{scheme}://"),
    }
}

fn status(code: u16) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::PERMANENT_REDIRECT)
}
