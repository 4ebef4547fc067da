//! The stories, one file for each theme.

mod access;
mod attacks;
mod bluegreen;
mod certificates;
mod cluster;
mod coding;
mod demo;
mod directory;
mod framing;
mod grpc;
mod judges;
mod outages;
mod page;
mod peer;
mod registry;
mod replicas;
mod resumption;
mod soak;
mod upstreams;
mod websockets;
