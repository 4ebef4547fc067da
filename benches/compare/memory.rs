//! What an idle TLS connection costs.

use std::collections::BTreeMap;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::aws_lc_rs::{default_provider, kx_group};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::site::{HOST, Running, Shape, Site, start};
use crate::table::{self, Row, Target};
use crate::{Result, Sizes, client};

/// How long they are idle.
const IDLE: Duration = Duration::from_secs(5);

pub(crate) fn print(site: &Site, sizes: &Sizes) -> Result<()> {
    let config = Arc::new(config(site)?);
    let running = start(site, &Shape::default(), &["lockgate", "nginx", "haproxy"])?;
    let [mut before, mut each]: [BTreeMap<&str, f64>; 2] = Default::default();
    for peer in &running {
        let (empty, full) = residents(&config, peer, sizes.connections)?;
        before.insert(peer.name, empty / 1024.0);
        each.insert(peer.name, (full - empty) / f64::from(sizes.connections));
    }
    table::head(&format!(
        "Resident memory of the proxy, before and with {} idle TLS 1.3 connections that made one request each",
        sizes.connections
    ));
    for (name, figures, target) in [
        ("MiB before", before, Target::None),
        ("KiB for each connection", each, Target::Ratio(1.3)),
    ] {
        table::row(&Row { name: name.to_owned(), digits: 1, figures, target });
    }
    Ok(())
}

/// Resident KiB without connections and with so many idle ones.
fn residents(config: &Arc<ClientConfig>, peer: &Running, connections: u32) -> Result<(f64, f64)> {
    // What the first request allocates is no cost of the others.
    drop(connect(config, peer.port)?);
    let before = peer.process.resident()?;
    let mut open = Vec::new();
    for _ in 0..connections {
        open.push(connect(config, peer.port)?);
    }
    std::thread::sleep(IDLE);
    let after = peer.process.resident()?;
    let closed = open.iter().filter(|it| is_closed(&it.sock)).count();
    if closed > 0 {
        return Err(format!("{} closed {closed} idle connections", peer.name).into());
    }
    Ok((before, after))
}

fn config(site: &Site) -> Result<ClientConfig> {
    let mut provider = default_provider();
    // The one that all have.
    provider.kx_groups = vec![kx_group::X25519];
    let mut roots = RootCertStore::empty();
    roots.add(site.certificate.clone())?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

/// A connection that made one request.
fn connect(
    config: &Arc<ClientConfig>,
    port: u16,
) -> Result<StreamOwned<ClientConnection, TcpStream>> {
    let tcp = TcpStream::connect(("127.0.0.1", port))?;
    tcp.set_nodelay(true)?;
    tcp.set_read_timeout(Some(Duration::from_secs(10)))?;
    let tls = ClientConnection::new(config.clone(), ServerName::try_from(HOST)?)?;
    let mut stream = StreamOwned::new(tls, tcp);
    match client::ask(&mut stream, HOST, "/")? {
        200 => Ok(stream),
        status => Err(format!("answered {status}").into()),
    }
}

fn is_closed(tcp: &TcpStream) -> bool {
    tcp.set_nonblocking(true).is_err() || matches!(tcp.peek(&mut [0]), Ok(0))
}
