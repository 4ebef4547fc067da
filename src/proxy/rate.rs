//! Limits of what one client may ask for: `limit-rps`, `limit-rpm`, `limit-connections` and `limit-rate`.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::Visit;
use super::body::{CutOff, ReplyBody};
use super::observe::Trace;
use super::reply::Failure;
use crate::live::rate::TooMuch;

/// Counts a request with its client's others, where its Ingress limits them: it is under way until its
/// answer was sent, as the stream of HTTP/2 that it may be.
pub(super) fn count(visit: &Visit<'_>) -> Result<(), Failure> {
    let Some(zone) = &visit.way.zone else { return Ok(()) };
    let Some(rates) = &visit.way.route.options.rates else { return Ok(()) };
    let address = visit.peer.address.ip();
    if rates.exempt.contains(address) {
        return Ok(());
    }
    match zone.count(rates, address, std::time::Instant::now()) {
        Ok(under_way) => {
            visit.trace.under_way.set(under_way);
            Ok(())
        }
        Err(too_much) => {
            let statuses = &visit.settings.limit_statuses;
            let status = match too_much {
                TooMuch::Requests => statuses.requests,
                TooMuch::Connections => statuses.connections,
            };
            let status = StatusCode::from_u16(status);
            Err(Failure::Limited(status.unwrap_or(StatusCode::SERVICE_UNAVAILABLE)))
        }
    }
}

/// Sends an answer no faster than its route's `limit-rate` allows.
pub(super) fn pace(answer: Response<ReplyBody>, trace: &Trace) -> Response<ReplyBody> {
    let way = trace.way.get().map(|it| trace.seen.live.way(it));
    let Some(rates) = way.and_then(|it| it.route.options.rates.as_ref()) else { return answer };
    if rates.bytes == 0 || answer.body().is_end_stream() {
        return answer;
    }
    let pace = Pace::new(rates.bytes, rates.bytes_after, Instant::now());
    answer.map(|it| it.paced(pace))
}

/// How much may have been sent by when: what is free and the rate's worth of a second at once, then the
/// rate, as nginx has it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    rate: u64,
    /// What may be sent at once and has not been.
    free: u64,
    began: Instant,
    sent: u64,
}

impl Pace {
    /// How many parts of a second's worth are sent at a time, if there is as much.
    const PARTS: u64 = 10;

    fn new(rate: u64, after: u64, began: Instant) -> Self {
        Self { rate, free: after.saturating_add(rate), began, sent: 0 }
    }

    /// How many bytes may be sent now.
    fn allowed(&self, now: Instant) -> u64 {
        let millis = (now - self.began).as_millis();
        let earned = u128::from(self.rate) * millis / 1000;
        let earned = u64::try_from(earned).unwrap_or(u64::MAX);
        self.free.saturating_add(earned).saturating_sub(self.sent)
    }

    /// When as much may be sent as is worth the while of so many bytes that wait.
    fn next(&self, waiting: u64) -> Instant {
        let worth = waiting.min((self.rate / Self::PARTS).max(1));
        let missing = self.sent.saturating_add(worth).saturating_sub(self.free);
        let millis = u128::from(missing) * 1000 / u128::from(self.rate) + 1;
        self.began + Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX))
    }
}

/// A body that is sent at a pace.
#[derive(Debug)]
pub(super) struct PacedBody {
    inner: ReplyBody,
    pace: Pace,
    /// What came and may not yet be sent.
    held: Bytes,
    timer: Option<Pin<Box<Sleep>>>,
}

impl PacedBody {
    pub(super) fn new(inner: ReplyBody, pace: Pace) -> Self {
        Self { inner, pace, held: Bytes::new(), timer: None }
    }

    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        if self.held.is_empty() {
            match ready!(Pin::new(&mut self.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.held = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                other => return Poll::Ready(other),
            }
        }
        loop {
            let waiting = self.held.len() as u64;
            let allowed = self.pace.allowed(Instant::now());
            let part = (self.pace.rate / Pace::PARTS).max(1);
            if allowed >= waiting.min(part) {
                let piece =
                    usize::try_from(allowed).map_or(self.held.len(), |it| it.min(self.held.len()));
                self.pace.sent += piece as u64;
                return Poll::Ready(Some(Ok(Frame::data(self.held.split_to(piece)))));
            }
            let until = self.pace.next(waiting);
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
            if timer.deadline() != until {
                timer.as_mut().reset(until);
            }
            ready!(timer.as_mut().poll(cx));
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.held.is_empty() && self.inner.is_end_stream()
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        let held = self.held.len() as u64;
        let inner = self.inner.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower() + held);
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper + held);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[test]
    fn a_second_is_sent_at_once_and_then_the_rate() {
        let began = Instant::now();
        for (rate, after, sent, millis, allowed) in [
            (1024, 0, 0, 0, 1024),
            (1024, 0, 1024, 0, 0),
            (1024, 0, 1024, 500, 512),
            (1024, 2048, 0, 0, 3072),
            (1024, 2048, 3072, 1000, 1024),
            (1 << 42, u64::MAX, 0, 1000, u64::MAX),
        ] {
            let pace = Pace { sent, ..Pace::new(rate, after, began) };
            let now = began + Duration::from_millis(millis);
            assert_eq!(pace.allowed(now), allowed, "{rate} {after} {sent} {millis}");
        }
    }

    #[test]
    fn when_it_is_time_something_may_be_sent() {
        let began = Instant::now();
        for (rate, sent, waiting) in [(1024, 1024, 5), (1024, 5000, 100_000), (1, 1, 1), (7, 9, 3)]
        {
            let pace = Pace { sent, ..Pace::new(rate, 0, began) };
            let next = pace.next(waiting);
            assert!(
                pace.allowed(next) >= waiting.min((rate / Pace::PARTS).max(1)),
                "{rate} {sent}"
            );
            assert!(next > began, "{rate} {sent}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_takes_as_long_as_its_rate_says_and_is_whole() {
        for (length, rate, after, seconds) in [
            (10_240_usize, 1024, 0, 9),
            (10_240, 1024, 9216, 0),
            (10_240, 1024, 4096, 5),
            (100, 1024, 0, 0),
            (3000, 1000, 0, 2),
        ] {
            let began = Instant::now();
            let text: Vec<u8> = (0..=250).cycle().take(length).collect();
            let body = ReplyBody::from(text.clone()).paced(Pace::new(rate, after, began));
            assert_eq!(body.size_hint().exact(), Some(length as u64));
            let whole = body.collect().await.expect("whole").to_bytes();
            assert!(whole == text, "{length} {rate}");
            let took = began.elapsed();
            let expected = Duration::from_secs(seconds);
            let most = expected + Duration::from_millis(120);
            assert!((expected..most).contains(&took), "{length} {rate} {after}: {took:?}");
        }
    }
}
