//! Lockgate.
pub mod admin;
pub mod app;
pub mod args;
pub mod certs;
pub mod compile;
pub mod demo;
pub mod lease;
pub mod live;
pub mod metrics;
pub mod model;
pub mod proxy;
pub mod status;
pub mod store;
