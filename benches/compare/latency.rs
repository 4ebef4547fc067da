//! How long a request takes when there is room: p50 and p99 at half of what the best peer can do.
//!
//! All are driven at the same rate. The load tool counts from the moment it sends a request, which may be
//! late when the last one on its connection was: at half load few are.
//!
//! Each connection of the tool asks when a timer of 10 ms of its own says so. Opened at once, all of them ask
//! in one burst, the shorter the faster the handshakes were, and what is measured is a place in that queue.
//! So they are opened one after another, at times that are spread over those 10 ms.

use std::collections::BTreeMap;
use std::fs;

use crate::load::{self, Length, h2load, wrk};
use crate::site::{Running, Shape, Site, start_all};
use crate::table::{self, Row, Target, median, percentile};
use crate::{Result, Sizes};

const CONNECTIONS: u32 = 64;
/// Between two that are opened: whatever comes after it modulo 10 ms comes once in ten.
const APART: &str = "--rate-period=7ms";
/// Until all of them are open and settled; what was asked in it is not counted.
const WARM_UP: u32 = 1;

pub(crate) fn print(site: &Site, sizes: &Sizes) -> Result<()> {
    let running = start_all(site, &Shape::default())?;
    let mut most = BTreeMap::new();
    for _ in 0..sizes.rounds {
        for peer in &running {
            let outcome = load::run(&wrk(peer.port, sizes.seconds, CONNECTIONS, "/", &[]))?;
            let most = most.entry(peer.name).or_insert(0.0_f64);
            *most = most.max(outcome.answered / f64::from(sizes.seconds));
        }
    }
    let peers = most.iter().filter(|(name, _)| **name != "lockgate").map(|(_, it)| *it);
    let rate = peers.reduce(f64::max).ok_or("there is no peer")? / 2.0;
    let mut figures: [BTreeMap<&str, Vec<f64>>; 3] = Default::default();
    for _ in 0..sizes.rounds {
        for peer in &running {
            let mut taken = times(site, peer, rate, sizes.seconds)?;
            let done = f64::from(u32::try_from(taken.len())?) / f64::from(sizes.seconds);
            let round = [percentile(&mut taken, 50), percentile(&mut taken, 99), done];
            for (all, figure) in figures.iter_mut().zip(round) {
                all.entry(peer.name).or_default().push(figure);
            }
        }
    }
    table::head(&format!(
        "Time from request to end of answer in microseconds, HTTPS/1.1, {CONNECTIONS} kept connections \
         that ask {rate:.0} times a second in all (half of the best peer's most), median of {} rounds of \
         {} s",
        sizes.rounds, sizes.seconds
    ));
    let [p50, p99, done] = figures.map(|all| {
        all.into_iter().map(|(name, it)| (name, median(it))).collect::<BTreeMap<_, _>>()
    });
    for (name, figures, target) in [
        ("p50", p50, Target::Ratio(1.0)),
        ("p99", p99, Target::Ratio(1.0)),
        ("requests a second at that rate", done, Target::None),
        ("most requests a second", most, Target::None),
    ] {
        table::row(&Row { name: name.to_owned(), digits: 0, figures, target });
    }
    Ok(())
}

/// Microseconds of each request of one run.
fn times(site: &Site, peer: &Running, rate: f64, seconds: u32) -> Result<Vec<f64>> {
    let file = site.path("times.tsv");
    let clients = format!("-c{CONNECTIONS}");
    let each = format!("--rps={:.3}", rate / f64::from(CONNECTIONS));
    let log = format!("--log-file={}", file.display());
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some thousands")]
    let length = Length::Requests((rate * f64::from(WARM_UP + seconds)) as u64);
    let load = h2load(peer.port, &length, &["--h1", &clients, "-r1", APART, &each, &log]);
    let outcome = load::run(&load)?;
    if outcome.refused + outcome.broken > 0.0 {
        return Err(format!("{} does not answer everything", peer.name).into());
    }
    // Microseconds since 1970 of the start, status, microseconds until the end.
    let mut all = Vec::new();
    for line in fs::read_to_string(&file)?.lines() {
        let mut fields = line.split('\t').map(str::parse::<i64>);
        let (Some(start), Some(_), Some(taken)) = (fields.next(), fields.next(), fields.next())
        else {
            return Err(format!("no figures in: {line}").into());
        };
        all.push((start?, i32::try_from(taken?)?));
    }
    fs::remove_file(&file)?;
    let first = all.iter().map(|(start, _)| *start).min().ok_or("nothing was answered")?;
    let from = first + i64::from(WARM_UP) * 1_000_000;
    // From here on the first ones have asked all they were to ask.
    let until = from + i64::from(seconds) * 1_000_000;
    let counted = all.iter().filter(|(start, _)| (from..until).contains(start));
    Ok(counted.map(|(_, taken)| f64::from(*taken)).collect())
}
