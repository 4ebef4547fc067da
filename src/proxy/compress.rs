//! Compresses answers on their way to the client, by the rules of nginx's gzip and brotli filters.
//!
//! A coding works on what comes, a step at a time, and hands out whatever it holds as soon as
//! the endpoint pauses: an event that trickles in reaches the client at once. What all codings of a
//! worker may hold in memory is bounded; an answer that finds no room is sent as it is.
//!
//! HEAD is left alone, as nginx does: its answer has the fields of an answer that is not compressed.

mod body;
mod choice;
mod coder;
mod room;

use std::rc::Rc;

use http::header::{ACCEPT_RANGES, CONTENT_ENCODING, CONTENT_LENGTH, ETAG, VARY};
use http::{HeaderMap, HeaderValue, Response};
use http_body::Body as _;

use super::body::ReplyBody;
use crate::model::settings::Compression;
use choice::{Taken, elements, ways};

pub(super) use body::CodedBody;
pub(super) use choice::taken;
pub(super) use room::Room;

/// Compresses an answer if it is one of those that are; says so in its head, and in `Vary` also when the
/// client takes no coding.
pub(super) fn encode(
    response: Response<ReplyBody>,
    taken: Taken,
    compression: &Compression,
    room: &Rc<Room>,
) -> Response<ReplyBody> {
    let length = response.body().size_hint().exact();
    let (status, headers) = (response.status(), response.headers());
    let Some(ways) = ways(compression, taken, status, headers, length) else { return response };
    let (mut head, body) = response.into_parts();
    add_vary(&mut head.headers);
    let mut ways = ways.into_iter().flatten();
    let Some((how, share)) = ways.find_map(|it| Some((it, room.share(it.memory())?))) else {
        return Response::from_parts(head, body);
    };
    head.headers.insert(CONTENT_ENCODING, HeaderValue::from_static(how.name()));
    head.headers.remove(CONTENT_LENGTH);
    head.headers.remove(ACCEPT_RANGES);
    weaken_etag(&mut head.headers);
    let coded = CodedBody::new(body, how, length, share);
    Response::from_parts(head, ReplyBody::Coded(Box::new(coded)))
}

fn add_vary(headers: &mut HeaderMap) {
    let known = |it: &str| it == "*" || it.eq_ignore_ascii_case("accept-encoding");
    if !elements(headers, &VARY).any(known) {
        headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
}

/// The bytes are no longer those that a strong tag stands for (RFC 9110 section 8.8.3).
fn weaken_etag(headers: &mut HeaderMap) {
    let Some(tag) = headers.get(ETAG) else { return };
    if tag.as_bytes().starts_with(b"W/") {
        return;
    }
    let weak = [b"W/", tag.as_bytes()].concat();
    match HeaderValue::from_bytes(&weak) {
        Ok(weak) if tag.as_bytes().starts_with(b"\"") => drop(headers.insert(ETAG, weak)),
        // It is no tag; nginx removes it, too.
        _ => drop(headers.remove(ETAG)),
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::choice::tests::{both, map};
    use super::coder::tests::{GZIP, text};
    use super::*;

    #[test]
    fn tags_become_weak_and_caches_are_told() {
        for (before, after) in [
            (
                &[("etag", "\"x\""), ("vary", "Origin")][..],
                &[("etag", "W/\"x\""), ("vary", "Origin"), ("vary", "Accept-Encoding")][..],
            ),
            (&[("etag", "W/\"x\"")], &[("etag", "W/\"x\""), ("vary", "Accept-Encoding")]),
            (&[("etag", "x")], &[("vary", "Accept-Encoding")]),
            (&[("vary", "Origin, accept-encoding")], &[("vary", "Origin, accept-encoding")]),
            (&[("vary", "*")], &[("vary", "*")]),
        ] {
            let mut headers = map(before);
            add_vary(&mut headers);
            weaken_etag(&mut headers);
            assert_eq!(headers, map(after), "{before:?}");
        }
    }

    #[test]
    fn what_finds_no_room_is_sent_as_it_is() {
        let room = Rc::new(Room { left: Cell::new(GZIP.memory()) });
        let taken = Taken { gzip: true, brotli: true };
        let answer = || {
            let mut response = Response::new(ReplyBody::from(text(1000)));
            *response.headers_mut() = map(&[("content-type", "text/plain")]);
            encode(response, taken, &both(), &room)
        };
        let coding = |it: &Response<ReplyBody>| it.headers().get(CONTENT_ENCODING).cloned();
        let first = answer();
        assert_eq!(coding(&first), Some(HeaderValue::from_static("gzip")), "brotli takes more");
        let second = answer();
        assert_eq!(coding(&second), None);
        assert_eq!(second.headers()[VARY], "Accept-Encoding");
        drop(first);
        assert!(coding(&answer()).is_some());
    }

    #[tokio::test]
    async fn what_is_empty_stays_so() {
        use http_body_util::BodyExt;
        let room = Rc::new(Room::default());
        let empty = encode(Response::new(ReplyBody::empty()), Taken::default(), &both(), &room);
        assert!(empty.into_body().collect().await.expect("it is whole").to_bytes().is_empty());
    }
}
