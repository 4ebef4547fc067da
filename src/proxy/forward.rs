//! Sends a request to an endpoint and brings the answer back.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;

use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version, request};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::upgrade::OnUpgrade;
use tokio::time::{Instant, sleep_until, timeout};

use super::body::{Progress, ReplyBody, RequestBody, has_unknown_length};
use super::canonical::Asked;
use super::headers::{self, Vouched};
use super::observe::Trace;
use super::pool::{Lease, Pool};
use super::reply::Failure;
use super::upgrade;
use super::worker::Worker;
use crate::live::Live;
use crate::live::balance::Balancer;
use crate::model::options::Options;

/// Most endpoints that one request tries (ingress-nginx's `proxy-next-upstream-tries`).
const MOST_TRIES: usize = 3;

/// A request on its way.
pub(super) struct Outbound<'a> {
    pub(super) worker: &'a Rc<Worker>,
    pub(super) live: &'a Live,
    pub(super) balancer: &'a Balancer,
    pub(super) options: &'a Options,
    pub(super) asked: &'a Asked,
    pub(super) vouched: &'a Vouched,
    pub(super) trace: &'a Trace,
}

impl Outbound<'_> {
    /// Sends the request to one endpoint after the other until one answers.
    ///
    /// Another try follows only while the request did nothing yet: when no connection could be made, when
    /// an idle one turned out to be closed, or when one broke before a byte of the answer and the request
    /// may be repeated.
    pub(super) async fn send(
        &self,
        mut head: request::Parts,
        body: Incoming,
    ) -> Result<Response<ReplyBody>, Failure> {
        let addresses = self.addresses().await;
        // A name without an address is a bad gateway; a Service without an endpoint is unavailable.
        let mut failure = match self.balancer.backend.external {
            Some(_) => Failure::Unreachable,
            None => Failure::NoEndpoint,
        };
        let websocket = (head.version == Version::HTTP_11
            && head.method == Method::GET
            && headers::wants_websocket(&head.headers))
        .then(|| head.extensions.remove::<OnUpgrade>())
        .flatten();
        let progress = Progress::new(Instant::now(), self.trace.meter.clone());
        self.trace.progress.replace(Some(progress.clone()));
        let mut request = Some(self.request(head, body, &progress, websocket.is_some())?);
        for address in addresses.into_iter().flatten() {
            self.trace.address.set(Some(address));
            let mut pooled = self.worker.pool.take(address).await;
            loop {
                let fresh = pooled.is_none();
                let mut sender = match pooled.take() {
                    Some(sender) => sender,
                    // Rare, and large: kept out of the future that every request moves.
                    None => match Box::pin(self.connect(address)).await {
                        Ok(sender) => sender,
                        Err(error) => {
                            failure = error;
                            break;
                        }
                    },
                };
                let Some(mut outgoing) = request.take() else { return Err(failure) };
                if !outgoing.headers().contains_key(HOST)
                    && let Ok(host) = HeaderValue::try_from(address.to_string())
                {
                    // HTTP/1.0 without a host: the endpoint's own address stands in.
                    outgoing.headers_mut().insert(HOST, host);
                }
                self.trace.sent_at.set(Some(Instant::now()));
                let again = is_repeatable(&outgoing).then(|| copy(&outgoing));
                match self.exchange(&mut sender, outgoing, &progress).await {
                    Ok(answer) => {
                        progress.answered.set(true);
                        self.trace.status.set(Some(answer.status()));
                        let lease =
                            Lease::new(self.worker.pool.clone(), address, sender, progress.clone());
                        return self.answer(answer, lease, websocket);
                    }
                    Err(Unanswered::NotSent(back)) if !fresh => request = Some(*back),
                    Err(Unanswered::Lost) => {
                        let Some(head) = again else { return Err(Failure::Broken) };
                        let body = RequestBody::nothing(progress.clone());
                        request = Some(head.map(|()| body));
                        if fresh {
                            failure = Failure::Broken;
                            break;
                        }
                    }
                    Err(Unanswered::NotSent(back)) => {
                        request = Some(*back);
                        failure = Failure::Broken;
                        break;
                    }
                    Err(Unanswered::Failed(failure)) => return Err(failure),
                }
            }
        }
        Err(failure)
    }

    /// The endpoints to try, the best first.
    async fn addresses(&self) -> [Option<SocketAddr>; MOST_TRIES] {
        let mut addresses = [None; MOST_TRIES];
        let places = addresses.iter_mut();
        match &self.balancer.backend.external {
            None => {
                for (place, address) in places.zip(self.balancer.order()) {
                    *place = Some(address);
                }
            }
            Some((name, port)) => {
                let found = Box::pin(self.worker.resolver.resolve(name, *port)).await;
                for (place, address) in places.zip(&*found) {
                    *place = Some(*address);
                }
            }
        }
        addresses
    }

    async fn connect(&self, address: SocketAddr) -> Result<SendRequest<RequestBody>, Failure> {
        match timeout(self.options.connect_timeout, Pool::connect(address)).await {
            Ok(Ok(sender)) => Ok(sender),
            Ok(Err(error)) if error.kind() == io::ErrorKind::TimedOut => Err(Failure::Slow),
            Ok(Err(error)) => {
                tracing::debug!(%address, %error, "no connection to an endpoint");
                Err(Failure::Unreachable)
            }
            Err(_) => Err(Failure::Slow),
        }
    }

    /// Writes the request that leaves from the canonical one.
    fn request(
        &self,
        mut head: request::Parts,
        body: Incoming,
        progress: &Rc<Progress>,
        websocket: bool,
    ) -> Result<Request<RequestBody>, Failure> {
        let settings = &self.live.plan.settings;
        let says_empty =
            head.headers.contains_key(CONTENT_LENGTH) && http_body::Body::is_end_stream(&body);
        headers::to_upstream(&mut head.headers, self.asked, head.version, self.vouched, settings)
            .map_err(|headers::Loops| Failure::Loops)?;
        let body = RequestBody::new(body, progress.clone(), self.options.body_limit);
        if says_empty {
            // hyper writes no length for a body that is not there; the client did.
            head.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        if websocket {
            head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            head.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        } else if head.headers.contains_key(TE) {
            head.headers.insert(CONNECTION, HeaderValue::from_static("te"));
        }
        if head.method != Method::HEAD && has_unknown_length(&head.headers, &body) {
            head.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let mut request = Request::new(body);
        *request.uri_mut() = self.asked.target(&head.uri).into();
        *request.method_mut() = head.method;
        *request.headers_mut() = head.headers;
        Ok(request)
    }

    /// Sends the request and waits for the head of the answer, with nginx's two patiences: one between
    /// two writes, one from the last write to the answer. While the client is slow nobody else is.
    async fn exchange(
        &self,
        sender: &mut SendRequest<RequestBody>,
        request: Request<RequestBody>,
        progress: &Progress,
    ) -> Result<Response<Incoming>, Unanswered> {
        progress.moved.set(Instant::now());
        let mut answer = pin!(sender.try_send_request(request));
        let Options { read_timeout, send_timeout, .. } = *self.options;
        let look = read_timeout.min(send_timeout);
        let mut timer = pin!(sleep_until(progress.moved.get() + look));
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => {
                    return answer.map_err(|mut error| match error.take_message() {
                        Some(back) => Unanswered::NotSent(Box::new(back)),
                        None => match progress.fault.get() {
                            Some(fault) => Unanswered::Failed(Failure::Body(fault)),
                            None if is_lost(error.error()) => Unanswered::Lost,
                            None => Unanswered::Failed(Failure::Broken),
                        },
                    });
                }
                () = &mut timer => {
                    let now = Instant::now();
                    let patience = if progress.done.get() { read_timeout } else { send_timeout };
                    let until = progress.moved.get() + patience;
                    if progress.waiting.get() {
                        timer.as_mut().reset(now + look);
                    } else if until <= now {
                        return Err(Unanswered::Failed(Failure::Slow));
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
        mut answer: Response<Incoming>,
        lease: Lease,
        websocket: Option<OnUpgrade>,
    ) -> Result<Response<ReplyBody>, Failure> {
        let switching = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
        if switching {
            // Nobody switches without being asked, and only to what was asked for.
            let to_websocket = headers::wants_websocket(answer.headers());
            let (Some(client), true) = (websocket, to_websocket) else {
                return Err(Failure::Broken);
            };
            let upstream = hyper::upgrade::on(&mut answer);
            let idle = self.options.read_timeout;
            self.worker.tunnel(upgrade::tunnel(client, upstream, idle));
        }
        let (mut head, body) = answer.into_parts();
        headers::to_client(&mut head.headers, &self.live.plan.settings)
            .map_err(|headers::BadFraming| Failure::Broken)?;
        head.version = Version::default();
        head.extensions.clear();
        if switching {
            head.headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            head.headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            head.headers.remove(CONTENT_LENGTH);
            return Ok(Response::from_parts(head, ReplyBody::empty()));
        }
        let body = ReplyBody::upstream(body, lease, self.options.read_timeout);
        Ok(Response::from_parts(head, body))
    }
}

/// Why an endpoint did not answer.
enum Unanswered {
    /// Nothing was sent; here is the request.
    NotSent(Box<Request<RequestBody>>),
    /// The connection ended before a byte of the answer.
    Lost,
    /// Something else went wrong.
    Failed(Failure),
}

fn is_lost(error: &hyper::Error) -> bool {
    let broken =
        std::error::Error::source(error).and_then(|it| it.downcast_ref::<io::Error>()).is_some_and(
            |it| matches!(it.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe),
        );
    broken || error.is_incomplete_message() || error.is_canceled() || error.is_closed()
}

/// Whether a request may be sent twice: its method is idempotent (RFC 9110 section 9.2.2) and it has no
/// body.
fn is_repeatable(request: &Request<RequestBody>) -> bool {
    let idempotent = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS | Method::TRACE | Method::PUT | Method::DELETE
    );
    idempotent && http_body::Body::is_end_stream(request.body())
}

fn copy(request: &Request<RequestBody>) -> Request<()> {
    let mut copy = Request::new(());
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    *copy.headers_mut() = HeaderMap::clone(request.headers());
    copy
}
