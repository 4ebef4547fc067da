//! From a change of one Ingress out of many to its being served, and what that takes.
//!
//! Objects come from an API server of the bench's own. Time runs from the moment the watch tells of the
//! change to the answer of a request that would have been 404 before, looked for every millisecond.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::api::Api;
use crate::objects::{self, NEW, change};
use crate::process::{eventually, free_port};
use crate::site::{Lockgate, Shape, Site};
use crate::table::{self, Row, Target, percentile};
use crate::{Result, Sizes, client};

/// How often something changes, with somebody who waits for it and again without.
const CHANGES: usize = 50;
/// Between two changes, so that each stands alone.
const PAUSE: Duration = Duration::from_millis(250);

pub(crate) fn print(site: &Site, sizes: &Sizes) -> Result<()> {
    let api = objects::serve(sizes.hosts, site.backend)?;
    let directory = site.directory()?;
    let source = format!("--apiserver-host {}", api.url());
    let started = Instant::now();
    let log = directory.path().join("log");
    let lockgate = Lockgate::start(&Shape::default(), &log, &source, free_port()?)?;
    let to_ready = started.elapsed().as_secs_f64();
    let peak = lockgate.process.peak()? / 1024.0;
    // What starting took is given back meanwhile.
    std::thread::sleep(Duration::from_secs(2));
    let at_first = lockgate.process.resident()? / 1024.0;

    // Those in the middle, each changed once.
    let mut numbers = (1..sizes.hosts).step_by((sizes.hosts - 1) / (2 * CHANGES));
    let mut times = Vec::new();
    for number in numbers.by_ref().take(CHANGES) {
        times.push(until_served(&api, lockgate.http, number)?.as_secs_f64() * 1e3);
        std::thread::sleep(PAUSE);
    }
    let before = lockgate.process.cpu_seconds()?;
    for number in numbers.by_ref().take(CHANGES) {
        change(&api, number, true)?;
        std::thread::sleep(PAUSE);
        eventually("a change is not served", PAUSE, || is_served(lockgate.http, number))?;
    }
    let changes = f64::from(u32::try_from(CHANGES)?);
    let cpu = (lockgate.process.cpu_seconds()? - before) * 1e3 / changes;
    let at_last = lockgate.process.resident()? / 1024.0;

    table::head(&format!(
        "{0} Ingresses with as many TLS Secrets and Services and {1} endpoints; {CHANGES} changes of one \
         Ingress each",
        sizes.hosts,
        sizes.hosts * 5
    ));
    for row in [
        Row::ours(
            "ms from a change to its being served, p50",
            1,
            percentile(&mut times, 50),
            Target::None,
        ),
        Row::ours(
            "ms from a change to its being served, p99",
            1,
            percentile(&mut times, 99),
            Target::AtMost(100.0),
        ),
        Row::ours("ms of CPU time for a change", 1, cpu, Target::None),
        Row::ours("s from start to ready", 2, to_ready, Target::None),
        Row::ours("MiB resident, the most until ready", 1, peak, Target::None),
        Row::ours("MiB resident, after 2 s", 1, at_first, Target::AtMost(120.0)),
        Row::ours("MiB resident, after all changes", 1, at_last, Target::AtMost(120.0)),
    ] {
        table::row(&row);
    }
    Ok(())
}

/// Changes an Ingress and asks for what is new until it is there.
fn until_served(api: &Api, port: u16, number: usize) -> Result<Duration> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    let host = objects::host(number);
    match client::ask(&mut stream, &host, NEW)? {
        404 => {}
        status => return Err(format!("{status} before the change").into()),
    }
    let begun = Instant::now();
    change(api, number, true)?;
    eventually("a change is not served", Duration::from_millis(1), || {
        Ok(client::ask(&mut stream, &host, NEW)? == 200)
    })?;
    Ok(begun.elapsed())
}

fn is_served(port: u16, number: usize) -> Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    Ok(client::ask(&mut stream, &objects::host(number), NEW)? == 200)
}
