//! Whose a Secret is, and what happens when somebody else writes ours. Pure.

use std::sync::Arc;

use super::due::uncovered;
use super::marks::{self, Marks};
use crate::compile::objects::{MANAGED, MANAGER, TLS_ACME};
use crate::model::keypair::Keypair;
use crate::model::name::ObjectName;
use crate::model::plan::Wanted;
use crate::model::texts::Texts;
use crate::store::StoredSecret;

/// What cert-manager writes on Secrets it fills.
const CERT_MANAGER: &str = "cert-manager.io/";
/// And its label.
const CERT_MANAGER_LABEL: &str = "controller.cert-manager.io/fao";
/// Whoever changes a Secret again within this time after we restored it, in seconds, is at war.
const TRUCE: i64 = 3_600;
/// Between two times that a Secret is made again which somebody deletes, in seconds.
const AGAIN: i64 = 60;

/// The last good pair of ours that a Secret held, with our annotations.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) pair: Arc<Keypair>,
    pub(super) marks: Texts,
}

/// What was done about others' changes of a Secret.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Fight {
    /// When it was last put back.
    pub(super) restored: Option<i64>,
    /// When it was last made again.
    pub(super) recreated: Option<i64>,
}

/// What to do about a Secret as it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Verdict {
    /// Nobody meddled.
    Fine,
    /// Write what it held.
    Restore,
    /// Leave it alone until then: nothing is written, nothing ordered.
    Conflict(i64),
}

/// Whether a Secret is ours to write: it bears our mark, or kube-lego's, or was handed over.
pub(super) fn is_ours(secret: &StoredSecret) -> bool {
    let truth =
        |name: &str| secret.annotations.get(name).is_some_and(|it| it.eq_ignore_ascii_case("true"));
    if truth(&marks::full(marks::ADOPT)) {
        return true;
    }
    let others = secret.annotations.contains_key("cert-manager.io/certificate-name");
    !others && (secret.annotations.contains_key(MANAGED) || truth(TLS_ACME))
}

/// A Secret that is ours from the start, for nobody else to write.
pub(super) fn own<const N: usize>(name: ObjectName, data: [(&str, Vec<u8>); N]) -> StoredSecret {
    StoredSecret {
        name,
        kind: "Opaque".to_owned(),
        data: data.map(|(entry, value)| (entry.to_owned(), value)).into(),
        annotations: [managed()].into(),
        labels: [labelled()].into(),
        ..StoredSecret::default()
    }
}

/// Our mark.
pub(super) fn managed() -> (String, String) {
    (MANAGED.to_owned(), "v1".to_owned())
}

/// The label that says who keeps an object.
pub(super) fn labelled() -> (String, String) {
    ("app.kubernetes.io/managed-by".to_owned(), MANAGER.to_owned())
}

/// Makes a Secret that was handed over ours: the pair stays, the marks of others go.
pub(super) fn adopt(secret: &mut StoredSecret) {
    secret.annotations.retain(|name, _| !name.starts_with(CERT_MANAGER));
    secret.labels.remove(CERT_MANAGER_LABEL);
    secret.annotations.remove(&marks::full(marks::ADOPT));
    secret.annotations.extend([managed()]);
}

/// What a Secret holds, if it is what we put there.
pub(super) fn kept(wanted: &Wanted) -> Option<Kept> {
    let pair = wanted.held.clone()?;
    let ours = Marks(&wanted.marks).get(marks::CERT_ID).is_some_and(|it| it == pair.id);
    (wanted.marked && ours).then(|| Kept { pair, marks: wanted.marks.clone() })
}

/// What to do about a Secret, given what it last held of ours.
pub(super) fn judge(
    wanted: &Wanted,
    kept: Option<&Kept>,
    fight: &Fight,
    issuer: &str,
    now: i64,
) -> Verdict {
    if !kept.is_some_and(|it| is_good(it, wanted, issuer, now)) {
        return Verdict::Fine;
    }
    if !wanted.exists {
        // Somebody who deletes it gets it back: the same certificate costs no order.
        return match fight.recreated {
            Some(last) if (0..AGAIN).contains(&(now - last)) => Verdict::Conflict(last + AGAIN),
            _ => Verdict::Restore,
        };
    }
    let id = Marks(&wanted.marks).get(marks::CERT_ID);
    let changed = match &wanted.held {
        None => true,
        Some(held) => id.is_some_and(|it| it != held.id),
    };
    match fight.restored {
        _ if !changed => Verdict::Fine,
        Some(last) if (0..TRUCE).contains(&(now - last)) => Verdict::Conflict(last + TRUCE),
        _ => Verdict::Restore,
    }
}

/// Whether what was kept is still what is wanted.
fn is_good(kept: &Kept, wanted: &Wanted, issuer: &str, now: i64) -> bool {
    let as_kept = Wanted { held: Some(kept.pair.clone()), ..wanted.clone() };
    kept.pair.not_after > now
        && uncovered(&as_kept).next().is_none()
        && Marks(&kept.marks).get("issuer").is_none_or(|it| it == issuer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::certs::due::tests::{held as pair, wanted as wanted_of};

    fn wanted(pair: &Arc<Keypair>) -> Wanted {
        let marks = [(marks::CERT_ID, pair.id.as_str()), ("issuer", "ca")].into();
        Wanted { marks, ..wanted_of(&["a.test"], Some(pair.clone()), Some("ca")) }
    }

    fn secret(annotations: &[(&str, &str)]) -> StoredSecret {
        let annotations = annotations.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        StoredSecret { annotations: annotations.collect(), ..StoredSecret::default() }
    }

    #[test]
    fn r_own_1_a_secret_without_our_mark_is_never_ours() {
        for (annotations, expected) in [
            (&[][..], false),
            (&[("lockgate.dev/managed", "v1")], true),
            (&[("kubernetes.io/tls-acme", "true")], true),
            (&[("kubernetes.io/tls-acme", "false")], false),
            (&[("cert-manager.io/certificate-name", "web")], false),
            (&[("cert-manager.io/certificate-name", "web"), ("lockgate.dev/managed", "v1")], false),
            (&[("cert-manager.io/certificate-name", "web"), ("lockgate.dev/adopt", "true")], true),
            (&[("lockgate.dev/adopt", "true")], true),
        ] {
            assert_eq!(is_ours(&secret(annotations)), expected, "{annotations:?}");
        }
    }

    #[test]
    fn r_own_1_what_was_handed_over_bears_our_mark_alone() {
        let mut secret = secret(&[
            ("cert-manager.io/certificate-name", "web"),
            ("cert-manager.io/issuer-name", "le"),
            ("lockgate.dev/adopt", "true"),
            ("team", "shop"),
        ]);
        adopt(&mut secret);
        let left: Vec<&str> = secret.annotations.keys().map(String::as_str).collect();
        assert_eq!(left, ["lockgate.dev/managed", "team"]);
        assert!(is_ours(&secret));
    }

    #[test]
    fn r_sto_4_others_changes_are_undone_once_and_never_ordered_over() {
        let (ours, theirs) = (pair("a.test"), pair("a.test"));
        let now = ours.not_before + 10_000;
        let good = wanted(&ours);
        let kept = kept(&good).expect("ours");
        let gone = Wanted { exists: false, held: None, marks: Texts::default(), ..good.clone() };
        let broken = Wanted { held: None, ..good.clone() };
        let other = Wanted { held: Some(theirs), ..good.clone() };
        let more = ["a.test".to_owned(), "b.test".to_owned()].into();
        let war = Fight { restored: Some(now - 10), recreated: None };
        let peace = Fight { restored: Some(now - TRUCE), recreated: None };
        let deleted = Fight { restored: None, recreated: Some(now - 10) };
        let none = Fight::default();
        for (wanted, fight, expected) in [
            (&good, none, Verdict::Fine),
            (&good, war, Verdict::Fine),
            (&gone, none, Verdict::Restore),
            (&gone, deleted, Verdict::Conflict(now + 50)),
            (&broken, none, Verdict::Restore),
            (&broken, war, Verdict::Conflict(now - 10 + TRUCE)),
            (&broken, peace, Verdict::Restore),
            (&other, none, Verdict::Restore),
            (&other, war, Verdict::Conflict(now - 10 + TRUCE)),
            (&Wanted { names: more, ..broken.clone() }, none, Verdict::Fine),
        ] {
            let found = judge(wanted, Some(&kept), &fight, "ca", now);
            assert_eq!(found, expected, "{wanted:?} {fight:?}");
        }
        assert_eq!(judge(&broken, None, &none, "ca", now), Verdict::Fine, "nothing to put back");
        assert_eq!(judge(&gone, Some(&kept), &none, "staging", now), Verdict::Fine, "another CA");
        assert_eq!(judge(&gone, Some(&kept), &none, "ca", ours.not_after), Verdict::Fine, "over");
    }
}
