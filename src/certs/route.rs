//! What a look at the hosts means for an order: advice with a time limit, never a gate.
//!
//! From inside a cluster the world may look different, so the CA is asked in the end whatever was seen.
//! Pure, with the time as an argument.

use std::net::IpAddr;

use super::selfcheck::{Look, Seen};

const MINUTE: i64 = 60;
const HOUR: i64 = 3_600;
const DAY: i64 = 86_400;
/// Before the next look at first, doubling up to [`YOUNG`] or [`OLD`].
const FIRST: i64 = 10;
/// Longest time between two looks while a certificate is awaited for less than a day.
const YOUNG: i64 = 30;
/// And after that.
const OLD: i64 = 5 * MINUTE;

/// What is known of the hosts of one certificate.
#[derive(Clone, Debug, Default)]
pub(super) struct Sight {
    /// The last look at each host.
    pub(super) looks: Vec<(String, Look)>,
    /// When the first one was taken.
    first: Option<i64>,
    /// When the next one is taken.
    next: i64,
    tries: u32,
    /// When the CA was asked although something stood in the way.
    tried: Option<i64>,
}

/// What to do.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Advice {
    /// Look first.
    Look,
    /// Ask the CA.
    Order,
    /// Wait for the next look, or until this time.
    Wait {
        /// The CA is asked then, whatever is seen.
        until: i64,
        /// What is in the way.
        why: String,
    },
}

impl Sight {
    /// Takes in a round of looks; says whether all is well now that was not before.
    pub(super) fn take(&mut self, looks: Vec<(String, Look)>, now: i64) -> bool {
        let first = *self.first.get_or_insert(now);
        let most = if now - first < DAY { YOUNG } else { OLD };
        self.next = now + (FIRST << self.tries.min(10)).min(most);
        self.tries = self.tries.saturating_add(1);
        let before = !self.looks.is_empty() && !self.is_clear();
        self.looks = looks;
        before && self.is_clear()
    }

    /// The CA is being asked.
    pub(super) fn asked(&mut self, now: i64) {
        if !self.is_clear() {
            self.tried = Some(now);
        }
    }

    /// Whether another look is to be taken; a clock that was set back must not put it off.
    pub(super) fn is_stale(&self, now: i64) -> bool {
        now >= self.next || self.next - now > OLD
    }

    /// When that is.
    pub(super) fn next(&self) -> i64 {
        self.next
    }

    /// The hosts that do not lead here, as far as was seen.
    pub(super) fn bad(&self) -> impl Iterator<Item = &str> {
        let bad = self.looks.iter().filter(|(_, look)| !is_fine(look.seen));
        bad.map(|(host, _)| &**host)
    }

    /// What to do; `published` are the addresses that Ingresses have in their status.
    pub(super) fn advice(&self, renewal: bool, published: &[IpAddr], now: i64) -> Advice {
        let Some(first) = self.first else { return Advice::Look };
        let mut until = first;
        let mut why = Vec::new();
        for (host, look) in self.looks.iter().filter(|(_, it)| !is_fine(it.seen)) {
            let from = match look.seen {
                Seen::NoDns | Seen::Foreign => match self.tried {
                    // Our view may be wrong: now and then the CA has its say.
                    Some(tried) => tried + DAY,
                    None => first + HOUR,
                },
                // A load balancer that cannot be reached from behind itself.
                Seen::Unreachable if look.addresses.iter().any(|it| published.contains(it)) => {
                    first
                }
                _ => first + 10 * MINUTE,
            };
            until = until.max(from);
            why.push(format!("{host}: {}", look.text));
        }
        if renewal {
            // What is held was had this way; only a warning comes of it.
            return Advice::Order;
        }
        if now >= until { Advice::Order } else { Advice::Wait { until, why: why.join("; ") } }
    }

    fn is_clear(&self) -> bool {
        self.looks.iter().all(|(_, look)| is_fine(look.seen))
    }
}

/// Whether nothing speaks against asking the CA.
pub(super) fn is_fine(seen: Seen) -> bool {
    matches!(seen, Seen::Ok | Seen::Inconclusive)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000;

    fn look(seen: Seen) -> Vec<(String, Look)> {
        let addresses = vec![IpAddr::from([192, 0, 2, 1])];
        vec![("a.test".to_owned(), Look { seen, text: "seen".to_owned(), addresses })]
    }

    #[test]
    fn r_pre_3_what_stands_in_the_way_delays_and_does_not_prevent() {
        let ours = [IpAddr::from([192, 0, 2, 1])];
        for (seen, published, delay) in [
            (Seen::Ok, &[][..], 0),
            (Seen::Inconclusive, &[], 0),
            (Seen::NoDns, &[], HOUR),
            (Seen::Foreign, &[], HOUR),
            (Seen::Unreachable, &[], 10 * MINUTE),
            (Seen::Unreachable, &ours, 0),
            (Seen::PartlyIpv6, &[], 10 * MINUTE),
        ] {
            let mut sight = Sight::default();
            assert_eq!(sight.advice(false, published, NOW), Advice::Look);
            sight.take(look(seen), NOW);
            assert_eq!(sight.advice(true, published, NOW), Advice::Order, "a renewal of {seen:?}");
            assert_eq!(sight.advice(false, published, NOW + delay), Advice::Order, "{seen:?}");
            if delay > 0 {
                let why = "a.test: seen".to_owned();
                let wait = Advice::Wait { until: NOW + delay, why };
                assert_eq!(sight.advice(false, published, NOW + delay - 1), wait, "{seen:?}");
            }
        }
    }

    #[test]
    fn r_pre_3_after_the_first_try_the_ca_is_asked_once_a_day() {
        let mut sight = Sight::default();
        sight.take(look(Seen::NoDns), NOW);
        sight.asked(NOW + HOUR);
        let why = "a.test: seen".to_owned();
        let wait = Advice::Wait { until: NOW + HOUR + DAY, why };
        assert_eq!(sight.advice(false, &[], NOW + 2 * HOUR), wait);
    }

    #[test]
    fn r_pre_3_looks_come_less_and_less_often_but_never_rarely() {
        let mut sight = Sight::default();
        let mut now = NOW;
        let mut pauses = Vec::new();
        while pauses.len() < 6 {
            sight.take(look(Seen::NoDns), now);
            pauses.push(sight.next() - now);
            now = sight.next();
        }
        assert_eq!(pauses, [10, 20, 30, 30, 30, 30]);
        sight.take(look(Seen::NoDns), NOW + DAY);
        assert_eq!(sight.next() - NOW - DAY, OLD);
        assert!(sight.is_stale(NOW), "the clock was set back");
    }

    #[test]
    fn r_pre_3_a_host_that_comes_to_lead_here_is_news() {
        let mut sight = Sight::default();
        for (seen, expected) in [
            (Seen::Ok, false),
            (Seen::NoDns, false),
            (Seen::Foreign, false),
            (Seen::Ok, true),
            (Seen::Ok, false),
        ] {
            assert_eq!(sight.take(look(seen), NOW), expected, "{seen:?}");
        }
    }
}
