//! What the variables of a text come to for one request.

use http::header::COOKIE;
use http::request;

use super::canonical::Asked;
use super::peer::Peer;
use crate::model::phrase::{Phrase, Word};

/// Hands each part of a phrase to `put`, as bytes; what a request does not have is nothing.
pub(super) fn fill(
    phrase: &Phrase,
    head: &request::Parts,
    asked: &Asked,
    peer: &Peer,
    put: &mut dyn FnMut(&[u8]),
) {
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
            Word::Host => put(asked.host().as_bytes()),
            Word::Header(name) => {
                for value in head.headers.get_all(&**name) {
                    put(value.as_bytes());
                }
            }
            Word::RemoteAddr => {
                put(peer.address.ip().to_canonical().to_string().as_bytes());
            }
            Word::Method => put(head.method.as_str().as_bytes()),
            Word::RequestUri => {
                put(head.uri.path_and_query().map_or("", |it| it.as_str()).as_bytes());
            }
            Word::Scheme => put(peer.scheme().as_bytes()),
            Word::Uri => put(asked.path(&head.uri).as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn variables_are_what_the_request_says() {
        let request = Request::get("http://A.test:81/a/../b?x=1&id=7&id=8")
            .header("host", "a.test:81")
            .header("cookie", "q=1; user=me")
            .header("x-user", "you");
        let (head, ()) = request.body(()).expect("a request").into_parts();
        let peer = Peer::new(([10, 0, 0, 9], 5).into(), false, 80);
        let asked = Asked::read(&head, &peer).expect("canonical");
        for (text, expected) in [
            ("$request_uri", "/a/../b?x=1&id=7&id=8"),
            ("$uri", "/b"),
            ("$args", "x=1&id=7&id=8"),
            ("$arg_id-$arg_no", "7-"),
            ("$cookie_user", "me"),
            ("$http_x_user $http_x_no.", "you ."),
            ("$host $scheme", "a.test http"),
            ("$remote_addr $request_method", "10.0.0.9 GET"),
        ] {
            let phrase = Phrase::parse(text).expect("a phrase");
            let mut filled = Vec::new();
            fill(&phrase, &head, &asked, &peer, &mut |it| filled.extend_from_slice(it));
            assert_eq!(String::from_utf8_lossy(&filled), expected, "{text}");
        }
    }
}
