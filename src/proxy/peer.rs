//! Who asks.

use std::net::SocketAddr;

use super::proxy_protocol::Ends;

/// A client: the connection's other end, or whom a trusted proxy there names.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    /// Where it comes from; the port is 0 where nobody told.
    pub(super) address: SocketAddr,
    /// Whether the connection to us is itself over TLS.
    pub(super) tls: bool,
    /// Whether the client came over HTTPS: to us, or to the proxy that speaks for it.
    pub(super) https: bool,
    /// The port the client asked for, as the world sees it.
    pub(super) port: u16,
}

impl Peer {
    /// The other end of a connection that came to `port`.
    pub(super) fn new(address: SocketAddr, tls: bool, port: u16) -> Self {
        Self { address, tls, https: tls, port }
    }

    /// The client whom a PROXY header names.
    ///
    /// As in ingress-nginx, what came to port 443 of the proxy came over HTTPS: it was decrypted there.
    pub(super) fn named(self, ends: &Ends) -> Self {
        const HTTPS: u16 = 443;
        let port = match ends.destination.port() {
            0 => self.port,
            port => port,
        };
        Self { address: ends.source, https: self.tls || port == HTTPS, port, ..self }
    }

    /// The scheme of what it asks for.
    pub(super) fn scheme(&self) -> &'static str {
        scheme(self.https)
    }

    /// Whether a request of HTTP/2 may say that it is for `scheme`: for what the connection is, or for
    /// what the proxy in between says the client came over.
    pub(super) fn may_ask_for(&self, said: &str) -> bool {
        said == scheme(self.tls) || said == scheme(self.https)
    }
}

fn scheme(https: bool) -> &'static str {
    if https { "https" } else { "http" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn port_443_of_the_proxy_is_https() {
        for (tls, destination, expected) in [
            (false, "192.0.2.9:80", ("http", 80)),
            (false, "192.0.2.9:443", ("https", 443)),
            (false, "192.0.2.9:8443", ("http", 8443)),
            (false, "192.0.2.9:0", ("http", 8000)),
            (true, "192.0.2.9:80", ("https", 80)),
            (true, "192.0.2.9:443", ("https", 443)),
        ] {
            let source = SocketAddr::from(([192, 0, 2, 1], 4711));
            let ends = Ends { source, destination: destination.parse().expect("an address") };
            let peer = Peer::new(([10, 0, 0, 1], 5).into(), tls, 8000).named(&ends);
            assert_eq!((peer.scheme(), peer.port), expected, "{tls} {destination}");
            assert_eq!((peer.address, peer.tls), (source, tls), "{tls} {destination}");
        }
    }

    #[test]
    fn a_request_is_for_what_the_connection_or_the_client_uses() {
        let peer = |tls, https| Peer { https, ..Peer::new(([10, 0, 0, 1], 5).into(), tls, 80) };
        for (peer, http, https) in [
            (peer(false, false), true, false),
            (peer(true, true), false, true),
            (peer(false, true), true, true),
            (peer(true, false), true, true),
        ] {
            let may = (peer.may_ask_for("http"), peer.may_ask_for("https"), peer.may_ask_for("ws"));
            assert_eq!(may, (http, https, false), "{peer:?}");
        }
    }
}
