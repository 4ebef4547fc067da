//! The stories, one file for each theme.

mod attacks;
mod certificates;
mod cluster;
mod coding;
mod demo;
mod directory;
mod framing;
mod outages;
mod page;
mod peer;
mod replicas;
mod websockets;
