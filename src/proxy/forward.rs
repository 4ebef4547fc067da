//! Sends a request to an endpoint and brings the answer back.

use std::error::Error as _;
use std::future::poll_fn;
use std::hash::{DefaultHasher, Hasher};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version, request, response};
use hyper::body::Incoming;
use tokio::time::{Instant, sleep_until};

use super::Visit;
use super::affinity::Session;
use super::body::ReplyBody;
use super::client_tls;
use super::dress::{self, Errand};
use super::headers;
use super::phrase;
use super::pool::{Destination, Lease, Sender};
use super::reply::Failure;
use super::upgrade::{self, Switch};
use super::upload::{Progress, RequestBody};
use super::wire::{AnswerHead, Torn};
use crate::live::balance::{Balancer, Endpoint};
use crate::live::transport::Transport;
use crate::model::options::Options;
use crate::model::phrase::Phrase;
use crate::model::upstream::Balance;

/// How much of a request's body is taken before an endpoint is asked, in bytes (`proxy-request-buffering`):
/// while a small body comes slowly it holds no endpoint, and it can be sent to another one. nginx writes
/// what is larger to a file first; we hand it on as it comes.
const GATHERED: usize = 64 << 10;

/// A request on its way.
pub(super) struct Outbound<'a> {
    pub(super) visit: Visit<'a>,
    pub(super) balancer: &'a Balancer,
    pub(super) errand: Errand<'a>,
}

/// What is sent, to one endpoint after the other.
struct Outgoing {
    head: request::Parts,
    progress: Rc<Progress>,
    websocket: Option<Switch>,
    /// Whether it may be sent again after an endpoint may have seen it: its method is idempotent (RFC 9110
    /// section 9.2.2), or the route says that this does not matter.
    repeatable: bool,
}

/// What came of one endpoint.
enum Missed {
    /// Another one may be asked.
    Next(Failure),
    /// The request may have done something, or cannot be had again.
    Over(Failure),
}

impl Outbound<'_> {
    /// The client's body on its way; a copy of the request may wait for it.
    pub(super) fn upload(&self, body: Incoming) -> Rc<Progress> {
        let Visit { link, trace, settings, .. } = self.visit;
        let (limit, patience) = (self.options().body_limit, settings.connections.body);
        let progress = Progress::new(Instant::now(), body, limit, patience, &link.meter);
        if let Some(waiting) = trace.waiting.take() {
            progress.copy_for(waiting);
        }
        trace.progress.replace(Some(progress.clone()));
        progress
    }

    /// Sends the request to one endpoint after the other until one answers, by nginx's rules: another one is
    /// asked when no connection could be made; when one broke, or no answer came in time, and the request
    /// may be repeated; and when the answer has a status that the route wants tried again.
    pub(super) async fn send(
        &self,
        head: request::Parts,
        progress: Rc<Progress>,
    ) -> Result<Response<ReplyBody>, Failure> {
        let options = self.options();
        let transport = self.visit.way.transports.of(self.visit.peer.https);
        let mut began = Instant::now();
        if progress.has_body() && !transport.h2 && options.request_buffering {
            self.gather(&head, &progress).await?;
            // That took the client's time, not an endpoint's.
            began = Instant::now();
        }
        let (key, random) = self.key(&head);
        let session = Session::of(self.balancer, &head.headers);
        let mut outgoing = self.outgoing(head, progress, transport)?;
        // A name without an address is a bad gateway; a Service without an endpoint is unavailable.
        let (found, mut failure) = match &self.balancer.backend.external {
            None => (None, Failure::NoEndpoint),
            Some((name, port)) => {
                let (resolver, near) =
                    (&self.visit.link.worker.resolver, self.visit.live.plan.near);
                (Some(Box::pin(resolver.resolve(name, *port, near)).await), Failure::Unreachable)
            }
        };
        let known = match &session {
            Some(session) => session.turns(began.into_std()),
            None => self.balancer.turns(began.into_std(), key, random),
        };
        let known = known.map(|it| (it.address, Some(&**it)));
        let tries = options.retry.tries.map_or(usize::MAX, |it| it as usize);
        let in_time = || options.retry.timeout.is_none_or(|it| began.elapsed() < it);
        let found = found.iter().flat_map(|it| it.iter()).map(|it| (*it, None));
        let mut turns = known.chain(found).take(tries).peekable();
        let mut now = began;
        while let Some((address, endpoint)) = turns.next() {
            let another = turns.peek().is_some();
            let more = || another && in_time();
            match self.ask(address, endpoint, transport, &mut outgoing, now, &more).await {
                Ok(response) => {
                    if let Some(session) = session {
                        session.answered(address, &self.visit);
                    }
                    return Ok(response);
                }
                Err(Missed::Over(it)) => return Err(it),
                Err(Missed::Next(it)) => failure = it,
            }
            if !in_time() {
                break;
            }
            now = Instant::now();
        }
        Err(failure)
    }

    fn options(&self) -> &Options {
        &self.visit.way.route.options
    }

    /// What the endpoint is told of the connection (`connection-proxy-header`).
    fn connection(&self) -> Option<&HeaderValue> {
        self.visit.way.route.answers.as_ref()?.connection.as_ref()
    }

    /// Takes a body that is small, as far as it says.
    async fn gather(&self, head: &request::Parts, progress: &Progress) -> Result<(), Failure> {
        if headers::length(&head.headers).is_none_or(|it| it <= GATHERED as u64) {
            let gathering = Box::pin(progress.gather(GATHERED));
            gathering.await.map_err(Failure::Body)?;
        }
        Ok(())
    }

    /// What the balancer goes by, besides turns: what the request says, and chance.
    fn key(&self, head: &request::Parts) -> (u64, u64) {
        let random = || self.visit.link.worker.random();
        match &self.balancer.backend.balance {
            Balance::RoundRobin => (0, 0),
            Balance::Ewma => (0, random()),
            Balance::Hash(phrase) => (self.hash(phrase, head), 0),
            Balance::Subset(phrase, _) => (self.hash(phrase, head), random()),
        }
    }

    fn hash(&self, phrase: &Phrase, head: &request::Parts) -> u64 {
        let mut hasher = DefaultHasher::new();
        phrase::fill(phrase, head, &self.visit.view(), &mut |it| hasher.write(it));
        hasher.finish()
    }

    /// Writes the request that leaves from the canonical one.
    fn outgoing(
        &self,
        mut head: request::Parts,
        progress: Rc<Progress>,
        transport: &Transport,
    ) -> Result<Outgoing, Failure> {
        let worker = &self.visit.link.worker;
        let websocket = Switch::by(&mut head, || {
            let random = u128::from(worker.random()) << 64 | u128::from(worker.random());
            random.to_ne_bytes()
        });
        if websocket.is_some() && transport.h2 {
            return Err(Failure::NoTunnel);
        }
        let body = RequestBody::new(progress);
        let says_empty =
            head.headers.contains_key(CONTENT_LENGTH) && http_body::Body::is_end_stream(&body);
        let Visit { asked, vouched, settings, .. } = self.visit;
        let view = &self.visit.view();
        dress::outward(view, vouched, self.errand, &mut head)?;
        headers::set_onward(&mut head.headers, &self.visit.trace.onward, settings);
        client_tls::vouch(&mut head.headers, &self.visit);
        if says_empty {
            // No length is written for a body that is not there; the client did.
            head.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        let target = asked.outbound(&head.uri);
        if transport.h2 {
            head.uri = absolute(target, &mut head, transport);
            head.version = Version::HTTP_2;
        } else {
            if websocket.is_some() {
                upgrade::name_upgrade(&mut head.headers);
            } else {
                if head.headers.contains_key(TE) {
                    head.headers.insert(CONNECTION, HeaderValue::from_static("te"));
                }
                if let Some(said) = self.connection() {
                    head.headers.append(CONNECTION, said.clone());
                }
            }
            head.uri = target.into();
            head.version = Version::HTTP_11;
        }
        head.extensions.clear();
        let idempotent = matches!(
            head.method,
            Method::GET
                | Method::HEAD
                | Method::OPTIONS
                | Method::TRACE
                | Method::PUT
                | Method::DELETE
        );
        let repeatable = idempotent || self.options().retry.on.non_idempotent;
        Ok(Outgoing { head, progress: body.into_progress(), websocket, repeatable })
    }

    /// Asks one endpoint; a connection that was idle and turns out to be closed is made anew. `more` says
    /// whether another one can be asked after it.
    async fn ask(
        &self,
        address: SocketAddr,
        endpoint: Option<&Endpoint>,
        transport: &Transport,
        outgoing: &mut Outgoing,
        now: Instant,
        more: &dyn Fn() -> bool,
    ) -> Result<Response<ReplyBody>, Missed> {
        let on = self.options().retry.on;
        let pool = &self.visit.link.worker.pool;
        let destination = Destination { address, transport: transport.id };
        self.visit.trace.address.set(Some(address));
        let named = self.options().routing.as_ref().is_some_and(|it| it.upstream_host.is_some());
        if self.visit.asked.authority.is_none()
            && !named
            && !transport.h2
            && let Ok(host) = HeaderValue::try_from(address.to_string())
        {
            // HTTP/1.0 without a host: the endpoint's own address stands in.
            outgoing.head.headers.insert(HOST, host);
        }
        let mut pooled = pool.take(destination, transport.h2);
        let mut sent_at = now;
        loop {
            let fresh = pooled.is_none();
            let mut sender = if let Some(sender) = pooled.take() {
                sender
            } else {
                // Rare, and large: kept out of the future that every request moves.
                let patience = self.options().connect_timeout;
                let opened = Box::pin(pool.open(destination, transport, patience)).await;
                sent_at = Instant::now();
                opened.map_err(|failure| {
                    if matches!(failure, Failure::Overloaded) {
                        // No endpoint's fault, and no other would do better.
                        return Missed::Over(failure);
                    }
                    self.note_failed(endpoint);
                    // Nothing was sent: the method does not matter.
                    let slow = matches!(failure, Failure::Slow);
                    failure.missed(if slow { on.timeout } else { on.error })
                })?
            };
            self.visit.trace.sent_at.set(Some(sent_at));
            let failed = match self.exchange(&mut sender, outgoing, sent_at).await {
                Ok((answer, incoming)) => {
                    if let Some(endpoint) = endpoint {
                        self.balancer.answered(endpoint, sent_at.into_std());
                    }
                    outgoing.progress.answered.set(true);
                    self.visit.trace.status.set(Some(answer.status));
                    let again = outgoing.repeatable && outgoing.progress.is_whole();
                    if again && on.status(answer.status.as_u16()) && more() {
                        return Err(Missed::Next(Failure::Broken));
                    }
                    let mut lease = Lease::new(sender, incoming, outgoing.progress.clone());
                    // Where the answer came first, its client need not take it for the rest to go on.
                    lease.detach();
                    let websocket = outgoing.websocket.take();
                    return self.answer(answer, lease, websocket).map_err(Missed::Over);
                }
                Err(failed) => failed,
            };
            // A stream that the endpoint ended says nothing about the others of its connection.
            if let Sender::H2(stream) = &sender
                && matches!(failed, Unanswered::NotSent | Unanswered::Lost | Unanswered::Late)
            {
                stream.retire();
            }
            let whole = outgoing.progress.is_whole();
            let unseen = matches!(failed, Unanswered::NotSent);
            let again = whole && (unseen || outgoing.repeatable);
            match failed {
                Unanswered::Failed(failure) => return Err(Missed::Over(failure)),
                // What was idle for a while may have been closed by the endpoint just now.
                Unanswered::NotSent | Unanswered::Lost if !fresh && again => {}
                Unanswered::NotSent | Unanswered::Lost => {
                    return Err(Failure::Broken.missed(again && on.error));
                }
                Unanswered::Invalid => {
                    return Err(Failure::Broken.missed(again && on.invalid_header));
                }
                Unanswered::Late => {
                    self.note_failed(endpoint);
                    return Err(Failure::Slow.missed(again && on.timeout));
                }
            }
        }
    }

    fn note_failed(&self, endpoint: Option<&Endpoint>) {
        if let Some(endpoint) = endpoint {
            self.balancer.failed(endpoint, std::time::Instant::now());
        }
    }

    /// Sends the request and waits for the head of the answer; of HTTP/2 the body comes beside it.
    async fn exchange(
        &self,
        sender: &mut Sender,
        outgoing: &Outgoing,
        sent_at: Instant,
    ) -> Result<(AnswerHead, Option<Incoming>), Unanswered> {
        let Outgoing { head, progress, .. } = outgoing;
        let body = RequestBody::new(progress.clone());
        match sender {
            Sender::H1(line) => {
                line.begin(head, body);
                let answered = poll_fn(|cx| line.poll_head(cx));
                let head = self.wait(answered, sent_at, progress).await?;
                Ok((head.map_err(|torn| Unanswered::torn(torn, progress))?, None))
            }
            Sender::H2(stream) => {
                let mut request = Request::new(body);
                *request.method_mut() = head.method.clone();
                *request.uri_mut() = head.uri.clone();
                *request.version_mut() = head.version;
                request.headers_mut().clone_from(&head.headers);
                let sent = stream.sender.try_send_request(request);
                let answer = Box::pin(self.wait(sent, sent_at, progress)).await?;
                let answer = answer.map_err(|mut error| match error.take_message() {
                    Some(_) => Unanswered::NotSent,
                    None => match progress.fault.get() {
                        Some(fault) => Unanswered::Failed(Failure::Body(fault)),
                        None => Unanswered::of(error.error()),
                    },
                })?;
                let (response::Parts { status, headers, .. }, body) = answer.into_parts();
                Ok((AnswerHead { status, headers }, Some(body)))
            }
        }
    }

    /// Waits for the head of the answer with nginx's two patiences: one between two writes, one from the last
    /// write to the answer. While the client is slow nobody else is.
    async fn wait<T>(
        &self,
        answer: impl Future<Output = T>,
        sent_at: Instant,
        progress: &Progress,
    ) -> Result<T, Unanswered> {
        progress.moved.set(sent_at);
        let mut answer = pin!(answer);
        let Options { read_timeout, send_timeout, .. } = *self.options();
        let look = read_timeout.min(send_timeout);
        let mut timer = pin!(sleep_until(sent_at + look));
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => return Ok(answer),
                () = &mut timer => {
                    let now = Instant::now();
                    let patience = if progress.done.get() { read_timeout } else { send_timeout };
                    let until = progress.moved.get() + patience;
                    if progress.waiting.get() {
                        timer.as_mut().reset(now + look);
                    } else if until <= now {
                        return Err(Unanswered::Late);
                    } else {
                        timer.as_mut().reset(until.min(now + look));
                    }
                }
            }
        }
    }

    /// Turns the endpoint's answer into ours.
    fn answer(
        &self,
        AnswerHead { status, mut headers }: AnswerHead,
        lease: Lease,
        websocket: Option<Switch>,
    ) -> Result<Response<ReplyBody>, Failure> {
        let idle = self.options().read_timeout;
        let switching = status == StatusCode::SWITCHING_PROTOCOLS;
        // Nobody switches without being asked, and only to what was asked for.
        let allowed = match &websocket {
            Some(switch) if switching => {
                headers::wants_websocket(&headers) && switch.is_accepted(&headers)
            }
            Some(switch) => switch.may_refuse(status),
            None => !switching,
        };
        if !allowed {
            return Err(Failure::Broken);
        }
        headers::to_client(&mut headers, self.visit.settings)
            .map_err(|headers::BadFraming| Failure::Broken)?;
        let (mut head, ()) = Response::new(()).into_parts();
        (head.status, head.headers) = (status, headers);
        if let Some(websocket) = websocket.filter(|_| switching) {
            let endpoint = lease.switched().ok_or(Failure::Broken)?;
            head.headers.remove(CONTENT_LENGTH);
            let tunnel = websocket.join(endpoint, idle, &mut head);
            self.visit.trace.tunnel.replace(Some(tunnel));
            return Ok(Response::from_parts(head, ReplyBody::empty()));
        }
        Ok(Response::from_parts(head, ReplyBody::upstream(lease, idle)))
    }
}

/// The target as HTTP/2 writes it, with scheme and authority; `Host` moves into it.
fn absolute(target: PathAndQuery, head: &mut request::Parts, transport: &Transport) -> Uri {
    let host = head.headers.remove(HOST);
    let authority = host.and_then(|it| Authority::try_from(it.as_bytes()).ok());
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(if transport.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP });
    // HTTP/1.0 without a host: something must stand there.
    parts.authority = Some(authority.unwrap_or_else(|| Authority::from_static("localhost")));
    parts.path_and_query = Some(target);
    Uri::from_parts(parts).unwrap_or_default()
}

/// Why an endpoint did not answer.
enum Unanswered {
    /// It saw nothing of the request.
    NotSent,
    /// The connection ended before a byte of the answer.
    Lost,
    /// What it answered is not HTTP.
    Invalid,
    /// It took too long.
    Late,
    /// The client's body broke off.
    Failed(Failure),
}

impl Unanswered {
    /// Of HTTP/1.1.
    fn torn(torn: Torn, progress: &Progress) -> Self {
        match (progress.fault.get(), torn) {
            (Some(fault), _) | (None, Torn::Upload(fault)) => Self::Failed(Failure::Body(fault)),
            (None, Torn::NotSent) => Self::NotSent,
            (None, Torn::Lost) => Self::Lost,
            (None, Torn::Invalid(why)) => {
                tracing::debug!(why, "an endpoint's answer is no HTTP");
                Self::Invalid
            }
        }
    }

    /// Of HTTP/2.
    fn of(error: &hyper::Error) -> Self {
        let source = error.source();
        if let Some(h2) = source.and_then(|it| it.downcast_ref::<h2::Error>()) {
            // RFC 9113 sections 6.8 and 8.7: such a stream was not looked at.
            let refused = h2.reason() == Some(h2::Reason::REFUSED_STREAM);
            let gone = h2.is_go_away() && h2.is_remote();
            return if refused || gone { Self::NotSent } else { Self::Invalid };
        }
        // What TLS or a parser says of bytes that came is about those; all else is about the connection.
        let broken = source.and_then(|it| it.downcast_ref::<io::Error>()).is_some_and(|it| {
            !matches!(it.kind(), io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput)
        });
        if broken || error.is_incomplete_message() || error.is_canceled() || error.is_closed() {
            Self::Lost
        } else {
            Self::Invalid
        }
    }
}

impl Failure {
    fn missed(self, next: bool) -> Missed {
        if next { Missed::Next(self) } else { Missed::Over(self) }
    }
}
