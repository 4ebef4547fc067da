//! A client's connection and an endpoint's, joined: bytes go both ways as they are.

use std::cell::Cell;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

use super::worker::Worker;
use crate::live::balance::Balancer;

/// How many endpoints are tried, and for how long.
pub(super) struct Tries {
    /// Longest wait for one of them.
    pub(super) each: Duration,
    /// Most of them.
    pub(super) most: usize,
    /// For how long another one may still be tried; `None` for ever.
    pub(super) within: Option<Duration>,
}

/// A connection to the first of the endpoints, in turn, that takes one.
pub(super) async fn connect(
    worker: &Worker,
    balancer: &Balancer,
    tries: &Tries,
) -> Option<TcpStream> {
    let begun = Instant::now();
    let found = match &balancer.backend.external {
        None => None,
        Some((name, port)) => {
            let near = worker.seen().live.plan.near;
            Some(worker.resolver.resolve(name, *port, near).await)
        }
    };
    let random = worker.random();
    let known = balancer.turns(std::time::Instant::now(), random, random);
    let known = known.map(|it| (it.address, Some(&**it)));
    let found = found.iter().flat_map(|it| it.iter()).map(|it| (*it, None));
    for (address, endpoint) in known.chain(found).take(tries.most) {
        if tries.within.is_some_and(|it| begun.elapsed() >= it) {
            break;
        }
        match timeout(tries.each, TcpStream::connect(address)).await {
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
pub(super) async fn carry(client: impl Stream, endpoint: impl Stream, idle: Duration) {
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
                    return tracing::debug!("what is handed on was idle for too long");
                }
            }
        }
    }
}

pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin {}

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
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const IDLE: Duration = Duration::from_secs(600);

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
