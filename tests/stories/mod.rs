//! The stories, one file for each theme.

mod attacks;
mod bluegreen;
mod ca_faults;
mod certificates;
mod challenge;
mod cluster;
mod coding;
mod crash;
mod demo;
mod directory;
mod framing;
mod grpc;
mod lifecycle;
mod outages;
mod page;
mod peer;
mod pushtech;
mod registry;
mod replicas;
mod resumption;
mod secrets_faults;
mod soak;
mod upstreams;
mod websockets;
