//! From an accepted connection to the first byte of HTTP: the PROXY header, the handshake, the protocol.

use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::server::TlsStream;

use super::link::Link;
use crate::live::limit::Open;
use crate::proxy::io::{Meter, Socket};
use crate::proxy::passthrough;
use crate::proxy::peer::Peer;
use crate::proxy::proxy_protocol::Header;
use crate::proxy::tls::{self, Begun, Protocol, Tls};
use crate::proxy::worker::{Registered, Worker};

/// Longest handshake, from the first byte to the last.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// What HTTP is spoken over.
pub(super) enum Stream {
    Tls(Box<TlsStream<Socket>>),
    Plain(Socket),
}

/// Brings a connection to where HTTP begins; `None` when it ends before.
pub(super) async fn begin(
    worker: Rc<Worker>,
    stream: TcpStream,
    open: Open,
    peer: Peer,
) -> Option<(Registered, Stream, Protocol)> {
    // Fails on a socket that is gone already, which the first read will tell.
    let _ = stream.set_nodelay(true);
    let meter = Arc::new(Meter::new(Instant::now()));
    let mut socket = Socket::new(stream, meter.clone(), open);
    let dropped = |reason| {
        worker.dropped(reason);
        None
    };
    let peer = match proxy_header_patience(&worker, &peer) {
        None => peer,
        Some(patience) => {
            // Counted and waited for as every connection, though nobody knows yet whose it is.
            let link = Link::new(&worker, peer, &meter);
            let _registered = worker.register(&link);
            match greeted(&link, named(&worker, &mut socket, peer, patience)).await {
                None => return dropped("shed"),
                Some(named) => named?,
            }
        }
    };
    let Some(of_address) = worker.limits().of_address(peer.address.ip()) else {
        return dropped("address");
    };
    socket.count(of_address);
    let link = Link::new(&worker, peer, &meter);
    let registered = worker.register(&link);
    if peer.tls { secured(registered, socket).await } else { plain(registered, socket).await }
}

/// The same of a connection to the port of HTTPS, from its handshake on.
async fn secured(registered: Registered, socket: Socket) -> Option<(Registered, Stream, Protocol)> {
    let link = &registered.link;
    let Link { worker, peer, .. } = &**link;
    let Some(handshake) = worker.limits().handshake() else {
        worker.dropped("handshakes");
        return None;
    };
    let accepted = greeted(link, timeout(HANDSHAKE, tls::accept(worker, socket))).await;
    drop(handshake);
    let reason = match accepted {
        Some(Ok(Ok(Begun::Ours(Tls { stream, protocol, policy, shown })))) => {
            link.policy.set(policy);
            if let Some(shown) = shown {
                // The link is new: nothing is there yet.
                let _ = link.shown.set(shown);
            }
            return Some((registered, Stream::Tls(stream), protocol));
        }
        Some(Ok(Ok(Begun::Through(socket, seen, way)))) => {
            passthrough::hand_on(link, socket, seen, way);
            return None;
        }
        Some(Ok(Err(error))) => {
            tracing::debug!(client = %peer.address, %error, "no TLS handshake");
            "handshake"
        }
        Some(Err(_)) => "handshake_timeout",
        None => "shed",
    };
    worker.dropped(reason);
    None
}

/// The same of one to the port of HTTP: nothing says which protocol it is but the preface of HTTP/2 (RFC 9113
/// section 3.4).
async fn plain(
    registered: Registered,
    mut socket: Socket,
) -> Option<(Registered, Stream, Protocol)> {
    let Link { worker, .. } = &*registered.link;
    let first = socket.begins_with(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    let reason = match greeted(&registered.link, timeout(worker.settings().head, first)).await {
        Some(Ok(Ok(true))) => return Some((registered, Stream::Plain(socket), Protocol::H2)),
        Some(Ok(Ok(false))) => return Some((registered, Stream::Plain(socket), Protocol::H1)),
        Some(Ok(Err(_))) => return None,
        Some(Err(_)) => "silent",
        None => "shed",
    };
    worker.dropped(reason);
    None
}

/// How long the PROXY header may take that a connection must begin with; `None` where none is expected.
fn proxy_header_patience(worker: &Worker, peer: &Peer) -> Option<Duration> {
    let seen = worker.seen();
    let trust = &seen.live.plan.settings.trust;
    trust.expects_proxy_header(peer.address.ip()).then_some(trust.proxy_header_timeout)
}

/// The client whom the PROXY header names; `None` when there is none in time.
async fn named(
    worker: &Worker,
    socket: &mut Socket,
    peer: Peer,
    patience: Duration,
) -> Option<Peer> {
    let header = proxy_header(worker, socket, peer.address, patience).await?;
    Some(header.ends.map_or(peer, |ends| peer.named(&ends)))
}

/// The PROXY header that `proxy` has to begin with; `None` when there is no such header in time, which ends the
/// connection without a word, as HAProxy does.
pub(in crate::proxy) async fn proxy_header(
    worker: &Worker,
    socket: &mut Socket,
    proxy: SocketAddr,
    patience: Duration,
) -> Option<Header> {
    match timeout(patience, socket.proxy_header()).await {
        Ok(Ok(Some(header))) => return Some(header),
        // Load balancers try whether a port is open, and say nothing.
        Ok(Ok(None)) => return None,
        Ok(Err(error)) => tracing::debug!(%proxy, %error, "no PROXY header"),
        Err(_) => tracing::debug!(%proxy, "no PROXY header in time"),
    }
    worker.dropped("proxy_header");
    None
}

/// Waits for a client to begin; `None` when the connection is to give way before.
async fn greeted<T>(link: &Link, begins: impl Future<Output = T>) -> Option<T> {
    let mut begins = pin!(begins);
    std::future::poll_fn(|cx| {
        link.note(cx.waker());
        if link.shed.take() {
            return Poll::Ready(None);
        }
        begins.as_mut().poll(cx).map(Some)
    })
    .await
}
