//! Who asks.

use std::net::SocketAddr;

/// A client, as decided once when its connection was accepted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    /// Where the connection comes from.
    pub(super) address: SocketAddr,
    /// Whether it came over TLS.
    pub(super) secure: bool,
    /// The port the client asked for, as the world sees it.
    pub(super) port: u16,
}

impl Peer {
    /// The scheme of what it asks for.
    pub(super) fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }
}
