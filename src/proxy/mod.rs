//! The life of a request.
//!
//! Floor 3: knows no Kubernetes. [`answer`] is the list of its steps; each step is a function in a file
//! of its own that looks, edits or answers. What is the same for every request, an id, a log line, a
//! count, is a tower layer in `observe`; what differs by route is a plain function here.

mod access;
mod affinity;
mod ahead;
mod body;
mod canary;
mod canonical;
mod challenge;
mod client_tls;
mod clock;
mod compress;
mod connect;
mod connection;
mod cookie;
mod cors;
mod datagrams;
mod doors;
mod dress;
pub mod explain;
mod forward;
mod forwarded;
mod frames;
mod headers;
mod intercept;
mod io;
mod join;
mod line;
mod listen;
mod log;
mod mirror;
mod observe;
mod passthrough;
mod patience;
mod peer;
mod phrase;
mod pool;
mod proxy_protocol;
mod rate;
mod redirect;
mod reply;
mod resolve;
mod rewrite;
mod snippet;
mod span;
mod streams;
mod tls;
mod upgrade;
mod upload;
mod wire;
mod worker;

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::thread::JoinHandle;

use http::header::CONNECTION;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, request};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::sync::watch;

use crate::live::limit::Limits;
use crate::live::table::{Match, Paths};
use crate::live::{Current, Live, Way};
use crate::metrics::Metrics;
use crate::model::plan::Target;
use crate::model::settings::Settings;
use crate::spans;

use body::ReplyBody;
use canonical::Asked;
use clock::Clock;
use connection::Link;
use dress::Errand;
use forward::Outbound;
use headers::Vouched;
use log::LogSink;
use observe::{Trace, Traced};
use peer::Peer;
use reply::Failure;
use upload::Fault;
use worker::Shared;

pub use doors::Doors;

/// Where and how to listen.
#[derive(Clone, Debug)]
pub struct Listening {
    /// Local addresses; an unspecified one means all.
    pub bind: IpAddr,
    /// Port of plain HTTP.
    pub http: u16,
    /// Port of HTTPS.
    pub https: u16,
    /// The ports as the world sees them.
    pub external: Ports,
    /// Threads.
    pub workers: usize,
    /// Most connections of one client address; `None` for half of all, 0 for no limit.
    pub most_of_address: Option<u32>,
}

/// Ports as the world sees them: in redirects and `X-Forwarded-Port`.
#[expect(missing_docs, reason = "the names say it")]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Ports {
    pub http: u16,
    pub https: u16,
}

/// How far the end has come.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Phase {
    /// Everything is served.
    Serving,
    /// Everything is served still, but clients are asked to go elsewhere.
    Leaving,
    /// Nothing new is accepted, what is under way is finished.
    Draining,
    /// WebSockets are told that they end.
    Closing,
    /// Whatever is left is cut.
    Over,
}

/// The running data plane.
#[derive(Debug)]
pub struct Proxy {
    limits: Arc<Limits>,
    workers: Vec<JoinHandle<()>>,
    log: JoinHandle<()>,
    listening: Listening,
    phase: watch::Receiver<Phase>,
    open: watch::Sender<Arc<doors::Open>>,
}

impl Proxy {
    /// Binds the ports and starts the workers. Fails when a port is taken or a thread cannot start.
    pub fn start(
        listening: &Listening,
        current: Current,
        metrics: Arc<Metrics>,
        phase: watch::Receiver<Phase>,
        wall: fn() -> jiff::Timestamp,
        spans: spans::Sink,
    ) -> std::io::Result<Self> {
        let bind = |port: u16| {
            let address = SocketAddr::new(listening.bind, port);
            listen::bind(&[address], listening.workers)
                .map_err(|error| std::io::Error::new(error.kind(), format!("port {port}: {error}")))
        };
        let plain = bind(listening.http)?;
        let secure = bind(listening.https)?;
        let (sink, log) = LogSink::start()?;
        let limits = Limits::new(most_connections(), listening.most_of_address);
        let shared = Arc::new(Shared {
            current,
            metrics,
            sink,
            spans,
            ports: listening.external,
            limits: limits.clone(),
            phase: phase.clone(),
            wall,
        });
        let (open, opened) = watch::channel(Arc::default());
        let mut workers = Vec::new();
        for (number, (plain, secure)) in plain.into_iter().zip(secure).enumerate() {
            let (shared, opened) = (shared.clone(), opened.clone());
            workers.push(
                std::thread::Builder::new()
                    .name(format!("worker-{number}"))
                    .spawn(move || worker::run(number, shared, plain, secure, opened))?,
            );
        }
        Ok(Self { limits, workers, log, listening: listening.clone(), phase, open })
    }

    /// What opens and closes the ports of streams.
    pub fn doors(&self) -> Doors {
        let Listening { bind, workers, .. } = self.listening;
        let (open, phase) = (self.open.clone(), self.phase.clone());
        Doors { bind, workers, open, phase }
    }

    /// What clients have taken, and what they may.
    pub fn limits(&self) -> Arc<Limits> {
        self.limits.clone()
    }

    /// Waits until every worker has ended, which the phase tells them to; blocks.
    pub fn join(self) {
        for worker in self.workers {
            if worker.join().is_err() {
                tracing::error!("a worker panicked");
            }
        }
        if self.log.join().is_err() {
            tracing::error!("the access log's thread panicked");
        }
    }
}

/// Most client connections: each may need an endpoint's beside it, and some files are kept for all else.
fn most_connections() -> usize {
    /// Where the limit cannot be read: a modest guess.
    const USUAL: usize = 1024;
    const KEPT: usize = 128;
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find(|it| it.starts_with("Max open files"));
    let soft = line.and_then(|it| it.split_whitespace().nth(3)?.parse().ok()).unwrap_or(USUAL);
    (soft.saturating_sub(KEPT) / 2).max(1)
}

/// A request at its rule: what the steps look at.
#[derive(Clone, Copy)]
struct Visit<'a> {
    link: &'a Rc<Link>,
    live: &'a Live,
    settings: &'a Settings,
    way: &'a Way,
    asked: &'a Asked,
    peer: &'a Peer,
    vouched: &'a Vouched,
    trace: &'a Trace,
}

/// The same apart from the connection and from what is noted: what the steps need that decide by looking
/// alone. `explain` has no more than this, and decides by the same functions.
#[derive(Clone, Copy)]
struct View<'a> {
    settings: &'a Settings,
    way: &'a Way,
    asked: &'a Asked,
    peer: &'a Peer,
    ports: Ports,
    clock: &'a RefCell<Clock>,
}

impl<'a> Visit<'a> {
    fn view(&self) -> View<'a> {
        let Self { settings, way, asked, peer, link, .. } = *self;
        let (ports, clock) = (link.worker.ports, &link.worker.clock);
        View { settings, way, asked, peer, ports, clock }
    }
}

/// Answers one request: these are the steps, in this order, and there are no others.
async fn answer(link: &Rc<Link>, (request, trace): Traced) -> Response<ReplyBody> {
    let (version, has_body) = (request.version(), !request.body().is_end_stream());
    let is_head = *request.method() == Method::HEAD;
    let compression = &trace.seen.live.plan.settings.compression;
    let taken = compress::taken(compression, &request);
    let walked = walk(link, request, &trace).await;
    let kept = trace.kept.take();
    let walked = match kept {
        None => walked,
        Some(kept) => Box::pin(intercept::replace(link, &trace, *kept, walked)).await,
    };
    let mut response = walked.unwrap_or_else(|failure| failure.reply());
    if has_body && trace.progress.borrow().as_ref().is_none_or(|it| !it.done.get()) {
        link.linger();
    }
    if let Some(taken) = taken {
        response = compress::encode(response, taken, compression, &link.worker.room);
    }
    let status = response.status();
    let headers = response.headers_mut();
    dress::add(headers, &trace.seen.live.plan.settings);
    trace.extras.take().into_iter().for_each(|it| it.put(status, headers));
    headers::add_hsts(headers, trace.seen.live.hsts.as_ref(), &link.peer);
    if version == Version::HTTP_2 {
        headers.remove(CONNECTION);
        if is_head {
            // Of HTTP/2 hyper sends what it is given.
            response = reply::without_body(response);
        }
    } else if link.worker.is_leaving() && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    rate::pace(response, &trace)
}

/// The way to an answer. `explain` tells the same steps: one that is added here is added there.
async fn walk(
    link: &Rc<Link>,
    request: Request<Incoming>,
    trace: &Trace,
) -> Result<Response<ReplyBody>, Failure> {
    let Link { worker, .. } = &**link;
    let live = &*trace.seen.live;
    let settings = &live.plan.settings;
    let (mut head, body) = request.into_parts();

    // Who asks: the connection's peer, or the client that a trusted proxy there speaks for.
    let told = trace
        .told
        .get_or_init(|| forwarded::told(&settings.trust, &link.peer, worker.ports, &head.headers));
    let (peer, vouched) = match told {
        Some(told) => (&told.peer, &told.vouched),
        None => (&link.peer, &link.vouched),
    };

    // What is asked, in the one form that everything below uses.
    canonical::check_length(&head, link.heads).map_err(Failure::Refused)?;
    let asked = Asked::read(&head, peer).map_err(Failure::Refused)?;
    if asked.asterisk {
        return Ok(Response::new(ReplyBody::empty()));
    }
    let path = asked.path(&head.uri);

    // The CA's question comes before everything that could stand in its way.
    if let Some(answer) = challenge::answer(live, &head.method, asked.host(), path) {
        worker.challenged();
        return Ok(answer);
    }
    if worker.is_overloaded() {
        return Err(Failure::Overloaded);
    }

    // Before the first plan nobody can say whether a rule takes it.
    if live.starting {
        return Err(Failure::NoEndpoint);
    }

    // Whom the ConfigMap blocks, whatever is asked for.
    if let Some(blocked) = &settings.access.blocked
        && access::is_blocked(blocked, peer.address.ip(), &head.headers)
    {
        return Err(Failure::Blocked);
    }

    // Which rule takes it.
    let paths = live.table.host(asked.host());
    if let Some(to) = paths.and_then(|it| it.moved.as_deref()) {
        client_tls::check(link, paths)?;
        return Ok(redirect::to_name(to, &asked, &head.uri, peer, settings.redirect_code));
    }
    let found = match paths.and_then(|it| it.find(path)) {
        Some(Match::Slash(found)) => {
            client_tls::check(link, paths)?;
            let options = &live.way(found).route.options;
            return Ok(redirect::add_slash(&asked, &head.uri, peer, options));
        }
        Some(Match::Exact(found) | Match::Prefix(found) | Match::Expression(found)) => found,
        None => {
            client_tls::check(link, paths)?;
            live.fallback.ok_or(Failure::NotFound)?
        }
    };
    trace.way.set(Some(found));
    let mut way = live.way(found);
    let visit = Visit { link, live, settings, way, asked: &asked, peer, vouched, trace };

    span::begin(&visit, &mut head);

    if let Some(answer) = gate(&visit, paths, &mut head).await? {
        return Ok(answer);
    }
    if way.route.target == Target::Fallback {
        way = live.way(live.fallback.ok_or(Failure::NotFound)?);
    }
    let visit = Visit { way, ..visit };

    // Who takes it: the Service, or the canary beside it.
    let Some(balancer) = canary::chosen(&visit, &head.headers) else {
        return Err(Failure::NotFound);
    };

    // A body that says it is too long; one that does not say is counted on its way.
    let options = &*way.route.options;
    if let (Some(length), Some(limit)) = (headers::length(&head.headers), options.body_limit)
        && length > limit
    {
        return Err(Failure::Body(Fault::Large));
    }

    mirror::copy(&visit, trace.way.get(), &head, !body.is_end_stream());

    let outbound = Outbound { visit, balancer, errand: Errand::Request };
    let body = outbound.upload(body);
    let mut answer = outbound.send(head, body).await?;
    intercept::note_answered(trace);
    dress::answer(&visit, answer.headers_mut());

    // Ahead of a slow client, where the rule or the endpoint says so.
    let said = headers::take_accel(answer.headers_mut());
    if said.unwrap_or(options.buffers.on) {
        answer = answer.map(|it| it.ahead(options.buffers.bytes()));
    }

    Ok(answer)
}

/// The steps that may answer before an endpoint is asked, in ingress-nginx's order.
async fn gate(
    visit: &Visit<'_>,
    paths: Option<&Paths>,
    head: &mut request::Parts,
) -> Result<Option<Response<ReplyBody>>, Failure> {
    let view = &visit.view();

    // Whether the handshake was for this host, and with a certificate that will do.
    if let Some(answer) = client_tls::admit(visit, paths, &head.uri)? {
        return Ok(Some(answer));
    }

    // What the host's snippet answers by itself.
    if let Some(answer) = snippet::begin(visit, head) {
        return Ok(Some(answer));
    }

    // From `/` to where the application begins.
    if let Some(answer) = redirect::to_app_root(view, paths, head) {
        return Ok(Some(answer));
    }
    if let Target::Refused(_) = visit.way.route.target {
        return Err(Failure::Denied);
    }

    // What the answer gets, whoever gives it; the answer to a preflight (CORS).
    if let Some(answer) = dress::begin(visit, head) {
        return Ok(Some(answer));
    }

    // Elsewhere, where the rule says so; else to what it makes of the target.
    if let Some(answer) = redirect::elsewhere(view, head) {
        return Ok(Some(answer));
    }
    if let Some(answer) = snippet::answer(view, head) {
        return Ok(Some(answer));
    }
    if let Some(answer) = rewrite::apply(view, head)? {
        return Ok(Some(answer));
    }

    // To HTTPS, where the rule says so.
    if let Some(answer) = redirect::to_https(view, &head.uri) {
        return Ok(Some(answer));
    }

    // Nobody is counted, or asked for a password, for a Service that has no endpoints.
    if visit.way.balancer.as_ref().is_some_and(|it| it.is_empty()) {
        return Err(Failure::NoEndpoint);
    }

    // How much its client asked for lately.
    rate::count(visit)?;

    // Networks, passwords, the external judge.
    snippet::check(view)?;
    if let Some(guard) = &visit.way.route.guard
        && let Some(answer) = Box::pin(access::check(guard, visit, head)).await?
    {
        return Ok(Some(answer));
    }
    Ok(None)
}
