//! A proxy in front of an ACME CA: it fails on cue, holds requests back, and remembers what was asked.
//!
//! Answers of ACME are not signed, and Pebble makes its URLs of the `Host` it was asked at: whoever
//! reads the directory here comes here with everything else, too.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Instant,
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::AbortHandle,
};
use tokio_rustls::TlsAcceptor;

use super::{
    apiproxy::{Failure, LoopbackClient},
    pebble::Pebble,
    process::{SOON, eventually, lock},
};

type Body = UnsyncBoxBody<Bytes, Failure>;

/// Where [`CaProxy::suggest`] says that people can read why.
pub const EXPLANATION: &str = "https://ca.test/why";

/// What a request is for, RFC 8555 section 7.1 and RFC 9773.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Endpoint {
    Directory,
    Nonce,
    NewAccount,
    NewOrder,
    Order,
    Authorization,
    Challenge,
    Finalize,
    Certificate,
    RenewalInfo,
    Other,
}

impl Endpoint {
    /// By Pebble's paths.
    fn of(path: &str) -> Self {
        const PATHS: [(&str, Endpoint); 9] = [
            ("/dir", Endpoint::Directory),
            ("/nonce-plz", Endpoint::Nonce),
            ("/sign-me-up", Endpoint::NewAccount),
            ("/order-plz", Endpoint::NewOrder),
            ("/my-order/", Endpoint::Order),
            ("/authZ/", Endpoint::Authorization),
            ("/chalZ/", Endpoint::Challenge),
            ("/finalize-order/", Endpoint::Finalize),
            ("/certZ/", Endpoint::Certificate),
        ];
        if path.to_ascii_lowercase().contains("renewal") {
            return Self::RenewalInfo;
        }
        let found = PATHS.iter().find(|(start, _)| path.starts_with(start));
        found.map_or(Self::Other, |(_, endpoint)| *endpoint)
    }
}

/// One request, as the proxy saw it.
#[derive(Clone, Debug)]
pub struct Asked {
    pub endpoint: Endpoint,
    pub path: String,
    pub at: Instant,
    /// What was signed and sent; `null` for a request that only reads.
    pub payload: Value,
    /// The status it was answered with; 0 as long as it was not.
    pub status: u16,
}

/// When a request is held.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum When {
    /// Before the CA hears of it.
    Before,
    /// After the CA did it, before whoever asked hears of that.
    After,
}

/// A running proxy; it ends when dropped.
pub struct CaProxy {
    task: AbortHandle,
    shared: Arc<Shared>,
    port: u16,
}

struct Shared {
    state: Mutex<State>,
    /// Told of every change of `state`.
    changed: watch::Sender<()>,
    client: LoopbackClient,
    upstream: u16,
}

struct State {
    wrongs: Vec<Wrong>,
    holds: Vec<Hold>,
    asked: Vec<Asked>,
    boulder: Option<Vec<Reusable>>,
    clock: Clock,
}

struct Wrong {
    at: Option<Endpoint>,
    left: usize,
    what: What,
}

#[derive(Clone)]
enum What {
    Answer { status: u16, headers: HeaderMap, body: String },
    Hang,
    Truncate,
}

struct Hold {
    at: Endpoint,
    when: When,
    reached: bool,
    released: bool,
}

/// An order as Boulder remembers it.
struct Reusable {
    url: String,
    names: Value,
    profile: Value,
    replaces: Value,
    last: Value,
}

/// What the CA believes the time to be.
#[derive(Clone, Copy)]
struct Clock {
    since: Instant,
    ahead: f64,
    speed: f64,
}

impl CaProxy {
    /// Listens on a port of its own, with the listener's certificate of `pebble`.
    pub async fn start(pebble: &Pebble) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("there is a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let tls = TlsAcceptor::from(Arc::new(pebble.identity().server_config()));
        let clock = Clock { since: Instant::now(), ahead: 0.0, speed: 1.0 };
        let state = State { wrongs: vec![], holds: vec![], asked: vec![], boulder: None, clock };
        let shared = Arc::new(Shared {
            state: Mutex::new(state),
            changed: watch::Sender::new(()),
            client: pebble.identity().client(),
            upstream: pebble.port(),
        });
        let task = tokio::spawn(serve(listener, tls, Arc::clone(&shared))).abort_handle();
        Self { task, shared, port }
    }

    /// The URL of the ACME directory.
    pub fn directory(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.port)
    }

    /// Every request so far, oldest first.
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.shared.state).asked.clone()
    }

    /// Those of them for one endpoint.
    pub fn asked_for(&self, endpoint: Endpoint) -> Vec<Asked> {
        let mut asked = self.asked();
        asked.retain(|it| it.endpoint == endpoint);
        asked
    }

    /// How many requests for an endpoint the CA answered with this status.
    pub fn count(&self, endpoint: Endpoint, status: u16) -> usize {
        self.asked_for(endpoint).iter().filter(|it| it.status == status).count()
    }

    /// How many orders the CA took.
    pub fn orders(&self) -> usize {
        self.count(Endpoint::NewOrder, 201)
    }

    /// How many certificates it issued: an order is finalized once.
    pub fn issued(&self) -> usize {
        self.count(Endpoint::Finalize, 200)
    }

    /// How many accounts it made.
    pub fn accounts(&self) -> usize {
        self.count(Endpoint::NewAccount, 201)
    }

    /// Refuses the next `times` requests with a rate limit, RFC 8555 section 6.6.
    pub fn limit(&self, at: Endpoint, times: usize, retry_after: Option<&str>, detail: &str) {
        let fields: Vec<_> = retry_after.map(|it| ("retry-after", it)).into_iter().collect();
        self.refuse(at, times, 429, "rateLimited", detail, &fields);
    }

    /// Refuses the next `times` requests with a problem of this type.
    pub fn refuse(
        &self,
        at: Endpoint,
        times: usize,
        status: u16,
        kind: &str,
        detail: &str,
        fields: &[(&str, &str)],
    ) {
        let kind = format!("urn:ietf:params:acme:error:{kind}");
        let body = json!({ "type": kind, "detail": detail, "status": status }).to_string();
        let mut headers = fields_of(fields);
        headers.insert(header::CONTENT_TYPE, problem_json());
        self.wrong(Some(at), times, What::Answer { status, headers, body });
    }

    /// Gives this window to the next `times` who ask when to renew, RFC 9773 section 4.2.
    pub fn suggest(&self, times: usize, [start, end]: [jiff::Timestamp; 2], retry_after: &str) {
        let window = json!({ "start": start.to_string(), "end": end.to_string() });
        let body = json!({ "suggestedWindow": window, "explanationURL": EXPLANATION }).to_string();
        let mut headers = fields_of(&[("retry-after", retry_after)]);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.wrong(Some(Endpoint::RenewalInfo), times, What::Answer { status: 200, headers, body });
    }

    /// Answers everything as an overloaded front does: 503 and a page for people.
    pub fn busy(&self, fields: &[(&str, &str)]) {
        let mut headers = fields_of(fields);
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html"));
        let body = "<html><head><title>503</title></head><h1>Service busy</h1></html>".to_owned();
        self.wrong(None, usize::MAX, What::Answer { status: 503, headers, body });
    }

    /// Takes the next `times` requests and says nothing.
    pub fn hang(&self, at: Endpoint, times: usize) {
        self.wrong(Some(at), times, What::Hang);
    }

    /// Has the CA do what the next `times` requests ask, and breaks off in the middle of its answers.
    pub fn truncate(&self, at: Endpoint, times: usize) {
        self.wrong(Some(at), times, What::Truncate);
    }

    /// Takes back all that was set to go wrong; what hangs goes on hanging.
    pub fn heal(&self) {
        lock(&self.shared.state).wrongs.clear();
    }

    /// Behaves as Let's Encrypt's Boulder where Pebble does not: an invalid order does not say why; a
    /// second order for the same names is the first one while that waits; a certificate with an order
    /// under way that replaces it cannot be replaced by another.
    pub fn be_boulder(&self) {
        lock(&self.shared.state).boulder.get_or_insert_default();
    }

    /// Gives a `Date` that is so many seconds ahead, and runs at this speed from now on.
    pub fn set_clock(&self, ahead: f64, speed: f64) {
        lock(&self.shared.state).clock = Clock { since: Instant::now(), ahead, speed };
    }

    /// The time as the CA believes it to be.
    pub fn now(&self) -> jiff::Timestamp {
        lock(&self.shared.state).clock.now()
    }

    /// Holds the next request for an endpoint; see [`Self::held`].
    pub fn hold(&self, at: Endpoint, when: When) {
        let hold = Hold { at, when, reached: false, released: false };
        lock(&self.shared.state).holds.push(hold);
    }

    /// Waits until everything that is to be held was asked for.
    pub async fn held(&self) {
        eventually("a request to hold", SOON * 2, async || {
            let state = lock(&self.shared.state);
            let missing: Vec<_> = state.holds.iter().filter(|it| !it.reached).collect();
            let seen = || state.asked.iter().map(|it| (it.endpoint, it.status)).collect::<Vec<_>>();
            if missing.is_empty() { Ok(()) } else { Err(format!("{:?}", seen())) }
        })
        .await;
    }

    /// Lets what is held go on.
    pub fn release(&self) {
        lock(&self.shared.state).holds.iter_mut().for_each(|it| it.released = true);
        self.shared.changed.send_replace(());
    }

    fn wrong(&self, at: Option<Endpoint>, left: usize, what: What) {
        lock(&self.shared.state).wrongs.push(Wrong { at, left, what });
    }
}

impl Drop for CaProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, tls: TlsAcceptor, shared: Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(connection(stream, tls.clone(), Arc::clone(&shared)));
    }
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, shared: Arc<Shared>) {
    let Ok(stream) = tls.accept(stream).await else { return };
    let service = service_fn(|request| shared.request(request));
    // An error closes the connection, which is all the client is to see of it.
    let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
}

impl Shared {
    async fn request(&self, request: Request<Incoming>) -> Result<Response<Body>, Failure> {
        let (head, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let path = head.uri.path().to_owned();
        let endpoint = Endpoint::of(&path);
        let payload = payload(&body);
        let place = {
            let asked = &mut lock(&self.state).asked;
            let at = Instant::now();
            asked.push(Asked { endpoint, path, at, payload: payload.clone(), status: 0 });
            asked.len() - 1
        };
        self.hold(endpoint, When::Before).await;
        let wrong = self.wrong(endpoint);
        let note = |status: StatusCode| lock(&self.state).asked[place].status = status.as_u16();
        let mut answer = match wrong {
            Some(What::Hang) => std::future::pending().await,
            Some(What::Answer { status, headers, body }) => {
                let mut answer = Response::new(Bytes::from(body));
                *answer.status_mut() = StatusCode::from_u16(status)?;
                *answer.headers_mut() = headers;
                answer
            }
            Some(What::Truncate) => {
                let answer = self.forward(Request::from_parts(head, Full::new(body))).await?;
                note(answer.status());
                return Ok(truncated(answer));
            }
            None => match self.as_boulder(endpoint, &payload).await? {
                Some(answer) => answer,
                None => self.forward(Request::from_parts(head, Full::new(body))).await?,
            },
        };
        self.remember(endpoint, &payload, &mut answer);
        note(answer.status());
        answer.headers_mut().insert(header::DATE, self.date());
        self.hold(endpoint, When::After).await;
        Ok(answer.map(full))
    }

    async fn forward(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, Failure> {
        let (mut head, body) = request.into_parts();
        let path = head.uri.path_and_query().map_or("/", |it| it.as_str());
        // The `Host` stays, so that the CA's URLs lead here.
        head.uri = format!("https://127.0.0.1:{}{path}", self.upstream).parse()?;
        for name in [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION] {
            head.headers.remove(name);
        }
        let answer = self.client.request(Request::from_parts(head, body)).await?;
        let (mut head, body) = answer.into_parts();
        for name in [header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION] {
            head.headers.remove(name);
        }
        Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
    }

    fn wrong(&self, endpoint: Endpoint) -> Option<What> {
        let mut state = lock(&self.state);
        let mut wrongs = state.wrongs.iter_mut();
        let wrong = wrongs.find(|it| it.left > 0 && it.at.is_none_or(|at| at == endpoint))?;
        wrong.left -= 1;
        Some(wrong.what.clone())
    }

    /// Waits where a request is to be held; each hold takes one request.
    async fn hold(&self, endpoint: Endpoint, when: When) {
        let place = {
            let holds = &mut lock(&self.state).holds;
            let wanted = |it: &Hold| (it.at, it.when, it.reached) == (endpoint, when, false);
            let Some(place) = holds.iter().position(wanted) else { return };
            holds[place].reached = true;
            place
        };
        let mut changed = self.changed.subscribe();
        while !lock(&self.state).holds[place].released {
            changed.changed().await.expect("the sender lives in self");
        }
    }

    /// What Boulder would say to a new order and Pebble would not.
    async fn as_boulder(
        &self,
        endpoint: Endpoint,
        payload: &Value,
    ) -> Result<Option<Response<Bytes>>, Failure> {
        let (status, url, body) = {
            let state = lock(&self.state);
            let Some(orders) = state.boulder.as_ref() else { return Ok(None) };
            if endpoint != Endpoint::NewOrder {
                return Ok(None);
            }
            let is = |it: &Reusable, states: &[&str]| {
                it.last["status"].as_str().is_some_and(|it| states.contains(&it))
            };
            let replaces = &payload["replaces"];
            let replaced = orders
                .iter()
                .any(|it| !replaces.is_null() && it.replaces == *replaces && !is(it, &["invalid"]));
            let same = orders.iter().find(|it| {
                is(it, &["pending", "ready"])
                    && it.names == names(payload)
                    && it.profile == payload["profile"]
            });
            match same {
                _ if replaced => {
                    let kind = "urn:ietf:params:acme:error:alreadyReplaced";
                    let detail = "the certificate has an order that replaces it already";
                    (409, None, json!({ "type": kind, "detail": detail, "status": 409 }))
                }
                Some(order) => (201, Some(order.url.clone()), order.last.clone()),
                None => return Ok(None),
            }
        };
        let nonce = format!("https://127.0.0.1:{}/nonce-plz", self.upstream);
        let nonce = Request::head(nonce).header(header::USER_AGENT, "lockgate-tests");
        let nonce = self.client.request(nonce.body(Full::default())?).await?;
        let mut answer = Response::new(Bytes::from(body.to_string()));
        *answer.status_mut() = StatusCode::from_u16(status)?;
        let headers = answer.headers_mut();
        for (name, value) in nonce.headers() {
            if name == "replay-nonce" {
                headers.insert(name, value.clone());
            }
        }
        let kind = HeaderValue::from_static("application/json");
        headers.insert(header::CONTENT_TYPE, if url.is_some() { kind } else { problem_json() });
        if let Some(url) = url {
            headers.insert(header::LOCATION, url.parse()?);
        }
        Ok(Some(answer))
    }

    /// Keeps what Boulder would know of an order, and hides what it would not say.
    fn remember(&self, endpoint: Endpoint, payload: &Value, answer: &mut Response<Bytes>) {
        let orders = [Endpoint::NewOrder, Endpoint::Order, Endpoint::Finalize];
        let mut state = lock(&self.state);
        let Some(known) = state.boulder.as_mut() else { return };
        if !orders.contains(&endpoint) || !answer.status().is_success() {
            return;
        }
        let Ok(mut order) = serde_json::from_slice::<Value>(answer.body()) else { return };
        if let Some(fields) = order.as_object_mut() {
            fields.remove("error");
        }
        *answer.body_mut() = Bytes::from(order.to_string());
        let url = answer.headers().get(header::LOCATION).and_then(|it| it.to_str().ok());
        let finalize = &order["finalize"];
        match known.iter_mut().find(|it| it.last["finalize"] == *finalize) {
            Some(it) => it.last = order,
            None => known.push(Reusable {
                url: url.unwrap_or_default().to_owned(),
                names: names(payload),
                profile: payload["profile"].clone(),
                replaces: payload["replaces"].clone(),
                last: order,
            }),
        }
    }

    /// RFC 9110 section 5.6.7.
    fn date(&self) -> HeaderValue {
        let now = lock(&self.state).clock.now();
        let date = now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
        date.parse().expect("a date is a field's value")
    }
}

impl Clock {
    fn now(self) -> jiff::Timestamp {
        let ahead = self.ahead + self.since.elapsed().as_secs_f64() * (self.speed - 1.0);
        jiff::Timestamp::now() + jiff::SignedDuration::from_secs_f64(ahead)
    }
}

/// The payload of a JWS, RFC 7515 section 7.2.2.
fn payload(body: &[u8]) -> Value {
    let jws: Value = serde_json::from_slice(body).unwrap_or_default();
    let payload = BASE64_URL_SAFE_NO_PAD.decode(jws["payload"].as_str().unwrap_or_default());
    serde_json::from_slice(&payload.unwrap_or_default()).unwrap_or_default()
}

/// The names of an order, sorted.
fn names(payload: &Value) -> Value {
    let names = payload["identifiers"].as_array().into_iter().flatten();
    let mut names: Vec<_> = names.filter_map(|it| it["value"].as_str()).collect();
    names.sort_unstable();
    json!(names)
}

/// The first half of an answer that promises all of it.
fn truncated(answer: Response<Bytes>) -> Response<Body> {
    let (mut head, body) = answer.into_parts();
    head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len().max(2)));
    let half = body.slice(..body.len() / 2);
    let end: Result<Frame<Bytes>, Failure> = Err("broken off by the test".into());
    let frames = stream::iter([Ok(Frame::data(half)), end]);
    Response::from_parts(head, StreamBody::new(frames).boxed_unsync())
}

fn fields_of(fields: &[(&str, &str)]) -> HeaderMap {
    let fields = fields.iter().map(|(name, value)| {
        let name: header::HeaderName = name.parse().expect("the field's name is valid");
        (name, HeaderValue::from_str(value).expect("the field's value is valid"))
    });
    fields.collect()
}

fn problem_json() -> HeaderValue {
    HeaderValue::from_static("application/problem+json")
}

fn full(body: Bytes) -> Body {
    Full::new(body).map_err(|never: Infallible| match never {}).boxed_unsync()
}

mod checks {
    use instant_acme::{Identifier, NewOrder, OrderStatus};

    use super::*;
    use crate::harness::pebble::PebbleOptions;

    #[tokio::test(flavor = "multi_thread")]
    async fn boulder_gives_a_waiting_order_again_and_does_not_say_why_one_failed() {
        let options = PebbleOptions { nonce_reject: 0, ..PebbleOptions::default() };
        let pebble = Pebble::start(options).await;
        let ca = CaProxy::start(&pebble).await;
        let account = pebble.stranger(&ca.directory()).await;
        let order = async |name: &str| {
            let names = [Identifier::Dns(name.to_owned())];
            account.new_order(&NewOrder::new(&names)).await.unwrap()
        };
        assert_ne!(
            order("one.test").await.url(),
            order("one.test").await.url(),
            "as Pebble does it"
        );
        ca.be_boulder();
        let mut first = order("one.test").await;
        assert_eq!(first.url(), order("one.test").await.url());
        assert_ne!(first.url(), order("two.test").await.url());
        assert!(first.url().starts_with(ca.directory().trim_end_matches("dir")), "{}", first.url());
        // It leads nowhere.
        pebble.set_address("one.test", "127.0.0.9").await;
        let mut pending = first.authorizations();
        while let Some(authorization) = pending.next().await {
            let mut authorization = authorization.unwrap();
            let mut challenge =
                authorization.challenge(instant_acme::ChallengeType::Http01).unwrap();
            challenge.set_ready().await.unwrap();
        }
        eventually("the CA's verdict", SOON, async || {
            first.refresh().await.unwrap().status == OrderStatus::Invalid
        })
        .await;
        assert!(first.state().error.is_none(), "{:?}", first.state());
        assert_ne!(first.url(), order("one.test").await.url(), "it waits no longer");

        ca.limit(Endpoint::NewOrder, 1, Some("7"), "too many");
        let names = [Identifier::Dns("three.test".to_owned())];
        let refused =
            account.new_order(&NewOrder::new(&names)).await.err().map(|it| it.to_string());
        assert!(refused.is_some_and(|it| it.contains("too many")));
        assert_eq!(ca.count(Endpoint::NewOrder, 429), 1);
        assert_eq!(
            ca.asked_for(Endpoint::NewOrder)[0].payload["identifiers"][0]["value"],
            "one.test"
        );
    }
}
