//! Requests that fail while the configuration changes again and again.
//!
//! Lockgate is told by its API server of a change to the very Ingress that is asked; nginx and HAProxy
//! are told to reload.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::load::{self, Outcome, wrk};
use crate::objects::{self, change};
use crate::process::{LOAD_CORE, free_port};
use crate::site::{Lockgate, Running, Shape, Site, start};
use crate::table::{self, Row, Target};
use crate::{Result, Sizes};

const CHANGES: u32 = 100;
/// From one change to the next.
const INTERVAL: Duration = Duration::from_millis(100);
const CONNECTIONS: u32 = 50;
/// Of Lockgate.
const INGRESSES: usize = 100;

pub(crate) fn print(site: &Site, _: &Sizes) -> Result<()> {
    let mut outcomes = BTreeMap::from([("lockgate", lockgate(site)?)]);
    let shape = Shape { hosts: INGRESSES - 1, reloads: true, ..Shape::default() };
    for peer in start(site, &shape, &["nginx", "haproxy"])? {
        outcomes.insert(peer.name, reloaded(&peer)?);
    }
    table::head(&format!(
        "{CHANGES} changes of the configuration, one each {} ms, under {CONNECTIONS} kept HTTPS/1.1 \
         connections",
        INTERVAL.as_millis()
    ));
    let figures =
        |of: fn(&Outcome) -> f64| outcomes.iter().map(|(name, it)| (*name, of(it))).collect();
    for (name, figures, target) in [
        ("requests that failed", figures(|it| it.broken + it.refused), Target::AtMost(0.0)),
        ("requests that were answered", figures(|it| it.answered), Target::None),
    ] {
        table::row(&Row { name: name.to_owned(), digits: 0, figures, target });
    }
    Ok(())
}

/// The load, with a change each [`INTERVAL`] meanwhile.
fn loaded(port: u16, mut change: impl FnMut(u32) -> Result<()>) -> Result<Outcome> {
    // Half a second of load before the first change and after the last one.
    let seconds = (INTERVAL * CHANGES).as_secs() + 1;
    let load = wrk(port, u32::try_from(seconds)?, CONNECTIONS, "/", &[]);
    let load = load::pinned(LOAD_CORE, &load).stdout(Stdio::piped()).spawn()?;
    let mut next = Instant::now() + Duration::from_millis(500);
    let mut failed = Ok(());
    for number in 0..CHANGES {
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        failed = failed.and_then(|()| change(number));
        next += INTERVAL;
    }
    let output = load.wait_with_output()?;
    failed?;
    load::outcome(&String::from_utf8_lossy(&output.stdout))
}

fn lockgate(site: &Site) -> Result<Outcome> {
    let api = objects::serve(INGRESSES, site.backend)?;
    let directory = site.directory()?;
    let source = format!("--apiserver-host {}", api.url());
    let log = directory.path().join("log");
    let lockgate = Lockgate::start(&Shape::default(), &log, &source, free_port()?)?;
    // There and back: the load asks for another path of the same Ingress.
    let outcome = loaded(lockgate.https, |number| change(&api, 0, number % 2 == 0))?;
    let lines = BufReader::new(File::open(&log)?).lines().map_while(std::io::Result::ok);
    let served = lines.filter(|it| it.contains("now serving")).count();
    if served < usize::try_from(CHANGES / 2)? {
        return Err(format!("lockgate followed {served} of {CHANGES} changes").into());
    }
    Ok(outcome)
}

fn reloaded(peer: &Running) -> Result<Outcome> {
    // The one that nginx's own `-s reload` sends, and the one that HAProxy's manual names.
    let signal = if peer.name == "nginx" { "HUP" } else { "USR2" };
    let before = peer.process.children()?;
    let outcome = loaded(peer.port, |_| peer.process.signal(signal))?;
    if peer.process.children()?.iter().any(|it| before.contains(it)) {
        return Err(format!("{} did not reload", peer.name).into());
    }
    Ok(outcome)
}
