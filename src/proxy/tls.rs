//! TLS towards clients: the policy is chosen after the ClientHello, by the name in it.

use std::io;
use std::rc::Rc;
use std::sync::Arc;

use rustls::pki_types::UnixTime;
use rustls::server::Acceptor;
use tokio::io::AsyncWriteExt;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::client_tls::Shown;
use super::io::Socket;
use super::worker::{Seen, Worker};
use crate::live::policies::PolicyId;
use crate::live::{Live, WayId};

/// An alert: nobody has the name that was asked for (RFC 6066 section 3).
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// What a ClientHello led to.
pub(super) enum Begun {
    /// A handshake, and what came of it.
    Ours(Tls),
    /// None of ours: the socket is to be read from its first byte by the endpoints of a way.
    Through(Socket, Rc<Seen>, WayId),
}

/// A connection after its handshake.
pub(super) struct Tls {
    pub(super) stream: Box<TlsStream<Socket>>,
    pub(super) protocol: Protocol,
    /// What the handshake was for.
    pub(super) policy: PolicyId,
    /// The client's certificate, where one was asked for and shown.
    pub(super) shown: Option<Box<Shown>>,
}

/// What was agreed on by ALPN (RFC 7301). A client that offers nothing speaks HTTP/1.1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Protocol {
    H1,
    H2,
}

/// Does the handshake; the caller bounds its time.
pub(super) async fn accept(worker: &Worker, mut socket: Socket) -> io::Result<Begun> {
    if worker.seen().live.table.hands_on() {
        socket.keep();
    }
    let mut start = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
    let seen = worker.seen();
    let live = &seen.live;
    let name = start.client_hello().server_name().map(canonical).unwrap_or_default();
    // The same look-up as for the host of a request; without a name, that of rules for any host.
    let paths = live.table.host(&name);
    if let Some(way) = paths.and_then(|it| it.through) {
        start.io.give_back();
        return Ok(Begun::Through(start.io, seen, way));
    }
    start.io.forget();
    if is_stranger(live, &name) {
        start.io.write_all(&UNRECOGNIZED_NAME).await?;
        return Err(io::Error::other("nobody has the server name, and ssl-reject-handshake is on"));
    }
    let policy = live.policies.policy(paths.and_then(|it| it.client_tls.as_deref())).clone();
    drop(seen);
    let config = policy.config.ok_or_else(|| io::Error::other("no policy for the server name"))?;
    let stream = start.into_stream(Arc::clone(&config)).await?;
    let session = stream.get_ref().1;
    let protocol = match session.alpn_protocol() {
        Some(b"h2") => Protocol::H2,
        _ => Protocol::H1,
    };
    let shown = policy.judge.and_then(|judge| {
        let seconds = u64::try_from(worker.wall().as_second()).unwrap_or_default();
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        Shown::new(&judge, session.peer_certificates(), now)
    });
    Ok(Begun::Ours(Tls { stream: Box::new(stream), protocol, policy: policy.id, shown }))
}

pub(super) fn is_stranger(live: &Live, name: &str) -> bool {
    live.plan.settings.tls.reject_unknown && live.table.named(name).is_none()
}

/// A server name as hosts are written: in lower case, without a dot at its end.
pub(super) fn canonical(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}
