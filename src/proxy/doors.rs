//! Ports that come and go while everything else is served: bound by the control plane, taken by the workers.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio::task::{AbortHandle, spawn_local};

use super::worker::{self, Worker};
use super::{Phase, datagrams, listen, streams};
use crate::model::stream::{Door, Transport};

/// The doors that are open, as every worker sees them.
pub(super) type Open = BTreeMap<Door, Arc<Sockets>>;

/// The sockets of one door: one for each worker, which takes it once.
#[derive(Debug)]
pub(super) struct Sockets(Vec<Mutex<Option<Socket>>>);

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl Sockets {
    fn bind(door: Door, address: SocketAddr, workers: usize) -> io::Result<Arc<Self>> {
        let sockets: Vec<_> = match door.transport {
            Transport::Tcp => {
                let listeners = listen::bind(&[address], workers)?.into_iter().flatten();
                listeners.map(Socket::Tcp).collect()
            }
            Transport::Udp => {
                listen::bind_udp(address, workers)?.into_iter().map(Socket::Udp).collect()
            }
        };
        Ok(Arc::new(Self(sockets.into_iter().map(|it| Mutex::new(Some(it))).collect())))
    }

    fn take(&self, worker: usize) -> Option<Socket> {
        self.0.get(worker)?.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// Opens and closes doors.
#[derive(Debug)]
pub struct Doors {
    pub(super) bind: IpAddr,
    pub(super) workers: usize,
    pub(super) open: watch::Sender<Arc<Open>>,
    pub(super) phase: watch::Receiver<Phase>,
}

impl Doors {
    /// Has these doors open and no others; says which of them could not be opened, and why. Connections that
    /// came in by one that is closed go on. Opens none once nothing new is accepted.
    pub fn set<'a>(&self, wanted: impl Iterator<Item = &'a Door>) -> Vec<(Door, io::Error)> {
        let before = self.open.borrow().clone();
        let (mut open, mut failed) = (Open::new(), Vec::new());
        if *self.phase.borrow() >= Phase::Draining {
            return failed;
        }
        for door in wanted {
            let known = before.get(door).cloned().map(Ok);
            let address = SocketAddr::new(self.bind, door.port);
            match known.unwrap_or_else(|| Sockets::bind(*door, address, self.workers)) {
                Ok(sockets) => drop(open.insert(*door, sockets)),
                Err(error) => failed.push((*door, error)),
            }
        }
        if !open.keys().eq(before.keys()) {
            self.open.send_replace(Arc::new(open));
        }
        failed
    }
}

/// What a worker does at a door, until dropped.
struct Attended {
    /// Which ones, for a door may be closed and opened again.
    sockets: Arc<Sockets>,
    task: Option<AbortHandle>,
}

impl Drop for Attended {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

/// Accepts at the doors that are open, for ever.
pub(super) async fn attend(
    worker: Rc<Worker>,
    number: usize,
    mut open: watch::Receiver<Arc<Open>>,
) {
    let mut attended: BTreeMap<Door, Attended> = BTreeMap::new();
    loop {
        let now = open.borrow_and_update().clone();
        attended.retain(|door, it| now.get(door).is_some_and(|now| Arc::ptr_eq(now, &it.sockets)));
        for (door, sockets) in &*now {
            attended.entry(*door).or_insert_with(|| {
                let task = sockets.take(number).map(|it| begin(&worker, *door, it));
                Attended { sockets: sockets.clone(), task }
            });
        }
        drop(now);
        if open.changed().await.is_err() {
            // Nobody opens or closes any more.
            std::future::pending::<()>().await;
        }
    }
}

fn begin(worker: &Rc<Worker>, door: Door, socket: Socket) -> AbortHandle {
    let worker = worker.clone();
    let task = match socket {
        Socket::Tcp(listener) => spawn_local(async move {
            let serve =
                |stream, address, open| streams::hand_on(&worker, stream, address, open, door);
            worker::accept(&worker, listener, serve).await;
        }),
        Socket::Udp(socket) => spawn_local(datagrams::hand_on(worker, socket, door)),
    };
    task.abort_handle()
}
