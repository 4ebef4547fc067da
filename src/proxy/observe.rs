//! What is the same for every request: an id, a line in the access log, a count in the metrics.
//!
//! Two tower layers. The outer gives a request its id; the inner notes when it began and, when its answer
//! was sent to the end or given up, writes its line and counts it.

use std::cell::{Cell, OnceCell, RefCell};
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;
use tower::{Layer, Service};

use super::body::{CutOff, ReplyBody};
use super::connection::Link;
use super::forwarded::Told;
use super::headers::X_REQUEST_ID;
use super::intercept::Kept;
use super::mirror::Waiting;
use super::peer::Peer;
use super::span::Begun;
use super::upgrade::{Carried, Tunnel};
use super::upload::{Fault, Progress};
use super::worker::Seen;
use crate::live::WayId;
use crate::live::rate::UnderWay;

/// nginx's status of a request whose client left before the answer.
const CLIENT_LEFT: StatusCode = match StatusCode::from_u16(499) {
    Ok(status) => status,
    Err(_) => StatusCode::BAD_REQUEST,
};

/// What becomes of a request on its way, noted as it happens: a client that leaves in between is logged
/// with what was known by then.
pub(super) struct Trace {
    /// What is served, for this request from its start to its end.
    pub(super) seen: Rc<Seen>,
    /// The client that a trusted proxy speaks for; without one it is the connection's peer.
    pub(super) told: OnceCell<Option<Box<Told>>>,
    /// The way it took, in that.
    pub(super) way: Cell<Option<WayId>>,
    /// Whether the canary beside that took it.
    pub(super) canary: Cell<bool>,
    /// Its part in what its client has under way, where that is limited.
    pub(super) under_way: Cell<Option<UnderWay>>,
    /// The endpoint that was tried last.
    pub(super) address: Cell<Option<SocketAddr>>,
    /// The status it answered with.
    pub(super) status: Cell<Option<StatusCode>>,
    /// When the request was handed to it.
    pub(super) sent_at: Cell<Option<Instant>>,
    /// How far the request's body got.
    pub(super) progress: RefCell<Option<Rc<Progress>>>,
    /// What follows the answer.
    pub(super) tunnel: RefCell<Option<Tunnel>>,
    /// How much that carried.
    pub(super) carried: Carried,
    /// Since when the last piece of the answer is in the client's hands, and nobody asks us for the next.
    pub(super) handed_since: Cell<Option<Instant>>,
    /// Its place among the streams of an HTTP/2 connection.
    pub(super) place: Cell<Option<usize>>,
    /// Header fields that steps on the way want in the answer, whoever gives it.
    pub(super) extras: RefCell<Vec<Extra>>,
    /// Header fields that others than the client fill for the endpoint: `None` takes away what is there, a
    /// value is put beside it.
    pub(super) onward: RefCell<Vec<(HeaderName, Option<HeaderValue>)>>,
    /// The request, where an error has it asked again elsewhere.
    pub(super) kept: RefCell<Option<Box<Kept>>>,
    /// Its span, where a collector is told of it.
    pub(super) span: Cell<Option<Box<Begun>>>,
    /// Its copy, until its body is on its way.
    pub(super) waiting: RefCell<Option<Box<Waiting>>>,
}

/// A header field for the answer.
pub(super) enum Extra {
    /// In place of what the answer has of that name.
    Set(HeaderName, HeaderValue),
    /// Beside it.
    Add(HeaderName, HeaderValue),
    /// Not at all.
    Clear(HeaderName),
    /// Beside it, with a status for which nginx's `add_header` does so.
    AddToSuccess(HeaderName, HeaderValue),
}

impl Extra {
    pub(super) fn put(self, status: StatusCode, headers: &mut HeaderMap) {
        const SUCCESS: [u16; 10] = [200, 201, 204, 206, 301, 302, 303, 304, 307, 308];
        match self {
            Self::AddToSuccess(name, value) => {
                if SUCCESS.contains(&status.as_u16()) {
                    headers.append(name, value);
                }
            }
            Self::Clear(name) => drop(headers.remove(name)),
            Self::Set(name, value) => drop(headers.insert(name, value)),
            Self::Add(name, value) => drop(headers.append(name, value)),
        }
    }
}

impl Trace {
    pub(super) fn new(seen: Rc<Seen>) -> Self {
        Self {
            seen,
            told: OnceCell::new(),
            way: Cell::default(),
            canary: Cell::default(),
            under_way: Cell::default(),
            address: Cell::default(),
            status: Cell::default(),
            sent_at: Cell::default(),
            progress: RefCell::default(),
            tunnel: RefCell::default(),
            carried: Carried::default(),
            handed_since: Cell::default(),
            place: Cell::default(),
            extras: RefCell::default(),
            onward: RefCell::default(),
            kept: RefCell::default(),
            waiting: RefCell::default(),
            span: Cell::default(),
        }
    }
}

/// A request and where its fate is noted.
pub(super) type Traced = (Request<Incoming>, Rc<Trace>);

/// Gives a request an id where the client sent none: 16 random bytes in hexadecimal, as nginx does.
#[derive(Clone)]
pub(super) struct RequestIdLayer {
    pub(super) link: Rc<Link>,
}

#[derive(Clone)]
pub(super) struct RequestId<S> {
    inner: S,
    link: Rc<Link>,
}

impl<S> Layer<S> for RequestIdLayer {
    type Service = RequestId<S>;

    fn layer(&self, inner: S) -> RequestId<S> {
        RequestId { inner, link: self.link.clone() }
    }
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for RequestId<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        let worker = &self.link.worker;
        if worker.seen().live.plan.settings.request_id {
            request.headers_mut().entry(X_REQUEST_ID).or_insert_with(|| worker.fresh_id());
        }
        self.inner.call(request)
    }
}

/// Logs and counts requests.
#[derive(Clone)]
pub(super) struct ObserveLayer {
    pub(super) link: Rc<Link>,
}

#[derive(Clone)]
pub(super) struct Observe<S> {
    inner: S,
    link: Rc<Link>,
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;

    fn layer(&self, inner: S) -> Observe<S> {
        Observe { inner, link: self.link.clone() }
    }
}

impl<S, E> Service<Request<Incoming>> for Observe<S>
where
    S: Service<Traced, Response = Response<ReplyBody>, Error = E>,
{
    type Response = Response<ObservedBody>;
    type Error = E;
    type Future = Observed<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), E>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Incoming>) -> Observed<S::Future> {
        let trace = Rc::new(Trace::new(self.link.worker.seen()));
        let record = Box::new(Record::new(&self.link, &request, trace.clone()));
        Observed { inner: Box::pin(self.inner.call((request, trace))), record: Some(record) }
    }
}

/// The answer on its way; given up, it is logged as the client's leaving.
pub(super) struct Observed<F> {
    /// Large, and hyper and tokio move what they run several times before it begins.
    inner: Pin<Box<F>>,
    record: Option<Box<Record>>,
}

impl<F, E> Future for Observed<F>
where
    F: Future<Output = Result<Response<ReplyBody>, E>>,
{
    type Output = Result<Response<ObservedBody>, E>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = ready!(self.inner.as_mut().poll(cx))?;
        let mut record = self.record.take();
        if let Some(record) = record.as_mut().filter(|it| !it.is_deserted()) {
            record.answered(response.status());
        }
        if let Some(tunnel) = record.as_ref().and_then(|it| it.trace.tunnel.take())
            && let Some(record) = record.take()
        {
            let own = record.version != Version::HTTP_2;
            record.link.worker.clone().tunnel(own, record.carry(tunnel));
        }
        Poll::Ready(Ok(response.map(|inner| ObservedBody { inner, rest: Bytes::new(), record })))
    }
}

/// Up to how many bytes are handed to HTTP/2 at once: a client that takes so few in time takes something.
/// As large as its frames, unless the client says more (RFC 9113 section 6.5.2).
const PIECE: usize = 16 << 10;

/// An answer's body that counts what is sent.
pub(super) struct ObservedBody {
    inner: ReplyBody,
    /// Of the last piece, what is still to be handed over.
    rest: Bytes,
    record: Option<Box<Record>>,
}

impl Body for ObservedBody {
    type Data = Bytes;
    type Error = CutOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        let this = &mut *self;
        let mut polled = if this.rest.is_empty() {
            Pin::new(&mut this.inner).poll_frame(cx)
        } else {
            Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.rest)))))
        };
        let Some(record) = &mut this.record else { return polled };
        match &mut polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_mut() {
                    if data.len() > PIECE && record.version == Version::HTTP_2 {
                        this.rest = data.split_off(PIECE);
                    }
                    record.sent += data.len() as u64;
                }
                record.hand_over();
            }
            Poll::Ready(_) => {}
            Poll::Pending => record.take_back(),
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (inner, rest) = (self.inner.size_hint(), self.rest.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(inner.lower().saturating_add(rest));
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint
    }
}

/// What is noted of a request; on its drop the request is over.
pub(super) struct Record {
    pub(super) link: Rc<Link>,
    pub(super) began: Instant,
    pub(super) head_ended: Option<Instant>,
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) version: Version,
    pub(super) host: Option<HeaderValue>,
    pub(super) authorization: Option<HeaderValue>,
    pub(super) id: Option<HeaderValue>,
    pub(super) headers: Vec<Option<HeaderValue>>,
    pub(super) head_bytes: u64,
    pub(super) status: StatusCode,
    pub(super) trace: Rc<Trace>,
    sent: u64,
}

impl Record {
    fn new(link: &Rc<Link>, request: &Request<Incoming>, trace: Rc<Trace>) -> Self {
        link.begin_request(&trace);
        let fields = request.headers();
        let headers = match &trace.seen.live.plan.settings.log {
            Some(log) => log.headers.iter().map(|it| fields.get(&**it).cloned()).collect(),
            None => Vec::new(),
        };
        let lengths = fields.iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
        let line = request.uri().path_and_query().map_or(1, |it| it.as_str().len()) + 14;
        Self {
            link: link.clone(),
            began: Instant::now(),
            head_ended: None,
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            host: fields.get(HOST).cloned(),
            authorization: fields.get(AUTHORIZATION).cloned(),
            id: fields.get(X_REQUEST_ID).cloned(),
            headers,
            head_bytes: (lengths.sum::<usize>() + line) as u64,
            status: CLIENT_LEFT,
            trace,
            sent: 0,
        }
    }

    fn answered(&mut self, status: StatusCode) {
        self.head_ended = Some(Instant::now());
        self.status = status;
        self.hand_over();
    }

    /// Whether nobody is there for the answer. Over HTTP/1.1 an answer in time is dropped with its
    /// connection; over HTTP/2 the first to tell is the request's body, which is broken when its stream is
    /// over, and only then.
    fn is_deserted(&self) -> bool {
        let body = self.trace.progress.borrow();
        let fault = body.as_ref().and_then(|it| it.fault.get());
        self.version == Version::HTTP_2 && fault == Some(Fault::Broken)
    }

    fn hand_over(&self) {
        self.link.hand_over();
        self.trace.handed_since.set(Some(Instant::now()));
    }

    /// The answer is asked for its next piece again.
    fn take_back(&self) {
        self.trace.handed_since.set(None);
    }

    /// Carries the WebSocket that the request became; it lasts as long, and is logged at its end.
    async fn carry(self: Box<Self>, tunnel: Tunnel) {
        // No piece of an answer is waited for any more.
        self.link.release(&self.trace);
        let leaving = async {
            self.link.worker.closing().await;
            // What the client sends still must not cost it the farewell.
            self.link.linger();
        };
        tunnel.run(&self.trace.carried, &self.link.meter, leaving).await;
    }

    /// Who asked.
    pub(super) fn peer(&self) -> &Peer {
        match self.trace.told.get() {
            Some(Some(told)) => &told.peer,
            _ => &self.link.peer,
        }
    }

    pub(super) fn received(&self) -> u64 {
        let body = self.trace.progress.borrow();
        let body = body.as_ref().map_or(0, |it| it.received.get());
        self.head_bytes + body + self.trace.carried.received.get()
    }

    /// Bytes of the answer's body, and of what followed it.
    pub(super) fn sent(&self) -> u64 {
        self.sent + self.trace.carried.sent.get()
    }

    /// Whether it is to be seen in the access log.
    fn leaves_a_line(&self) -> bool {
        let live = &*self.trace.seen.live;
        let way = self.trace.way.get();
        let copies = way.and_then(|it| live.way(it).route.options.copies.as_deref());
        if copies.is_some_and(|it| it.unlogged) {
            return false;
        }
        let unlogged = &live.plan.settings.unlogged;
        if unlogged.is_empty() {
            return true;
        }
        let target = self.uri.path_and_query().map_or("", |it| it.as_str());
        let unmatched = way.is_none() || way == live.fallback;
        !(unlogged.unmatched && unmatched || unlogged.targets.iter().any(|it| it.is(target)))
    }

    /// How long the endpoint took for the head of its answer.
    pub(super) fn upstream_time(&self) -> Option<Duration> {
        let sent_at = self.trace.sent_at.get()?;
        Some(self.head_ended? - sent_at)
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let now = Instant::now();
        let worker = &self.link.worker;
        if let Some(template) = &self.trace.seen.live.plan.settings.log
            && self.leaves_a_line()
        {
            worker.log(|line| self.write(line, template, now));
        }
        let seconds = (now - self.began).as_secs_f64();
        let upstream = self.upstream_time().map(|it| it.as_secs_f64());
        let (received, sent) = (self.received(), self.sent());
        let way = (self.trace.way.get(), self.trace.canary.get());
        self.trace.seen.count(worker, way, &self.method, self.status, |meters| {
            meters.count(seconds, upstream, received, sent);
        });
        if let Some(span) = self.trace.span.take() {
            worker.tell(span.end(self, now));
        }
        drop(self.trace.under_way.take());
        self.link.release(&self.trace);
        self.link.end_request(now, self.head_ended.is_none());
    }
}
