//! TLS that is handed on (`ssl-passthrough`): bytes go both ways, from the ClientHello on, and only the
//! endpoint can read them.

use std::net::IpAddr;
use std::rc::Rc;

use tokio::net::TcpStream;

use super::access;
use super::connection::Link;
use super::io::Socket;
use super::join::{self, Tries};
use super::worker::{Seen, Worker};
use crate::live::WayId;
use crate::model::access::Blocked;
use crate::model::guard::Guard;

/// Hands a connection on in a task of its own. It counts as a WebSocket does: until it ends, nothing has
/// moved for too long, or the process ends. Who may not ask by his address is cut off: nobody can be told why.
pub(super) fn hand_on(link: &Link, socket: Socket, seen: Rc<Seen>, way: WayId) {
    let worker = link.worker.clone();
    let client = link.peer.address;
    let live = &seen.live;
    let (shared, guard) = (&live.plan.settings.access, &live.way(way).route.guard);
    if !may_pass(shared.blocked.as_deref(), guard.as_deref(), client.ip()) {
        worker.dropped("denied");
        return tracing::debug!(%client, "TLS that is to be handed on, from an address that may not ask");
    }
    link.meter.begin_request();
    link.worker.tunnel(true, async move {
        let idle = seen.live.plan.settings.tls.stream_timeout;
        let connected = connect(&worker, &seen, way).await;
        // The connection may last for days: what is served then is another.
        drop(seen);
        let Some(endpoint) = connected else {
            worker.dropped("passthrough");
            return tracing::debug!(%client, "no endpoint takes TLS that is to be handed on");
        };
        tokio::select! {
            () = join::carry(socket, endpoint, idle) => {}
            () = worker.closing() => {}
        }
    });
}

/// Whether an address may ask: all that is known of a client whose TLS nobody here reads.
pub(super) fn may_pass(blocked: Option<&Blocked>, guard: Option<&Guard>, address: IpAddr) -> bool {
    !blocked.is_some_and(|it| it.networks.contains(address))
        && guard.is_none_or(|it| access::may_ask(it, address))
}

/// A connection to one of the endpoints: the first of as many as a request would try.
async fn connect(worker: &Worker, seen: &Seen, way: WayId) -> Option<TcpStream> {
    let way = seen.live.way(way);
    let options = &way.route.options;
    let most = options.retry.tries.map_or(usize::MAX, |it| it as usize);
    let tries = Tries { each: options.connect_timeout, most, within: None };
    join::connect(worker, way.balancer.as_ref()?, &tries).await
}

#[cfg(test)]
mod tests {
    //! Time jumps to the next deadline while nobody has anything to do.

    use super::*;

    #[test]
    fn addresses_are_looked_at_as_those_of_requests() {
        let list = |text: &str| {
            Some(text).filter(|it| !it.is_empty()).map(|it| it.parse().expect("a list"))
        };
        for (blocked, deny, allow, expected) in [
            ("", "", "", true),
            ("192.0.2.0/24", "", "", false),
            ("192.0.2.0/24", "", "192.0.2.1", false),
            ("198.51.100.0/24", "", "", true),
            ("", "192.0.2.1", "", false),
            ("", "192.0.2.2", "", true),
            ("", "", "192.0.2.0/24", true),
            ("", "", "198.51.100.0/24", false),
        ] {
            let blocked = list(blocked).map(|networks| Blocked { networks, ..Blocked::default() });
            let guard = Guard { deny: list(deny), allow: list(allow), ..Guard::default() };
            let address = IpAddr::from([192, 0, 2, 1]);
            let found = may_pass(blocked.as_ref(), Some(&guard), address);
            assert_eq!(found, expected, "{blocked:?}, {guard:?}");
        }
        assert!(may_pass(None, None, IpAddr::from([192, 0, 2, 1])));
    }
}
