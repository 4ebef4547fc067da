//! Ports whose connections are handed on, with who takes them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::balance::Balancer;
use crate::model::plan::Plan;
use crate::model::stream::{Door, Stream};

/// Where what comes in by each door goes.
pub type Streams = BTreeMap<Door, Handed>;

/// A stream with what handing it on takes.
#[derive(Debug)]
pub struct Handed {
    /// The stream.
    pub stream: Arc<Stream>,
    /// Who takes it.
    pub balancer: Arc<Balancer>,
}

/// What the plan's streams come to, going on where those before stood.
pub(super) fn next(plan: &Plan, previous: &Streams) -> Streams {
    let handed = |(door, stream): (&Door, &Arc<Stream>)| {
        let before = previous.get(door).map(|it| &it.balancer).filter(|it| it.id == stream.id);
        let balancer = Balancer::next(&stream.id, &stream.backend, before);
        (*door, Handed { stream: stream.clone(), balancer })
    };
    plan.streams.iter().map(handed).collect()
}
