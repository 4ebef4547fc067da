//! Whether a certificate is ordered, why, and when it will be: pure, with the time as an argument.
//!
//! All times are seconds since 1970, by the CA's clock where ours differs from it.

use aws_lc_rs::digest::{SHA256, digest};

use super::ari::Window;
use super::marks::{self, Marks};
use crate::model::host::HostPattern;
use crate::model::plan::Wanted;

const DAY: i64 = 86_400;
/// Shorter certificates are renewed when half of their life is left, others at a third.
const SHORT: i64 = 10 * DAY;

/// Why a certificate is ordered; doubles as the text of the Event.
#[expect(missing_docs, reason = "the messages say it")]
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Due {
    #[error("the Secret is not there")]
    Absent,
    #[error("the Secret holds no certificate that can be read")]
    Unreadable,
    #[error("the certificate does not cover {0}")]
    Uncovered(String),
    #[error("the certificate is from {0}")]
    Elsewhere(String),
    #[error("somebody asked for a new one")]
    Asked,
    #[error("it is revoked")]
    Revoked,
    #[error("the CA asks for renewal at this time")]
    AriWindow,
    #[error("enough of the certificate's life is over")]
    Expiring,
    #[error("little of the certificate's life is left, whatever the CA says")]
    Backstop,
}

impl Due {
    /// Whether there was no certificate for these names yet.
    pub fn is_first(&self) -> bool {
        matches!(self, Self::Absent | Self::Unreadable | Self::Uncovered(_))
    }

    /// Whether only time made it due.
    pub fn is_renewal(&self) -> bool {
        matches!(self, Self::AriWindow | Self::Expiring | Self::Backstop)
    }

    /// Whether a person may have it past the budget: who asks twice, and who must not show what is held.
    pub(super) fn is_forced(&self, marks: Marks<'_>) -> bool {
        match self {
            Self::Asked => marks.renew() == Some(true),
            Self::Revoked => true,
            _ => false,
        }
    }
}

/// What says when a certificate is renewed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Source {
    /// The CA's window (RFC 9773).
    Ari,
    /// A part of the certificate's life.
    Rule,
    /// A smaller part, where the CA's window begins too late.
    Backstop,
}

impl Source {
    /// As metrics and the status page name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ari => "ari",
            Self::Rule => "rule",
            Self::Backstop => "backstop",
        }
    }
}

/// When a certificate is renewed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Renewal {
    /// From when on.
    pub at: i64,
    /// What says so.
    pub source: Source,
}

/// How urgent an order is; the first goes first.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Priority {
    /// The certificate that is shown is over.
    Expired,
    /// Less than a sixth of its life is left.
    Urgent,
    /// There is none yet.
    First,
    /// It is time.
    Renewal,
    /// For want of the whole, a part of the names.
    Subset,
}

/// The life of a certificate in seconds: both ends belong to it (RFC 5280 section 4.1.2.5).
pub fn life(not_before: i64, not_after: i64) -> i64 {
    (not_after - not_before + 1).max(1)
}

/// When a third of a certificate's life is left, or half of a short one.
///
/// Let's Encrypt's own rule, so that nothing changes where its windows cannot be had.
pub fn renew_at(not_before: i64, not_after: i64) -> i64 {
    let life = life(not_before, not_after);
    not_after - if life >= SHORT { life / 3 } else { life / 2 }
}

/// The latest time for a renewal, whatever the CA says: a fifth is left, or a third of a short life.
fn backstop(not_before: i64, not_after: i64) -> i64 {
    let life = life(not_before, not_after);
    not_after - if life >= SHORT { life / 5 } else { life / 3 }
}

/// When a certificate of this life is renewed.
///
/// `id` spreads certificates of one age: over two hundredths of their lives, or over the first three
/// quarters of the CA's window; the last one is for further tries. The same on every replica, and after
/// a restart. A window that ended before the certificate was stored, or that ends before it begins, says
/// nothing.
pub fn renewal(
    not_before: i64,
    not_after: i64,
    id: &str,
    window: Option<&Window>,
    issued_at: Option<i64>,
) -> Renewal {
    let rule = Renewal {
        at: renew_at(not_before, not_after) - share(id, life(not_before, not_after) / 50),
        source: Source::Rule,
    };
    let current = |it: &&Window| {
        it.id == id && it.end > it.start && issued_at.is_none_or(|issued| it.end > issued)
    };
    let Some(window) = window.filter(current) else { return rule };
    let chosen = window.start + share(id, (window.end - window.start).saturating_mul(3) / 4);
    let latest = backstop(not_before, not_after);
    if latest < chosen {
        return Renewal { at: latest, source: Source::Backstop };
    }
    Renewal { at: chosen, source: Source::Ari }
}

/// When what a Secret holds is renewed, if it holds anything.
pub fn renewal_of(wanted: &Wanted, window: Option<&Window>) -> Option<Renewal> {
    let held = wanted.held.as_ref()?;
    Some(renewal(held.not_before, held.not_after, &held.id, window, wanted.issued_at))
}

/// Why `wanted` needs a new certificate from `issuer` at `now`, or `None` while the one held will do.
///
/// The checks stand in the order in which they are told to a person. A certificate without our
/// annotation, one that kube-lego or a person made, is kept until it is due.
pub fn due(wanted: &Wanted, issuer: &str, window: Option<&Window>, now: i64) -> Option<Due> {
    if !wanted.exists {
        return Some(Due::Absent);
    }
    let Some(held) = &wanted.held else { return Some(Due::Unreadable) };
    if let Some(name) = uncovered(wanted).next() {
        return Some(Due::Uncovered(name.to_owned()));
    }
    if let Some(other) = wanted.issuer.as_ref().filter(|it| *it != issuer) {
        return Some(Due::Elsewhere(other.clone()));
    }
    if Marks(&wanted.marks).renew().is_some() {
        return Some(Due::Asked);
    }
    if Marks(&wanted.marks).get(marks::REVOKED) == Some(&*held.id) {
        return Some(Due::Revoked);
    }
    let renewal = renewal(held.not_before, held.not_after, &held.id, window, wanted.issued_at);
    (renewal.at <= now).then_some(match renewal.source {
        Source::Ari => Due::AriWindow,
        Source::Rule => Due::Expiring,
        Source::Backstop => Due::Backstop,
    })
}

/// The names that what is held does not cover.
pub fn uncovered(wanted: &Wanted) -> impl Iterator<Item = &str> {
    let covered = |name: &str| {
        let host: Option<HostPattern> = name.parse().ok();
        host.is_some_and(|it| wanted.held.as_ref().is_some_and(|held| held.covers(&it)))
    };
    wanted.names.iter().map(String::as_str).filter(move |it| !covered(it))
}

/// How urgent it is.
pub fn priority(wanted: &Wanted, due: &Due, subset: bool, now: i64) -> Priority {
    if subset {
        return Priority::Subset;
    }
    match &wanted.held {
        Some(held) if held.not_after <= now => Priority::Expired,
        Some(held) if is_urgent(held.not_before, held.not_after, now) => Priority::Urgent,
        _ if due.is_first() => Priority::First,
        _ => Priority::Renewal,
    }
}

/// Whether less than a sixth of a certificate's life is left.
pub fn is_urgent(not_before: i64, not_after: i64, now: i64) -> bool {
    not_after - now < life(not_before, not_after) / 6
}

/// A part of `whole` between nothing and all of it, always the same for the same text.
pub(super) fn share(text: &str, whole: i64) -> i64 {
    let mut first = [0; 8];
    first.copy_from_slice(&digest(&SHA256, text.as_bytes()).as_ref()[..8]);
    let scaled = (i128::from(u64::from_be_bytes(first)) * i128::from(whole.max(0))) >> 64;
    i64::try_from(scaled).unwrap_or(0)
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::model::keypair::Keypair;
    use crate::model::texts::Texts;

    pub(in crate::certs) fn held(name: &str) -> Arc<Keypair> {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        let (crt, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        Arc::new(Keypair::parse(Some(crt.as_bytes()), Some(key.as_bytes())).expect("a pair"))
    }

    pub(in crate::certs) fn wanted(
        names: &[&str],
        held: Option<Arc<Keypair>>,
        issuer: Option<&str>,
    ) -> Wanted {
        Wanted {
            names: names.iter().map(|it| (*it).to_owned()).collect(),
            ingresses: BTreeSet::new(),
            exists: true,
            held,
            issuer: issuer.map(str::to_owned),
            issued_at: None,
            marks: Texts::default(),
            marked: true,
            self_check: true,
            reuse_key: false,
        }
    }

    fn window(id: &str, start: i64, end: i64) -> Window {
        Window { id: id.to_owned(), start, end }
    }

    #[test]
    fn a_certificate_is_due_when_it_is_missing_wrong_or_old() {
        let a = held("a.test");
        let (begin, end) = (a.not_before, a.not_after);
        let at = renewal(begin, end, &a.id, None, None).at;
        let asked = Texts::from([("renew", "now")]);
        let revoked = |id: &str| Texts::from([("revoked", id)]);
        let fine = wanted(&["a.test"], Some(a.clone()), Some("us"));
        for (wanted, now, expected) in [
            (Wanted { exists: false, ..wanted(&["a.test"], None, None) }, begin, Some(Due::Absent)),
            (wanted(&["a.test"], None, None), begin, Some(Due::Unreadable)),
            (
                wanted(&["a.test", "b.test"], Some(a.clone()), Some("us")),
                begin,
                Some(Due::Uncovered("b.test".into())),
            ),
            (
                wanted(&["a.test"], Some(a.clone()), Some("staging")),
                begin,
                Some(Due::Elsewhere("staging".into())),
            ),
            (Wanted { marks: asked, ..fine.clone() }, begin, Some(Due::Asked)),
            (Wanted { marks: revoked(&a.id), ..fine.clone() }, begin, Some(Due::Revoked)),
            (Wanted { marks: revoked("another"), ..fine.clone() }, begin, None),
            (fine.clone(), at - 1, None),
            (wanted(&["a.test"], Some(a.clone()), None), at - 1, None),
            (fine, at, Some(Due::Expiring)),
        ] {
            assert_eq!(due(&wanted, "us", None, now), expected, "{wanted:?}");
        }
    }

    #[test]
    fn r_ren_1_a_fraction_of_the_life_is_left_spread_by_the_certificate() {
        for (life, left) in [
            (90 * DAY, 30 * DAY),
            (45 * DAY, 15 * DAY),
            (10 * DAY, 10 * DAY / 3),
            (10 * DAY - 1, (10 * DAY - 1) / 2),
            (160 * 3600, 80 * 3600),
            (120, 60),
        ] {
            let (begin, end) = (1_000_000, 1_000_000 + life - 1);
            let mut times = BTreeSet::new();
            for id in 0..50 {
                let id = id.to_string();
                let found = renewal(begin, end, &id, None, None);
                assert_eq!(found, renewal(begin, end, &id, None, Some(begin)), "stable");
                assert_eq!(found.source, Source::Rule);
                let range = end - left - life / 50..=end - left;
                assert!(range.contains(&found.at), "{life}: {found:?}, not in {range:?}");
                times.insert(found.at);
            }
            assert!(times.len() > 1, "{life}: all at once");
        }
    }

    #[test]
    fn r_ren_3_the_time_lies_in_the_first_three_quarters_of_the_window() {
        let (begin, end) = (0, 90 * DAY);
        for id in 0..100 {
            let id = id.to_string();
            let open = window(&id, 58 * DAY, 60 * DAY);
            let found = renewal(begin, end, &id, Some(&open), Some(10));
            assert_eq!(found.source, Source::Ari);
            assert!((58 * DAY..=58 * DAY + 3 * DAY / 2).contains(&found.at), "{found:?}");
        }
    }

    #[test]
    fn r_ren_3_windows_that_say_nothing_are_ignored() {
        let (begin, end, issued) = (0, 90 * DAY, 3600);
        let rule = renewal(begin, end, "a", None, Some(issued));
        for (found, why) in [
            (window("a", 20 * DAY, 20 * DAY), "empty"),
            (window("a", 20 * DAY, 10 * DAY), "backward"),
            (window("a", -DAY, issued), "over before the certificate was stored"),
            (window("b", 10 * DAY, 20 * DAY), "another certificate's"),
        ] {
            assert_eq!(renewal(begin, end, "a", Some(&found), Some(issued)), rule, "{why}");
        }
        let past = window("a", issued + 10, issued + 20);
        let found = renewal(begin, end, "a", Some(&past), Some(issued));
        assert!(found.at <= issued + 20, "a window in the past means now");
    }

    #[test]
    fn r_ren_4_a_ca_that_postpones_does_not_let_it_expire() {
        for (life, left) in [(90 * DAY, 18 * DAY), (6 * DAY, 2 * DAY)] {
            let late = window("a", life - 10, life + 1000);
            let found = renewal(0, life - 1, "a", Some(&late), Some(10));
            assert_eq!(found, Renewal { at: life - 1 - left, source: Source::Backstop });
        }
    }

    #[test]
    fn who_is_closest_to_harm_goes_first() {
        let a = held("a.test");
        let (begin, end) = (a.not_before, a.not_after);
        let some = wanted(&["a.test"], Some(a), None);
        let none = wanted(&["a.test"], None, None);
        for (wanted, due, subset, now, expected) in [
            (&some, Due::Expiring, false, end, Priority::Expired),
            (&some, Due::Expiring, false, end - 1, Priority::Urgent),
            (&none, Due::Absent, false, begin, Priority::First),
            (&some, Due::Expiring, false, begin, Priority::Renewal),
            (&none, Due::Absent, true, begin, Priority::Subset),
        ] {
            assert_eq!(priority(wanted, &due, subset, now), expected, "{due} {now}");
        }
        assert!(Priority::Expired < Priority::Urgent && Priority::Renewal < Priority::Subset);
    }

    proptest! {
        /// Whatever a CA says, it is renewed while it is good, and not before it was stored.
        #[test]
        fn r_ren_4_a_renewal_always_comes_in_time(
            life in 60..400 * DAY, start in -500 * DAY..500 * DAY, width in -DAY..30 * DAY, id: String,
        ) {
            let (begin, end) = (1_000 * DAY, 1_000 * DAY + life - 1);
            let window = window(&id, begin + start, begin + start + width);
            let found = renewal(begin, end, &id, Some(&window), Some(begin));
            prop_assert!(found.at < end, "{:?}", found);
        }
    }
}
