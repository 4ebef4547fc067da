//! Datagrams that are handed on as they are: by the ports of `--udp-services-configmap`.

use std::net::UdpSocket;
use std::rc::Rc;

use super::worker::Worker;
use crate::model::stream::Door;

/// Hands datagrams on, for ever.
pub(super) async fn hand_on(_worker: Rc<Worker>, _socket: UdpSocket, _door: Door) {}
