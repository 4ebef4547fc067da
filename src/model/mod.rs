//! The words everything else is said in: plain data and how it is parsed.
//!
//! Floor 0: no Kubernetes, no async, no clock, no I/O. A text is parsed once, here, into a type that
//! cannot hold a bad value; whoever holds the type needs no check of its own.

pub mod access;
pub mod answering;
pub mod by_name;
pub mod ciphers;
pub mod client_tls;
pub mod common;
pub mod connections;
pub mod copies;
pub mod cors;
pub mod distinguished;
pub mod guard;
pub mod host;
pub mod htpasswd;
pub mod keypair;
pub mod location;
pub mod name;
pub mod network;
pub mod options;
pub mod path;
pub mod pattern;
pub mod phrase;
pub mod plan;
pub mod problem;
pub mod rate;
pub mod routing;
pub mod selector;
pub mod settings;
pub mod sharing;
pub mod snippet;
pub mod stream;
pub mod template;
pub mod texts;
pub mod trace;
pub mod upstream;
pub mod value;
