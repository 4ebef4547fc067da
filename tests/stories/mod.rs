//! The stories, one file for each theme.

mod answering;
mod attacks;
mod bluegreen;
mod certificates;
mod check;
mod cluster;
mod coding;
mod demo;
mod directory;
mod framing;
mod grpc;
mod limits;
mod mirror;
mod outages;
mod overload;
mod page;
mod peer;
mod registry;
mod replicas;
mod resumption;
mod routing;
mod sharing;
mod soak;
mod upstreams;
mod websockets;
