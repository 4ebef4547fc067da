//! What the leader has on its desk: for each certificate the next thing to do, or what it waits for.
//!
//! All of it can be lost: what must outlast the leader is in the ledger, in records, in Secrets.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::ari::{Ari, Window};
use super::claims::{self, Fight, Kept, Verdict};
use super::due::{Due, Priority, due, is_urgent, priority, renewal_of};
use super::ledger::{self, Ask, Backoff};
use super::marks::{self, Marks};
use super::obtain::Item;
use super::route::{Advice, Sight};
use super::standing::State;
use super::trouble::{Breaker, Class};
use super::{Issuer, Keeper};
use crate::model::keypair::Keypair;
use crate::model::name::ObjectName;
use crate::model::plan::{Plan, Wanted};

/// How long the record of an order is kept for a Secret that is no longer wanted.
const ORPHANED: Duration = Duration::from_secs(3_600);

/// What is known beside the plan.
#[derive(Debug, Default)]
pub(super) struct Desk {
    /// Since when each Secret is wanted with these names.
    settled: HashMap<ObjectName, (BTreeSet<String>, Instant)>,
    /// What each last held of ours.
    kept: HashMap<ObjectName, Kept>,
    pub(super) fights: HashMap<ObjectName, Fight>,
    /// The CA's windows, by the Secret and the certificate in it.
    pub(super) windows: HashMap<ObjectName, (String, Ari)>,
    /// What was seen of the hosts.
    pub(super) sights: HashMap<ObjectName, (BTreeSet<String>, Sight)>,
    /// What waits for a moment, for reasons that are nobody else's.
    pub(super) paused: HashMap<ObjectName, Paused>,
    /// How often what somebody asked to revoke was not, and until when that waits; nothing else does.
    pub(super) unrevoked: HashMap<ObjectName, (u32, Instant)>,
    pub(super) breaker: Breaker,
    /// Since when each is no longer wanted whose order may have left a record.
    left: HashMap<ObjectName, Instant>,
}

/// A wait that a restart may cut short.
#[derive(Debug)]
pub(super) struct Paused {
    pub(super) until: Instant,
    pub(super) failures: u32,
    /// Other names do not wait.
    pub(super) names: BTreeSet<String>,
    pub(super) state: State,
    pub(super) why: String,
}

/// What is next for a certificate.
#[derive(Debug)]
pub(super) enum Step {
    /// Nothing; looked at again at this time.
    Rest(Option<i64>),
    /// It waits.
    Wait {
        state: State,
        why: String,
        /// Until when, in seconds since 1970.
        until: Option<i64>,
        /// Or how long.
        time: Option<Duration>,
    },
    /// Something is to be done.
    Do(Task),
}

/// Something to be done for a certificate.
#[derive(Debug)]
pub(super) enum Task {
    Order(Box<Item>, Priority),
    Restore(Kept),
    Adopt,
    Revoke(Arc<Keypair>, String),
    Window(Ari),
    /// With what it stands for meanwhile.
    Look(State, String),
}

fn wait(state: State, why: impl Into<String>, until: i64) -> Step {
    Step::Wait { state, why: why.into(), until: Some(until), time: None }
}

impl Desk {
    /// Takes in a plan, on every replica: whoever leads next knows what Secrets held.
    pub(super) fn take(&mut self, plan: &Plan, now: Instant) {
        for (name, wanted) in &plan.wanted {
            if let Some(kept) = claims::kept(wanted) {
                self.kept.insert(name.clone(), kept);
            }
            match self.settled.get_mut(name) {
                Some((names, _)) if *names == wanted.names => {}
                _ => drop(self.settled.insert(name.clone(), (wanted.names.clone(), now))),
            }
        }
        let is_wanted = |name: &ObjectName| plan.wanted.contains_key(name);
        let gone = self.settled.keys().filter(|it| !is_wanted(it)).cloned();
        self.left.extend(gone.map(|it| (it, now)));
        self.left.retain(|name, _| !is_wanted(name));
        self.settled.retain(|name, _| is_wanted(name));
        self.kept.retain(|name, _| is_wanted(name));
        self.fights.retain(|name, _| is_wanted(name));
        self.windows.retain(|name, _| is_wanted(name));
        self.sights.retain(|name, _| is_wanted(name));
        self.paused.retain(|name, _| is_wanted(name));
        self.unrevoked.retain(|name, _| is_wanted(name));
    }

    /// The names that a Secret is wanted with.
    pub(super) fn names(&self, name: &ObjectName) -> BTreeSet<String> {
        self.settled.get(name).map(|(names, _)| names.clone()).unwrap_or_default()
    }

    /// Notes records of orders for what nobody wants.
    pub(super) fn leave(&mut self, names: Vec<ObjectName>, now: Instant) {
        self.left.extend(names.into_iter().map(|it| (it, now)));
    }

    /// One whose record nobody will take up: who deletes an Ingress may make it again within the hour.
    pub(super) fn orphan(&mut self, now: Instant) -> Option<ObjectName> {
        let old = self.left.iter().find(|(_, since)| now.duration_since(**since) > ORPHANED);
        let name = old.map(|(name, _)| name.clone())?;
        self.left.remove(&name);
        Some(name)
    }

    /// The CA's window for what a Secret holds.
    pub(super) fn window(&self, name: &ObjectName, wanted: &Wanted) -> Option<Window> {
        let held = wanted.held.as_ref()?;
        let known = self.windows.get(name).filter(|(id, _)| *id == held.id);
        known.and_then(|(_, it)| it.window.clone()).or_else(|| Marks(&wanted.marks).window())
    }

    /// What is next for one certificate at `now`.
    pub(super) fn step(
        &mut self,
        keeper: &Keeper,
        name: &ObjectName,
        wanted: &Wanted,
        now: i64,
    ) -> Step {
        if let Some(step) = self.pause(name, wanted) {
            return step;
        }
        let marks = Marks(&wanted.marks);
        if wanted.exists && (!wanted.marked || marks.is_handed_over()) {
            return Step::Do(Task::Adopt);
        }
        let fight = self.fights.get(name).copied().unwrap_or_default();
        match claims::judge(wanted, self.kept.get(name), &fight, keeper.issuer.name(), now) {
            Verdict::Fine => {}
            Verdict::Conflict(until) => {
                let why = "TwoWriters: somebody else changes this Secret again and again; it is left alone";
                return wait(State::Conflict, why, until);
            }
            Verdict::Restore => {
                if let Some(kept) = self.kept.get(name) {
                    return Step::Do(Task::Restore(kept.clone()));
                }
            }
        }
        if marks.get(marks::REVOKE).is_none() {
            self.unrevoked.remove(name);
        }
        let waits = self.unrevoked.get(name).is_some_and(|(_, until)| Instant::now() < *until);
        if let (Some(reason), Some(held)) = (marks.get(marks::REVOKE), &wanted.held)
            && !waits
        {
            return match self.outage() {
                Some(step) => step,
                None => Step::Do(Task::Revoke(held.clone(), reason.to_owned())),
            };
        }
        let window = self.window(name, wanted);
        match due(wanted, keeper.issuer.name(), window.as_ref(), now) {
            None => self.rest(keeper, name, wanted, window.as_ref(), now),
            Some(due) => self.order(keeper, name, wanted, due, window, now),
        }
    }

    /// What a certificate that will do waits for: its renewal, or news of the CA's window.
    fn rest(
        &mut self,
        keeper: &Keeper,
        name: &ObjectName,
        wanted: &Wanted,
        window: Option<&Window>,
        now: i64,
    ) -> Step {
        let renewal = renewal_of(wanted, window).map(|it| it.at);
        if !matches!(keeper.issuer, Issuer::Acme(_)) || self.breaker.until().is_some() {
            return Step::Rest(renewal);
        }
        let ari = self.ari(name, wanted, now);
        if ari.is_stale(now) {
            return Step::Do(Task::Window(ari));
        }
        Step::Rest(renewal.map(|it| it.min(ari.next)))
    }

    /// What is known of the window of what a Secret holds.
    fn ari(&self, name: &ObjectName, wanted: &Wanted, now: i64) -> Ari {
        let id = wanted.held.as_ref().map(|it| it.id.as_str());
        match self.windows.get(name) {
            Some((known, ari)) if Some(known.as_str()) == id => ari.clone(),
            _ => {
                let window = Marks(&wanted.marks).window();
                // After a restart a thousand known windows are not asked for at once.
                let next = window.as_ref().map_or(now, |it| now + super::due::share(&it.id, 3_600));
                let next = if self.windows.contains_key(name) { now } else { next };
                Ari { window, next, ..Ari::default() }
            }
        }
    }

    /// What stands between a certificate that is due and its order.
    fn order(
        &mut self,
        keeper: &Keeper,
        name: &ObjectName,
        wanted: &Wanted,
        due: Due,
        window: Option<Window>,
        now: i64,
    ) -> Step {
        let public = matches!(keeper.issuer, Issuer::Acme(_));
        if let Some(step) = self.debounce(keeper, name, &due) {
            return step;
        }
        if let Some(step) = self.outage() {
            return step;
        }
        if keeper.skew().abs() > 86_400 {
            let why = format!("this machine's clock is {} s ahead of the CA's", keeper.skew());
            return wait(State::Blocked, why, now + 60);
        }
        if public && due.is_renewal() {
            let ari = self.ari(name, wanted, now);
            if ari.is_old(now) {
                return Step::Do(Task::Window(ari));
            }
        }
        let asked = due == Due::Asked;
        let forced = due.is_forced(Marks(&wanted.marks));
        // What is held was had this way.
        let known = due.is_renewal() || due == Due::Revoked;
        let rule = renewal_of(wanted, None).map_or(now, |it| it.at);
        let early = due == Due::AriWindow && now < rule;
        let names = wanted.names.clone();
        let item =
            Item { name: name.clone(), wanted: wanted.clone(), names, due, window, early, forced };
        let key = ledger::key(keeper.issuer.name(), &item.names);
        let backoff = keeper.book.open().backoff(&key, &keeper.spec());
        let limited = backoff.class == Some(Class::C);
        if backoff.until > now && (limited || !asked) {
            return self.back_off(keeper, &item, &backoff, now);
        }
        // Who asks hears at once that the budget is spent, and is not served days later.
        if let Some(step) = spent(keeper, &item.ask(&key), rule, now)
            && !asked
        {
            return step;
        }
        // An order that is taken up again was looked at before it was placed.
        let placed = keeper.book.open().reserved(&key).is_some();
        if public && wanted.self_check && !asked && !placed {
            let published = published(keeper, wanted);
            if known && self.sight(name, wanted).is_stale(now) {
                return Step::Do(Task::Look(State::Checking, String::new()));
            }
            match self.sight(name, wanted).advice(known, &published, now) {
                Advice::Look => return Step::Do(Task::Look(State::Checking, String::new())),
                Advice::Order => {}
                Advice::Wait { until, why } => {
                    let sight = self.sight(name, wanted);
                    if sight.is_stale(now) {
                        return Step::Do(Task::Look(State::WaitingForRoute, why));
                    }
                    return wait(State::WaitingForRoute, why, until.min(sight.next()));
                }
            }
        }
        let priority = priority(wanted, &item.due, false, now);
        Step::Do(Task::Order(Box::new(item), priority))
    }

    /// While the whole set waits: a look at hosts that did not lead here, or a part of the names.
    fn back_off(&mut self, keeper: &Keeper, item: &Item, backoff: &Backoff, now: i64) -> Step {
        let Item { name, wanted, .. } = item;
        let blocked = matches!(backoff.class, Some(Class::D | Class::G));
        let state = if blocked { State::Blocked } else { State::Backoff };
        if let Some(part) = self.part(keeper, item, backoff, now) {
            let full = ledger::key(keeper.issuer.name(), &wanted.names);
            let may = keeper.book.open().subset_at(&full) <= now;
            let key = ledger::key(keeper.issuer.name(), &part.names);
            let clear = keeper.book.open().backoff(&key, &keeper.spec()).until <= now;
            if may && clear && spent(keeper, &part.ask(&key), now, now).is_none() {
                return Step::Do(Task::Order(Box::new(part), Priority::Subset));
            }
        }
        let sight = self.sight(name, wanted);
        let looks = wanted.self_check && backoff.class == Some(Class::B);
        if looks && sight.bad().next().is_some() {
            if sight.is_stale(now) {
                return Step::Do(Task::Look(state, backoff.error.clone()));
            }
            return wait(state, backoff.error.clone(), backoff.until.min(sight.next()));
        }
        wait(state, backoff.error.clone(), backoff.until)
    }

    /// The names that can be had, where the rest is at fault and what is shown will not do much longer.
    fn part(&mut self, keeper: &Keeper, item: &Item, backoff: &Backoff, now: i64) -> Option<Item> {
        if !matches!(backoff.class, Some(Class::B | Class::D)) || item.names.len() < 2 {
            return None;
        }
        let mut bad: BTreeSet<String> = backoff.bad.iter().cloned().collect();
        bad.extend(self.sight(&item.name, &item.wanted).bad().map(str::to_owned));
        let names: BTreeSet<String> = item.names.difference(&bad).cloned().collect();
        if names.is_empty() || names == item.names {
            return None;
        }
        let wanted = Wanted { names: names.clone(), ..item.wanted.clone() };
        let due = due(&wanted, keeper.issuer.name(), item.window.as_ref(), now)?;
        let urgent = match &wanted.held {
            Some(held) if !due.is_first() => is_urgent(held.not_before, held.not_after, now),
            _ => true,
        };
        urgent.then(|| Item { names, due, ..item.clone() })
    }

    fn sight(&mut self, name: &ObjectName, wanted: &Wanted) -> &mut Sight {
        let entry = self.sights.entry(name.clone()).or_default();
        if entry.0 != wanted.names {
            *entry = (wanted.names.clone(), Sight::default());
        }
        &mut entry.1
    }

    /// Names that still change are not ordered.
    fn debounce(&self, keeper: &Keeper, name: &ObjectName, due: &Due) -> Option<Step> {
        let settle = match due {
            // Somebody waits for it, and there is nothing to lose.
            Due::Absent | Due::Unreadable => keeper.settle / 6,
            Due::Uncovered(_) => keeper.settle,
            _ => return None,
        };
        let since = self.settled.get(name)?.1.elapsed();
        let left = settle.checked_sub(since).filter(|it| !it.is_zero())?;
        let why = "its names may still change".to_owned();
        Some(Step::Wait { state: State::Checking, why, until: None, time: Some(left) })
    }

    fn pause(&self, name: &ObjectName, wanted: &Wanted) -> Option<Step> {
        let paused = self.paused.get(name).filter(|it| it.names == wanted.names)?;
        let left =
            paused.until.checked_duration_since(Instant::now()).filter(|it| !it.is_zero())?;
        let (state, why) = (paused.state, paused.why.clone());
        Some(Step::Wait { state, why, until: None, time: Some(left) })
    }

    fn outage(&self) -> Option<Step> {
        let until = self.breaker.until()?;
        Some(wait(State::Backoff, self.breaker.text().unwrap_or_default(), until))
    }
}

/// What a budget makes wait.
fn spent(keeper: &Keeper, ask: &Ask<'_>, rule: i64, now: i64) -> Option<Step> {
    let ledger = keeper.book.open();
    if ledger.reserved(ask.key).is_some() {
        // An order that is taken up again has its place; whether it is one shows its record.
        return None;
    }
    let spent = ledger.admits(ask, false, now).err()?;
    // What the CA wants early may wait for its time.
    let until = if ask.early { spent.until.min(rule) } else { spent.until };
    let state = if spent.runaway && !ask.early { State::Blocked } else { State::Backoff };
    let mark = if spent.runaway { "RunawayGuard: " } else { "" };
    Some(wait(state, format!("{mark}{}", spent.text), until))
}

/// The addresses that the Ingresses of a certificate have in their status.
fn published(keeper: &Keeper, wanted: &Wanted) -> Vec<IpAddr> {
    let snapshot = keeper.snapshots.borrow();
    let Some(objects) = &*snapshot else { return Vec::new() };
    let ingresses = wanted.ingresses.iter().filter_map(|it| objects.ingresses.get(it));
    ingresses.flat_map(|it| &it.addresses).filter_map(|it| it.parse().ok()).collect()
}

#[cfg(test)]
pub(super) mod tests;
