//! The deadlines of a client's connection, and what else ends it.

use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::budget::Budget;
use super::link::Link;

/// How long an HTTP/2 connection may be without its first stream, or even its preface (nginx's
/// `client_header_timeout`).
const FIRST_H2: Duration = Duration::from_secs(60);
/// How old an HTTP/2 connection gets, give or take a tenth, so that clients find new replicas (nginx's
/// `keepalive_time`). Those made together do not end together.
pub(super) const AGE_H2: Duration = Duration::from_secs(3600);
/// How long an HTTP/2 connection without a stream may stay once it was asked to go; one of HTTP/1, after its
/// patience for the next request.
const FAREWELL: Duration = Duration::from_secs(5);
/// After how long without a request one of HTTP/1 lets go of what only requests need: longer than the pauses
/// of a client that is busy.
const REST: Duration = Duration::from_secs(2);
/// How long a write may wait for the client.
pub(super) const STALLED: Duration = Duration::from_secs(60);
/// How many requests of one HTTP/2 connection may be given up by the client before it is asked to make a
/// new one; half as many again are an attack (CVE-2023-44487, paced).
const MOST_GIVEN_UP: u32 = 100;
/// How long a connection without any request yet may wait for its first while we drain.
const FIRST_WHILE_DRAINING: Duration = Duration::from_secs(5);

/// Watches a connection's deadlines and the worker's end.
pub(super) struct Watch<'a> {
    link: &'a Link,
    head: Option<Duration>,
    idle: Duration,
    timer: Pin<Box<Sleep>>,
    /// Whether it rests.
    resting: bool,
    /// Since when it is asked to end.
    finishing: Option<Instant>,
    /// Since when we drain.
    draining: Option<Instant>,
    /// Up to when no answer of an HTTP/2 connection can have waited too long for the client.
    patient: Instant,
    /// When an HTTP/2 connection is old.
    old: Option<Instant>,
    budget: Budget,
}

pub(super) enum Verdict {
    Go,
    /// Let go of what only a request needs.
    Rest,
    /// Serve what is under way, then close.
    Finish,
    /// Nothing is under way: say so, and close now.
    Shed(&'static str),
    /// Close now.
    Cut(&'static str),
}

impl<'a> Watch<'a> {
    /// `head` is that of HTTP/1; HTTP/2 has none.
    pub(super) fn new(link: &'a Link, head: Option<Duration>, idle: Duration) -> Self {
        let now = Instant::now();
        Self {
            link,
            head,
            idle,
            timer: Box::pin(tokio::time::sleep(idle)),
            resting: false,
            finishing: None,
            draining: None,
            patient: now,
            old: head.is_none().then(|| now + link.worker.jitter(AGE_H2)),
            budget: Budget::new(now),
        }
    }

    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Verdict {
        let link = self.link;
        link.note(cx.waker());
        if self.is_h2() && self.budget.is_spent(&link.meter) {
            return Verdict::Cut("flood");
        }
        if let Some(reason) = self.why_shed() {
            return Verdict::Shed(reason);
        }
        if link.worker.is_draining() {
            self.draining.get_or_insert_with(Instant::now);
        }
        if self.finishing.is_none() && self.is_to_go() {
            return self.finish();
        }
        if self.is_h2() && link.given_up.get() > MOST_GIVEN_UP {
            if link.given_up.get() > MOST_GIVEN_UP + MOST_GIVEN_UP / 2 {
                return Verdict::Cut("resets");
            }
            if self.finishing.is_none() {
                return self.finish();
            }
        }
        loop {
            let Some((deadline, verdict)) = self.deadline() else { return Verdict::Go };
            if deadline < self.timer.deadline() || self.timer.is_elapsed() {
                self.timer.as_mut().reset(deadline);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Verdict::Go;
            }
            if deadline <= Instant::now() {
                match verdict {
                    Verdict::Go => {}
                    Verdict::Rest => {
                        self.resting = true;
                        return Verdict::Rest;
                    }
                    Verdict::Finish => return self.finish(),
                    verdict => return verdict,
                }
            }
        }
    }

    /// It rests no more.
    pub(super) fn rouse(&mut self) {
        self.resting = false;
    }

    fn is_h2(&self) -> bool {
        self.head.is_none()
    }

    fn finish(&mut self) -> Verdict {
        if self.finishing.is_some() {
            return Verdict::Cut("idle");
        }
        self.finishing = Some(Instant::now());
        Verdict::Finish
    }

    /// Why it is to give way now, while nothing is under way.
    pub(super) fn why_shed(&self) -> Option<&'static str> {
        let asked = self.link.shed.take();
        if !self.link.is_quiet() {
            return None;
        }
        if asked {
            return Some("shed");
        }
        self.link.worker.is_short().then_some("memory")
    }

    /// Whether the worker's end is this connection's. Who has just come gets an answer first, which says
    /// that the connection ends. Over HTTP/1.1 every answer says so from the moment we leave; HTTP/2 has
    /// GOAWAY for it.
    fn is_to_go(&self) -> bool {
        let Link { worker, used, answered, finishes, .. } = self.link;
        let leaves = self.is_h2() && worker.is_leaving() && answered.get();
        leaves || finishes.get() || self.draining.is_some() && used.get()
    }

    /// The next deadline and what happens then.
    fn deadline(&mut self) -> Option<(Instant, Verdict)> {
        let silence = self.silence();
        let old = self.old.filter(|_| self.finishing.is_none()).map(|it| (it, Verdict::Finish));
        silence.into_iter().chain(old).min_by_key(|(at, _)| *at)
    }

    /// The deadline of what the client is to do next.
    fn silence(&mut self) -> Option<(Instant, Verdict)> {
        let Link { meter, under_way, idle_since, used, .. } = self.link;
        if let Some(since) = meter.stalled_since() {
            return Some((since + STALLED, Verdict::Cut("stalled")));
        }
        if under_way.get() > 0 {
            // Of HTTP/1.1 the socket tells; of HTTP/2 a window may be closed while the socket is not.
            return self.is_h2().then(|| self.waiting());
        }
        if let Some(since) = self.draining
            && self.finishing.is_none()
        {
            return Some((since + FIRST_WHILE_DRAINING, Verdict::Finish));
        }
        if let (Some(patience), Some(since)) = (self.head, meter.head_since()) {
            return Some((since + patience, Verdict::Cut("slow_head")));
        }
        let since = idle_since.get();
        match (self.head, self.finishing) {
            (None, Some(asked)) => Some((since.max(asked) + FAREWELL, Verdict::Finish)),
            (None, None) if !used.get() => Some((since + FIRST_H2, Verdict::Finish)),
            (Some(_), Some(_)) => Some((since + self.idle + FAREWELL, Verdict::Finish)),
            (Some(_), None) if used.get() && !self.resting && self.idle > REST => {
                Some((since + REST, Verdict::Rest))
            }
            (_, None) => Some((since + self.idle, Verdict::Finish)),
        }
    }

    /// Ends streams whose client takes nothing; when to look again, unless it takes nothing of any.
    fn waiting(&mut self) -> (Instant, Verdict) {
        let now = Instant::now();
        if self.patient <= now {
            if !self.link.end_stalled(now) {
                // A time that stays: one that moved with the clock would never be reached.
                return (self.patient, Verdict::Cut("stalled"));
            }
            // What is handed over from now on has as long at least.
            self.patient = self.link.waiting_since().unwrap_or(now) + STALLED;
        }
        (self.patient, Verdict::Go)
    }
}
