//! Redirects: to HTTPS, and to the path with its slash.

use http::{Response, StatusCode, Uri};

use super::Visit;
use super::body::ReplyBody;
use super::canonical::Asked;
use super::peer::Peer;
use super::reply;

/// Sends plain HTTP to HTTPS where the route says so.
///
/// The target is ingress-nginx's: the host without its port, the request target without one trailing
/// slash.
pub(super) fn to_https(visit: &Visit<'_>, uri: &Uri) -> Option<Response<ReplyBody>> {
    let Visit { way, asked, settings, link, .. } = *visit;
    if !way.route.to_https || visit.peer.https {
        return None;
    }
    let host = asked.host();
    let target = asked.target(uri);
    let target = target.as_str();
    let target = target.strip_suffix('/').unwrap_or(target);
    let location = if way.route.options.port_in_redirects {
        format!("https://{host}:{}{target}", link.worker.ports.https)
    } else {
        format!("https://{host}{target}")
    };
    let status = StatusCode::from_u16(settings.redirect_code);
    Some(reply::redirect(status.unwrap_or(StatusCode::PERMANENT_REDIRECT), &location))
}

/// Adds the slash that a rule for `/a/` has and a request for `/a` lacks, as nginx does.
pub(super) fn add_slash(asked: &Asked, uri: &Uri, peer: &Peer) -> Response<ReplyBody> {
    let scheme = peer.scheme();
    let port = match asked.authority.as_ref().and_then(|it| it.port) {
        Some(port) => format!(":{port}"),
        None => String::new(),
    };
    let query = uri.query().map(|it| format!("?{it}")).unwrap_or_default();
    let location = format!("{scheme}://{}{port}{}/{query}", asked.host(), asked.path(uri));
    reply::redirect(StatusCode::MOVED_PERMANENTLY, &location)
}
