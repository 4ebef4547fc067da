//! Whether a certificate is ordered, and why.

use std::collections::BTreeSet;

use crate::model::host::HostPattern;
use crate::model::plan::Wanted;

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
    #[error("a third of the certificate's life is left")]
    Expiring,
}

/// Seconds since 1970 from which a certificate of this life is renewed: when a third is left.
pub fn renew_at(not_before: i64, not_after: i64) -> i64 {
    not_after - (not_after - not_before) / 3
}

/// Why `wanted` needs a new certificate from `issuer` at `now`, or `None` while the one held will do.
///
/// The checks stand in the order in which they are told to a person. A certificate without our
/// annotation, one that kube-lego or a person made, is kept until it is due.
pub fn due(wanted: &Wanted, issuer: &str, now: i64) -> Option<Due> {
    if !wanted.exists {
        return Some(Due::Absent);
    }
    let Some(held) = &wanted.held else { return Some(Due::Unreadable) };
    let covered = |name: &&String| name.parse::<HostPattern>().is_ok_and(|it| held.covers(&it));
    if let Some(name) = wanted.names.iter().find(|it| !covered(it)) {
        return Some(Due::Uncovered(name.clone()));
    }
    if let Some(other) = wanted.issuer.as_ref().filter(|it| *it != issuer) {
        return Some(Due::Elsewhere(other.clone()));
    }
    (renew_at(held.not_before, held.not_after) <= now).then_some(Due::Expiring)
}

/// When a certificate that will do now is looked at again, in seconds since 1970.
pub fn next_look(wanted: &Wanted) -> Option<i64> {
    wanted.held.as_ref().map(|it| renew_at(it.not_before, it.not_after))
}

/// The names of an order, the same for the same set: what the in-flight record is found by.
pub(super) fn key(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::model::keypair::Keypair;

    fn held(name: &str) -> Arc<Keypair> {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        let (crt, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        Arc::new(Keypair::parse(Some(crt.as_bytes()), Some(key.as_bytes())).expect("a pair"))
    }

    fn wanted(names: &[&str], held: Option<Arc<Keypair>>, issuer: Option<&str>) -> Wanted {
        Wanted {
            names: names.iter().map(|it| (*it).to_owned()).collect(),
            ingresses: BTreeSet::new(),
            exists: true,
            held,
            issuer: issuer.map(str::to_owned),
            issued_at: None,
        }
    }

    #[test]
    fn a_certificate_is_due_when_it_is_missing_wrong_or_old() {
        let a = held("a.test");
        let (begin, end) = (a.not_before, a.not_after);
        let third = end - (end - begin) / 3;
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
            (wanted(&["a.test"], Some(a.clone()), Some("us")), third - 1, None),
            (wanted(&["a.test"], Some(a.clone()), None), third - 1, None),
            (wanted(&["a.test"], Some(a.clone()), Some("us")), third, Some(Due::Expiring)),
        ] {
            assert_eq!(due(&wanted, "us", now), expected, "{wanted:?}");
        }
    }
}
