//! What is the same for every request: an id, a line in the access log, a count in the metrics.
//!
//! Two tower layers. The outer gives a request its id; the inner notes when it began and, when its answer
//! was sent to the end or given up, writes its line and counts it.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, HOST};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;
use tower::{Layer, Service};

use super::body::{CutOff, Progress, ReplyBody};
use super::connection::Link;
use super::headers::X_REQUEST_ID;
use super::worker::Seen;
use crate::live::WayId;
use crate::model::template::{Piece, Template, Variable};

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
    /// The way it took, in that.
    pub(super) way: Cell<Option<WayId>>,
    /// The endpoint that was tried last.
    pub(super) address: Cell<Option<SocketAddr>>,
    /// The status it answered with.
    pub(super) status: Cell<Option<StatusCode>>,
    /// When the request was handed to it.
    pub(super) sent_at: Cell<Option<Instant>>,
    /// How far the request's body got.
    pub(super) progress: RefCell<Option<Rc<Progress>>>,
}

impl Trace {
    fn new(seen: Rc<Seen>) -> Self {
        Self {
            seen,
            way: Cell::default(),
            address: Cell::default(),
            status: Cell::default(),
            sent_at: Cell::default(),
            progress: RefCell::default(),
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
        if !request.headers().contains_key(X_REQUEST_ID)
            && worker.seen().live.plan.settings.request_id
        {
            request.headers_mut().insert(X_REQUEST_ID, worker.fresh_id());
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
        Observed { inner: self.inner.call((request, trace)), record: Some(record) }
    }
}

pin_project_lite::pin_project! {
    /// The answer on its way; given up, it is logged as the client's leaving.
    pub(super) struct Observed<F> {
        #[pin]
        inner: F,
        record: Option<Box<Record>>,
    }
}

impl<F, E> Future for Observed<F>
where
    F: Future<Output = Result<Response<ReplyBody>, E>>,
{
    type Output = Result<Response<ObservedBody>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(this.inner.poll(cx))?;
        let mut record = this.record.take();
        if let Some(record) = &mut record {
            record.answered(response.status());
        }
        Poll::Ready(Ok(response.map(|inner| ObservedBody { inner, record })))
    }
}

/// An answer's body that counts what is sent.
pub(super) struct ObservedBody {
    inner: ReplyBody,
    record: Option<Box<Record>>,
}

impl Body for ObservedBody {
    type Data = Bytes;
    type Error = CutOff;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        if let Some(record) = &mut self.record {
            match &polled {
                Poll::Ready(Some(Ok(frame))) => {
                    record.sent += frame.data_ref().map_or(0, |it| it.len() as u64);
                    record.hand_over();
                }
                Poll::Ready(_) => {}
                Poll::Pending => record.take_back(),
            }
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// What is noted of a request; on its drop the request is over.
struct Record {
    link: Rc<Link>,
    began: Instant,
    head_ended: Option<Instant>,
    method: Method,
    uri: Uri,
    version: Version,
    host: Option<HeaderValue>,
    authorization: Option<HeaderValue>,
    id: Option<HeaderValue>,
    headers: Vec<Option<HeaderValue>>,
    head_bytes: u64,
    status: StatusCode,
    trace: Rc<Trace>,
    sent: u64,
    /// Whether the last piece of the answer is in the client's hands.
    handed: bool,
}

impl Record {
    fn new(link: &Rc<Link>, request: &Request<Incoming>, trace: Rc<Trace>) -> Self {
        link.begin_request();
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
            handed: false,
        }
    }

    fn answered(&mut self, status: StatusCode) {
        self.head_ended = Some(Instant::now());
        self.status = status;
        self.hand_over();
    }

    fn hand_over(&mut self) {
        self.link.hand_over(self.handed);
        self.handed = true;
    }

    fn take_back(&mut self) {
        if std::mem::take(&mut self.handed) {
            self.link.take_back();
        }
    }

    fn received(&self) -> u64 {
        let body = self.trace.progress.borrow();
        self.head_bytes + body.as_ref().map_or(0, |it| it.received.get())
    }

    fn write(&self, line: &mut String, template: &Template, now: Instant) {
        for piece in &template.pieces {
            match piece {
                Piece::Text(text) => line.push_str(text),
                Piece::Header(place) => {
                    let value = self.headers.get(*place).and_then(Option::as_ref);
                    put(line, value.map(HeaderValue::as_bytes), template.json);
                }
                Piece::Variable(variable) => self.put(line, *variable, template.json, now),
            }
        }
        line.push('\n');
    }

    fn put(&self, line: &mut String, variable: Variable, json: bool, now: Instant) {
        let way = self.trace.way.get().map(|it| self.trace.seen.live.way(it));
        let route = way.map(|it| &it.route);
        let balancer = way.and_then(|it| it.balancer.as_ref());
        let text = |line: &mut String, text: Option<&str>| put(line, text.map(str::as_bytes), json);
        match variable {
            Variable::Args => text(line, self.uri.query()),
            Variable::BodyBytesSent | Variable::BytesSent => show(line, Some(self.sent)),
            Variable::Host => {
                let named = self.uri.authority().map(http::uri::Authority::as_str);
                match named {
                    Some(_) => text(line, named),
                    None => put(line, self.host.as_ref().map(HeaderValue::as_bytes), json),
                }
            }
            Variable::IngressName => text(line, route.map(|it| &*it.ingress.name)),
            Variable::Method => text(line, Some(self.method.as_str())),
            Variable::Namespace => text(line, route.map(|it| &*it.ingress.namespace)),
            Variable::Path => text(line, Some(self.uri.path())),
            Variable::Protocol => text(line, Some(protocol(self.version))),
            // No canary takes requests yet: nginx writes nothing between the brackets then.
            Variable::ProxyAlternative => {}
            Variable::ProxyUpstreamName => text(line, Some(balancer.map_or("", |it| &it.name))),
            Variable::RemoteAddr => show(line, Some(self.link.peer.address.ip().to_canonical())),
            Variable::RemotePort => show(line, Some(self.link.peer.address.port())),
            Variable::RemoteUser => {
                let user = self.authorization.as_ref().and_then(user);
                text(line, user.as_deref());
            }
            Variable::Request => {
                text(line, Some(self.method.as_str()));
                line.push(' ');
                text(line, Some(self.uri.path_and_query().map_or("", |it| it.as_str())));
                line.push(' ');
                line.push_str(protocol(self.version));
            }
            Variable::RequestId => put(line, self.id.as_ref().map(HeaderValue::as_bytes), json),
            Variable::RequestLength => show(line, Some(self.received())),
            Variable::RequestTime => {
                show(line, Some(format_args!("{:.3}", (now - self.began).as_secs_f64())));
            }
            Variable::RequestUri => {
                text(line, self.uri.path_and_query().map(http::uri::PathAndQuery::as_str));
            }
            Variable::Scheme => text(line, Some(self.link.peer.scheme())),
            Variable::ServerPort => show(line, Some(self.link.peer.port)),
            Variable::ServiceName => text(line, balancer.map(|it| &*it.id.service.name)),
            Variable::ServicePort => text(line, balancer.map(|it| &*it.id.port)),
            Variable::Status => show(line, Some(self.status.as_u16())),
            Variable::TimeIso8601 => line.push_str(&self.link.worker.clock().iso8601),
            Variable::TimeLocal => line.push_str(&self.link.worker.clock().local),
            Variable::Msec => {
                let _ = write!(line, "{:.3}", self.link.worker.clock().seconds);
            }
            Variable::UpstreamAddr => show(line, self.trace.address.get()),
            Variable::UpstreamResponseLength => {
                show(line, self.trace.status.get().map(|_| self.sent));
            }
            Variable::UpstreamResponseTime => {
                let time = self.upstream_seconds().map(|it| format!("{it:.3}"));
                show(line, time);
            }
            Variable::UpstreamStatus => show(line, self.trace.status.get().map(|it| it.as_u16())),
        }
    }

    fn upstream_seconds(&self) -> Option<f64> {
        let sent_at = self.trace.sent_at.get()?;
        Some((self.head_ended? - sent_at).as_secs_f64())
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let now = Instant::now();
        let worker = &self.link.worker;
        if let Some(template) = &self.trace.seen.live.plan.settings.log {
            worker.log(|line| self.write(line, template, now));
        }
        let seconds = (now - self.began).as_secs_f64();
        let upstream = self.upstream_seconds();
        let (received, sent) = (self.received(), self.sent);
        self.trace.seen.count(worker, self.trace.way.get(), &self.method, self.status, |meters| {
            meters.count(seconds, upstream, received, sent);
        });
        self.take_back();
        self.link.end_request(now, self.head_ended.is_none());
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

/// The name in a `Basic` authorization; the password is dropped unread.
fn user(authorization: &HeaderValue) -> Option<String> {
    let (scheme, rest) = authorization.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = BASE64_STANDARD.decode(rest.trim()).ok()?;
    let name = decoded.split(|it| *it == b':').next()?;
    (!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned())
}

/// A value without anything to escape, `-` for none.
fn show(line: &mut String, value: Option<impl std::fmt::Display>) {
    match value {
        Some(value) => drop(write!(line, "{value}")),
        None => line.push('-'),
    }
}

/// Longest value that is written, in bytes.
const LONGEST: usize = 4096;

/// A value from outside: nothing in it can end the line, the quotes or the JSON string around it, or
/// speak to a terminal.
fn put(line: &mut String, value: Option<&[u8]>, json: bool) {
    let Some(value) = value else { return line.push('-') };
    let value = &value[..value.len().min(LONGEST)];
    if value.iter().all(|it| matches!(it, b' '..=b'~') && !matches!(it, b'"' | b'\\')) {
        // Plain ASCII is the rule; it is UTF-8 as it stands.
        line.push_str(std::str::from_utf8(value).unwrap_or_default());
        return;
    }
    for chunk in value.utf8_chunks() {
        for it in chunk.valid().chars() {
            match it {
                '"' | '\\' if json => {
                    line.push('\\');
                    line.push(it);
                }
                '"' | '\\' => drop(write!(line, "\\x{:02X}", u32::from(it))),
                it if is_unsafe(it) && json => drop(write!(line, "\\u{:04x}", u32::from(it))),
                it if is_unsafe(it) => {
                    let mut bytes = [0; 4];
                    for byte in it.encode_utf8(&mut bytes).bytes() {
                        let _ = write!(line, "\\x{byte:02X}");
                    }
                }
                it => line.push(it),
            }
        }
        for byte in chunk.invalid() {
            if json {
                line.push('\u{fffd}');
            } else {
                let _ = write!(line, "\\x{byte:02X}");
            }
        }
    }
}

/// Control characters of both sets, line separators, and marks that turn the direction of text.
fn is_unsafe(it: char) -> bool {
    it.is_control() || matches!(it, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_can_leave_its_place() {
        for (value, json, expected) in [
            (&b"plain"[..], false, "plain"),
            (b"a\"b\\c", false, "a\\x22b\\x5Cc"),
            (b"a\"b\\c", true, "a\\\"b\\\\c"),
            (b"\x1b[31m", false, "\\x1B[31m"),
            (b"\x7f", true, "\\u007f"),
            ("caf\u{e9}\u{202e}".as_bytes(), true, "caf\u{e9}\\u202e"),
            (b"\xff", false, "\\xFF"),
        ] {
            let mut line = String::new();
            put(&mut line, Some(value), json);
            assert_eq!(line, expected);
        }
    }

    #[test]
    fn only_the_name_of_a_user_is_read() {
        let basic = HeaderValue::from_static("Basic YWxpY2U6c2VjcmV0");
        assert_eq!(user(&basic).as_deref(), Some("alice"));
        assert_eq!(user(&HeaderValue::from_static("Bearer x")), None);
    }
}
