//! A server that speaks what it is told to, HTTP/1.1 or HTTP/2, in clear or over TLS, and the
//! authorities whose certificates it shows.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, HeaderMap, HeaderValue, TRAILER};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, date_time_ymd};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use tokio_util::sync::CancellationToken;

use super::backend::answer;
use super::lockgate::Pair;
use super::process::{SOON, eventually};

/// How to serve.
#[derive(Clone, Default)]
pub struct Speech {
    h2: bool,
    tls: Option<Arc<ServerConfig>>,
}

impl Speech {
    /// HTTP/1.1 in clear.
    pub fn h1() -> Self {
        Self::default()
    }

    /// HTTP/2 with prior knowledge.
    pub fn h2() -> Self {
        Self { h2: true, tls: None }
    }

    /// Over TLS with this certificate.
    #[must_use]
    pub fn tls(self, pair: &Pair) -> Self {
        self.over(pair, None, rustls::ALL_VERSIONS)
    }

    /// Over TLS, to clients with a certificate of this authority only.
    #[must_use]
    pub fn tls_for(self, pair: &Pair, clients: &Authority) -> Self {
        self.over(pair, Some(clients), rustls::ALL_VERSIONS)
    }

    /// Over TLS of one version.
    #[must_use]
    pub fn tls_of(self, pair: &Pair, version: &'static SupportedProtocolVersion) -> Self {
        self.over(pair, None, &[version])
    }

    fn over(
        self,
        pair: &Pair,
        clients: Option<&Authority>,
        versions: &[&'static SupportedProtocolVersion],
    ) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider.clone());
        let config = config.with_protocol_versions(versions).unwrap();
        let config = match clients {
            None => config.with_no_client_auth(),
            Some(authority) => {
                let mut roots = RootCertStore::empty();
                roots.add(authority.0.der().clone()).unwrap();
                let verifier =
                    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
                config.with_client_cert_verifier(verifier.build().unwrap())
            }
        };
        let chain = CertificateDer::pem_slice_iter(pair.certificate.as_bytes());
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
        let chain = chain.collect::<Result<_, _>>().unwrap();
        let mut config = config.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![if self.h2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        Self { tls: Some(Arc::new(config)), ..self }
    }
}

impl Speech {
    /// What shakes hands, over TLS.
    pub fn acceptor(&self) -> Option<TlsAcceptor> {
        self.tls.clone().map(TlsAcceptor::from)
    }
}

/// Who signs certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    /// A new one; two of the same name are still two.
    pub fn new(name: &str) -> Self {
        let mut params = CertificateParams::new([]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
    }

    /// Its own certificate, PEM.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// An authority's own certificate as a server's for `name`, as `openssl req -x509` makes one.
    pub fn itself(name: &str) -> Pair {
        Self::itself_until(name, 2100)
    }

    /// One that was good to the end of the year before `year`.
    pub fn itself_until(name: &str, year: i32) -> Pair {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// A certificate for `name`.
    pub fn issue(&self, name: &str) -> Pair {
        self.sign(&CertificateParams::new([name.to_owned()]).unwrap())
    }

    /// One for `name` that has expired.
    pub fn issue_expired(&self, name: &str) -> Pair {
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(2020, 2, 1);
        self.sign(&params)
    }

    fn sign(&self, params: &CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.0).unwrap();
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

/// A server that answers as [`Backend`](super::backend::Backend) does, and more:
/// `/trailers` (a body and the trailer `x-sum`), `/early/413` (without reading the request's body),
/// `/cut/sized` and `/cut` (part of a body, then the connection or stream breaks), `/deaf` (never),
/// `/events` (each [`Endpoint::emit`], as it happens).
pub struct Endpoint {
    addr: SocketAddr,
    seen: Arc<Seen>,
    server: AbortHandle,
}

struct Seen {
    connections: AtomicUsize,
    requests: AtomicUsize,
    /// Requests to `/deaf`, `/sleepy-body` and `/events` that are under way.
    held: AtomicUsize,
    handshakes: Mutex<Vec<Handshake>>,
    events: broadcast::Sender<Bytes>,
}

/// What a connection over TLS began with.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Handshake {
    pub server_name: Option<String>,
    pub version: String,
    /// Whether the client showed a certificate.
    pub client: bool,
}

impl Endpoint {
    /// Serves on a free port of 127.0.0.1.
    pub async fn start(name: &str, speech: Speech) -> Self {
        Self::start_on(name, speech, SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// Serves on `addr`, which must be free.
    pub async fn start_on(name: &str, speech: Speech, addr: SocketAddr) -> Self {
        let listener = TcpListener::bind(addr).await;
        let listener = listener.unwrap_or_else(|error| panic!("{name} on {addr}: {error}"));
        let addr = listener.local_addr().unwrap();
        let seen = Arc::new(Seen {
            connections: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            handshakes: Mutex::default(),
            events: broadcast::channel(100).0,
        });
        let task = serve(listener, name.into(), speech, seen.clone());
        Self { addr, seen, server: tokio::spawn(task).abort_handle() }
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// How many requests came so far.
    pub fn requests(&self) -> usize {
        self.seen.requests.load(Ordering::SeqCst)
    }

    /// The handshakes so far that came to an end.
    pub fn handshakes(&self) -> Vec<Handshake> {
        self.seen.handshakes.lock().unwrap().clone()
    }

    /// Sends bytes to everybody who asked for `/events`.
    pub fn emit(&self, bytes: impl Into<Bytes>) {
        let _nobody = self.seen.events.send(bytes.into());
    }

    /// Waits until this many requests are under way of those that last until the client leaves.
    pub async fn holds(&self, count: usize) {
        eventually(&format!("{count} requests held"), SOON, async || {
            let held = self.seen.held.load(Ordering::SeqCst);
            (held == count).then_some(()).ok_or(held)
        })
        .await;
    }
}

/// Ends the listener and every connection.
impl Drop for Endpoint {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn serve(listener: TcpListener, name: Arc<str>, speech: Speech, seen: Arc<Seen>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((tcp, _)) = accepted else { continue };
                seen.connections.fetch_add(1, Ordering::SeqCst);
                connections.spawn(connection(tcp, name.clone(), speech.clone(), seen.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(tcp: TcpStream, name: Arc<str>, speech: Speech, seen: Arc<Seen>) {
    let _without_delay = tcp.set_nodelay(true);
    let Some(config) = speech.tls else { return speak(tcp, name, speech.h2, seen).await };
    let Ok(tls) = TlsAcceptor::from(config).accept(tcp).await else { return };
    let session = tls.get_ref().1;
    seen.handshakes.lock().unwrap().push(Handshake {
        server_name: session.server_name().map(str::to_owned),
        version: format!("{:?}", session.protocol_version().unwrap()),
        client: session.peer_certificates().is_some(),
    });
    speak(tls, name, speech.h2, seen).await;
}

async fn speak<T>(io: T, name: Arc<str>, h2: bool, seen: Arc<Seen>)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        seen.requests.fetch_add(1, Ordering::SeqCst);
        let (name, seen) = (name.clone(), seen.clone());
        async move { Ok::<_, Infallible>(respond(&name, request, seen).await) }
    });
    let io = TokioIo::new(io);
    let _ended = if h2 {
        http2::Builder::new(TokioExecutor::new()).serve_connection(io, service).await
    } else {
        http1::Builder::new().serve_connection(io, service).with_upgrades().await
    };
}

/// A request under way, until this is dropped.
struct Held(Arc<Seen>);

impl Held {
    fn new(seen: &Arc<Seen>) -> Self {
        seen.held.fetch_add(1, Ordering::SeqCst);
        Self(seen.clone())
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.held.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn respond(
    name: &str,
    request: Request<Incoming>,
    seen: Arc<Seen>,
) -> Response<BoxBody<Bytes, io::Error>> {
    const PART: Bytes = Bytes::from_static(&[b'x'; 1000]);
    let path = request.uri().path().to_owned();
    let segments: Vec<&str> = path.split('/').collect();
    let has = |word: &str| segments.contains(&word);
    let data = |bytes: Bytes| Ok::<_, io::Error>(Frame::data(bytes));
    if has("trailers") {
        let trailers = HeaderMap::from_iter([("x-sum".parse().unwrap(), value("1"))]);
        let frames = [data("text".into()), Ok(Frame::trailers(trailers))];
        let mut response = Response::new(BodyExt::boxed(StreamBody::new(stream::iter(frames))));
        response.headers_mut().insert(TRAILER, value("x-sum"));
        return response;
    }
    if has("early") {
        let status = segments.last().unwrap().parse().unwrap();
        let mut response = Response::new(Full::from("early").map_err(never).boxed());
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        return response;
    }
    if has("cut") {
        // What comes first has left when the rest breaks.
        let broken = stream::once(async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Err(io::Error::other("cut"))
        });
        let frames = stream::iter([data(PART)]).chain(broken);
        let mut response = Response::new(BodyExt::boxed(StreamBody::new(frames)));
        if has("sized") {
            response.headers_mut().insert(CONTENT_LENGTH, value("5000"));
        }
        return response;
    }
    if has("deaf") {
        let _held = Held::new(&seen);
        std::future::pending::<()>().await;
    }
    if has("sleepy-body") || has("events") {
        let events = (Held::new(&seen), seen.events.subscribe());
        let events = stream::unfold(events, |(held, mut events)| async move {
            let event = events.recv().await.ok()?;
            Some((Ok(Frame::data(event)), (held, events)))
        });
        let first = stream::iter([data("first chunk\n".into())]);
        let mut response = Response::new(BodyExt::boxed(StreamBody::new(first.chain(events))));
        response.headers_mut().insert("content-type", value("text/event-stream"));
        return response;
    }
    if has("204") || has("304") {
        let mut response = Response::new(Full::default().map_err(never).boxed());
        let status = segments.last().unwrap().parse().unwrap();
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        response.headers_mut().insert("etag", value("\"x\""));
        return response;
    }
    let head = request.method() == Method::HEAD;
    let mut response = answer(name, CancellationToken::new(), request)
        .await
        .map(|body| body.map_err(never).boxed());
    if head {
        // Of HTTP/2 hyper would send the body, too.
        let length = http_body::Body::size_hint(response.body()).exact().unwrap_or_default();
        response.headers_mut().insert(CONTENT_LENGTH, length.into());
        *response.body_mut() = Full::default().map_err(never).boxed();
    }
    response
}

fn value(text: &'static str) -> HeaderValue {
    HeaderValue::from_static(text)
}

fn never(error: Infallible) -> io::Error {
    match error {}
}
