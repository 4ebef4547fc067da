//! WebSockets: once both sides have switched, bytes go both ways until one ends.
//!
//! Their frames (RFC 6455 section 5) are counted on the way, so that a connection which has to end while we
//! shut down is told so between two of them.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version, request, response};
use hyper::ext::Protocol;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, sleep_until, timeout};

use super::frames::Frames;
use super::headers;
use super::io::Meter;
use super::upload::PIECE;
use super::wire::Switched;

/// How much is carried at a time, in bytes.
const CHUNK: usize = 16 << 10;
/// How long both sides may take to end once one has, or they were told to.
const FAREWELL: Duration = Duration::from_secs(1);
/// What is sent then: a close frame with status 1001, "going away"; towards endpoints it is masked.
const TO_CLIENT: [u8; 4] = [0x88, 2, 0x03, 0xe9];
const TO_UPSTREAM: [u8; 8] = [0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe9];

/// A WebSocket that a client asks for.
pub(super) struct Switch {
    client: OnUpgrade,
    /// Of one asked for over HTTP/2: what the endpoint must answer our key with.
    accept: Option<HeaderValue>,
}

impl Switch {
    /// Looks whether a request asks for one: by `Upgrade` (RFC 6455 section 4.1), or over HTTP/2 by an
    /// extended CONNECT (RFC 8441).
    pub(super) fn by(head: &mut request::Parts, key: impl FnOnce() -> [u8; 16]) -> Option<Self> {
        if is_extended(head) {
            let key = BASE64_STANDARD.encode(key());
            let client = head.extensions.remove()?;
            let accept = HeaderValue::try_from(accept(&key)).ok()?;
            head.method = Method::GET;
            head.headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::try_from(key).ok()?);
            return Some(Self { client, accept: Some(accept) });
        }
        let upgrade = head.version == Version::HTTP_11
            && head.method == Method::GET
            && headers::wants_websocket(&head.headers);
        let client = upgrade.then(|| head.extensions.remove()).flatten()?;
        Some(Self { client, accept: None })
    }

    /// Whether an endpoint's answer other than 101 can be passed on: not if it would tell a client of
    /// HTTP/2 that there is a tunnel.
    pub(super) fn may_refuse(&self, status: StatusCode) -> bool {
        self.accept.is_none() || !status.is_success()
    }

    /// Whether the endpoint, which switched, took our key.
    pub(super) fn is_accepted(&self, headers: &HeaderMap) -> bool {
        self.accept.is_none() || self.accept.as_ref() == headers.get(SEC_WEBSOCKET_ACCEPT)
    }

    /// Writes the client's answer from the endpoint's, whose fields are clean, and joins the two.
    pub(super) fn join(
        self,
        upstream: Switched,
        idle: Duration,
        head: &mut response::Parts,
    ) -> Tunnel {
        if self.accept.is_some() {
            head.status = StatusCode::OK;
            head.headers.remove(SEC_WEBSOCKET_ACCEPT);
        } else {
            name_upgrade(&mut head.headers);
        }
        Tunnel { client: self.client, upstream, idle }
    }
}

/// Writes the two fields of a switch to WebSocket.
pub(super) fn name_upgrade(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
}

/// Whether a request is an extended CONNECT for a WebSocket.
pub(super) fn is_extended(head: &request::Parts) -> bool {
    head.method == Method::CONNECT
        && head.version == Version::HTTP_2
        && head.extensions.get::<Protocol>().is_some_and(|it| it.as_str() == "websocket")
}

/// RFC 6455 section 4.2.2: the answer to a key.
fn accept(key: &str) -> String {
    let salted = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    BASE64_STANDARD.encode(digest(&SHA1_FOR_LEGACY_USE_ONLY, salted.as_bytes()))
}

/// A WebSocket, both of whose sides are about to have switched.
pub(super) struct Tunnel {
    client: OnUpgrade,
    upstream: Switched,
    idle: Duration,
}

/// How many bytes a tunnel carried, from the client and to it.
#[derive(Default)]
pub(super) struct Carried {
    pub(super) received: Cell<u64>,
    pub(super) sent: Cell<u64>,
}

impl Tunnel {
    /// Carries bytes between client and endpoint; ends when either does, when nothing moved for too long
    /// (`proxy-read-timeout`, as with nginx), or when `leaving` is over: then both are told.
    pub(super) async fn run(
        self,
        carried: &Carried,
        meter: &Meter,
        leaving: impl Future<Output = ()>,
    ) {
        let Ok(client) = self.client.await else { return };
        let moved = Cell::new(Instant::now());
        let goodbye = Cell::new(false);
        // Whether one direction has ended, or is told to.
        let half = Cell::new(false);
        let mut client = TokioIo::new(client);
        let mut upstream = self.upstream;
        let mut up = Direction::new(&TO_UPSTREAM, &moved, &carried.received, meter);
        let mut down = Direction::new(&TO_CLIENT, &moved, &carried.sent, meter);
        // Both directions are one future, as both need both sides.
        let mut both = pin!(poll_fn(|cx| {
            let mut client = Pin::new(&mut client);
            let mut upstream = Pin::new(&mut upstream);
            let last = goodbye.get();
            let one = up.poll(cx, client.as_mut(), upstream.as_mut(), last);
            let other = down.poll(cx, upstream, client, last);
            match (one, other) {
                // One direction that broke ends both; one that ended ends the other soon.
                (Poll::Ready(Err(_)), _)
                | (_, Poll::Ready(Err(_)))
                | (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(()),
                (Poll::Ready(Ok(())), _) | (_, Poll::Ready(Ok(()))) if !half.replace(true) => {
                    Poll::Ready(())
                }
                _ => Poll::Pending,
            }
        }));
        let mut leaving = pin!(leaving);
        let mut timer = pin!(sleep_until(moved.get() + self.idle));
        loop {
            tokio::select! {
                biased;
                () = &mut both => break,
                () = &mut leaving => {
                    goodbye.set(true);
                    break;
                }
                () = &mut timer => {
                    let until = moved.get() + self.idle;
                    if until <= Instant::now() {
                        return tracing::debug!("a WebSocket was idle for too long");
                    }
                    timer.as_mut().reset(until);
                }
            }
        }
        // A close frame is answered by another one; after that nothing is said.
        half.set(true);
        let _ = timeout(FAREWELL, both).await;
    }
}

/// One of the two directions of a tunnel.
struct Direction<'a> {
    /// What was read and the other side did not take yet: only then is there a buffer.
    pending: Vec<u8>,
    frames: Frames,
    farewell: &'static [u8],
    state: State,
    moved: &'a Cell<Instant>,
    carried: &'a Cell<u64>,
    /// Of the client's socket: what is carried was not sent for nothing.
    meter: &'a Meter,
}

#[derive(Clone, Copy, Eq, PartialEq)]
enum State {
    Carrying,
    /// The farewell is being written.
    Leaving,
    /// The reader has ended: so does the writer, once it has everything.
    Ending,
    Ended,
}

impl<'a> Direction<'a> {
    fn new(
        farewell: &'static [u8],
        moved: &'a Cell<Instant>,
        carried: &'a Cell<u64>,
        meter: &'a Meter,
    ) -> Self {
        let (pending, frames) = (Vec::new(), Frames::default());
        Self { pending, frames, farewell, state: State::Carrying, moved, carried, meter }
    }

    /// Carries what there is. With `last`, what follows the frame under way is the farewell.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        mut reader: Pin<&mut impl AsyncRead>,
        mut writer: Pin<&mut impl AsyncWrite>,
        last: bool,
    ) -> Poll<io::Result<()>> {
        if self.state == State::Ended {
            return Poll::Ready(Ok(()));
        }
        loop {
            if last && self.state == State::Carrying && self.frames.is_between() {
                self.pending = self.farewell.to_vec();
                self.state = State::Leaving;
            }
            while !self.pending.is_empty() {
                let end = match self.state {
                    State::Carrying if last => self.frames.clone().pass(&self.pending, true),
                    _ => self.pending.len(),
                };
                let written = ready!(writer.as_mut().poll_write(cx, &self.pending[..end]))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.note(written);
                if last && self.state == State::Carrying && self.frames.is_between() {
                    break;
                }
            }
            match self.state {
                State::Carrying if last && self.frames.is_between() => continue,
                State::Carrying => {}
                State::Leaving | State::Ending => {
                    ready!(writer.as_mut().poll_flush(cx))?;
                    ready!(writer.as_mut().poll_shutdown(cx))?;
                    self.state = State::Ended;
                    return Poll::Ready(Ok(()));
                }
                State::Ended => return Poll::Ready(Ok(())),
            }
            let mut space = [const { MaybeUninit::uninit() }; CHUNK];
            let mut buffer = ReadBuf::uninit(&mut space);
            if reader.as_mut().poll_read(cx, &mut buffer)?.is_pending() {
                ready!(writer.as_mut().poll_flush(cx))?;
                return Poll::Pending;
            }
            if buffer.filled().is_empty() {
                self.state = State::Ending;
            }
            self.pending.extend_from_slice(buffer.filled());
        }
    }

    /// Bytes were taken by the writer.
    fn note(&mut self, written: usize) {
        if self.state == State::Carrying {
            self.frames.pass(&self.pending[..written], false);
        }
        if written == self.pending.len() {
            // Frees it: an idle WebSocket holds no buffer.
            self.pending = Vec::new();
        } else {
            self.pending.drain(..written);
        }
        self.moved.set(Instant::now());
        self.carried.set(self.carried.get() + written as u64);
        self.meter.pay(written as u64 + PIECE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_accept_is_the_rfcs() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
