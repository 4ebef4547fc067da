//! What stories stand on: processes, backends, clients, load, and the product itself.
//!
//! Everything binds free ports of 127.0.0.1, ends when it is dropped, and waits for conditions
//! instead of sleeping; what sleeps plays a slow peer or keeps a client's pace.
#![allow(dead_code, reason = "offered whole; no test uses every corner of it")]

pub mod acme;
pub mod apiproxy;
pub mod backend;
pub mod ca_proxy;
pub mod cgroup;
pub mod client;
pub mod cluster;
pub mod collector;
pub mod endpoint;
pub mod grpc;
pub mod judge;
pub mod load;
pub mod lockgate;
pub mod nginx;
pub mod pebble;
pub mod process;
pub mod raw;
pub mod registry;
