//! Where a message ends: lengths, chunks, and what a body that nobody wants leaves behind.

use super::{House, Seen, answered, get, lossy, refused};
use crate::harness::backend::Answer;
use crate::harness::client::Call;
use crate::harness::raw::Raw;

/// RFC 9112 section 6.1 and 6.3: chunks decide, `Content-Length` goes, and nothing that follows
/// on the connection is trusted.
#[tokio::test(flavor = "multi_thread")]
async fn chunked_wins_over_content_length_and_the_connection_ends() {
    let house = House::new().await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n";
    for (fields, body, expected) in [
        ("Content-Length: 3\r\nTransfer-Encoding: chunked", "5\r\nhello\r\n0\r\n\r\n", "hello"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 3", "5\r\nhello\r\n0\r\n\r\n", "hello"),
        ("Content-Length: 4\r\nTransfer-Encoding: chunked", "0\r\n\r\n", ""),
        ("Content-Length: 99\r\nTransfer-Encoding: Chunked", "2\r\nhi\r\n0\r\n\r\n", "hi"),
    ] {
        let head = format!("POST /first HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n\r\n");
        let mut raw = Raw::plain(house.lockgate.http).await;
        let reply = raw.exchange(format!("{head}{body}{smuggled}")).await;
        answered(&reply, "ok", fields);
        assert!(reply.closed, "{fields}: {reply:#?}");
        assert_eq!(lossy(&raw.rest().await.0), "", "a second answer: {fields}");
        let seen = house.only(fields);
        assert_eq!((seen.target.as_str(), seen.body.as_str()), ("/first", expected), "{fields}");
    }
}

/// RFC 9112 section 6.1: a transfer coding that is not exactly `chunked` is not understood here.
#[tokio::test(flavor = "multi_thread")]
async fn chunked_is_the_only_transfer_coding() {
    let house = House::new().await;
    let post = |fields: &str| {
        let head = "POST / HTTP/1.1\r\nHost: a.test\r\n";
        format!("{head}{fields}\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
    };
    for fields in [
        // Lists that end in chunked.
        "Transfer-Encoding: identity, chunked",
        "Transfer-Encoding: gzip, chunked",
        "Transfer-Encoding: chunked, chunked",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
        // Lists that do not.
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Transfer-Encoding: gzip",
        "Transfer-Encoding: identity",
        // Nearly chunked.
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: \"chunked\"",
        "Transfer-Encoding: chunked;x=1",
        "Transfer-Encoding: \u{b}chunked",
        "Transfer-Encoding : chunked",
    ] {
        refused(&house.exchange(post(fields)).await, &[400, 501], fields);
        house.none(fields);
    }
    let old = "POST / HTTP/1.0\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    refused(&house.exchange(old).await, &[400], old);
    house.none(old);

    for fields in ["Transfer-Encoding: chunked", "Transfer-Encoding: CHUNKED"] {
        answered(&house.ask(post(fields)).await, "ok", fields);
        let seen = house.only(fields);
        assert_eq!((seen.one("transfer-encoding"), &*seen.body), (Some("chunked"), "abc"));
    }
}

/// RFC 9112 section 6.3: a length is one decimal number, and upstream gets its plainest spelling.
#[tokio::test(flavor = "multi_thread")]
async fn content_length_is_one_number() {
    let house = House::new().await;
    let post = |fields: &str| format!("POST / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n\r\nabc");
    for fields in [
        "Content-Length: +3",
        "Content-Length: -3",
        "Content-Length: 0x3",
        "Content-Length: 3 3",
        "Content-Length: 3.0",
        "Content-Length:",
        "Content-Length: 3, 3",
        "Content-Length: 3, 4",
        "Content-Length: 3\r\nContent-Length: 4",
        "Content-Length: 18446744073709551619",
        "Content-Length : 3",
    ] {
        refused(&house.exchange(post(fields)).await, &[400], fields);
        house.none(fields);
    }
    for fields in
        ["Content-Length: 3", "Content-Length: 003", "Content-Length: 3\r\nContent-Length: 3"]
    {
        answered(&house.ask(post(fields)).await, "ok", fields);
        let seen = house.only(fields);
        assert_eq!((seen.one("content-length"), seen.body.as_str()), (Some("3"), "abc"));
    }
}

/// A response after which the backend closes.
const CLOSING: &str = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";

/// RFC 9112 section 7.1: the client is told `400`, and the request upstream is broken off, never
/// completed, its connection never used again.
#[tokio::test(flavor = "multi_thread")]
async fn a_broken_chunk_ends_both_connections() {
    // Connections that end after each response leave only those to be seen that should not be.
    let house = House::answering(|_| Answer::close(CLOSING)).await;
    let long = format!("3;{}\r\nabc\r\n0\r\n\r\n", "x".repeat(20_000));
    let mut good = 0;
    for body in [
        // The line of the size.
        "3\nabc\r\n0\r\n\r\n",
        "3;x\ry\r\nabc\r\n0\r\n\r\n",
        "3;x\ny\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        "+3\r\nabc\r\n0\r\n\r\n",
        "-3\r\nabc\r\n0\r\n\r\n",
        "0_3\r\nabc\r\n0\r\n\r\n",
        "\r\nabc\r\n0\r\n\r\n",
        "g\r\nabc\r\n0\r\n\r\n",
        "10000000000000003\r\nabc\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        // The end of the data.
        "3\r\nabcXX0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nabc\n0\r\n\r\n",
        "3\r\nabc\r0\r\n\r\n",
        // A good chunk before the bad one.
        "3\r\nabc\r\n0x3\r\nabc\r\n0\r\n\r\n",
        // Extensions without measure.
        &long,
    ] {
        let head = "POST /bad HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n";
        refused(&house.exchange(format!("{head}{body}")).await, &[400], body);
        answered(&house.get("/good", "").await, "ok", body);
        good += 1;
        // What was broken off may come later still: it is never whole.
        house.idle().await;
        let whole: Vec<_> = house.a.requests().iter().map(|it| Seen::parse(it).target).collect();
        assert_eq!(whole, vec!["/good"; good], "completed upstream: {body:?}");
    }
}

/// What a lenient reader may accept in chunked framing never travels on.
#[tokio::test(flavor = "multi_thread")]
async fn chunk_extensions_end_here() {
    let house = House::answering(|_| Answer::close(CLOSING)).await;
    for body in [
        "3;a=b\r\nabc\r\n0\r\n\r\n",
        "3;\r\nabc\r\n0\r\n\r\n",
        "3 \r\nabc\r\n0\r\n\r\n",
        "3;a\0b\r\nabc\r\n0\r\n\r\n",
        "3;a\u{1}b\r\nabc\r\n0\r\n\r\n",
        "003\r\nabc\r\n000\r\n\r\n",
        "3\r\nabc\r\n0;a=b\r\n\r\n",
    ] {
        let head = "POST / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n";
        let reply = house.exchange(format!("{head}Transfer-Encoding: chunked\r\n\r\n{body}")).await;
        if reply.status == Some(200) {
            // That it parses shows that nothing but sizes and data arrived.
            assert_eq!(house.only(body).body, "abc", "{body:?}");
        } else {
            refused(&reply, &[400], body);
            house.idle().await;
            assert_eq!(house.a.requests().len(), 0, "completed upstream: {body:?}");
            house.a.forget();
        }
    }
}

/// An early answer leaves a body behind; its bytes are skipped or the connection ends, but they
/// never become a request.
#[tokio::test(flavor = "multi_thread")]
async fn an_unread_body_is_never_taken_for_a_request() {
    let house = House::new().await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n";
    let length = smuggled.len();
    let head = "POST /x HTTP/1.1\r\nHost: unknown.test\r\n";
    let after = "GET /after HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n";
    for (case, bytes) in [
        ("sized", format!("{head}Content-Length: {length}\r\n\r\n{smuggled}")),
        (
            "chunked",
            format!(
                "{head}Transfer-Encoding: chunked\r\n\r\n{length:x}\r\n{smuggled}\r\n0\r\n\r\n"
            ),
        ),
    ] {
        let mut raw = Raw::plain(house.lockgate.http).await;
        raw.send(format!("{bytes}{after}")).await;
        let first = raw.reply().await;
        assert_eq!(first.status, Some(404), "{case}: {first:#?}");
        let second = raw.reply().await;
        if second.status.is_some() {
            answered(&second, "ok", case);
            assert_eq!(house.only(case).target, "/after", "{case}");
        } else {
            assert!(second.closed, "{case}: {second:#?}");
            house.none(case);
        }
    }
    // A body that never comes whole holds nothing up.
    let bytes = format!("{head}Content-Length: 1000\r\n\r\n{smuggled}");
    refused(&house.exchange(bytes).await, &[404], "incomplete");
    house.none("incomplete");
}

/// RFC 9110 section 9.3.1: such a body means nothing, but losing it would shift the framing.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_a_length_arrives_whatever_the_method() {
    let house = House::new().await;
    for method in ["GET", "DELETE", "OPTIONS", "POST", "PATCH"] {
        let call = Call::new(method, "https://a.test/x").chunks(&["hel", "lo"]);
        let reply = house.h2_client().request(call).await.unwrap();
        assert_eq!((reply.status, reply.text()), (200, "ok".to_owned()), "{method}");
        let seen = house.only(method);
        assert_eq!((&*seen.method, &*seen.body), (method, "hello"), "{seen:#?}");
        assert_eq!(seen.one("transfer-encoding"), Some("chunked"), "{seen:#?}");

        let head = format!("{method} /x HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n");
        let body = "Transfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n";
        answered(&house.exchange(format!("{head}{body}")).await, "ok", method);
        let seen = house.only(method);
        assert_eq!((&*seen.method, &*seen.body), (method, "hello"), "{seen:#?}");
    }
    // Without a body there is none upstream either.
    let reply = house.h2_client().get("https://a.test/x").await.unwrap();
    assert_eq!(reply.status, 200);
    let seen = house.only("no body");
    assert_eq!((seen.one("transfer-encoding"), seen.body.as_str()), (None, ""));
}

/// RFC 9110 section 10.1.1: `100-continue` is answered here and goes no further.
#[tokio::test(flavor = "multi_thread")]
async fn expect_continue_is_answered_here() {
    let house = House::new().await;
    for value in ["100-continue", "100-Continue"] {
        let mut raw = Raw::plain(house.lockgate.http).await;
        let head = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\nConnection: close\r\n";
        raw.send(format!("{head}Expect: {value}\r\n\r\n")).await;
        assert_eq!(lossy(&raw.bytes(25).await), "HTTP/1.1 100 Continue\r\n\r\n");
        raw.send("abc").await;
        answered(&raw.reply().await, "ok", value);
        let seen = house.only(value);
        assert_eq!((seen.one("expect"), seen.body.as_str()), (None, "abc"));
    }
}

/// RFC 9110 section 10.1.1: what is not understood is said to be so.
#[tokio::test(flavor = "multi_thread")]
async fn other_expectations_fail() {
    let house = House::new().await;
    for value in ["x", "x 100-continue", "x, 100-continue", "100-continue, x", "200-ok"] {
        let head = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n";
        let reply = house.ask(format!("{head}Expect: {value}\r\n\r\nabc")).await;
        assert_eq!((reply.status, reply.complete), (Some(417), true), "{value}: {reply:#?}");
        assert!(reply.interim.is_empty(), "{value}: {reply:#?}");
        house.none(value);
    }
    let reply = house.h2().await.request(1, &get("a.test", &[("expect", "x")])).await;
    assert_eq!(reply.status, Some(417), "{reply:?}");
    house.none("over HTTP/2");
}
