//! Certificates as they are seen from outside: what is served, what is managed, how the CA is.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};

use super::{Admin, moment};
use crate::certs::due;
use crate::certs::standing::{Health, Standing, State};
use crate::live::Live;
use crate::metrics::{Ca, Certificate};
use crate::model::name::ObjectName;
use crate::model::plan::Wanted;

impl Admin {
    pub(super) fn certificates(&self) -> Value {
        let live = self.current.load();
        let served = live.keys.all().map(|(host, held)| {
            let it = &held.keypair;
            json!({
                "host": host.to_string(),
                "secret": held.secret.to_string(),
                "names": it.names.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "issuer": it.issuer.common_name,
                "serial": it.serial,
                "notBefore": moment(it.not_before),
                "notAfter": moment(it.not_after),
            })
        });
        let serials: HashMap<&ObjectName, &str> =
            live.keys.all().map(|(_, held)| (&held.secret, &*held.keypair.serial)).collect();
        let standings = self.all_standings(&live);
        let managed = standings.values().map(|it| {
            json!({
                "secret": it.secret.to_string(),
                "state": it.state.to_string(),
                "why": it.why,
                "names": it.names,
                "ingresses": it.ingresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
                "issuer": it.issuer,
                "notBefore": it.not_before.map(moment),
                "notAfter": it.not_after.map(moment),
                "renewAt": it.renew_at.map(moment),
                "renewSource": it.renew_source,
                "attempts": it.attempts,
                "lastError": it.last_error,
                "nextTry": it.next_try.map(moment),
                "order": it.order,
                "servedSerial": serials.get(&it.secret),
            })
        });
        json!({
            "served": served.collect::<Vec<_>>(),
            "managed": managed.collect::<Vec<_>>(),
            "ca": ca(&self.healths.borrow(), live.plan.thumbprint.as_deref(), self.leadership.holds()),
        })
    }

    /// Brings the metrics of certificates up to date.
    pub(super) fn measure(&self) {
        let live = self.current.load();
        let standings = self.all_standings(&live);
        let states: Vec<String> = standings.values().map(|it| it.state.to_string()).collect();
        let certificates = standings.values().zip(&states).map(|(it, state)| Certificate {
            secret: &it.secret,
            state,
            not_before: it.not_before,
            not_after: it.not_after,
            renew_at: it.renew_at,
            renew_source: it.renew_source,
        });
        let leads = self.leadership.holds();
        let health = self.healths.borrow().clone();
        let known = leads && !health.issuer.is_empty();
        let ca = known.then(|| Ca {
            issuer: &health.issuer,
            up: health.ca_up,
            skew: health.skew,
            limited: &health.limited,
            budgets: &health.budgets,
        });
        self.metrics.acme.show(leads, certificates, ca);
    }

    /// Where each certificate stands: as the keeper tells it, and for a Secret it has not told of yet, as
    /// the plan has it.
    pub(super) fn all_standings(&self, live: &Live) -> BTreeMap<ObjectName, Standing> {
        let mut all: BTreeMap<_, _> = (**self.standings.borrow()).clone();
        for (secret, wanted) in &live.plan.wanted {
            all.entry(secret.clone()).or_insert_with(|| planned(secret, wanted));
        }
        all
    }
}

fn planned(secret: &ObjectName, wanted: &Wanted) -> Standing {
    let held = wanted.held.as_deref();
    Standing {
        secret: secret.clone(),
        names: wanted.names.iter().cloned().collect(),
        ingresses: wanted.ingresses.iter().cloned().collect(),
        issuer: wanted.issuer.clone().unwrap_or_default(),
        not_before: held.map(|it| it.not_before),
        not_after: held.map(|it| it.not_after),
        renew_at: held.map(|it| due::renew_at(it.not_before, it.not_after)),
        renew_source: if held.is_some() { "rule" } else { "" },
        state: if held.is_some() { State::Ready } else { State::Checking },
        ..Standing::default()
    }
}

/// How the CA is; the thumbprint is in every answer to a challenge, so no secret.
fn ca(health: &Health, thumbprint: Option<&str>, leads: bool) -> Value {
    let limited: BTreeMap<&String, String> =
        health.limited.iter().map(|(scope, until)| (scope, moment(*until))).collect();
    json!({
        "directory": health.issuer,
        "account": health.account,
        "thumbprint": thumbprint,
        "leader": leads,
        "up": leads.then_some(health.ca_up),
        "error": health.ca_error,
        "blocked": health.blocked,
        "retryAt": health.ca_retry_at.map(moment),
        "clockSkewSeconds": leads.then_some(health.skew),
        "limitedUntil": limited,
        "budgets": health.budgets,
    })
}
