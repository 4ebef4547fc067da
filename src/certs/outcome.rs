//! What came of each job: what it means for the next look, and who hears of it.

use std::time::Duration;

use tokio::task;
use tokio::time::Instant;

use super::ari::Ari;
use super::desk::Paused;
use super::ledger;
use super::marks::moment;
use super::obtain::{Got, Item, is_race};
use super::selfcheck::Look;
use super::standing::State;
use super::trouble::{Class, Trouble};
use super::work::{Done, Kind, Office};
use crate::model::keypair::Keypair;
use crate::model::name::ObjectName;
use crate::model::plan::Wanted;

/// How long a certificate that was stored may take to come back in a snapshot.
const ROUND_TRIP: Duration = Duration::from_secs(5);

impl Office {
    /// Takes in what came of a job.
    pub(super) fn conclude(&mut self, done: Result<(task::Id, Done), task::JoinError>) {
        let (id, done) = match done {
            Ok((id, done)) => (id, done),
            Err(error) => {
                tracing::error!(%error, "work on a certificate failed and is begun again");
                match self.busy.remove(&error.id()) {
                    // What is nobody's in particular.
                    Some((name, Kind::Write, _)) if name == ObjectName::default() => {
                        self.tidying.failed(Instant::now());
                    }
                    Some((name, ..)) => {
                        self.hold(&name, None, State::Backoff, "it failed".to_owned());
                    }
                    None => {}
                }
                return;
            }
        };
        self.busy.remove(&id);
        let now = self.keeper.now();
        match done {
            Done::Got(item, Ok(Got::Stored(pair))) => self.stored(&item, &pair),
            Done::Got(item, Ok(Got::Settled)) => self.settled(&item.name, &item.wanted),
            Done::Got(item, Err(trouble)) => self.failed(&item, &trouble, now),
            Done::Written(name, wanted, Ok(())) => self.settled(&name, &wanted),
            Done::Restored(name, wanted, Ok(())) => {
                let fight = self.desk.fights.entry(name.clone()).or_default();
                if wanted.exists {
                    fight.restored = Some(now);
                } else {
                    fight.recreated = Some(now);
                }
                let text = format!("Secret {name} was changed by somebody else and put back");
                self.tell(&wanted, "Conflict", &text, true);
                self.settled(&name, &wanted);
            }
            Done::Revoked(name, wanted, Ok(())) => {
                let text = format!("the certificate in Secret {name} is revoked");
                self.tell(&wanted, "CertificateRevoked", &text, false);
                self.settled(&name, &wanted);
            }
            Done::Revoked(name, wanted, Err(trouble)) => {
                self.trip(&trouble, now);
                self.tell_failure(&name, &wanted, &trouble);
                self.hold_revocation(&name, &trouble, now);
            }
            Done::Written(name, wanted, Err(trouble))
            | Done::Restored(name, wanted, Err(trouble)) => {
                self.trip(&trouble, now);
                self.tell_failure(&name, &wanted, &trouble);
                self.hold(&name, Some((&wanted, &trouble)), State::Backoff, trouble.to_string());
            }
            Done::Window(name, wanted, ari) => self.informed(&name, &wanted, ari),
            Done::Looked(name, wanted, looks) => self.seen(&name, &wanted, looks, now),
            Done::Tidied(Ok(orphans)) => self.desk.leave(orphans, Instant::now()),
            Done::Tidied(Err(error)) => {
                let pause = self.tidying.failed(Instant::now());
                tracing::warn!(%error, ?pause, "records of orders were not looked through: again later");
            }
            Done::Forgotten(_, Ok(())) => {}
            Done::Forgotten(name, Err(error)) => {
                tracing::warn!(secret = %name, %error, "the record of an order is left over");
            }
            Done::Probed(Ok(())) => self.desk.breaker.half_close(),
            Done::Probed(Err(trouble)) => self.trip(&trouble, now),
        }
    }

    fn tell_failure(&mut self, name: &ObjectName, wanted: &Wanted, trouble: &Trouble) {
        if trouble.concerns_owner() {
            self.tell(wanted, trouble.reason(), &format!("Secret {name}: {trouble}"), true);
        }
    }

    fn stored(&mut self, item: &Item, pair: &Keypair) {
        let Item { name, wanted, .. } = item;
        self.desk.breaker.close();
        self.keeper.metrics.orders.with_label_values(&["issued"]).inc();
        self.told.retain(|(it, _), _| !wanted.ingresses.contains(it));
        let until = moment(pair.not_after);
        tracing::info!(secret = %name, %until, "certificate stored");
        let text = format!("the CA issued a certificate for Secret {name}, good until {until}");
        self.tell(wanted, "CertificateIssued", &text, false);
        self.tell(wanted, "CertificateStored", &format!("it is stored in Secret {name}"), false);
        let renewal = super::due::renewal(
            pair.not_before,
            pair.not_after,
            &pair.id,
            None,
            Some(self.keeper.now()),
        );
        let text = format!("Secret {name} is renewed at {} (rule)", moment(renewal.at));
        self.tell(wanted, "RenewalScheduled", &text, false);
        self.tell_clock(wanted);
        self.settled(name, wanted);
    }

    /// Tells of a clock that is wrong, but not so wrong that nothing goes.
    fn tell_clock(&mut self, wanted: &Wanted) {
        let skew = super::skew(Some(self.keeper.skew()));
        if skew == 0 {
            return;
        }
        let (seconds, side) = (skew.abs(), if skew > 0 { "ahead of" } else { "behind" });
        tracing::warn!(seconds, "this machine's clock is {side} the CA's, which counts");
        let minutes = seconds / 60;
        let text =
            format!("the clock here is {minutes} min {side} the CA's, by which all is reckoned");
        self.tell(wanted, "ClockSkew", &text, true);
    }

    /// What was written is on its way round to us; until then it looks as if it was not.
    fn settled(&mut self, name: &ObjectName, wanted: &Wanted) {
        let why = "what was written is on its way round".to_owned();
        let paused = Paused {
            until: Instant::now() + ROUND_TRIP,
            failures: 0,
            names: wanted.names.clone(),
            state: State::Storing,
            why,
        };
        self.desk.paused.insert(name.clone(), paused);
    }

    pub(super) fn failed(&mut self, item: &Item, trouble: &Trouble, now: i64) {
        let Item { name, wanted, .. } = item;
        self.trip(trouble, now);
        self.tell_clock(wanted);
        let class = trouble.class();
        let state = if class == Class::H { State::Blocked } else { State::Backoff };
        // What one request of this item alone meets must not look like the CA to all others, again and
        // again: while one order goes ahead, it is another's.
        let held = matches!(class, Class::A | Class::F | Class::H)
            .then(|| self.hold(name, Some((wanted, trouble)), state, trouble.to_string()));
        let pause = match (trouble, held) {
            (Trouble::Down { .. }, _) => self.desk.breaker.until().map_or(30, |it| it - now),
            (_, Some(held)) if class != Class::H => held,
            _ => self.keeper.wait(item, trouble, now),
        };
        if !matches!(class, Class::H) {
            self.keeper.metrics.orders.with_label_values(&["failed"]).inc();
        }
        tracing::warn!(secret = %name, %trouble, retry_in = pause, "no certificate");
        if trouble.concerns_owner() {
            let next = item.next_try(trouble, pause);
            let mut text = format!("no certificate for Secret {name}: {trouble}; {next}");
            if let Trouble::Limited(limited) = trouble
                && let Some(page) = &limited.page
            {
                text = format!("{text}, or once somebody lifted the pause at {page}");
            }
            self.tell(wanted, trouble.reason(), &text, true);
        }
    }

    /// Lets an item wait for reasons of its own; says for how many seconds.
    fn hold(
        &mut self,
        name: &ObjectName,
        of: Option<(&Wanted, &Trouble)>,
        state: State,
        why: String,
    ) -> i64 {
        let failures = self.desk.paused.get(name).map_or(0, |it| it.failures).saturating_add(1);
        let seconds = match of {
            Some((_, trouble)) if is_race(trouble) && failures == 1 => 1,
            Some((_, trouble)) => {
                let spread = super::spread(&name.to_string(), failures);
                trouble.pause(failures, spread, None, self.keeper.now())
            }
            None => 60,
        };
        let seconds = match of.map(|(_, it)| it.class()) {
            // Budgets are looked at again each time; only what asks again and again is to wait.
            Some(Class::H) => seconds.min(600),
            // For longer all wait, not this one.
            Some(Class::A) => seconds.min(1_800),
            _ => seconds,
        };
        let names = of.map_or_else(|| self.desk.names(name), |(it, _)| it.names.clone());
        let time = Duration::from_secs(u64::try_from(seconds).unwrap_or(1));
        let until = Instant::now() + time;
        self.desk.paused.insert(name.clone(), Paused { until, failures, names, state, why });
        seconds
    }

    /// Lets a revocation wait, and nothing else: what is held is renewed and put back meanwhile.
    pub(super) fn hold_revocation(&mut self, name: &ObjectName, trouble: &Trouble, now: i64) {
        let failures = self.desk.unrevoked.get(name).map_or(0, |it| it.0).saturating_add(1);
        let seconds =
            trouble.pause(failures, super::spread(&name.to_string(), failures), None, now);
        let until = Instant::now() + Duration::from_secs(u64::try_from(seconds).unwrap_or(1));
        self.desk.unrevoked.insert(name.clone(), (failures, until));
    }

    /// What an error says of the CA as a whole.
    fn trip(&mut self, trouble: &Trouble, now: i64) {
        match trouble {
            Trouble::Down { .. } => {
                let spread = super::spread(self.keeper.issuer.name(), 0);
                self.desk.breaker.trip(trouble, spread, now);
            }
            // It answered: whatever it said, it is there.
            _ if matches!(trouble.class(), Class::B | Class::C | Class::D | Class::G) => {
                self.desk.breaker.close();
            }
            _ => {}
        }
    }

    fn informed(&mut self, name: &ObjectName, wanted: &Wanted, ari: Ari) {
        let Some(held) = &wanted.held else { return };
        if let Some(notice) = &ari.notice {
            let text = format!("the CA explains when Secret {name} is to be renewed: {notice}");
            self.tell(wanted, "AriNotice", &text, false);
        }
        let before = self.desk.window(name, wanted);
        if ari.window.is_some() && ari.window != before {
            let renewal = super::due::renewal_of(wanted, ari.window.as_ref());
            if let Some(it) = renewal {
                let (at, source) = (moment(it.at), it.source.name());
                let text = format!("Secret {name} is renewed at {at} ({source})");
                self.tell(wanted, "RenewalScheduled", &text, false);
            }
        }
        self.desk.windows.insert(name.clone(), (held.id.clone(), ari));
    }

    fn seen(&mut self, name: &ObjectName, wanted: &Wanted, looks: Vec<(String, Look)>, now: i64) {
        let entry = self.desk.sights.entry(name.clone()).or_default();
        if entry.0 != wanted.names {
            *entry = (wanted.names.clone(), super::route::Sight::default());
        }
        let renewed = super::due::uncovered(wanted).next().is_none();
        let strays: Vec<String> = looks
            .iter()
            .filter(|(_, it)| !super::route::is_fine(it.seen))
            .map(|(host, it)| format!("{host}: {}", it.text))
            .collect();
        let cleared = entry.1.take(looks, now);
        if renewed && !strays.is_empty() {
            let strays = strays.join("; ");
            let text = format!("Secret {name} is renewed all the same, but: {strays}");
            self.tell(wanted, "WaitingForRoute", &text, true);
        }
        if cleared {
            tracing::info!(secret = %name, "all its hosts lead here now");
            let key = ledger::key(self.keeper.issuer.name(), &wanted.names);
            let mut ledger = self.keeper.book.open();
            if ledger.backoff(&key, &self.keeper.spec()).class == Some(Class::B) {
                ledger.hasten(&key, now);
            }
        }
    }
}
