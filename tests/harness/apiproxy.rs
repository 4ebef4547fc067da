//! A proxy in front of a Kubernetes API server: it makes an old one look newer, and breaks on cue.
//!
//! API servers older than 1.21 serve `EndpointSlice` as `discovery.k8s.io/v1beta1` only.  Where
//! asked to, the proxy renames that version in paths, bodies, watch lines and discovery documents,
//! both ways.  The fields that differ (`topology` against `zone`) are left as they are.
//!
//! [`Faults`] makes it cut, stall, delay or refuse at run time, and remembers every request.  A
//! filter is a text: the start of a method and a part of the path with its query, such as
//! `"PUT /leases/"`, `"/secrets"`, `"PATCH "`, or `""` for everything.  After ` !` comes what the path
//! must not have: `"P /secrets !dryRun"` is every write of a Secret that is meant.

use std::{
    convert::Infallible,
    error::Error,
    fs,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::{
    ClientConfig, RootCertStore, ServerConfig,
    client::Resumption,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::AbortHandle,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::process::lock;

const OLD: &str = "discovery.k8s.io/v1beta1";
const NEW: &str = "discovery.k8s.io/v1";

/// What one error of this module's plumbing is; nobody looks inside.
pub type Failure = Box<dyn Error + Send + Sync>;

/// An HTTP/1.1 client for loopback servers, plain or with one CA; each request connects anew.
pub type LoopbackClient = Client<HttpsConnector<HttpConnector>, Full<Bytes>>;

type Body = UnsyncBoxBody<Bytes, Failure>;

/// A certificate authority made for one test, and its certificate for `localhost` and 127.0.0.1.
pub struct Identity {
    ca: (String, CertificateDer<'static>),
    leaf: (String, CertificateDer<'static>),
    key: KeyPair,
}

impl Identity {
    /// A new one; `name` stands in the CA's subject.
    ///
    /// # Panics
    ///
    /// If there is no randomness to make keys of.
    pub fn generate(name: &str) -> Self {
        let key = || KeyPair::generate().expect("a key can be made");
        let params = |names: &[&str], common_name: &str| {
            let names = names.iter().map(ToString::to_string).collect::<Vec<_>>();
            let mut params = CertificateParams::new(names).expect("the names are valid");
            params.distinguished_name.push(DnType::CommonName, common_name);
            params
        };
        let mut ca_params = params(&[], name);
        ca_params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca_params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca_key = key();
        let ca = ca_params.self_signed(&ca_key).expect("the CA signs itself");
        let issuer = Issuer::new(ca_params, ca_key);
        let key = key();
        let leaf = params(&["localhost", "127.0.0.1"], "localhost").signed_by(&key, &issuer);
        let leaf = leaf.expect("the CA signs the leaf");
        let parts = |it: rcgen::Certificate| (it.pem(), it.der().clone());
        Self { ca: parts(ca), leaf: parts(leaf), key }
    }

    /// Writes `ca.pem`, `tls.pem`, `tls.key` and `tls.pub` into a directory.
    ///
    /// # Panics
    ///
    /// If a file cannot be written.
    pub fn write_to(&self, dir: &Path) {
        let files = [
            ("ca.pem", self.ca.0.clone()),
            ("tls.pem", self.leaf.0.clone()),
            ("tls.key", self.key.serialize_pem()),
            ("tls.pub", self.key.public_key_pem()),
        ];
        for (name, content) in files {
            fs::write(dir.join(name), content).expect("the file can be written");
        }
    }

    /// A client that trusts this CA alone.
    ///
    /// # Panics
    ///
    /// Never: its parts were made here.
    pub fn client(&self) -> LoopbackClient {
        let mut roots = RootCertStore::empty();
        roots.add(self.ca.1.clone()).expect("the CA is a good root");
        let mut config = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_safe_default_protocol_versions()
            .expect("the provider knows TLS 1.2 and 1.3")
            .with_root_certificates(roots)
            .with_no_client_auth();
        // Tickets are kept per address, whatever the port: one server's would go to another.
        config.resumption = Resumption::disabled();
        let connector =
            HttpsConnectorBuilder::new().with_tls_config(config).https_or_http().enable_http1();
        Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector.build())
    }

    /// What a server with its certificate needs; it speaks HTTP/1.1.
    ///
    /// # Panics
    ///
    /// Never: its parts were made here.
    pub fn server_config(&self) -> ServerConfig {
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).expect("the key is PKCS #8");
        let mut config = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
            .with_safe_default_protocol_versions()
            .expect("the provider knows TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_single_cert(vec![self.leaf.1.clone()], key)
            .expect("certificate and key belong together");
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config
    }
}

/// One request, as the proxy saw it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Seen {
    /// `GET`, `PATCH` and so on.
    pub method: String,
    /// Path and query, before any rewriting.
    pub path: String,
    /// The `User-Agent`, or nothing.
    pub user_agent: String,
    /// What it was answered with; 0 as long as it was not.
    pub status: u16,
}

/// What a proxy does wrong at the moment, and what it has seen.
#[derive(Clone)]
pub struct Faults(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    /// Told of every change of `state`.
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    /// Cancelled while cut; [`Faults::heal`] puts a fresh one.
    line: CancellationToken,
    stalls: Vec<String>,
    delays: Vec<(String, Duration)>,
    answers: Vec<Answer>,
    /// Filters of what befell open watches so far.
    ends: Vec<(End, String)>,
    seen: Vec<Seen>,
}

/// What can befall a watch that is open.
#[derive(Clone, Copy, Eq, PartialEq)]
enum End {
    /// Its resource version is told to have expired.
    Expired,
    /// Nothing more comes, not even its end.
    Silent,
}

struct Answer {
    filter: String,
    code: StatusCode,
    headers: HeaderMap,
    left: usize,
}

impl Default for Faults {
    fn default() -> Self {
        Self(Arc::new(Shared { state: Mutex::default(), changed: watch::Sender::new(()) }))
    }
}

impl Faults {
    /// Closes every connection and refuses new ones until [`Self::heal`].
    pub fn cut(&self) {
        self.change(|state| state.line.cancel());
    }

    /// Accepts matching requests and never answers; matching open watches fall silent.
    ///
    /// [`Self::heal`] lets all of them go on.
    pub fn stall(&self, filter: &str) {
        self.change(|state| state.stalls.push(filter.to_owned()));
    }

    /// Plays a slow server: holds each matching request for so long before it goes on.
    pub fn delay(&self, filter: &str, time: Duration) {
        self.change(|state| state.delays.push((filter.to_owned(), time)));
    }

    /// Answers the next `times` matching requests with a `Status` of this code.
    ///
    /// # Panics
    ///
    /// If `code` or a header is not valid HTTP.
    pub fn status(&self, filter: &str, code: u16, headers: &[(&str, &str)], times: usize) {
        let headers = headers.iter().map(|(name, value)| {
            let name: header::HeaderName = name.parse().expect("the header's name is valid");
            (name, value.parse().expect("the header's value is valid"))
        });
        let code = StatusCode::from_u16(code).expect("the code has three digits");
        let (filter, headers) = (filter.to_owned(), headers.collect());
        let answer = Answer { filter, code, headers, left: times };
        self.change(|state| state.answers.push(answer));
    }

    /// Ends each matching open watch with the event of an expired resource version (410).
    pub fn expire_watches(&self, filter: &str) {
        self.change(|state| state.ends.push((End::Expired, filter.to_owned())));
    }

    /// Silences each matching open watch for good, as a firewall does that forgot its connection; new
    /// ones are not affected.
    pub fn silence_watches(&self, filter: &str) {
        self.change(|state| state.ends.push((End::Silent, filter.to_owned())));
    }

    /// Takes back every fault.
    pub fn heal(&self) {
        self.change(|state| {
            if state.line.is_cancelled() {
                state.line = CancellationToken::new();
            }
            state.stalls.clear();
            state.delays.clear();
            state.answers.clear();
        });
    }

    /// Every request so far, oldest first.
    pub fn requests(&self) -> Vec<Seen> {
        lock(&self.0.state).seen.clone()
    }

    /// Every request so far that matches.
    pub fn matching(&self, filter: &str) -> Vec<Seen> {
        let mut requests = self.requests();
        requests.retain(|it| {
            let method = it.method.parse().expect("the method was one before");
            Target { method, path: it.path.clone() }.matches(filter)
        });
        requests
    }

    /// Every request so far that could have changed something, oldest first.
    pub fn writes(&self) -> Vec<Seen> {
        let mut requests = self.requests();
        requests.retain(|it| it.method != "GET");
        requests
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut lock(&self.0.state));
        self.0.changed.send_replace(());
    }

    /// Resolves as soon as the state gives a value.
    async fn until<T>(&self, mut ask: impl FnMut(&State) -> Option<T>) -> T {
        let mut changed = self.0.changed.subscribe();
        loop {
            changed.borrow_and_update();
            if let Some(value) = ask(&lock(&self.0.state)) {
                return value;
            }
            changed.changed().await.expect("the sender lives in self");
        }
    }

    async fn until_unstalled(&self, target: &Target) {
        let stalled = |state: &State| state.stalls.iter().any(|filter| target.matches(filter));
        self.until(|state| (!stalled(state)).then_some(())).await;
    }

    /// Lets a request suffer what is due to it; returns the answer it gets instead, if any.
    async fn suffer(&self, target: &Target) -> Option<Response<Body>> {
        let scripted = {
            let state = lock(&self.0.state);
            let mut delays = state.delays.iter();
            delays.find(|(filter, _)| target.matches(filter)).map(|(_, time)| *time)
        };
        if let Some(delay) = scripted {
            tokio::time::sleep(delay).await;
        }
        self.until_unstalled(target).await;
        let mut state = lock(&self.0.state);
        let mut answers = state.answers.iter_mut();
        let answer = answers.find(|it| it.left > 0 && target.matches(&it.filter))?;
        answer.left -= 1;
        let mut response = Response::new(full(status(answer.code).to_string()));
        *response.status_mut() = answer.code;
        *response.headers_mut() = answer.headers.clone();
        let json = header::HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        Some(response)
    }
}

/// A request's method and path with query, to match filters against.
#[derive(Clone)]
struct Target {
    method: Method,
    path: String,
}

impl Target {
    fn matches(&self, filter: &str) -> bool {
        let (filter, without) = match filter.split_once(" !") {
            Some((filter, without)) => (filter, Some(without)),
            None => (filter, None),
        };
        let (method, path) = match filter.split_once(' ') {
            Some((method, path)) => (method, path),
            None => ("", filter),
        };
        let method = self.method.as_str().starts_with(method);
        method && self.path.contains(path) && !without.is_some_and(|it| self.path.contains(it))
    }

    fn is_watch(&self) -> bool {
        let query = self.path.split_once('?').map_or("", |(_, query)| query);
        query.split('&').any(|it| matches!(it, "watch=true" | "watch=1" | "watch"))
    }
}

/// A running proxy; it ends when dropped.
pub struct ApiProxy {
    task: AbortHandle,
    faults: Faults,
    port: u16,
}

impl ApiProxy {
    /// Listens on a loopback port with the certificate of `identity`, in front of the API server on
    /// another; both are served by the same CA.  With `rewrite` the server is older than 1.21.
    ///
    /// # Panics
    ///
    /// If the port stays taken.
    pub async fn start(port: u16, upstream: u16, identity: &Identity, rewrite: bool) -> Self {
        let faults = Faults::default();
        let listener = listen(port).await;
        let tls = TlsAcceptor::from(Arc::new(identity.server_config()));
        let client = identity.client();
        let proxy = Proxy { client, upstream, rewrite, faults: faults.clone() };
        let task = tokio::spawn(serve(listener, port, tls, Arc::new(proxy))).abort_handle();
        Self { task, faults, port }
    }

    /// What it does wrong and what it has seen.
    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    /// Where it listens: `https://127.0.0.1:…`
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }
}

impl Drop for ApiProxy {
    fn drop(&mut self) {
        self.faults.cut();
        self.task.abort();
    }
}

struct Proxy {
    client: LoopbackClient,
    upstream: u16,
    rewrite: bool,
    faults: Faults,
}

/// Tries for a while: until a child being started runs its program, it holds the old listener too.
///
/// This is `eventually` by hand, as the future of an async closure is not `Send`.
async fn listen(port: u16) -> TcpListener {
    for _ in 0..500 {
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)).await {
            return listener;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("port {port} of the API proxy stays taken")
}

async fn serve(first: TcpListener, port: u16, tls: TlsAcceptor, proxy: Arc<Proxy>) {
    let mut first = Some(first);
    loop {
        let line = proxy.faults.until(|it| (!it.line.is_cancelled()).then(|| it.line.clone()));
        let line = line.await;
        let listener = match first.take() {
            Some(listener) => listener,
            None => listen(port).await,
        };
        while let Some(accepted) = line.run_until_cancelled(listener.accept()).await {
            let Ok((stream, _)) = accepted else { continue };
            let connection = Arc::clone(&proxy).connection(stream, tls.clone());
            let line = line.clone();
            tokio::spawn(async move { line.run_until_cancelled(connection).await });
        }
    }
}

impl Proxy {
    async fn connection(self: Arc<Self>, stream: TcpStream, tls: TlsAcceptor) {
        let Ok(stream) = tls.accept(stream).await else { return };
        let service = service_fn(|request| Arc::clone(&self).request(request));
        // An error closes the connection, which is all the client is to see of it.
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    }

    async fn request(
        self: Arc<Self>,
        request: Request<Incoming>,
    ) -> Result<Response<Body>, Failure> {
        let target = Target { method: request.method().clone(), path: request.uri().to_string() };
        let agent = request.headers().get(header::USER_AGENT).and_then(|it| it.to_str().ok());
        let seen = Seen {
            method: target.method.to_string(),
            path: target.path.clone(),
            user_agent: agent.unwrap_or_default().to_owned(),
            status: 0,
        };
        let place = {
            let seen_before = &mut lock(&self.faults.0.state).seen;
            seen_before.push(seen);
            seen_before.len() - 1
        };
        let answered = self.answer(request, &target).await;
        if let Ok(answer) = &answered {
            lock(&self.faults.0.state).seen[place].status = answer.status().as_u16();
        }
        answered
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        target: &Target,
    ) -> Result<Response<Body>, Failure> {
        if let Some(answer) = self.faults.suffer(target).await {
            return Ok(answer);
        }
        let since = lock(&self.faults.0.state).ends.len();
        let names = Names::of(&target.path, self.rewrite);
        let (mut head, body) = self.forward(request, target, names).await?.into_parts();
        if target.is_watch() && head.status.is_success() {
            let (buffer, faults) = (BytesMut::new(), self.faults.clone());
            let target = target.clone();
            let lines = Lines { body, buffer, names, faults, target, since, over: false };
            return Ok(Response::from_parts(head, lines.into_body()));
        }
        let body = names.renew(body.collect().await?.to_bytes());
        head.headers.remove(header::TRANSFER_ENCODING);
        head.headers.remove(header::CONTENT_LENGTH);
        Ok(Response::from_parts(head, full(body)))
    }

    async fn forward(
        &self,
        request: Request<Incoming>,
        target: &Target,
        names: Names,
    ) -> Result<Response<Incoming>, Failure> {
        let (mut head, body) = request.into_parts();
        let path = names.age(Bytes::from(target.path.clone()));
        let path = str::from_utf8(&path)?;
        head.uri = format!("https://127.0.0.1:{}{path}", self.upstream).parse()?;
        for name in [header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING] {
            head.headers.remove(name);
        }
        if names != Names::Same {
            // Only text can be renamed.
            head.headers.remove(header::ACCEPT_ENCODING);
            let accept = head.headers.get(header::ACCEPT).map_or(&b""[..], |it| it.as_bytes());
            if accept.windows(8).any(|it| it == b"protobuf") {
                let json = header::HeaderValue::from_static("application/json");
                head.headers.insert(header::ACCEPT, json);
            }
        }
        let body = names.age(body.collect().await?.to_bytes());
        Ok(self.client.request(Request::from_parts(head, Full::new(body))).await?)
    }
}

/// How much of a request and its answer has to be renamed.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Names {
    /// Nothing.
    Same,
    /// The version of `discovery.k8s.io`, wherever it stands.
    Version,
    /// The answer is the list of groups, or the group itself.
    Groups,
}

impl Names {
    fn of(path: &str, rewrite: bool) -> Self {
        let path = path.split('?').next().unwrap_or_default().trim_end_matches('/');
        match path {
            _ if !rewrite => Self::Same,
            "/apis" | "/apis/discovery.k8s.io" => Self::Groups,
            _ if path.starts_with("/apis/discovery.k8s.io/v1/") => Self::Version,
            "/apis/discovery.k8s.io/v1" => Self::Version,
            _ => Self::Same,
        }
    }

    /// What a client says, as the old server has to hear it.
    fn age(self, text: Bytes) -> Bytes {
        if self == Self::Version { replace(&text, NEW, OLD) } else { text }
    }

    /// What the old server says, as a client of today has to hear it.
    fn renew(self, text: Bytes) -> Bytes {
        match self {
            Self::Same => text,
            Self::Version => replace(&text, OLD, NEW),
            Self::Groups => renew_groups(&text).unwrap_or(text),
        }
    }
}

fn replace(text: &Bytes, from: &str, to: &str) -> Bytes {
    match str::from_utf8(text) {
        Ok(text) => text.replace(from, to).into(),
        Err(_) => text.clone(),
    }
}

fn renew_groups(text: &[u8]) -> Option<Bytes> {
    let mut document: Value = serde_json::from_slice(text).ok()?;
    let group = match document.get_mut("groups") {
        Some(groups) => {
            groups.as_array_mut()?.iter_mut().find(|it| it["name"] == "discovery.k8s.io")?
        }
        None => &mut document,
    };
    let version = json!({ "groupVersion": NEW, "version": "v1" });
    group["versions"] = json!([version]);
    group["preferredVersion"] = version;
    Some(document.to_string().into())
}

/// The lines of an open watch, passed on one by one, each as it comes.
struct Lines {
    body: Incoming,
    buffer: BytesMut,
    names: Names,
    faults: Faults,
    target: Target,
    /// How much had befallen watches when this one began.
    since: usize,
    over: bool,
}

impl Lines {
    fn into_body(self) -> Body {
        let lines = stream::unfold(self, |mut lines| async {
            lines.next().await.map(|line| (line.map(Frame::data), lines))
        });
        StreamBody::new(lines).boxed_unsync()
    }

    async fn next(&mut self) -> Option<Result<Bytes, Failure>> {
        if self.over {
            return None;
        }
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                self.faults.until_unstalled(&self.target).await;
                let line = self.buffer.split_to(end + 1).freeze();
                return Some(Ok(self.names.renew(line)));
            }
            let befallen = self.faults.until(|state| {
                let mut new = state.ends.iter().skip(self.since);
                new.find(|(_, filter)| self.target.matches(filter)).map(|(end, _)| *end)
            });
            tokio::select! {
                biased;
                end = befallen => {
                    if end == End::Silent {
                        std::future::pending::<()>().await;
                    }
                    self.over = true;
                    let event = json!({ "type": "ERROR", "object": status(StatusCode::GONE) });
                    return Some(Ok(format!("{event}\n").into()));
                }
                frame = self.body.frame() => match frame? {
                    Ok(frame) => self.buffer.extend(frame.into_data().unwrap_or_default()),
                    Err(error) => return Some(Err(error.into())),
                }
            }
        }
    }
}

/// The object an API server sends with an error.
fn status(code: StatusCode) -> Value {
    let reason = match code.as_u16() {
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        500 => "InternalError",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "Unknown",
    };
    let message = format!("injected by the test: {reason}");
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code.as_u16(),
    })
}

fn full(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}
