//! The stories, one file for each theme.

mod bluegreen;
mod certificates;
mod cluster;
mod demo;
mod directory;
mod framing;
mod outages;
mod page;
mod registry;
mod replicas;
mod resumption;
mod soak;
