//! Datagrams that are handed on as they are: by the ports of `--udp-services-configmap`.
//!
//! Those of one client are a flow, which has one endpoint and ends, as in nginx, with the last answer that
//! is to come, or when nothing has moved for too long. Nothing is queued: what a socket does not take at
//! once is lost, as datagrams may be.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket as StdSocket};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::passthrough::may_pass;
use super::worker::Worker;
use crate::live::balance::{Balancer, Endpoint};
use crate::live::limit::{OfAddress, Open};
use crate::model::stream::Door;

/// Most flows at one port, for each worker; who comes then takes the place of one that is idle.
const MOST_FLOWS: usize = 1024;
/// Among how many that one is looked for, and how long nothing has moved in it at least.
const AMONG: usize = 64;
const IDLE: Duration = Duration::from_secs(1);
/// Largest datagram, in bytes (RFC 768).
const LARGEST: usize = 65_535;
/// Most answers that are passed on before others have their turn.
const BATCH: usize = 32;
/// How long answers are still waited for once the port is closed.
const FAREWELL: Duration = Duration::from_millis(500);
/// Wait after reading failed.
const PAUSE: Duration = Duration::from_millis(50);

/// A port at which datagrams come in.
struct Port {
    worker: Rc<Worker>,
    door: Door,
    socket: UdpSocket,
    flows: RefCell<HashMap<SocketAddr, Rc<Flow>>>,
    /// For answers, which are passed on at once.
    scrap: RefCell<Vec<u8>>,
    closed: CancellationToken,
}

/// The datagrams of one client.
struct Flow {
    client: SocketAddr,
    endpoint: UdpSocket,
    balancer: Arc<Balancer>,
    /// Whom it goes to; `None` for an address that came by a name.
    known: Option<Arc<Endpoint>>,
    idle: Duration,
    /// How many answers one datagram has.
    responses: u64,
    sent: Cell<u64>,
    answered: Cell<u64>,
    moved: Cell<Instant>,
    /// It is to end in favour of another.
    shed: Notify,
    _counted: (Open, OfAddress),
}

/// Hands datagrams on, for ever.
pub(super) async fn hand_on(worker: Rc<Worker>, socket: StdSocket, door: Door) {
    let socket = match UdpSocket::from_std(socket) {
        Ok(socket) => socket,
        Err(error) => return tracing::error!(%error, %door, "a port could not start"),
    };
    let closed = CancellationToken::new();
    let port = Rc::new(Port {
        worker,
        door,
        socket,
        flows: RefCell::default(),
        scrap: RefCell::new(vec![0; LARGEST]),
        closed: closed.clone(),
    });
    // Flows end soon after this task does.
    let _closes = closed.drop_guard();
    let mut datagram = vec![0; LARGEST];
    loop {
        match port.socket.recv_from(&mut datagram).await {
            Ok((length, client)) => port.take(client, &datagram[..length]).await,
            Err(error) => {
                tracing::debug!(%error, door = %port.door, "no datagram read");
                sleep(PAUSE).await;
            }
        }
    }
}

impl Port {
    /// Sends a datagram on, with the flow of its client.
    async fn take(self: &Rc<Self>, client: SocketAddr, datagram: &[u8]) {
        let known = self.flows.borrow().get(&client).cloned();
        if let Some(flow) = known {
            if self.is_current(&flow) {
                return flow.send(flow.endpoint.try_send(datagram));
            }
            self.end(&flow);
            flow.shed.notify_one();
        }
        match self.begin(client).await {
            Ok(flow) => {
                self.worker.accepted();
                // Nothing is known of a new socket until it was waited for, which takes no time.
                flow.send(flow.endpoint.send(datagram).await);
                if flow.is_over() {
                    return;
                }
                let flow = Rc::new(flow);
                self.flows.borrow_mut().insert(client, flow.clone());
                self.worker.tunnel(true, answers(self.clone(), flow));
            }
            Err(reason) => {
                self.worker.dropped(reason);
                tracing::debug!(%client, door = %self.door, reason, "a datagram is dropped");
            }
        }
    }

    /// A flow of a client of whom nothing came lately, or why there is none.
    async fn begin(&self, client: SocketAddr) -> Result<Flow, &'static str> {
        let (worker, ip) = (&self.worker, client.ip().to_canonical());
        if worker.is_short() {
            return Err("memory");
        }
        let seen = worker.seen();
        let settings = &seen.live.plan.settings;
        if !may_pass(settings.access.blocked.as_deref(), None, ip) {
            return Err("denied");
        }
        if self.flows.borrow().len() >= MOST_FLOWS && !self.shed() {
            return Err("full");
        }
        // Nobody gives way to what may come from anywhere.
        let open = worker.limits().open().ok_or("full")?;
        let of_address = worker.limits().of_address(ip).ok_or("address")?;
        let balancer = seen.live.streams.get(&self.door).ok_or("stream")?.balancer.clone();
        let random = worker.random();
        let known = balancer.turns(std::time::Instant::now(), random, random).next().cloned();
        let address = match (&known, &balancer.backend.external) {
            (Some(endpoint), _) => endpoint.address,
            (None, Some((name, port))) => {
                let near = seen.live.plan.near;
                *worker.resolver.resolve(name, *port, near).await.first().ok_or("stream")?
            }
            (None, None) => return Err("stream"),
        };
        let endpoint = connected(address).await.map_err(|error| {
            tracing::debug!(%address, %error, "no datagrams to an endpoint");
            "stream"
        })?;
        Ok(Flow {
            client,
            endpoint,
            balancer,
            known,
            idle: settings.tls.stream_timeout,
            responses: settings.streams.responses.into(),
            sent: Cell::new(0),
            answered: Cell::new(0),
            moved: Cell::new(Instant::now()),
            shed: Notify::new(),
            _counted: (open, of_address),
        })
    }

    /// Whether a flow would still go where it goes. A connection that an endpoint lost breaks, a flow would
    /// go on into nothing.
    fn is_current(&self, flow: &Flow) -> bool {
        let seen = self.worker.seen();
        seen.live.streams.get(&self.door).is_some_and(|it| {
            let stands =
                |known: &Arc<Endpoint>| it.balancer.backend.addresses.contains(&known.address);
            Arc::ptr_eq(&it.balancer, &flow.balancer) || flow.known.as_ref().is_some_and(stands)
        })
    }

    /// Ends the most idle flow among some; `false` when none of them is idle.
    fn shed(&self) -> bool {
        let mut flows = self.flows.borrow_mut();
        let idle = flows.values().take(AMONG).filter(|it| it.moved.get().elapsed() >= IDLE);
        let Some(flow) = idle.min_by_key(|it| it.moved.get()).cloned() else { return false };
        flows.remove(&flow.client);
        flow.shed.notify_one();
        true
    }

    /// Passes on what an endpoint answered so far; `false` when no more is to come.
    fn answer(&self, flow: &Flow) -> bool {
        let mut scrap = self.scrap.borrow_mut();
        for _ in 0..BATCH {
            match flow.endpoint.try_recv(&mut scrap) {
                Ok(length) => {
                    if let Err(error) = self.socket.try_send_to(&scrap[..length], flow.client) {
                        tracing::debug!(client = %flow.client, %error, "an answer is lost");
                    }
                    flow.answered.set(flow.answered.get() + 1);
                    flow.moved.set(Instant::now());
                    if flow.is_over() {
                        return false;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    flow.failed(&error);
                    self.worker.dropped("stream");
                    return false;
                }
            }
        }
        true
    }

    /// Forgets a flow that has ended.
    fn end(&self, flow: &Rc<Flow>) {
        let mut flows = self.flows.borrow_mut();
        if flows.get(&flow.client).is_some_and(|it| Rc::ptr_eq(it, flow)) {
            flows.remove(&flow.client);
        }
    }
}

impl Flow {
    /// Notes what became of a datagram to the endpoint.
    fn send(&self, sent: io::Result<usize>) {
        match sent {
            Ok(_) => {
                self.sent.set(self.sent.get() + 1);
                self.moved.set(Instant::now());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => self.failed(&error),
        }
    }

    /// The endpoint's machine says that nobody listens there, or there is no way to it.
    fn failed(&self, error: &io::Error) {
        tracing::debug!(%error, "an endpoint takes no datagrams");
        if let Some(endpoint) = &self.known {
            self.balancer.failed(endpoint, std::time::Instant::now());
        }
    }

    fn is_over(&self) -> bool {
        self.answered.get() >= self.responses.saturating_mul(self.sent.get())
    }
}

/// Passes on the answers of a flow until it ends.
async fn answers(port: Rc<Port>, flow: Rc<Flow>) {
    let mut last: Option<Instant> = None;
    loop {
        let until = flow.moved.get() + flow.idle;
        let until = last.map_or(until, |it| until.min(it));
        tokio::select! {
            // What it says is in what is read then.
            _ = flow.endpoint.readable() => {
                if !port.answer(&flow) {
                    break;
                }
            }
            () = sleep_until(until) => {
                let now = Instant::now();
                if last.is_some_and(|it| it <= now) || flow.moved.get() + flow.idle <= now {
                    break;
                }
            }
            () = port.closed.cancelled(), if last.is_none() => {
                last = Some(Instant::now() + FAREWELL);
            }
            () = flow.shed.notified() => break,
            () = port.worker.closing() => break,
        }
    }
    port.end(&flow);
}

async fn connected(address: SocketAddr) -> io::Result<UdpSocket> {
    let any = match address {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(address).await?;
    Ok(socket)
}
