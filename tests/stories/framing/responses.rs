//! What a backend answers: one framing for the client, and nothing that was not meant for it.

use hyper::header::HeaderValue;

use super::{House, Seen, answered, get};
use crate::harness::backend::Answer;
use crate::harness::client::Call;
use crate::harness::raw::Raw;

/// Answers `GET /N` with the Nth of `answers`, anything else with its target.
fn by_number(answers: Vec<Answer>) -> impl Fn(&[u8]) -> Answer + Send + Sync + 'static {
    move |request| {
        let seen = Seen::parse(request);
        let number = seen.target.trim_start_matches('/').parse::<usize>().ok();
        let answer = number.and_then(|it| answers.get(it)).cloned();
        answer.unwrap_or_else(|| Answer::ok(&seen.target))
    }
}

/// RFC 9112 section 6.3: the client gets one framing, whatever the backend mixed.
#[tokio::test(flavor = "multi_thread")]
async fn two_framings_from_a_backend_become_one() {
    let fields = [
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 5",
        "Transfer-Encoding: Chunked\r\nContent-Length: 0",
    ];
    let ok =
        |it: &&str| Answer::keep(format!("HTTP/1.1 200 OK\r\n{it}\r\n\r\n2\r\nok\r\n0\r\n\r\n"));
    let house = House::answering(by_number(fields.iter().map(ok).collect())).await;
    for (number, fields) in fields.iter().enumerate() {
        let reply = house.get(&format!("/{number}"), "").await;
        answered(&reply, "ok", fields);
        let framings = [reply.headers("content-length"), reply.headers("transfer-encoding")];
        assert_eq!(framings.concat().len(), 1, "{fields:?}: {reply:#?}");
        let reply = house.h2_client().get(&format!("https://a.test/{number}")).await.unwrap();
        assert_eq!((reply.status, reply.text()), (200, "ok".to_owned()), "{fields:?}");
    }
}

/// RFC 9112 section 6.3: a backend whose framing is invalid gives `502`, never an empty reply, and
/// its connection is not used again.
#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_response_is_a_bad_gateway() {
    let many = (0..101).map(|it| format!("X-{it}: 1\r\n")).collect::<Vec<_>>().concat();
    let heads = [
        // Transfer codings other than chunked.
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked",
        // Lengths.
        "HTTP/1.1 200 OK\r\nContent-Length: abc",
        "HTTP/1.1 200 OK\r\nContent-Length: +2",
        "HTTP/1.1 200 OK\r\nContent-Length: -2",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3",
        "HTTP/1.1 200 OK\r\nContent-Length: 18446744073709551618",
        // Heads.
        "hello world",
        "HTTP/1.1 099 Low\r\nContent-Length: 2",
        "HTTP/2.0 200 OK\r\nContent-Length: 2",
        "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 2",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 2",
        "HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 2",
        &format!("HTTP/1.1 200 OK\r\n{many}Content-Length: 2"),
        &format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 2", "x".repeat(600_000)),
    ];
    let body = "2\r\nok\r\n0\r\n\r\n";
    let mut answers: Vec<_> =
        heads.iter().map(|it| Answer::close(format!("{it}\r\n\r\n{body}"))).collect();
    answers.push(Answer::close(""));
    answers.push(Answer::close("HTTP/1.1 200"));
    answers.push(Answer::reset("HTTP/1.1 200 OK\r\nContent-Le"));
    let count = answers.len();
    let house = House::answering(by_number(answers)).await;
    for number in 0..count {
        let case = heads.get(number).map_or("cut short", |it| &it[..it.len().min(80)]);
        let reply = house.get(&format!("/{number}"), "").await;
        assert_eq!((reply.status, reply.complete), (Some(502), true), "{case:?}: {reply:#?}");
        answered(&house.get("/good", "").await, "/good", case);
    }
}

/// RFC 9112 section 8: what the backend did not finish, the client never takes for whole.
#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_response_never_ends_cleanly() {
    let sized = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npartial";
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let cases = [
        ("short of its length", Answer::close(sized)),
        ("reset", Answer::reset(sized)),
        ("nothing of its length", Answer::close("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n")),
        ("inside a chunk", Answer::close(format!("{chunked}7\r\npart"))),
        ("between chunks", Answer::close(format!("{chunked}7\r\npartial\r\n"))),
        ("without the last CRLF", Answer::close(format!("{chunked}7\r\npartial\r\n0\r\n"))),
        ("a bad chunk size", Answer::close(format!("{chunked}7\r\npartial\r\nxyz\r\n"))),
        ("reset between chunks", Answer::reset(format!("{chunked}7\r\npartial\r\n"))),
    ];
    let answers = cases.iter().map(|it| it.1.clone()).collect();
    let house = House::answering(by_number(answers)).await;
    let mut h2 = house.h2().await;
    for (number, (case, _)) in cases.iter().enumerate() {
        let head = format!("GET /{number} HTTP/1.1\r\nHost: a.test\r\n\r\n");
        let reply = house.exchange(head).await;
        // A head that could not be sent before may still become 502.
        assert!(reply.status == Some(502) || !reply.complete, "{case}: {reply:#?}");
        assert!(reply.status == Some(502) || reply.closed, "{case}: {reply:#?}");

        let stream = u32::try_from(2 * number + 1).unwrap();
        let path = format!("/{number}");
        let mut fields = get("a.test", &[]);
        fields[3].1 = &path;
        let reply = h2.request(stream, &fields).await;
        let broken = !reply.ended && reply.broken_off();
        assert!(reply.status == Some(502) || broken, "{case}: {reply:?}");
        assert!(!reply.closed && reply.goaway.is_none(), "other streams suffer: {case}: {reply:?}");
    }
}

/// What a backend sends beyond its response is nobody's response.
#[tokio::test(flavor = "multi_thread")]
async fn bytes_after_a_response_answer_nobody() {
    let more = "HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    let answers = [
        format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{more}"),
        format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n{more}"),
        format!("HTTP/1.1 204 No Content\r\n\r\n{more}"),
        format!("HTTP/1.1 304 Not Modified\r\nContent-Length: 6\r\n\r\n{more}"),
    ];
    let house = House::answering(by_number(answers.iter().map(Answer::keep).collect())).await;
    for round in 0..5 {
        for number in 0..answers.len() {
            // One connection stays with one worker, and so with its connections upstream.
            let mut raw = Raw::plain(house.lockgate.http).await;
            for target in [format!("/{number}"), format!("/next-{round}-{number}")] {
                raw.send(format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await;
                let reply = raw.reply().await;
                assert!(reply.complete, "{target}: {reply:#?}");
                let expected = if target.contains("next") { target.as_str() } else { "ok" };
                assert!([expected, ""].contains(&&*reply.text()), "{target}: {reply:#?}");
                assert!(!target.contains("next") || reply.text() == target, "{reply:#?}");
            }
        }
    }
}

/// RFC 9110 section 6.5.1: fields that frame, route or authenticate mean nothing after the body.
#[tokio::test(flavor = "multi_thread")]
async fn trailers_carry_no_framing_routing_or_identity() {
    let bad = [
        ("content-length", "9"),
        ("transfer-encoding", "chunked"),
        ("host", "b.test"),
        ("authorization", "Basic eDp5"),
        ("x-forwarded-for", "192.0.2.66"),
        ("connection", "close"),
    ];
    let response = "HTTP/1.1 200 OK\r\nTrailer: grpc-status, content-length, host\r\n\
                    Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\
                    grpc-status: 0\r\ncontent-length: 9\r\nhost: b.test\r\n\r\n";
    let house = House::answering(move |_| Answer::keep(response)).await;

    let names: Vec<_> = bad.iter().map(|it| it.0).collect();
    let lines: Vec<_> = bad.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let bytes = format!(
        "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\
         Trailer: x-checksum, {}\r\nTE: trailers\r\nConnection: TE, close\r\n\r\n\
         3\r\nabc\r\n0\r\nx-checksum: 123\r\n{}\r\n",
        names.join(", "),
        lines.concat()
    );
    let reply = house.exchange(bytes).await;
    answered(&reply, "ok", "over HTTP/1.1");
    for trailer in &reply.trailers {
        assert!(trailer.starts_with("grpc-status"), "{reply:#?}");
    }
    let seen = house.only("over HTTP/1.1");
    assert_eq!((seen.body.as_str(), seen.trailers), ("abc", vec!["x-checksum: 123".to_owned()]));

    let call = Call::new("POST", "https://a.test/").chunks(&["abc"]);
    let call = call.header("te", "trailers").header("trailer", "x-checksum, host, authorization");
    let call = call.trailer("x-checksum", "123").trailer("host", "b.test");
    let call = call.trailer("authorization", "Basic eDp5").trailer("content-length", "9");
    let reply = house.h2_client().request(call).await.unwrap();
    assert_eq!((reply.status, reply.text()), (200, "ok".to_owned()));
    assert_eq!(reply.trailers.get("grpc-status").map(HeaderValue::as_bytes), Some(&b"0"[..]));
    assert_eq!(reply.trailers.len(), 1, "{reply:?}");
    let seen = house.only("over HTTP/2");
    assert_eq!((seen.body.as_str(), seen.trailers), ("abc", vec!["x-checksum: 123".to_owned()]));
}

/// RFC 9110 section 9.3.2: `Content-Length` of a HEAD response tells about the GET response.
#[tokio::test(flavor = "multi_thread")]
async fn head_keeps_content_length() {
    let head = |status: &str| Answer::keep(format!("{status}\r\nContent-Length: 1234\r\n\r\n"));
    let answers = vec![head("HTTP/1.1 200 OK"), head("HTTP/1.1 304 Not Modified")];
    let house = House::answering(by_number(answers)).await;
    for (number, status) in [200, 304].into_iter().enumerate() {
        let mut raw = Raw::plain(house.lockgate.http).await;
        raw.send(format!("HEAD /{number} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await;
        let reply = raw.reply_to_head().await;
        assert_eq!(reply.status, Some(status), "{reply:#?}");
        assert_eq!(reply.headers("content-length"), ["1234"], "{reply:#?}");
        // The connection is where it should be.
        raw.send("GET /next HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        answered(&raw.reply().await, "/next", "after HEAD");

        let call = Call::new("HEAD", &format!("https://a.test/{number}"));
        let reply = house.h2_client().request(call).await.unwrap();
        assert_eq!((reply.status, reply.header("content-length")), (status, Some("1234")));
        let methods: Vec<_> = house.seen("HEAD").0.into_iter().map(|it| it.method).collect();
        assert_eq!(methods, ["HEAD", "GET", "HEAD"]);
    }
}

/// Our own pages, too: over HTTP/2 a body after HEAD would break the stream.
#[tokio::test(flavor = "multi_thread")]
async fn head_of_our_own_pages_has_no_body() {
    let house = House::new().await;
    for client in [house.lockgate.tls_client().http2(), house.lockgate.tls_client()] {
        let [get, head] = ["GET", "HEAD"].map(|it| Call::new(it, "https://nobody.test/"));
        let (get, head) = tokio::join!(client.request(get), client.request(head));
        let (get, head) = (get.unwrap(), head.unwrap());
        assert_eq!((get.status, head.status), (404, 404));
        assert!(head.body.is_empty());
        assert_eq!(head.header("content-length"), Some(&*get.body.len().to_string()));
    }
}
