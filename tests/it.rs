//! The stories: what users would tell, run against the real binary and real components.
//!
//! One test binary, so that it is linked once.  `harness` starts and drives what a story needs,
//! `stories` holds the tests, one file for each theme.
#![allow(
    missing_docs,
    unreachable_pub,
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "tests may panic, spawn and read the clock; nobody imports them"
)]

mod annotations;
mod golden;
mod harness;
mod reference;
mod stories;
mod tidy;
