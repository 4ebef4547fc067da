//! TLS that is handed on (`ssl-passthrough`): bytes go both ways, from the ClientHello on, and only the
//! endpoint can read them.

use std::cell::Cell;
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

use super::access;
use super::connection::Link;
use super::io::Socket;
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
            () = carry(socket, endpoint, idle) => {}
            () = worker.closing() => {}
        }
    });
}

/// Whether an address may ask: all that is known of a client whose TLS nobody here reads.
fn may_pass(blocked: Option<&Blocked>, guard: Option<&Guard>, address: IpAddr) -> bool {
    !blocked.is_some_and(|it| it.networks.contains(address))
        && guard.is_none_or(|it| access::may_ask(it, address))
}

/// A connection to one of the endpoints: the first of as many as a request would try.
async fn connect(worker: &Worker, seen: &Seen, way: WayId) -> Option<TcpStream> {
    let way = seen.live.way(way);
    let balancer = way.balancer.as_ref()?;
    let options = &way.route.options;
    let found = match &balancer.backend.external {
        None => None,
        Some((name, port)) => Some(worker.resolver.resolve(name, *port, seen.live.plan.near).await),
    };
    let random = worker.random();
    let known = balancer.turns(std::time::Instant::now(), random, random);
    let known = known.map(|it| (it.address, Some(&**it)));
    let found = found.iter().flat_map(|it| it.iter()).map(|it| (*it, None));
    let tries = options.retry.tries.map_or(usize::MAX, |it| it as usize);
    for (address, endpoint) in known.chain(found).take(tries) {
        match timeout(options.connect_timeout, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => {
                // Fails on a socket that is gone already, which the first read will tell.
                let _ = stream.set_nodelay(true);
                return Some(stream);
            }
            Ok(Err(error)) => tracing::debug!(%address, %error, "no connection to an endpoint"),
            Err(_) => tracing::debug!(%address, "no connection to an endpoint in time"),
        }
        if let Some(endpoint) = endpoint {
            balancer.failed(endpoint, std::time::Instant::now());
        }
    }
    None
}

/// Carries bytes until both sides have ended, one breaks, or nothing has moved for `idle`.
async fn carry(client: impl Stream, endpoint: impl Stream, idle: Duration) {
    let moved = Cell::new(Instant::now());
    let mut client = Noted { stream: client, moved: &moved };
    let mut endpoint = Noted { stream: endpoint, moved: &moved };
    let mut both = pin!(copy_bidirectional(&mut client, &mut endpoint));
    loop {
        tokio::select! {
            biased;
            // How it ends is between the two.
            _ = &mut both => return,
            () = sleep_until(moved.get() + idle) => {
                if moved.get() + idle <= Instant::now() {
                    return tracing::debug!("TLS that is handed on was idle for too long");
                }
            }
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

/// Notes when something moved.
struct Noted<'a, T> {
    stream: T,
    moved: &'a Cell<Instant>,
}

impl<T: Stream> AsyncRead for Noted<'_, T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        self.moved.set(Instant::now());
        Poll::Ready(read)
    }
}

impl<T: Stream> AsyncWrite for Noted<'_, T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, buffer));
        self.moved.set(Instant::now());
        Poll::Ready(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    //! Time jumps to the next deadline while nobody has anything to do.

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const IDLE: Duration = Duration::from_secs(600);

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

    #[tokio::test(start_paused = true)]
    async fn what_moves_stays_and_what_does_not_ends() {
        let (mut client, one) = duplex(64);
        let (other, mut endpoint) = duplex(64);
        let begun = Instant::now();
        let talk = async {
            let mut byte = [0];
            for _ in 0..5 {
                tokio::time::advance(Duration::from_secs(599)).await;
                client.write_all(b"x").await.expect("written");
                endpoint.read_exact(&mut byte).await.expect("carried");
            }
            // Then nobody says anything.
            client.read(&mut byte).await.expect("the end")
        };
        let ((), read) = tokio::join!(carry(one, other, IDLE), talk);
        assert_eq!(read, 0);
        assert_eq!(begun.elapsed().as_secs(), 5 * 599 + 600);
    }

    #[tokio::test(start_paused = true)]
    async fn one_side_may_end_before_the_other() {
        let (mut client, one) = duplex(64);
        let (other, mut endpoint) = duplex(64);
        let talk = async {
            client.shutdown().await.expect("ended");
            let mut rest = Vec::new();
            endpoint.read_to_end(&mut rest).await.expect("the end");
            endpoint.write_all(b"late").await.expect("written");
            drop(endpoint);
            client.read_to_end(&mut rest).await.expect("the answer");
            rest
        };
        let ((), read) = tokio::join!(carry(one, other, IDLE), talk);
        assert_eq!(read, b"late");
    }
}
