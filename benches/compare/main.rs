//! Lockgate beside nginx, HAProxy and Caddy: what each costs, how long it makes wait, what a change does.
//!
//! `cargo bench --bench compare` prints a table for each group of figures:
//!
//! | group | what |
//! |---|---|
//! | `cpu` | CPU time of the proxy per request, for five kinds of work |
//! | `latency` | p50 and p99 at half of what the best peer can do |
//! | `scale` | what a second worker adds |
//! | `memory` | what an idle TLS connection costs |
//! | `change` | from a change of one Ingress out of many to its being served, and what that takes |
//! | `reload` | requests that fail while the configuration changes again and again |
//!
//! Unless a group says otherwise, each proxy is pinned to one core, load and backend to another; all have
//! TLS with the same P-256 certificate, keep connections to the backend, add the same headers and write an
//! access log. Rounds are interleaved, so that a busy machine is busy for all; figures are medians, and
//! ratios within one run are what counts.
//!
//! Needs two cores, Debian's `nginx-light`, `haproxy`, `caddy`, `wrk` and `nghttp2-client`; a peer that is
//! not there is left out, and said so. `ONLY=cpu,latency` prints some groups alone; `ROUNDS` (5), `SECONDS`
//! (4, of each round), `HOSTS` (10000, at least 200) and `CONNECTIONS` (4000) change the size.
#![expect(clippy::disallowed_methods, reason = "a bench is configured by its environment")]

mod api;
mod change;
mod client;
mod cpu;
mod latency;
mod load;
mod memory;
mod objects;
mod process;
mod reload;
mod scale;
mod site;
mod table;

use std::process::Command;

use crate::process::{LOAD_CORE, Process};
use crate::site::Site;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// How much is measured.
struct Sizes {
    /// How often each figure is taken.
    rounds: u32,
    /// Length of a round.
    seconds: u32,
    /// Ingresses, where there are many.
    hosts: usize,
    /// Idle connections.
    connections: u32,
}

/// Measures and prints some figures.
type Group = fn(&Site, &Sizes) -> Result<()>;

const GROUPS: [(&str, Group); 6] = [
    ("cpu", cpu::print),
    ("latency", latency::print),
    ("scale", scale::print),
    ("memory", memory::print),
    ("change", change::print),
    ("reload", reload::print),
];

fn main() -> Result<()> {
    let number = |name: &str, usual: u32| {
        std::env::var(name).ok().and_then(|it| it.parse().ok()).unwrap_or(usual)
    };
    let sizes = Sizes {
        rounds: number("ROUNDS", 5).max(1),
        seconds: number("SECONDS", 4).max(1),
        hosts: usize::try_from(number("HOSTS", 10_000).max(200))?,
        connections: number("CONNECTIONS", 4_000).max(1),
    };
    let only = std::env::var("ONLY").unwrap_or_default();
    let only: Vec<&str> = only.split(',').map(str::trim).filter(|it| !it.is_empty()).collect();
    if let Some(unknown) = only.iter().find(|it| GROUPS.iter().all(|(name, _)| name != *it)) {
        return Err(format!("ONLY: there is no group {unknown}").into());
    }
    stay_on(LOAD_CORE)?;
    let site = Site::new()?;
    let _backend: Process = site.start_backend()?;
    let mut failed = Vec::new();
    for (name, print) in GROUPS {
        if !only.is_empty() && !only.contains(&name) {
            continue;
        }
        // What one group cannot measure is no reason to go without the others.
        if let Err(error) = print(&site, &sizes) {
            println!("{name}: {error}");
            failed.push(name);
        }
        println!();
    }
    if failed.is_empty() { Ok(()) } else { Err(format!("not measured: {failed:?}").into()) }
}

/// Keeps this process, which is a client and an API server at times, away from the proxies.
fn stay_on(core: &str) -> Result<()> {
    let own = std::process::id().to_string();
    let output = Command::new("taskset").args(["-a", "-c", "-p", core, &own]).output()?;
    if output.status.success() { Ok(()) } else { Err("two cores are needed".into()) }
}
