//! Time stands still while anybody has something to do and jumps to the next deadline else, so that
//! hours pass in a moment.

use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, timeout};

use super::budget::MOST_UNPAID;
use super::link::Link;
use super::protocol::{IDLE, h2};
use super::watch::{AGE_H2, Watch};
use crate::live::limit::Limits;
use crate::live::{Current, Live};
use crate::metrics::{Metrics, Replica};
use crate::model::plan::Plan;
use crate::model::settings::Settings;
use crate::proxy::io::Meter;
use crate::proxy::log::LogSink;
use crate::proxy::peer::Peer;
use crate::proxy::worker::{Shared, Worker};
use crate::proxy::{Phase, Ports};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0pingping";

/// A link of a worker that serves nothing yet and answers everything 503.
fn link() -> Rc<Link> {
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(["a.test".to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("a certificate").der().clone();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der()).into();
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).expect("a key");
    let key = Arc::new(rustls::sign::CertifiedKey::new(vec![certificate], key));
    let mut live = Live::empty(key);
    let settings = Settings { log: None, ..Settings::default() };
    live.plan = Arc::new(Plan { settings: settings.into(), ..Plan::default() });
    let current = Current::new(live);
    let metrics = Arc::new(Metrics::new(&Replica::default()).expect("metrics"));
    let shared = Arc::new(Shared {
        current,
        spans: crate::spans::queue(metrics.clone()).0,
        metrics,
        sink: LogSink::start().expect("a thread").0,
        ports: Ports { http: 80, https: 443 },
        limits: Limits::new(10, None),
        phase: watch::channel(Phase::Serving).1,
        wall: || jiff::Timestamp::UNIX_EPOCH,
    });
    let worker = Worker::new(0, shared);
    let address = ([192, 0, 2, 1], 1).into();
    let peer = Peer::new(address, true, 443);
    Link::new(&worker, peer, &Arc::new(Meter::new(Instant::now())))
}

#[tokio::test(start_paused = true)]
async fn only_who_has_its_answer_gives_way() {
    let link = link();
    tokio::time::advance(Duration::from_secs(1)).await;
    for (case, under_way, written, expected) in [
        ("nothing to do", 0, Poll::Ready(()), true),
        ("a request under way", 1, Poll::Ready(()), false),
        ("the end of an answer that the client does not take", 0, Poll::Pending, false),
    ] {
        link.under_way.set(under_way);
        link.meter.was_written(&written);
        assert_eq!(link.is_idle(Instant::now()), expected, "{case}");
        link.shed();
        let reason = Watch::new(&link, Some(IDLE), IDLE).why_shed();
        assert_eq!(reason.is_some(), expected, "{case}");
    }
}

/// A client over HTTP/2 that acknowledges what has to be.
struct Client {
    stream: DuplexStream,
    link: Rc<Link>,
    begun: Instant,
    read: Vec<u8>,
    stream_id: u32,
}

impl Client {
    /// One that has sent nothing but `bytes`.
    async fn silent(bytes: &[u8]) -> Self {
        let (stream, other) = duplex(64 << 10);
        let link = link();
        let served = link.clone();
        spawn_local(async move { h2(&served, other).await });
        let (begun, read) = (Instant::now(), Vec::new());
        let mut client = Self { stream, link, begun, read, stream_id: 1 };
        client.send(bytes).await;
        client
    }

    async fn start() -> Self {
        Self::silent(PREFACE).await
    }

    /// Sends bytes as the socket would note them; `false` when nobody takes them.
    async fn send(&mut self, bytes: &[u8]) -> bool {
        self.link.meter.was_read(bytes.len());
        self.stream.write_all(bytes).await.is_ok()
    }

    async fn request(&mut self) -> bool {
        let block = b"\x82\x87\x84\x01\x06a.test";
        let mut frame = vec![0, 0, 11, 1, 5];
        frame.extend(self.stream_id.to_be_bytes());
        frame.extend(block);
        self.stream_id += 2;
        self.send(&frame).await
    }

    /// The next frame that is not an acknowledgement: its type; `None` at the end.
    async fn frame(&mut self) -> Option<u8> {
        loop {
            while self.read.len() < 9 || self.read.len() < 9 + usize::from(self.read[2]) {
                if matches!(self.stream.read_buf(&mut self.read).await, Ok(0) | Err(_)) {
                    return None;
                }
            }
            let rest = self.read.split_off(9 + usize::from(self.read[2]));
            let mut frame = std::mem::replace(&mut self.read, rest);
            let (kind, ack) = (frame[3], frame[4] & 1 != 0);
            match (kind, ack) {
                (4, false) => drop(self.send(b"\0\0\0\x04\x01\0\0\0\0").await),
                (6, false) => {
                    frame[4] = 1;
                    self.send(&frame).await;
                }
                (4 | 6, true) => {}
                _ => return Some(kind),
            }
        }
    }

    /// Seconds until the connection ends while nothing more is sent than has to be.
    async fn end(mut self) -> u64 {
        while self.frame().await.is_some() {}
        self.begun.elapsed().as_secs()
    }

    /// The same while not even that is sent.
    async fn silent_end(mut self) -> u64 {
        let mut rest = Vec::new();
        let _ = self.stream.read_to_end(&mut rest).await;
        self.begun.elapsed().as_secs()
    }
}

#[tokio::test(start_paused = true)]
async fn silence_over_http2_ends() {
    let test = async {
        for (case, bytes, expected) in [
            ("nothing", &b""[..], 65),
            ("half a preface", &PREFACE[..10], 65),
            ("a preface, and no answer to a ping", PREFACE, 40),
            // RFC 9113 section 6.10: nothing may come between HEADERS and its end, no answer to a
            // ping either.
            ("a head that never ends", &[PREFACE, b"\0\0\x01\x01\0\0\0\0\x01\x82"].concat(), 40),
        ] {
            let client = Client::silent(bytes).await;
            assert_eq!(client.silent_end().await, expected, "{case}");
        }
        assert_eq!(Client::start().await.end().await, 60, "no first stream");
        let mut client = Client::start().await;
        client.request().await;
        assert_eq!(client.end().await, 180, "no second stream");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_nobody_takes_ends_alone() {
    const RST_STREAM: u8 = 3;
    // Windows of 0 bytes for all streams.
    const CLOSED: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\0";
    let test = async {
        let mut client = Client::silent(CLOSED).await;
        let mut ended = Vec::new();
        for at in 0..20 {
            client.request().await;
            let until = client.begun + Duration::from_secs(10) * (at + 1);
            while let Ok(Some(frame)) = tokio::time::timeout_at(until, client.frame()).await {
                if frame == RST_STREAM {
                    ended.push(client.begun.elapsed().as_secs());
                }
            }
            assert!(client.link.under_way.get() <= 6, "{}", client.link.under_way.get());
            assert_eq!(client.link.streams.borrow().len(), client.link.under_way.get() as usize);
        }
        assert_eq!(ended, (6..20).map(|it| it * 10).collect::<Vec<_>>());
        assert_eq!(client.end().await, 250, "nothing else is under way at last");
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test(start_paused = true)]
async fn an_old_connection_over_http2_is_asked_to_go() {
    const GOAWAY: u8 = 7;
    let test = async {
        let mut client = Client::start().await;
        while client.request().await {
            // The head of the answer, or what else there is to be said.
            match client.frame().await {
                Some(GOAWAY) | None => break,
                Some(_) => tokio::time::sleep(Duration::from_secs(10)).await,
            }
        }
        let age = client.begun.elapsed();
        assert!(age > AGE_H2.mul_f64(0.89) && age < AGE_H2.mul_f64(1.11), "{age:?}");
        assert!(client.end().await < age.as_secs() + 60);
    };
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn more_requests_than_can_be_served_are_refused() {
    let link = link();
    while !link.worker.is_overloaded() {
        link.worker.begin_request();
    }
    link.worker.end_request();
    assert!(!link.worker.is_overloaded());
}

#[tokio::test(start_paused = true)]
async fn what_comes_to_nothing_is_metered() {
    let test = async {
        // As fast as it goes.
        let mut client = Client::start().await;
        client.request().await;
        let mut sent = 0;
        while client.send(PING).await {
            sent += PING.len() as u64;
            assert!(sent < 2 * MOST_UNPAID);
            let _ = timeout(Duration::from_micros(1), client.frame()).await;
        }
        assert!(sent > MOST_UNPAID, "{sent}");

        // Twenty in a second, until the connection is old.
        let mut client = Client::start().await;
        for at in 0.. {
            if at % 1000 == 0 {
                client.request().await;
            }
            if !client.send(PING).await {
                break;
            }
            let _ = timeout(Duration::from_millis(50), client.frame()).await;
        }
        assert!(client.begun.elapsed() > AGE_H2.mul_f64(0.89), "{:?}", client.begun.elapsed());
    };
    LocalSet::new().run_until(test).await;
}
