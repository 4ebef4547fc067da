//! Tables of figures, one column for each proxy.

use std::collections::BTreeMap;

use crate::site::PEERS;

/// What a figure should be.
pub(crate) enum Target {
    /// At most this much of the lowest figure of a peer.
    Ratio(f64),
    /// At most this, whatever others have.
    AtMost(f64),
    /// At least this, whatever others have.
    AtLeast(f64),
    /// It is there to explain others.
    None,
}

/// A line of a table.
pub(crate) struct Row {
    pub(crate) name: String,
    /// Digits after the point.
    pub(crate) digits: usize,
    /// By the name of the proxy; one that is not there, or not finite, was not measured.
    pub(crate) figures: BTreeMap<&'static str, f64>,
    pub(crate) target: Target,
}

impl Row {
    /// A figure that only Lockgate has.
    pub(crate) fn ours(name: &str, digits: usize, figure: f64, target: Target) -> Self {
        let figures = BTreeMap::from([("lockgate", figure)]);
        Self { name: name.to_owned(), digits, figures, target }
    }

    fn figure(&self, peer: &str) -> Option<f64> {
        self.figures.get(peer).copied().filter(|it| it.is_finite())
    }

    fn show(&self) -> String {
        let digits = self.digits;
        let ours = self.figure("lockgate");
        let peers = PEERS.iter().filter(|it| it.name != "lockgate");
        let best = peers.filter_map(|it| self.figure(it.name)).reduce(f64::min);
        let ratio = ours.zip(best).map(|(ours, best)| ours / best);
        let (ratio, target, met) = match self.target {
            Target::Ratio(most) => {
                (ratio, format!("ratio ≤ {most:.2}"), ratio.map(|it| it <= most))
            }
            Target::AtMost(most) => (None, format!("≤ {most}"), ours.map(|it| it <= most)),
            Target::AtLeast(least) => (None, format!("≥ {least}"), ours.map(|it| it >= least)),
            Target::None => (None, "-".to_owned(), None),
        };
        let mut line = format!("| {} |", self.name);
        for peer in &PEERS {
            line += &cell(self.figure(peer.name).map(|it| format!("{it:.digits$}")));
        }
        line += &cell(ratio.map(|it| format!("{it:.2}")));
        line += &cell(Some(target));
        line += &cell(met.map(|it| if it { "yes" } else { "no" }.to_owned()));
        line
    }
}

/// Prints the head of a table.
pub(crate) fn head(about: &str) {
    println!("{about}\n");
    let names = PEERS.map(|it| it.name).join(" | ");
    println!("| what | {names} | ours / best peer | target | met |");
    println!("|{}", "---|".repeat(PEERS.len() + 4));
}

/// Prints a line of it.
pub(crate) fn row(row: &Row) {
    println!("{}", row.show());
}

fn cell(text: Option<String>) -> String {
    format!(" {} |", text.unwrap_or_else(|| "-".to_owned()))
}

/// The middle one of some figures, of an even number the higher.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}

/// The figure that `percent` of all do not exceed (nearest rank); sorts them.
pub(crate) fn percentile(figures: &mut [f64], percent: usize) -> f64 {
    figures.sort_by(f64::total_cmp);
    let rank = (figures.len() * percent).div_ceil(100).max(1);
    figures.get(rank - 1).copied().unwrap_or(f64::NAN)
}
