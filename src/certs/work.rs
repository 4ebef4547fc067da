//! The keeper's loop: looks at everything that is wanted, starts what is next, takes in what came of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::task::{self, JoinSet};
use tokio::time::Instant;

use super::ari::Ari;
use super::claims::Kept;
use super::desk::{Desk, Step, Task};
use super::doing::Work;
use super::due::Priority;
use super::ledger;
use super::obtain::{Got, Item};
use super::selfcheck::{self, Look, Seen};
use super::standing::{Standing, State};
use super::tidying::Tidying;
use super::trouble::Trouble;
use super::{AT_ONCE, Issuer, Keeper};
use crate::model::name::ObjectName;
use crate::model::plan::{Plan, Wanted};

/// Longest sleep: a clock that was set is noticed after this long.
const LONGEST_SLEEP: Duration = Duration::from_secs(60);
/// Shortest time between two rounds: what got on in between is seen together.
const ROUND: Duration = Duration::from_millis(50);
/// Before the account's key or the ledger is asked for again.
const NOT_READY: Duration = Duration::from_secs(5);
/// Most renewal windows that are asked for at once.
const WINDOWS: usize = 4;
/// Most certificates whose hosts are looked at at once.
const LOOKS: usize = 16;
/// Between two probes that only set the clock right, in seconds.
const CLOCK: i64 = 60;

/// What a job was for, and what came of it.
#[derive(Debug)]
pub(super) enum Done {
    Got(Box<Item>, Result<Got, Trouble>),
    Written(ObjectName, Wanted, Result<(), Trouble>),
    Restored(ObjectName, Wanted, Result<(), Trouble>),
    Revoked(ObjectName, Wanted, Result<(), Trouble>),
    Window(ObjectName, Wanted, Ari),
    Looked(ObjectName, Wanted, Vec<(String, Look)>),
    Probed(Result<(), Trouble>),
    Forgotten(ObjectName, Result<(), Trouble>),
    Tidied(Result<Vec<ObjectName>, Trouble>),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Kind {
    Order,
    Write,
    Window,
    Look,
    Probe,
}

/// The loop's own state.
pub(super) struct Office {
    pub(super) keeper: Keeper,
    pub(super) desk: Desk,
    jobs: JoinSet<Done>,
    pub(super) busy: HashMap<task::Id, (ObjectName, Kind, Option<String>)>,
    work: Work,
    /// What each Ingress heard last of each kind, so that nothing is told twice.
    pub(super) told: HashMap<(ObjectName, &'static str), String>,
    /// Since when a challenge would be answered.
    answerable: Option<Instant>,
    /// Not before this is the account's key, or the ledger, asked for again.
    retry: Option<Instant>,
    /// Since when one of them is missing, and why.
    unready: Option<(Instant, String)>,
    probed: i64,
    pub(super) tidying: Tidying,
}

pub(super) async fn run(keeper: Keeper, mut plans: watch::Receiver<Arc<Plan>>) {
    let mut vault = keeper.vault.clone();
    let mut office = Office::new(keeper);
    loop {
        let plan = plans.borrow_and_update().clone();
        let began = Instant::now();
        let sleep = office.round(&plan).await;
        // However much there is to keep, most of the time is left for others.
        let (begun, rest) = (Instant::now(), ROUND.max(began.elapsed() * 5));
        let progress = office.work.clone();
        tokio::select! {
            changed = plans.changed() => if changed.is_err() { return },
            () = vault.changed() => {}
            () = progress.changed() => {}
            Some(done) = office.jobs.join_next_with_id() => office.conclude(done),
            () = tokio::time::sleep(sleep) => {}
        }
        while let Some(done) = office.jobs.try_join_next_with_id() {
            office.conclude(done);
        }
        tokio::time::sleep_until(begun + rest.min(LONGEST_SLEEP / 12)).await;
    }
}

impl Office {
    pub(super) fn new(keeper: Keeper) -> Self {
        Self {
            keeper,
            desk: Desk::default(),
            jobs: JoinSet::new(),
            busy: HashMap::new(),
            work: Work::default(),
            told: HashMap::new(),
            answerable: None,
            retry: None,
            unready: None,
            probed: 0,
            tidying: Tidying::new(Instant::now()),
        }
    }

    /// One look at everything; says how long until another is worth while.
    async fn round(&mut self, plan: &Plan) -> Duration {
        let now = self.keeper.now();
        self.desk.take(plan, Instant::now());
        let leads = self.keeper.vault.is_open();
        if !leads {
            self.keeper.book.shut();
            self.tidying = Tidying::new(Instant::now());
            self.unready = None;
        }
        let ready = leads && self.ready(plan, now).await;
        let (sleep, mut standings) =
            if ready { self.lead(plan, now) } else { self.follow(plan, leads, now) };
        standings.extend(self.keeper.declined(plan));
        self.keeper.publish(standings);
        let blocked = self.why_unready().map(str::to_owned);
        self.keeper.publish_health(&self.desk.breaker, self.count(Kind::Order), blocked, now);
        sleep
    }

    /// Whether the ledger was read and challenges would be answered.
    async fn ready(&mut self, plan: &Plan, now: i64) -> bool {
        // Somebody may have deleted the account's Secret, or put another key into it.
        if self.keeper.answerable(plan) && self.keeper.book.is_read() {
            (self.retry, self.unready) = (None, None);
            return true;
        }
        if self.retry.is_some_and(|it| Instant::now() < it) {
            return false;
        }
        let prepared = match &self.keeper.issuer {
            Issuer::Acme(acme) => acme.prepare(&self.keeper.vault).await,
            Issuer::Local(_) => Ok(()),
        };
        let read = match prepared {
            Ok(()) if !self.keeper.book.is_read() => self.keeper.book.read(now).await,
            other => other,
        };
        let why = match read {
            Ok(()) if self.keeper.answerable(plan) => {
                (self.retry, self.unready) = (None, None);
                return true;
            }
            Ok(()) => "the ACME account's key does not come back from its Secret".to_owned(),
            Err(error) => {
                tracing::warn!(%error, "nothing is ordered: the account's key or the ledger is not there");
                if !error.concerns_owner() {
                    return self.again();
                }
                error.to_string()
            }
        };
        let since = self.unready.take().map_or_else(Instant::now, |(since, _)| since);
        self.unready = Some((since, why));
        self.again()
    }

    /// Asks for what is missing a little later.
    fn again(&mut self) -> bool {
        self.retry = Some(Instant::now() + NOT_READY);
        false
    }

    /// Why nothing is ordered, once that lasts.
    fn why_unready(&self) -> Option<&str> {
        let lasts = |it: &&(Instant, String)| it.0.elapsed() >= NOT_READY * 2;
        self.unready.as_ref().filter(lasts).map(|(_, why)| &**why)
    }

    /// What those tell that do not lead: what the plan says.
    fn follow(
        &mut self,
        plan: &Plan,
        leads: bool,
        now: i64,
    ) -> (Duration, BTreeMap<ObjectName, Standing>) {
        self.answerable = None;
        let why = self.why_unready().map(|it| format!("nothing is ordered: {it}"));
        let mut standings = BTreeMap::new();
        for (name, wanted) in &plan.wanted {
            let mut standing = self.keeper.standing(name, wanted, now);
            if let Some(why) = &why
                && standing.state != State::Ready
            {
                (standing.state, standing.why) = (State::Backoff, why.clone());
                standing.next_try = Some(now + seconds(NOT_READY));
                self.tell(wanted, "NotReady", &format!("Secret {name}: {why}"), true);
            }
            standings.insert(name.clone(), standing);
        }
        (if leads { Duration::from_millis(500) } else { LONGEST_SLEEP }, standings)
    }

    /// What the leader does: starts what is next.
    fn lead(&mut self, plan: &Plan, now: i64) -> (Duration, BTreeMap<ObjectName, Standing>) {
        let mut sleep = LONGEST_SLEEP;
        let fresh = self.fresh();
        let mut standings = BTreeMap::new();
        let mut orders = Vec::new();
        let states = self.work.states();
        for (name, wanted) in &plan.wanted {
            let mut standing = self.keeper.standing(name, wanted, now);
            let window = self.desk.window(name, wanted);
            if let Some(renewal) = super::due::renewal_of(wanted, window.as_ref()) {
                standing.renew_at = Some(renewal.at);
                standing.renew_source = renewal.source.name();
            }
            self.add_past(&mut standing, wanted);
            if let Some((state, order)) = states.get(name) {
                (standing.state, standing.order) = (*state, order.clone());
            } else if !self.busy.values().any(|(it, kind, _)| it == name && *kind != Kind::Window) {
                match self.desk.step(&self.keeper, name, wanted, now) {
                    Step::Rest(until) => sleep = sleep.min(left(until, now)),
                    Step::Wait { state, why, until, time } => {
                        sleep = sleep.min(time.unwrap_or_else(|| left(until, now)));
                        (standing.state, standing.why) = (state, why);
                        standing.next_try = until.or_else(|| Some(now + seconds(time?)));
                    }
                    Step::Do(Task::Order(item, priority)) => orders.push((priority, item)),
                    Step::Do(task) => self.start(name, wanted, task, &mut standing),
                }
                self.tell_standing(wanted, &standing);
            }
            standings.insert(name.clone(), standing);
        }
        sleep = sleep.min(self.order(orders, fresh, &mut standings));
        sleep = sleep.min(self.probe(now));
        (sleep.min(self.clean(plan)), standings)
    }

    /// Deletes the records of orders that are over, and for what nobody wants any more; says how long until
    /// there may be more to do.
    fn clean(&mut self, plan: &Plan) -> Duration {
        if self.tidying.begin(Instant::now()) {
            let (keeper, plan) = (self.keeper.clone(), plan.clone());
            let job = self.jobs.spawn(async move { Done::Tidied(keeper.tidy(&plan).await) });
            self.busy.insert(job.id(), (ObjectName::default(), Kind::Write, None));
        }
        while self.count(Kind::Write) < AT_ONCE
            && let Some(name) = self.desk.orphan(Instant::now())
        {
            let keeper = self.keeper.clone();
            let orphan = name.clone();
            let job = self.jobs.spawn(async move {
                let result = keeper.forget(&orphan).await;
                Done::Forgotten(orphan, result)
            });
            self.busy.insert(job.id(), (name, Kind::Write, None));
        }
        self.tidying.left(Instant::now()).unwrap_or(LONGEST_SLEEP)
    }

    /// How long other replicas are given to hear of a new account's key.
    fn fresh(&mut self) -> Duration {
        let since = self.answerable.get_or_insert_with(Instant::now).elapsed();
        match self.keeper.issuer {
            Issuer::Acme(_) => (self.keeper.settle / 6).saturating_sub(since),
            Issuer::Local(_) => Duration::ZERO,
        }
    }

    /// Starts the most urgent orders.
    pub(super) fn order(
        &mut self,
        mut orders: Vec<(Priority, Box<Item>)>,
        fresh: Duration,
        standings: &mut BTreeMap<ObjectName, Standing>,
    ) -> Duration {
        orders.sort_by_key(|(priority, _)| *priority);
        if self.desk.breaker.room(AT_ONCE) < AT_ONCE {
            // One goes ahead: whoever met a CA that was down comes last, for it may be its own fault.
            orders.sort_by_key(|(_, item)| self.desk.paused.get(&item.name).map(|it| it.failures));
        }
        let mut sleep = LONGEST_SLEEP;
        for (_, item) in orders {
            let Some(standing) = standings.get_mut(&item.name) else { continue };
            standing.state = State::Checking;
            if !fresh.is_zero() {
                "the account's key is on its way to all replicas".clone_into(&mut standing.why);
                sleep = sleep.min(fresh);
                continue;
            }
            let key = ledger::key(self.keeper.issuer.name(), &item.names);
            let same = self.busy.values().any(|(_, _, it)| it.as_ref() == Some(&key));
            let room = self.desk.breaker.room(AT_ONCE);
            if same || self.count(Kind::Order) >= room {
                "it waits for its turn".clone_into(&mut standing.why);
                continue;
            }
            standing.why = item.due.to_string();
            self.begin(item, key);
        }
        sleep
    }

    fn begin(&mut self, item: Box<Item>, key: String) {
        let name = item.name.clone();
        let now = self.keeper.now();
        tracing::info!(secret = %name, reason = %item.due, names = ?item.names, "ordering a certificate");
        let text = format!("a certificate for Secret {name} is requested: {}", item.due);
        self.tell(&item.wanted, "CertificateRequested", &text, false);
        if item.is_subset() {
            let full = ledger::key(self.keeper.issuer.name(), &item.wanted.names);
            self.keeper.book.open().subset(&full, now);
        }
        if let Some((_, sight)) = self.desk.sights.get_mut(&name) {
            sight.asked(now);
        }
        let doing = self.work.begin(&name);
        let keeper = self.keeper.clone();
        let job = self.jobs.spawn(async move {
            let result = keeper.obtain(&item, doing).await;
            Done::Got(item, result)
        });
        self.busy.insert(job.id(), (name, Kind::Order, Some(key)));
    }

    /// Starts something that is no order.
    fn start(&mut self, name: &ObjectName, wanted: &Wanted, task: Task, standing: &mut Standing) {
        let keeper = self.keeper.clone();
        let (name, wanted) = (name.clone(), wanted.clone());
        let kind = match task {
            Task::Window(_) => Kind::Window,
            Task::Look(..) => Kind::Look,
            _ => Kind::Write,
        };
        if let Task::Look(state, why) = &task {
            (standing.state, standing.why) = (*state, why.clone());
        }
        let most = match kind {
            Kind::Window => WINDOWS,
            Kind::Look => LOOKS,
            _ => AT_ONCE,
        };
        let asked = self.busy.values().any(|(it, ..)| *it == name);
        if asked || self.count(kind) >= most {
            return;
        }
        let busy = (name.clone(), kind, None);
        let job = match task {
            Task::Order(..) => return,
            Task::Adopt => self.jobs.spawn(async move {
                let result = keeper.adopt(&name).await;
                Done::Written(name, wanted, result)
            }),
            Task::Restore(kept) => self.restore(name, wanted, kept),
            Task::Revoke(pair, reason) => self.jobs.spawn(async move {
                let result = keeper.revoke(&name, &pair, &reason).await;
                Done::Revoked(name, wanted, result)
            }),
            Task::Window(known) => self.jobs.spawn(async move {
                let known = keeper.look_up_window(&name, &wanted, known).await;
                Done::Window(name, wanted, known)
            }),
            Task::Look(..) => self.jobs.spawn(async move {
                let looks = look(&keeper, &wanted).await;
                Done::Looked(name, wanted, looks)
            }),
        };
        self.busy.insert(job.id(), busy);
    }

    fn restore(&mut self, name: ObjectName, wanted: Wanted, kept: Kept) -> task::AbortHandle {
        let keeper = self.keeper.clone();
        tracing::warn!(secret = %name, "somebody else changed the Secret: what it held is put back");
        self.jobs.spawn(async move {
            let result = keeper.restore(&name, &kept).await;
            Done::Restored(name, wanted, result)
        })
    }

    /// Asks a CA that was down, and one whose clock is far from ours, whether that changed.
    fn probe(&mut self, now: i64) -> Duration {
        let Issuer::Acme(acme) = &self.keeper.issuer else { return LONGEST_SLEEP };
        let wall = (self.keeper.wall)().as_second();
        let astray = super::skew(acme.skew()) != 0 && (wall - self.probed).abs() >= CLOCK;
        if self.count(Kind::Probe) == 0 && (self.desk.breaker.is_due(now) || astray) {
            let acme = acme.clone();
            let job = self.jobs.spawn(async move { Done::Probed(acme.probe().await) });
            self.busy.insert(job.id(), (ObjectName::default(), Kind::Probe, None));
            self.probed = wall;
        }
        left(self.desk.breaker.until(), now)
    }

    fn count(&self, kind: Kind) -> usize {
        self.busy.values().filter(|(_, it, _)| *it == kind).count()
    }

    /// Failures in a row, and what the last one said.
    fn add_past(&self, standing: &mut Standing, wanted: &Wanted) {
        let key = ledger::key(self.keeper.issuer.name(), &wanted.names);
        let past = self.keeper.book.open().backoff(&key, &self.keeper.spec());
        standing.attempts = past.failures;
        standing.last_error = Some(past.error).filter(|it| !it.is_empty());
    }

    /// Tells of what no single failure tells.
    fn tell_standing(&mut self, wanted: &Wanted, standing: &Standing) {
        let reason = match standing.state {
            State::WaitingForRoute => "WaitingForRoute",
            State::Conflict => "Conflict",
            State::Blocked if standing.why.starts_with("RunawayGuard") => "Blocked",
            State::Blocked if standing.why.contains("clock") => "ClockSkew",
            _ => return,
        };
        let text = format!("Secret {}: {}", standing.secret, standing.why);
        self.tell(wanted, reason, &text, true);
    }

    /// Tells the Ingresses, each the same thing once.
    pub(super) fn tell(
        &mut self,
        wanted: &Wanted,
        reason: &'static str,
        text: &str,
        warning: bool,
    ) {
        const MOST: usize = 50_000;
        if self.told.len() > MOST {
            self.told.clear();
        }
        let mut news = wanted.ingresses.clone();
        news.retain(|ingress| {
            let last = self.told.insert((ingress.clone(), reason), text.to_owned());
            last.as_deref() != Some(text)
        });
        self.keeper.tell(&news, reason, text, warning);
    }
}

/// Looks at all hosts of a certificate.
async fn look(keeper: &Keeper, wanted: &Wanted) -> Vec<(String, Look)> {
    let thumbprint = match &keeper.issuer {
        Issuer::Acme(acme) => acme.thumbprint(&keeper.vault).await,
        Issuer::Local(_) => Ok(String::new()),
    };
    let thumbprint = match thumbprint {
        Ok(it) => it,
        Err(error) => {
            // What a right answer is nobody knows just now.
            let text = format!("not looked at: {error}");
            let look = Look { seen: Seen::Inconclusive, text, addresses: Vec::new() };
            return wanted.names.iter().map(|name| (name.clone(), look.clone())).collect();
        }
    };
    let looks = wanted.names.iter().map(async |name| {
        let look = selfcheck::look(name, keeper.http_port, &thumbprint).await;
        (name.clone(), look)
    });
    join_all(looks).await
}

/// How long until a time, within the bounds of a sleep.
fn left(until: Option<i64>, now: i64) -> Duration {
    let Some(until) = until else { return LONGEST_SLEEP };
    let left = Duration::from_secs(u64::try_from(until - now).unwrap_or(0));
    left.clamp(Duration::from_millis(200), LONGEST_SLEEP)
}

fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX / 2)
}

#[cfg(test)]
mod tests;
