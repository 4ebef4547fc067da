//! What people hear: Events on Ingresses, where each certificate stands, how the CA is.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::due::{due, renewal_of};
use super::marks::Marks;
use super::standing::{Health, Standing, State};
use super::trouble::Breaker;
use super::{AT_ONCE, Issuer, Keeper};
use crate::model::name::{Kind, ObjectName};
use crate::model::plan::{Declined, Plan, Wanted};
use crate::store::Notice;

impl Keeper {
    /// Tells the Ingresses that want a certificate.
    pub(super) fn tell(
        &self,
        ingresses: &BTreeSet<ObjectName>,
        reason: &str,
        text: &str,
        warning: bool,
    ) {
        for ingress in ingresses {
            let notice = Notice {
                kind: Kind::Ingress,
                object: ingress.clone(),
                reason: reason.to_owned(),
                text: text.to_owned(),
                warning,
            };
            // Certificates do not wait for Events: what nobody takes in time stands in the log.
            if self.notices.try_send(notice).is_err() {
                tracing::warn!(%ingress, reason, "{text}");
            }
        }
    }

    /// Where a certificate stands that we are to keep, as far as its Secret tells.
    pub(super) fn standing(&self, name: &ObjectName, wanted: &Wanted, now: i64) -> Standing {
        let window = Marks(&wanted.marks).window();
        let renewal = renewal_of(wanted, window.as_ref());
        let due = due(wanted, self.issuer.name(), window.as_ref(), now);
        let held = wanted.held.as_ref();
        Standing {
            secret: name.clone(),
            names: wanted.names.iter().cloned().collect(),
            ingresses: wanted.ingresses.iter().cloned().collect(),
            issuer: wanted.issuer.clone().unwrap_or_else(|| self.issuer.name().to_owned()),
            state: if due.is_some() { State::Checking } else { State::Ready },
            why: due.map(|it| it.to_string()).unwrap_or_default(),
            not_before: held.map(|it| it.not_before),
            not_after: held.map(|it| it.not_after),
            renew_at: renewal.map(|it| it.at),
            renew_source: renewal.map_or("", |it| it.source.name()),
            order: None,
            ..Standing::default()
        }
    }

    /// Everything that was asked for and is not ours to keep.
    pub(super) fn declined(&self, plan: &Plan) -> BTreeMap<ObjectName, Standing> {
        let all = plan.declined.iter();
        all.map(|(name, it)| (name.clone(), declined(name, it, self.issuer.name()))).collect()
    }

    /// Publishes where everything stands.
    pub(super) fn publish(&self, standings: BTreeMap<ObjectName, Standing>) {
        self.standing.send_if_modified(|it| {
            let news = **it != standings;
            if news {
                *it = Arc::new(standings);
            }
            news
        });
    }

    /// Publishes how the CA is.
    pub(super) fn publish_health(
        &self,
        breaker: &Breaker,
        under_way: usize,
        blocked: Option<String>,
        now: i64,
    ) {
        let (skew, account) = match &self.issuer {
            Issuer::Acme(acme) => (acme.skew().unwrap_or(0), acme.account_url()),
            Issuer::Local(_) => (0, None),
        };
        let ledger = self.book.open();
        let count = |it: usize| u64::try_from(it).unwrap_or(u64::MAX);
        let health = Health {
            issuer: self.issuer.name().to_owned(),
            ca_up: breaker.until().is_none(),
            ca_retry_at: breaker.until(),
            ca_error: breaker.text().map(str::to_owned),
            skew,
            limited: ledger.limits(now).map(|(scope, until)| (scope.clone(), *until)).collect(),
            budgets: BTreeMap::from([
                ("orders_3h", u64::from(ledger.orders_left(now))),
                ("in_flight", count(AT_ONCE.saturating_sub(under_way))),
            ]),
            account,
            blocked,
        };
        drop(ledger);
        self.health.send_if_modified(|it| {
            let news = **it != health;
            if news {
                *it = Arc::new(health);
            }
            news
        });
    }
}

fn declined(name: &ObjectName, declined: &Declined, issuer: &str) -> Standing {
    let held = declined.held.as_ref();
    Standing {
        secret: name.clone(),
        names: declined.names.iter().cloned().collect(),
        ingresses: declined.ingresses.iter().cloned().collect(),
        issuer: if declined.reason == "SecretNotManaged" { "" } else { issuer }.to_owned(),
        state: match declined.reason {
            "SecretNotManaged" => State::Unmanaged,
            "HostTaken" | "ChallengePathTaken" => State::Conflict,
            _ => State::Blocked,
        },
        why: declined.text.clone(),
        not_before: held.map(|it| it.not_before),
        not_after: held.map(|it| it.not_after),
        ..Standing::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r_own_3_who_is_not_served_stands_there_with_the_reason() {
        for (reason, expected) in [
            ("SecretNotManaged", State::Unmanaged),
            ("HostTaken", State::Conflict),
            ("ChallengePathTaken", State::Conflict),
            ("NotIssuable", State::Blocked),
            ("TooManyNames", State::Blocked),
        ] {
            let text = "why".to_owned();
            let it = Declined { reason, text, ..Declined::default() };
            let found = declined(&ObjectName::new("shop", "tls"), &it, "ca");
            assert_eq!((found.state, &*found.why), (expected, "why"), "{reason}");
        }
    }
}
