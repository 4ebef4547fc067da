//! What a second worker adds.
//!
//! Nothing is pinned here. With two cores the load takes a good part of them, so that the throughput of two
//! workers cannot be twice that of one; requests per CPU second show what sharing itself costs.

use std::collections::BTreeMap;

use crate::load::{self, wrk};
use crate::process::ALL_CORES;
use crate::site::{Shape, Site, start_all};
use crate::table::{self, Row, Target, median};
use crate::{Result, Sizes};

type Figures = BTreeMap<&'static str, Vec<f64>>;

pub(crate) fn print(site: &Site, sizes: &Sizes) -> Result<()> {
    let shape = Shape { cores: ALL_CORES, ..Shape::default() };
    let running = [1, 2].map(|workers| start_all(site, &Shape { workers, ..shape }));
    let [mut throughput, mut thrift]: [[Figures; 2]; 2] = Default::default();
    let [one, two] = running;
    let running = [one?, two?];
    for _ in 0..sizes.rounds {
        for (place, running) in running.iter().enumerate() {
            for peer in running {
                let before = peer.process.cpu_seconds()?;
                let load = wrk(peer.port, sizes.seconds, 64, "/", &[]);
                let answered = load::run_on(ALL_CORES, &load)?.answered;
                let spent = peer.process.cpu_seconds()? - before;
                let second = answered / f64::from(sizes.seconds);
                throughput[place].entry(peer.name).or_default().push(second);
                thrift[place].entry(peer.name).or_default().push(answered / spent);
            }
        }
    }
    table::head(&format!(
        "Requests a second, HTTPS/1.1, 64 kept connections, median of {} rounds of {} s; load, backend and \
         proxy share two cores",
        sizes.rounds, sizes.seconds
    ));
    let [one, two] = throughput.map(medians);
    let times = ratio(&two, &one);
    row("1 worker", 0, one, Target::None);
    row("2 workers", 0, two, Target::None);
    row("2 workers / 1", 2, times, Target::AtLeast(1.8));
    let [one, two] = thrift.map(medians);
    let times = ratio(&two, &one);
    row("per CPU second of the proxy, 1 worker", 0, one, Target::None);
    row("per CPU second of the proxy, 2 workers", 0, two, Target::None);
    row("per CPU second, 2 workers / 1", 2, times, Target::AtLeast(0.9));
    Ok(())
}

fn row(name: &str, digits: usize, figures: BTreeMap<&'static str, f64>, target: Target) {
    table::row(&Row { name: name.to_owned(), digits, figures, target });
}

fn medians(figures: Figures) -> BTreeMap<&'static str, f64> {
    figures.into_iter().map(|(name, it)| (name, median(it))).collect()
}

fn ratio(
    above: &BTreeMap<&'static str, f64>,
    below: &BTreeMap<&'static str, f64>,
) -> BTreeMap<&'static str, f64> {
    above.iter().filter_map(|(name, it)| Some((*name, it / below.get(name)?))).collect()
}
