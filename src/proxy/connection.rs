//! The life of a client's connection: handshake, requests, deadlines, end.

mod begin;
mod budget;
mod link;
mod protocol;
#[cfg(test)]
mod tests;
mod watch;

use std::rc::Rc;

use tokio::net::TcpStream;

use super::peer::Peer;
use super::tls::Protocol;
use super::worker::Worker;
use crate::live::limit::Open;
use begin::{Stream, begin};
use protocol::{h1, h2};

pub(super) use begin::proxy_header;
pub(super) use link::Link;

/// Serves one accepted connection to its end. Each phase is an allocation of its own that ends with it: most
/// of a connection's life it waits for the next request, and there are many of them.
pub(super) async fn serve(worker: Rc<Worker>, stream: TcpStream, open: Open, peer: Peer) {
    let begun = Box::pin(begin(worker, stream, open, peer)).await;
    let Some((registered, stream, protocol)) = begun else { return };
    let link = &registered.link;
    match (stream, protocol) {
        (Stream::Tls(stream), Protocol::H1) => Box::pin(h1(link, stream)).await,
        (Stream::Tls(stream), Protocol::H2) => Box::pin(h2(link, stream)).await,
        (Stream::Plain(stream), Protocol::H1) => Box::pin(h1(link, stream)).await,
        (Stream::Plain(stream), Protocol::H2) => Box::pin(h2(link, stream)).await,
    }
}
