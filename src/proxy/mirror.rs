//! Copies of requests for a mirror (`mirror-target`); what it answers is ignored.
//!
//! A copy never holds up the request it is of: it goes when that has, as far as it needs to, and is dropped
//! where there are too many or its body is too large.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Method, request};
use tokio::time::{Instant, timeout};

use super::Visit;
use super::canonical::Asked;
use super::connection::Link;
use super::dress::Errand;
use super::forward::Outbound;
use super::headers::{self, Vouched};
use super::intercept::drain;
use super::observe::Trace;
use super::peer::Peer;
use super::phrase;
use super::upload::Progress;
use super::worker::{Seen, Worker};
use crate::live::WayId;

/// Most copies under way on one worker.
const MOST: usize = 256;
/// Largest body of a copy, and of all under way on one worker, in bytes.
const LARGEST: usize = 1 << 20;
const MOST_BYTES: usize = 16 << 20;
/// How long a mirror may take for one copy.
const PATIENCE: Duration = Duration::from_secs(30);

/// What the copies of one worker take.
#[derive(Debug, Default)]
pub(super) struct Taken {
    copies: Cell<usize>,
    bytes: Cell<usize>,
}

/// A copy's share of that.
struct Share {
    worker: Rc<Worker>,
    bytes: usize,
}

impl Share {
    fn take(worker: &Rc<Worker>) -> Option<Self> {
        let copies = &worker.mirrored.copies;
        (copies.get() < MOST).then(|| {
            copies.set(copies.get() + 1);
            Self { worker: worker.clone(), bytes: 0 }
        })
    }

    /// Takes more memory; `false` when there is no more.
    fn grow(&mut self, bytes: usize) -> bool {
        let all = &self.worker.mirrored.bytes;
        let fits = self.bytes + bytes <= LARGEST && all.get() + bytes <= MOST_BYTES;
        if fits {
            self.bytes += bytes;
            all.set(all.get() + bytes);
        }
        fits
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let Taken { copies, bytes } = &self.worker.mirrored;
        copies.set(copies.get() - 1);
        bytes.set(bytes.get() - self.bytes);
    }
}

/// A copy that is not sent yet.
struct Copy {
    share: Share,
    link: Rc<Link>,
    seen: Rc<Seen>,
    /// The way that the request took, whose mirror it is for.
    way: WayId,
    head: request::Parts,
    asked: Asked,
    peer: Peer,
    vouched: Vouched,
}

/// A copy that waits for the rest of its request's body.
pub(super) struct Waiting {
    copy: Copy,
    bytes: BytesMut,
}

/// Sends a copy of a request where its route has a mirror; one with a body is sent once that has come.
pub(super) fn copy(visit: &Visit<'_>, way: Option<WayId>, head: &request::Parts, has_body: bool) {
    let Some(mirror) = &visit.way.route.mirror else { return };
    // What becomes of a WebSocket is nothing that can be copied.
    if head.method == Method::CONNECT || headers::wants_websocket(&head.headers) {
        return;
    }
    let with_body = mirror.body && has_body;
    let too_large = headers::length(&head.headers).is_some_and(|it| it > LARGEST as u64);
    let worker = &visit.link.worker;
    let Some(share) = Share::take(worker).filter(|_| !(with_body && too_large)) else {
        return worker.lost_copy();
    };
    let target = phrase::text(&mirror.target, head, &visit.view());
    let target = if target.starts_with('/') { target } else { format!("/{target}") };
    let (Some(way), Ok(uri)) = (way, target.parse()) else { return worker.lost_copy() };
    let mut head = head.clone();
    head.extensions.clear();
    let mut vouched = visit.vouched.clone();
    let asked = visit.asked.authority.as_ref().map(ToString::to_string);
    vouched.host = vouched.host.or_else(|| HeaderValue::try_from(asked?).ok());
    head.uri = uri;
    let copy = Copy {
        share,
        link: visit.link.clone(),
        seen: visit.trace.seen.clone(),
        way,
        head,
        asked: Asked::of(mirror.host.clone()),
        peer: *visit.peer,
        vouched,
    };
    if with_body {
        let waiting = Waiting { copy, bytes: BytesMut::new() };
        *visit.trace.waiting.borrow_mut() = Some(Box::new(waiting));
    } else {
        copy.send(None);
    }
}

impl Waiting {
    /// Takes a piece of the body; `false` when it became too large for a copy.
    pub(super) fn take(&mut self, piece: &[u8]) -> bool {
        let fits = self.copy.share.grow(piece.len());
        if fits {
            self.bytes.extend_from_slice(piece);
        } else {
            self.copy.share.worker.lost_copy();
        }
        fits
    }

    /// The body has come whole.
    pub(super) fn send(self) {
        let body = Some(self.bytes.freeze()).filter(|it| !it.is_empty());
        self.copy.send(body);
    }
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").field("bytes", &self.bytes.len()).finish_non_exhaustive()
    }
}

impl Copy {
    fn send(self, body: Option<Bytes>) {
        tokio::task::spawn_local(async move {
            let Self { share, link, seen, way, head, asked, peer, vouched } = self;
            let trace = Trace::new(seen);
            let live = &*trace.seen.live;
            let Some(way) = live.way(way).mirror.as_deref() else { return };
            let Some(balancer) = &way.balancer else { return };
            let settings = &live.plan.settings;
            let visit = Visit {
                link: &link,
                live,
                settings,
                way,
                asked: &asked,
                peer: &peer,
                vouched: &vouched,
                trace: &trace,
            };
            let outbound = Outbound { visit, balancer, errand: Errand::Copy };
            let body = Progress::held(Instant::now(), body, &link.meter);
            match timeout(PATIENCE, outbound.send(head, body)).await {
                Ok(Ok(answer)) => drain(answer.into_body()),
                Ok(Err(failure)) => tracing::debug!(?failure, "a mirror did not answer"),
                Err(_) => tracing::debug!("a mirror was too slow"),
            }
            drop(share);
        });
    }
}
