//! The stories, one file for each theme.

mod attacks;
mod bluegreen;
mod certificates;
mod cluster;
mod coding;
mod demo;
mod directory;
mod framing;
mod grpc;
mod nginx;
mod outages;
mod page;
mod peer;
mod registry;
mod replicas;
mod resumption;
mod routing;
mod soak;
mod upstreams;
mod websockets;
