//! The stories, one file for each theme.

mod certificates;
mod cluster;
mod demo;
mod directory;
mod framing;
mod grpc;
mod outages;
mod page;
mod replicas;
mod upstreams;
