//! TCP connections that are handed on as they are: by the ports of `--tcp-services-configmap`.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::connection::proxy_header;
use super::io::{Meter, Socket};
use super::join::{self, Tries};
use super::passthrough::may_pass;
use super::proxy_protocol::{self, Ends};
use super::worker::{Seen, Worker};
use crate::live::limit::Open;
use crate::model::settings::Settings;
use crate::model::stream::Door;

/// Hands a connection on in a task of its own. It counts as TLS does that is handed on: until it ends,
/// nothing has moved for too long, or the process ends.
pub(super) fn hand_on(
    worker: &Rc<Worker>,
    stream: TcpStream,
    client: SocketAddr,
    open: Open,
    door: Door,
) {
    // Fails on a socket that is gone already, which the first read will tell.
    let _ = stream.set_nodelay(true);
    let Ok(destination) = stream.local_addr() else { return };
    let source = SocketAddr::new(client.ip().to_canonical(), client.port());
    let ends = Ends { source, destination };
    let meter = Arc::new(Meter::new(Instant::now()));
    // Whoever is done here has nothing to wait for.
    meter.begin_request();
    let socket = Socket::new(stream, meter, open);
    let seen = worker.seen();
    let of_worker = worker.clone();
    worker.tunnel(true, async move {
        let worker = of_worker;
        tokio::select! {
            () = carried(&worker, seen, socket, ends, door) => {}
            () = worker.closing() => {}
        }
    });
}

/// Brings a connection to an endpoint, and to its end.
async fn carried(worker: &Worker, seen: Rc<Seen>, mut socket: Socket, ends: Ends, door: Door) {
    let settings = &seen.live.plan.settings;
    // The door may have been closed after the connection was made.
    let Some(handed) = seen.live.streams.get(&door) else { return };
    let ends = if handed.stream.from_proxy {
        match named(worker, settings, &mut socket, ends).await {
            Some(ends) => ends,
            None => return,
        }
    } else {
        ends
    };
    let client = ends.source;
    let Some(of_address) = worker.limits().of_address(client.ip()) else {
        return worker.dropped("address");
    };
    socket.count(of_address);
    if !may_pass(settings.access.blocked.as_deref(), None, client.ip()) {
        worker.dropped("denied");
        return tracing::debug!(%client, %door, "a connection from an address that may not ask");
    }
    let rules = &settings.streams;
    let most = if rules.next { rules.tries.unwrap_or(usize::MAX) } else { 1 };
    let patience = settings.options.connect_timeout;
    let tries = Tries { each: patience, most, within: rules.within };
    let Some(mut endpoint) = join::connect(worker, &handed.balancer, &tries).await else {
        worker.dropped("stream");
        return tracing::debug!(%client, %door, "no endpoint takes a connection");
    };
    if handed.stream.to_proxy {
        let header = proxy_protocol::written(&ends);
        let sent = timeout(patience, endpoint.write_all(header.as_bytes())).await;
        if !matches!(sent, Ok(Ok(()))) {
            worker.dropped("stream");
            return tracing::debug!(%client, %door, "an endpoint takes no PROXY header");
        }
    }
    let idle = settings.tls.stream_timeout;
    // The connection may last for days: what is served then is another.
    drop(seen);
    join::carry(socket, endpoint, idle).await;
}

/// The two ends that the PROXY header names, which everybody has to send; it is believed of trusted proxies.
/// `None` when there is no such header in time.
async fn named(
    worker: &Worker,
    settings: &Settings,
    socket: &mut Socket,
    ends: Ends,
) -> Option<Ends> {
    let proxy = ends.source;
    let patience = settings.trust.proxy_header_timeout;
    let header = proxy_header(worker, socket, proxy, patience).await?;
    let believed = header.ends.filter(|_| settings.trust.proxies.contains(proxy.ip()));
    Some(believed.unwrap_or(ends))
}
