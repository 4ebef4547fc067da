//! Errors for which the default backend answers (`custom-http-errors`).

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use http::header::{AUTHORIZATION, CONNECTION, WWW_AUTHENTICATE};
use http::{Response, StatusCode, request};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout};

use super::Visit;
use super::body::ReplyBody;
use super::canonical::Asked;
use super::connection::Link;
use super::dress::Errand;
use super::forward::Outbound;
use super::observe::Trace;
use super::reply::{self, Failure};
use super::upload::Progress;
use crate::live::{Live, Way};
use crate::model::answering::Answers;

/// How much of an answer that nobody gets is read, in bytes, and for how long, so that its connection can
/// serve the next request. What is longer costs the connection.
const DRAINED: usize = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(1);

/// A request that may have to be asked again elsewhere.
pub(super) struct Kept {
    head: request::Parts,
    /// Whether an endpoint gave the answer.
    by_endpoint: Cell<bool>,
}

/// Keeps a request's head where its route has the default backend answer for errors.
pub(super) fn keep(visit: &Visit<'_>, answers: &Answers, head: &request::Parts) {
    if answers.errors.is_none() || (visit.way.default.is_none() && visit.live.fallback.is_none()) {
        return;
    }
    let mut head = head.clone();
    // A client that would switch protocols does not do so to read about an error.
    head.extensions.clear();
    if visit.way.route.guard.as_ref().is_some_and(|it| it.basic.is_some()) {
        // What was checked here is for nobody else.
        head.headers.remove(AUTHORIZATION);
    }
    *visit.trace.kept.borrow_mut() = Some(Box::new(Kept { head, by_endpoint: Cell::new(false) }));
}

/// The answer of an endpoint is there.
pub(super) fn note_answered(trace: &Trace) {
    if let Some(kept) = &*trace.kept.borrow() {
        kept.by_endpoint.set(true);
    }
}

/// Has the default backend answer in place of an error, where the route wants that: asked for `/`, with the
/// request's method and query, without its body, once. When it does not answer, a page of ours with the
/// error's status does.
pub(super) async fn replace(
    link: &Rc<Link>,
    trace: &Trace,
    kept: Kept,
    walked: Result<Response<ReplyBody>, Failure>,
) -> Result<Response<ReplyBody>, Failure> {
    let live = &*trace.seen.live;
    let Some(way) = trace.way.get().map(|it| live.way(it)) else { return walked };
    let status = match &walked {
        Ok(response) => response.status(),
        Err(failure) => failure.status(),
    };
    // What is too much already is not made more.
    if let Err(Failure::Overloaded) = walked {
        return walked;
    }
    let Some(default) = stand_in(live, way, status, kept.by_endpoint.get()) else { return walked };
    let Some(balancer) = &default.balancer else { return walked };
    let (peer, vouched) = match trace.told.get() {
        Some(Some(told)) => (&told.peer, &told.vouched),
        _ => (&link.peer, &link.vouched),
    };
    let Ok(asked) = Asked::read(&kept.head, peer) else { return walked };
    let asked = asked.at_root();

    let replaced = walked.unwrap_or_else(|failure| failure.reply());
    let (replaced, body) = replaced.into_parts();
    drain(body);

    let settings = &live.plan.settings;
    let visit = Visit { link, live, settings, way: default, asked: &asked, peer, vouched, trace };
    let errand = Errand::Error(status, &way.route);
    let outbound = Outbound { visit, balancer, errand };
    let body = Progress::held(Instant::now(), None, &link.meter);
    let mut answer = match outbound.send(kept.head, body).await {
        Ok(answer) if answer.status() != StatusCode::SWITCHING_PROTOCOLS => answer,
        Ok(_) | Err(_) => reply::page(status, ""),
    };
    let headers = answer.headers_mut();
    if let Some(closes) = replaced.headers.get(CONNECTION) {
        headers.insert(CONNECTION, closes.clone());
    }
    // As with nginx: without it nobody could ever give a password.
    if status == StatusCode::UNAUTHORIZED && !headers.contains_key(WWW_AUTHENTICATE) {
        for challenge in replaced.headers.get_all(WWW_AUTHENTICATE) {
            headers.append(WWW_AUTHENTICATE, challenge.clone());
        }
    }
    Ok(answer)
}

/// Who answers in place of an error of a route, if anybody.
pub(super) fn stand_in<'a>(
    live: &'a Live,
    way: &'a Way,
    status: StatusCode,
    by_endpoint: bool,
) -> Option<&'a Way> {
    let answers = way.route.answers.as_deref()?;
    let wanted = answers.errors.as_ref().is_some_and(|it| it.cover(status.as_u16()));
    if !wanted || (answers.leaves_errors && by_endpoint) {
        return None;
    }
    way.default.as_deref().or_else(|| live.fallback.map(|it| live.way(it)))
}

/// Reads what nobody gets, beside everything else.
pub(super) fn drain(mut body: ReplyBody) {
    if http_body::Body::is_end_stream(&body) {
        return;
    }
    tokio::task::spawn_local(async move {
        let mut left = DRAINED;
        let reading = async {
            while let Some(Ok(frame)) = body.frame().await {
                let length = frame.data_ref().map_or(0, bytes::Bytes::len);
                match left.checked_sub(length) {
                    Some(less) => left = less,
                    None => return,
                }
            }
        };
        let _ = timeout(PATIENCE, reading).await;
    });
}
