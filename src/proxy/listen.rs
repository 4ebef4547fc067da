//! Listening sockets: several on one port, so that each worker has its own.

use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpSocket;

/// Connections that may wait to be accepted, for each worker.
const BACKLOG: u32 = 1024;

/// One socket for each worker at each address, all or none.
///
/// With `SO_REUSEPORT` the kernel spreads connections over them by a hash of their addresses; a second
/// process may join on the same port.
pub(super) fn bind(addresses: &[SocketAddr], workers: usize) -> io::Result<Vec<Vec<TcpListener>>> {
    (0..workers).map(|_| addresses.iter().map(|it| listener(*it)).collect()).collect()
}

fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.set_reuseport(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}

/// The same for datagrams, which the kernel spreads by the addresses of both ends: those of one client all
/// come to one worker.
pub(super) fn bind_udp(address: SocketAddr, workers: usize) -> io::Result<Vec<UdpSocket>> {
    (0..workers).map(|_| datagrams(address)).collect()
}

fn datagrams(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}
