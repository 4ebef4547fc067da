//! WebSockets: once both sides have switched, bytes go both ways until one ends.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional};

/// Carries bytes between client and endpoint; ends when either does, or when nothing moved for `idle`.
pub(super) async fn tunnel(client: OnUpgrade, upstream: OnUpgrade, idle: Duration) {
    let (Ok(client), Ok(upstream)) = (client.await, upstream.await) else { return };
    let moved = Rc::new(Cell::new(false));
    let mut client = Noted { io: TokioIo::new(client), moved: moved.clone() };
    let mut upstream = TokioIo::new(upstream);
    let carried = copy_bidirectional(&mut client, &mut upstream);
    let bored = async {
        loop {
            tokio::time::sleep(idle).await;
            if !moved.take() {
                break;
            }
        }
    };
    tokio::select! {
        _ = carried => {}
        () = bored => tracing::debug!("a WebSocket was idle for too long"),
    }
}

/// Notes whether anything moved.
struct Noted {
    io: TokioIo<Upgraded>,
    moved: Rc<Cell<bool>>,
}

impl AsyncRead for Noted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_read(cx, buf);
        if result.is_ready() {
            self.moved.set(true);
        }
        result
    }
}

impl AsyncWrite for Noted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        if result.is_ready() {
            self.moved.set(true);
        }
        result
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
