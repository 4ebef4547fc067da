//! Connections to endpoints, kept by each worker for itself.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::body::{Progress, RequestBody};

/// Most idle connections to one endpoint, for each worker. ingress-nginx keeps 320 to all; with HTTP/2 one
/// client alone may have a hundred requests under way, and dropping what the next burst needs costs more
/// than keeping it for a minute.
const MOST_IDLE: usize = 1024;
/// How long an idle connection is kept (ingress-nginx's `upstream-keepalive-timeout`).
const LONGEST_IDLE: Duration = Duration::from_secs(60);

/// Idle connections by endpoint.
#[derive(Debug, Default)]
pub(super) struct Pool {
    idle: RefCell<HashMap<SocketAddr, Vec<Idle>>>,
}

#[derive(Debug)]
struct Idle {
    sender: SendRequest<RequestBody>,
    since: Instant,
}

/// A connection that is answering; goes back to the pool when the answer was read to its end.
#[derive(Debug)]
pub(super) struct Lease {
    pool: Rc<Pool>,
    address: SocketAddr,
    sender: Option<SendRequest<RequestBody>>,
    progress: Rc<Progress>,
}

impl Pool {
    /// An idle connection that still lives; the one used last, so that the others can age and go.
    pub(super) async fn take(&self, address: SocketAddr) -> Option<SendRequest<RequestBody>> {
        match self.ready(address) {
            Taken::Ready(it) => Some(it),
            Taken::Empty => None,
            Taken::Settling => {
                // Its answer was read but its own task has not noticed yet: it is next to run.
                tokio::task::yield_now().await;
                match self.ready(address) {
                    Taken::Ready(it) => Some(it),
                    Taken::Empty | Taken::Settling => None,
                }
            }
        }
    }

    fn ready(&self, address: SocketAddr) -> Taken {
        let mut idle = self.idle.borrow_mut();
        let Some(idle) = idle.get_mut(&address) else { return Taken::Empty };
        let mut settling = false;
        for place in (0..idle.len()).rev() {
            if idle[place].sender.is_ready() {
                return Taken::Ready(idle.swap_remove(place).sender);
            }
            if idle[place].sender.is_closed() {
                idle.swap_remove(place);
            } else {
                settling = true;
            }
        }
        if settling { Taken::Settling } else { Taken::Empty }
    }

    /// Opens a connection. It lives in a task of its own on this worker.
    pub(super) async fn connect(address: SocketAddr) -> io::Result<SendRequest<RequestBody>> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.with_upgrades().await {
                tracing::debug!(%address, %error, "connection to an endpoint ended");
            }
        });
        Ok(sender)
    }

    /// Drops connections that were idle for long or have closed.
    pub(super) fn tidy(&self) {
        self.idle.borrow_mut().retain(|_, idle| {
            idle.retain(|it| !it.sender.is_closed() && it.since.elapsed() < LONGEST_IDLE);
            !idle.is_empty()
        });
    }
}

enum Taken {
    Ready(SendRequest<RequestBody>),
    /// None is ready, but one is about to be.
    Settling,
    Empty,
}

impl Lease {
    pub(super) fn new(
        pool: Rc<Pool>,
        address: SocketAddr,
        sender: SendRequest<RequestBody>,
        progress: Rc<Progress>,
    ) -> Self {
        Self { pool, address, sender: Some(sender), progress }
    }

    /// Makes the connection available again, if its request was sent whole.
    pub(super) fn give_back(&mut self) {
        let Some(sender) = self.sender.take() else { return };
        if !self.progress.done.get() || sender.is_closed() {
            return;
        }
        let mut idle = self.pool.idle.borrow_mut();
        let idle = idle.entry(self.address).or_default();
        if idle.len() < MOST_IDLE {
            idle.push(Idle { sender, since: Instant::now() });
        }
    }
}
