//! One request in, one canonical request out: whatever a client or a backend does to framing,
//! authority, path or identity, the two sides never disagree about it.
//!
//! Each test sends bytes that proper clients would not send and checks both ends: status and fate
//! of the connection here, the exact bytes there.  [`Seen`] refuses anything upstream that is not
//! canonical, so every test asserts that too.

mod bodies;
mod fields;
mod responses;
mod targets;
mod upgrades;

use crate::harness::backend::{Answer, RawBackend};
use crate::harness::client::Client;
use crate::harness::lockgate::{
    Lockgate, Pair, backend, ingress_class, ingress_tls, pair, tls_secret,
};
use crate::harness::process::eventually;
use crate::harness::raw::{Length, PATIENCE, Raw, RawH2, RawReply, exchange, fields, head_end};

/// The product before two hosts: `a.test` goes to `a`, `b.test` and `a.test/admin` to `b`.
struct House {
    lockgate: Lockgate,
    a: RawBackend,
    b: RawBackend,
    pair: Pair,
}

impl House {
    /// Both backends answer `200` with the body `ok`.
    async fn new() -> Self {
        Self::answering(|_| Answer::ok("ok")).await
    }

    /// Backend `a` answers by `script`.
    async fn answering(script: impl Fn(&[u8]) -> Answer + Send + Sync + 'static) -> Self {
        Self::with_args(script, &[]).await
    }

    async fn with_args(
        script: impl Fn(&[u8]) -> Answer + Send + Sync + 'static,
        args: &[&str],
    ) -> Self {
        let a = RawBackend::start(script).await;
        let b = RawBackend::answering(Answer::ok("ok")).await;
        let pair = pair(&["a.test", "b.test"]);
        let plain = [
            ("nginx.ingress.kubernetes.io/ssl-redirect", "false"),
            // Small bodies would be taken whole and lose their chunks.
            ("nginx.ingress.kubernetes.io/proxy-request-buffering", "off"),
        ];
        let paths = [("/", "Prefix", "a", 80), ("/admin", "Prefix", "b", 80)];
        let manifests = [
            ingress_class(),
            ingress_tls("a", "a.test", &paths, &plain, "tls"),
            ingress_tls("b", "b.test", &[("/", "Prefix", "b", 80)], &plain, "tls"),
            tls_secret("tls", &pair),
            backend("a", 80, &[a.addr()]),
            backend("b", 80, &[b.addr()]),
        ];
        let lockgate = Lockgate::with_manifests(manifests.concat());
        let lockgate = lockgate.args(args.iter().copied()).start().await;
        Self { lockgate, a, b, pair }
    }

    /// Sends `bytes` without TLS.
    async fn exchange(&self, bytes: impl AsRef<[u8]>) -> RawReply {
        exchange(self.lockgate.http, bytes).await
    }

    /// Sends a whole request to `a.test` that asks for the connection to be closed.
    async fn get(&self, target: &str, lines: &str) -> RawReply {
        let head = format!("GET {target} HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n");
        self.exchange(format!("{head}{lines}\r\n")).await
    }

    /// An HTTP/2 connection on which anything can be sent.
    async fn h2(&self) -> RawH2 {
        let raw = Raw::tls(self.lockgate.https, "a.test", &["h2"]).await.unwrap();
        assert_eq!(raw.alpn(), Some("h2"));
        RawH2::start(raw).await
    }

    /// A well-behaved HTTP/2 client.
    fn h2_client(&self) -> Client {
        Client::new().ca(&self.pair.certificate).http2().connect_to(self.lockgate.https)
    }

    /// Sends `bytes` without waiting for what becomes of the connection.
    async fn ask(&self, bytes: impl AsRef<[u8]>) -> RawReply {
        let mut raw = Raw::plain(self.lockgate.http).await;
        raw.send(bytes).await;
        raw.reply().await
    }

    /// Waits until no connection to `a` is left.
    async fn idle(&self) {
        eventually("no connection to a", PATIENCE, async || self.a.open() == 0).await;
    }

    /// The one request that came to `a`, and none to `b`; forgets it.
    #[track_caller]
    fn only(&self, case: &str) -> Seen {
        let (mut a, b) = self.seen(case);
        assert_eq!((a.len(), b.len()), (1, 0), "requests upstream: {case}\n{a:#?}\n{b:#?}");
        a.remove(0)
    }

    /// Nothing came to any backend.
    #[track_caller]
    fn none(&self, case: &str) {
        let (a, b) = self.seen(case);
        assert!(a.is_empty() && b.is_empty(), "reached upstream: {case}\n{a:#?}\n{b:#?}");
    }

    /// What came to `a` and to `b` since the last look.
    #[track_caller]
    fn seen(&self, case: &str) -> (Vec<Seen>, Vec<Seen>) {
        let parse = |backend: &RawBackend| {
            let broken: Vec<_> = backend.broken().iter().map(|it| lossy(it)).collect();
            assert!(broken.is_empty(), "broken upstream: {case}\n{broken:#?}");
            let seen = backend.requests().iter().map(|it| Seen::parse(it)).collect();
            backend.forget();
            seen
        };
        (parse(&self.a), parse(&self.b))
    }
}

/// A request as a backend got it, known to be canonical.
#[derive(Debug)]
struct Seen {
    method: String,
    target: String,
    fields: Vec<(String, String)>,
    body: String,
    trailers: Vec<String>,
}

impl Seen {
    /// Takes a request apart; fails the test when anything about it is open to interpretation.
    #[track_caller]
    fn parse(bytes: &[u8]) -> Self {
        let text = lossy(bytes);
        let end = head_end(bytes).unwrap();
        let head = lossy(&bytes[..end - 4]);
        let bare = head.replace("\r\n", "");
        assert!(!bare.contains(['\r', '\n', '\0']), "control characters in the head: {text:?}");
        let mut line = head.split("\r\n").next().unwrap().split(' ');
        let (method, target) = (line.next().unwrap(), line.next().unwrap());
        assert_eq!((line.next(), line.next()), (Some("HTTP/1.1"), None), "{text:?}");
        for line in head.split("\r\n").skip(1) {
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("{line:?}"));
            let token = |it: char| it.is_ascii_alphanumeric() || "!#$%&'*+-.^`|~".contains(it);
            assert!(!name.is_empty() && name.chars().all(token), "name of {line:?}");
            let value = value.strip_prefix(' ').unwrap_or(value);
            assert_eq!(value, value.trim(), "spaces around the value of {line:?}");
        }
        let fields = fields(&head).map(|(name, value)| (name.to_lowercase(), value.to_owned()));
        let mut seen = Self {
            method: method.to_owned(),
            target: target.to_owned(),
            fields: fields.collect(),
            body: String::new(),
            trailers: Vec::new(),
        };
        assert!(seen.one("host").is_some(), "no Host: {text:?}");
        let (chunked, size) = (seen.one("transfer-encoding"), seen.one("content-length"));
        assert!(chunked.is_none() || size.is_none(), "two framings: {text:?}");
        assert!(chunked.is_none_or(|it| it == "chunked"), "transfer coding: {text:?}");
        let canonical = |it: &str| it.parse::<u64>().is_ok_and(|number| number.to_string() == it);
        assert!(size.is_none_or(canonical), "content length: {text:?}");
        let length = Length::of(&head).unwrap_or(Length::Bytes(0));
        let cut = length.cut(&bytes[end..]).unwrap();
        assert_eq!((cut.whole, end + cut.used), (true, bytes.len()), "end of the body: {text:?}");
        (seen.body, seen.trailers) = (lossy(&cut.body), cut.trailers);
        seen
    }

    /// All values of a field, names in lower case.
    fn all(&self, name: &str) -> Vec<&str> {
        self.fields.iter().filter(|it| it.0 == name).map(|it| it.1.as_str()).collect()
    }

    /// The value of a field that must not come twice.
    #[track_caller]
    fn one(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "{name} twice: {self:#?}");
        all.first().copied()
    }
}

fn lossy(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The request was answered with one of `statuses`, and the connection then closed.
#[track_caller]
fn refused(reply: &RawReply, statuses: &[u16], case: &str) {
    let status = reply.status.unwrap_or_default();
    assert!(statuses.contains(&status), "{case:?}: wanted {statuses:?}, got {reply:#?}");
    assert!(reply.closed, "{case:?}: still open after {reply:#?}");
}

#[track_caller]
fn answered(reply: &RawReply, body: &str, case: &str) {
    assert_eq!((reply.status, reply.text()), (Some(200), body.to_owned()), "{case:?}: {reply:#?}");
    assert!(reply.complete, "{case:?}: {reply:#?}");
}

/// Pseudo-fields of a GET over TLS, then `more`.
fn get<'a>(authority: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut fields =
        vec![(":method", "GET"), (":scheme", "https"), (":authority", authority), (":path", "/")];
    fields.extend(more);
    fields
}
