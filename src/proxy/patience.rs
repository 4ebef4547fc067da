//! How long somebody may keep us waiting.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// How long somebody may keep us waiting. Runs only while we wait: not while nobody asks for more.
#[derive(Debug)]
pub(super) struct Patience {
    limit: Duration,
    /// How much of it is left.
    left: Duration,
    timer: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

impl Patience {
    pub(super) fn new(limit: Duration) -> Self {
        Self { limit, left: limit, timer: None, waiting: false }
    }

    /// Ready when it is at its end. The timer is made when it is first needed.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let left = self.left;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(left)));
        if !self.waiting {
            self.waiting = true;
            timer.as_mut().reset(Instant::now() + left);
        }
        timer.as_mut().poll(cx)
    }

    /// Something came: all patience is there again.
    pub(super) fn rest(&mut self) {
        self.waiting = false;
        self.left = self.limit;
    }

    /// Something came at `now` that gives back only so much.
    pub(super) fn earn(&mut self, now: Instant, earned: Duration) {
        if std::mem::take(&mut self.waiting)
            && let Some(timer) = &self.timer
        {
            self.left = timer.deadline().saturating_duration_since(now);
        }
        self.left = self.left.saturating_add(earned).min(self.limit);
    }
}
