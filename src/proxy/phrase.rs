//! What the variables of a text come to for one request.

use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderValue, request};

use super::View;
use super::access::user;
use super::canonical::Asked;
use super::headers::X_REQUEST_ID;
use super::peer::Peer;
use crate::model::phrase::{Phrase, Word};
use crate::model::plan::{Route, Target};

/// Hands each part of a phrase to `put`, as bytes; what a request does not have is nothing.
pub(super) fn fill(
    phrase: &Phrase,
    head: &request::Parts,
    view: &View<'_>,
    put: &mut dyn FnMut(&[u8]),
) {
    let clock = view.clock.borrow();
    fill_from(phrase, head, view.asked, view.peer, &view.way.route, &clock.seconds, put);
}

/// What a phrase comes to, as text; bytes that are not UTF-8 are replaced.
pub(super) fn text(phrase: &Phrase, head: &request::Parts, view: &View<'_>) -> String {
    let mut bytes = Vec::new();
    fill(phrase, head, view, &mut |it| bytes.extend_from_slice(it));
    String::from_utf8(bytes).unwrap_or_else(|it| String::from_utf8_lossy(it.as_bytes()).into())
}

fn fill_from(
    phrase: &Phrase,
    head: &request::Parts,
    asked: &Asked,
    peer: &Peer,
    route: &Route,
    msec: &str,
    put: &mut dyn FnMut(&[u8]),
) {
    // As the client wrote it, unless the endpoint gets something else: nobody is to decide on that.
    let target = asked.resolved.then(|| asked.target(&head.uri));
    let raw = || target.as_ref().or(head.uri.path_and_query()).map_or("", |it| it.as_str());
    let backend = match &route.target {
        Target::Backend(id) => Some(id),
        _ => None,
    };
    for word in &phrase.0 {
        match word {
            Word::Text(text) => put(text.as_bytes()),
            Word::Args => put(head.uri.query().unwrap_or_default().as_bytes()),
            Word::Argument(name) => {
                let named = |pair: &str| {
                    let (key, value) = pair.split_once('=')?;
                    key.eq_ignore_ascii_case(name).then(|| put(value.as_bytes()))
                };
                let _ = head.uri.query().unwrap_or_default().split('&').find_map(named);
            }
            Word::Cookie(name) => {
                let named = |crumb: &[u8]| {
                    let text = crumb.trim_ascii();
                    let at = text.iter().position(|it| *it == b'=')?;
                    (text[..at] == *name.as_bytes()).then(|| put(&text[at + 1..]))
                };
                let fields = head.headers.get_all(COOKIE).iter();
                let crumbs = fields.flat_map(|it| it.as_bytes().split(|it| *it == b';'));
                let _ = { crumbs }.find_map(named);
            }
            Word::EscapedRequestUri => {
                for byte in raw().bytes() {
                    if matches!(byte, b'-' | b'.' | b'_' | b'~') || byte.is_ascii_alphanumeric() {
                        put(&[byte]);
                    } else {
                        put(format!("%{byte:02X}").as_bytes());
                    }
                }
            }
            Word::Host => put(asked.host().as_bytes()),
            Word::Ingress => put(route.ingress.name.as_bytes()),
            Word::IsArgs => put(if head.uri.query().is_some() { b"?" } else { b"" }),
            Word::Msec => put(msec.as_bytes()),
            Word::Namespace => put(route.ingress.namespace.as_bytes()),
            Word::RequestId => {
                put(head.headers.get(X_REQUEST_ID).map_or(b"", HeaderValue::as_bytes));
            }
            Word::ServerPort => put(peer.port.to_string().as_bytes()),
            Word::Service => put(backend.map_or(b"", |it| it.service.name.as_bytes())),
            Word::ServicePort => put(backend.map_or(b"", |it| it.port.as_bytes())),
            // Over HTTP/2, and in a whole URL, it comes in no field.
            Word::Header(name) if **name == *"host" => {
                if let Some(authority) = &asked.authority {
                    put(authority.to_string().as_bytes());
                }
            }
            Word::Header(name) => {
                for value in head.headers.get_all(&**name) {
                    put(value.as_bytes());
                }
            }
            Word::RemoteAddr => {
                put(peer.address.ip().to_canonical().to_string().as_bytes());
            }
            Word::RemoteUser => {
                let user = head.headers.get(AUTHORIZATION).and_then(user);
                put(user.unwrap_or_default().as_bytes());
            }
            Word::Method => put(head.method.as_str().as_bytes()),
            Word::RequestUri => put(raw().as_bytes()),
            Word::Scheme => put(peer.scheme().as_bytes()),
            Word::Uri => put(asked.uri(&head.uri).as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::Request;

    use super::*;
    use crate::model::host::HostPattern;
    use crate::model::name::ObjectName;
    use crate::model::plan::BackendId;

    #[test]
    fn variables_are_what_the_request_says() {
        let request = Request::get("http://A.test:81/a/../b?x=1&id=7&id=8")
            .header("host", "a.test:81")
            .header("cookie", "q=1; user=me")
            .header("x-user", "you")
            .header("authorization", "Basic YWxpY2U6c2VjcmV0");
        let (head, ()) = request.body(()).expect("a request").into_parts();
        let peer = Peer::new(([10, 0, 0, 9], 5).into(), false, 80);
        let asked = Asked::read(&head, &peer).expect("canonical");
        let backend = BackendId { service: ObjectName::new("team", "app"), port: "http".into() };
        let route = Route::new(
            ObjectName::new("team", "web"),
            &HostPattern::Any,
            "/",
            Target::Backend(backend),
            Arc::default(),
        );
        for (text, expected) in [
            ("$request_uri", "/b?x=1&id=7&id=8"),
            ("$uri", "/b"),
            ("$args", "x=1&id=7&id=8"),
            ("$arg_id-$arg_no", "7-"),
            ("$cookie_user", "me"),
            ("$http_x_user $http_x_no.", "you ."),
            ("$host $scheme", "a.test http"),
            ("$remote_addr $request_method", "10.0.0.9 GET"),
            ("$escaped_request_uri", "%2Fb%3Fx%3D1%26id%3D7%26id%3D8"),
            ("$uri$is_args$args", "/b?x=1&id=7&id=8"),
            ("$namespace/$ingress_name", "team/web"),
            ("$service_name:$service_port", "app:http"),
            ("$http_host $server_port", "a.test:81 80"),
            ("t=${msec}", "t=1795168800.007"),
            ("$remote_user", "alice"),
        ] {
            let phrase = Phrase::parse(text).expect("a phrase");
            let mut filled = Vec::new();
            let msec = "1795168800.007";
            fill_from(&phrase, &head, &asked, &peer, &route, msec, &mut |it| {
                filled.extend_from_slice(it);
            });
            assert_eq!(String::from_utf8_lossy(&filled), expected, "{text}");
        }
    }
}
