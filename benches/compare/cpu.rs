//! CPU time of the proxy per request, for five kinds of work.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::load::{self, Length, Outcome, h2load, wrk};
use crate::site::{Running, Shape, Site, start_all};
use crate::table::{self, Row, Target, median};
use crate::{Result, Sizes};

/// What is measured.
struct Work {
    name: &'static str,
    /// At most this much of the best peer's CPU time per request.
    target: f64,
    /// Whether it is served with many hosts configured.
    many: bool,
    load: fn(&Run<'_>) -> Command,
}

/// One run of the load.
struct Run<'a> {
    port: u16,
    seconds: u32,
    /// Has wrk ask for random hosts out of many.
    script: &'a Path,
}

const WORK: [Work; 5] = [
    Work {
        name: "HTTPS/1.1 keep-alive, 100 bytes, 64 connections",
        target: 0.85,
        many: false,
        load: |run| wrk(run.port, run.seconds, 64, "/", &[]),
    },
    Work {
        name: "HTTPS HTTP/2, 16 connections x 32 streams",
        target: 0.90,
        many: false,
        load: |run| h2load(run.port, &Length::Seconds(run.seconds), &["-c16", "-m32"]),
    },
    Work {
        name: "new connection, full TLS 1.3 handshake per request",
        target: 0.65,
        many: false,
        load: |run| wrk(run.port, run.seconds, 64, "/", &["-H", "Connection: close"]),
    },
    Work {
        name: "1 MiB answers, 8 connections",
        target: 0.85,
        many: false,
        load: |run| wrk(run.port, run.seconds, 8, "/large", &[]),
    },
    Work {
        name: "the first row with many hosts, random ones asked",
        target: 0.85,
        many: true,
        load: |run| {
            let script = run.script.to_string_lossy();
            wrk(run.port, run.seconds, 64, "/", &["-s", &script])
        },
    },
];

pub(crate) fn print(site: &Site, sizes: &Sizes) -> Result<()> {
    let script = site.path("hosts.lua");
    fs::write(&script, asking(sizes.hosts))?;
    let few = start_all(site, &Shape::default())?;
    let many = start_all(site, &Shape { hosts: sizes.hosts, ..Shape::default() })?;
    table::head(&format!(
        "CPU time of the proxy per request in microseconds, median of {} rounds of {} s, \
         {} hosts where there are many",
        sizes.rounds, sizes.seconds, sizes.hosts
    ));
    for work in &WORK {
        let mut figures: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
        for _ in 0..sizes.rounds {
            for peer in if work.many { &many } else { &few } {
                let run = Run { port: peer.port, seconds: sizes.seconds, script: &script };
                figures.entry(peer.name).or_default().push(per_request(work, &run, peer)?);
            }
        }
        table::row(&Row {
            name: work.name.to_owned(),
            digits: 1,
            figures: figures.into_iter().map(|(name, it)| (name, median(it))).collect(),
            target: Target::Ratio(work.target),
        });
    }
    Ok(())
}

/// Runs the load once; gives microseconds of CPU time per request.
fn per_request(work: &Work, run: &Run<'_>, peer: &Running) -> Result<f64> {
    let before = peer.process.cpu_seconds()?;
    let outcome = load::run(&(work.load)(run))?;
    let spent = peer.process.cpu_seconds()? - before;
    let Outcome { answered, refused, .. } = outcome;
    if answered == 0.0 || refused > 0.0 {
        let (who, work) = (peer.name, work.name);
        return Err(format!("{work}: {who} answered {answered} requests, {refused} badly").into());
    }
    Ok(spent * 1e6 / answered)
}

/// A script that has wrk ask for one of so many hosts, and one of two paths.
fn asking(hosts: usize) -> String {
    format!(
        "math.randomseed(1)\nrequest = function()\n  local host = \"h\" .. math.random(0, {}) .. \
         \".test\"\n  return wrk.format(\"GET\", math.random(2) == 1 and \"/\" or \"/api/x\", \
         {{Host = host}})\nend\n",
        hosts - 1
    )
}
