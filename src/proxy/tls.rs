//! TLS towards clients: one rustls configuration for each policy, chosen after the ClientHello.

use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{Acceptor, ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::io::Socket;
use crate::live::Current;

/// The configurations; cheap to clone. Session tickets and the store of sessions outlive every change of
/// routes and keys, so that clients resume after a renewal.
#[derive(Clone, Debug)]
pub(super) struct Acceptors {
    /// The one policy there is: TLS 1.2 and 1.3, no client certificates.
    open: Arc<ServerConfig>,
}

/// A connection after its handshake.
pub(super) struct Tls {
    pub(super) stream: Box<TlsStream<Socket>>,
    pub(super) protocol: Protocol,
}

/// What was agreed on by ALPN (RFC 7301). A client that offers nothing speaks HTTP/1.1.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Protocol {
    H1,
    H2,
}

impl Acceptors {
    /// Fails only when the provider lacks what TLS 1.2 and 1.3 need.
    pub(super) fn new(current: Current) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13, &TLS12])?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(Resolver(current)));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
        config.max_early_data_size = 0;
        Ok(Self { open: Arc::new(config) })
    }

    /// Does the handshake; the caller bounds its time.
    pub(super) async fn accept(&self, socket: Socket) -> io::Result<Tls> {
        let start = LazyConfigAcceptor::new(Acceptor::default(), socket).await?;
        let config = self.policy(&start.client_hello());
        let stream = start.into_stream(config).await?;
        let protocol = match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Protocol::H2,
            _ => Protocol::H1,
        };
        Ok(Tls { stream: Box::new(stream), protocol })
    }

    /// The policy of the server name; every host has the same as yet.
    fn policy(&self, _hello: &ClientHello<'_>) -> Arc<ServerConfig> {
        self.open.clone()
    }
}

/// Finds the key of a server name in what is served now.
#[derive(Debug)]
struct Resolver(Current);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load().keys.find(hello.server_name()))
    }
}
