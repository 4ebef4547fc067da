//! Servers for the product to forward to: one that tells what it was asked, one that does as it is
//! told, byte for byte.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONNECTION, HeaderMap, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::raw::{Length, fields, head_end};

/// An HTTP/1.1 server that answers with what it was asked, as JSON.
///
/// A segment of the path can ask for more: `/status/404`, `/bytes/1000`, `/slow/200` (answers after
/// 200 ms), `/stream/5/20` (5 chunks, 20 ms apart), `/sleepy-body` (a head, one chunk, and nothing
/// more until the client leaves), `/ws` (switches protocols; echoes WebSocket messages, or plain
/// bytes when the request has no `Sec-WebSocket-Key`).
pub struct Backend {
    name: String,
    addr: SocketAddr,
    counts: Arc<Counts>,
    server: AbortHandle,
}

#[derive(Default)]
struct Counts {
    requests: AtomicUsize,
    connections: AtomicUsize,
    /// The backend is gone, and so is what has switched protocols.
    gone: CancellationToken,
}

impl Backend {
    /// Serves on a free port of 127.0.0.1.
    pub async fn start(name: &str) -> Self {
        Self::start_on(name, SocketAddr::from(([127, 0, 0, 1], 0))).await
    }

    /// Serves on `addr`, which must be free.
    pub async fn start_on(name: &str, addr: SocketAddr) -> Self {
        let listener = TcpListener::bind(addr).await;
        let listener = listener.unwrap_or_else(|error| panic!("backend {name} on {addr}: {error}"));
        let (addr, counts) = (listener.local_addr().unwrap(), Arc::<Counts>::default());
        let task = serve(listener, name.into(), Arc::clone(&counts));
        let server = tokio::spawn(task).abort_handle();
        Self { name: name.to_owned(), addr, counts, server }
    }

    /// Serves on an address that an API server takes for an endpoint's: none of loopback's.
    ///
    /// It is one of those set aside for documentation (RFC 5737), added to `lo`, which needs root.
    pub async fn outside(name: &str) -> Self {
        Self::start_on(name, outside()).await
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many requests came so far.
    pub fn requests(&self) -> usize {
        self.counts.requests.load(Ordering::SeqCst)
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::SeqCst)
    }
}

/// A free port of an address that is none of loopback's.
pub(super) fn outside() -> SocketAddr {
    const ADDRESS: [u8; 4] = [192, 0, 2, 1];
    let args = ["addr", "replace", "192.0.2.1/32", "dev", "lo"];
    let added = Command::new("ip").args(args).status();
    assert!(added.is_ok_and(|it| it.success()), "ip {args:?} failed: it needs root");
    SocketAddr::from((ADDRESS, 0))
}

/// Ends the listener and every connection.
impl Drop for Backend {
    fn drop(&mut self) {
        self.server.abort();
        self.counts.gone.cancel();
    }
}

async fn serve(listener: TcpListener, name: Arc<str>, counts: Arc<Counts>) {
    // Dropped with this task, and with it every connection.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((tcp, _)) = accepted else { continue };
                counts.connections.fetch_add(1, Ordering::SeqCst);
                connections.spawn(connection(tcp, Arc::clone(&name), Arc::clone(&counts)));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(tcp: TcpStream, name: Arc<str>, counts: Arc<Counts>) {
    let _without_delay = tcp.set_nodelay(true);
    let service = service_fn(|request| {
        counts.requests.fetch_add(1, Ordering::SeqCst);
        let (name, gone) = (Arc::clone(&name), counts.gone.clone());
        async move { Ok::<_, Infallible>(answer(&name, gone, request).await) }
    });
    let connection = http1::Builder::new().serve_connection(TokioIo::new(tcp), service);
    let _ended = connection.with_upgrades().await;
}

pub(super) async fn answer(
    name: &str,
    gone: CancellationToken,
    request: Request<Incoming>,
) -> Response<BoxBody<Bytes, Infallible>> {
    let path = request.uri().path().to_owned();
    let segments: Vec<&str> = path.split('/').collect();
    let after = |word: &str, index: usize| -> Option<u64> {
        let at = segments.iter().position(|it| *it == word)?;
        segments.get(at + index)?.parse().ok()
    };
    if segments.contains(&"ws") {
        return switch(request, gone);
    }
    if segments.contains(&"sleepy-body") {
        let first = stream::iter([Ok(Frame::data(Bytes::from_static(b"first chunk\n")))]);
        let sleepy = futures_util::StreamExt::chain(first, stream::pending());
        return Response::new(StreamBody::new(sleepy).boxed());
    }
    if let (Some(count), Some(pause)) = (after("stream", 1), after("stream", 2)) {
        let chunks = stream::unfold(0, move |at| async move {
            if at > 0 {
                sleep(Duration::from_millis(pause)).await;
            }
            let chunk = Frame::data(Bytes::from(format!("chunk {at}\n")));
            (at < count).then_some((Ok(chunk), at + 1))
        });
        return Response::new(StreamBody::new(chunks).boxed());
    }
    if let Some(count) = after("bytes", 1) {
        let bytes = vec![b'x'; usize::try_from(count).unwrap_or_default()];
        return Response::new(Full::from(bytes).boxed());
    }
    if let Some(pause) = after("slow", 1) {
        sleep(Duration::from_millis(pause)).await;
    }
    let status = after("status", 1).and_then(|it| u16::try_from(it).ok());
    let status = status.and_then(|it| StatusCode::from_u16(it).ok()).unwrap_or_default();
    let mut response = Response::new(Full::from(echo(name, request).await).boxed());
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", "application/json".parse().unwrap());
    response
}

/// What was asked, as JSON.
async fn echo(name: &str, request: Request<Incoming>) -> String {
    const SHOWN: usize = 4096;
    let (head, mut body) = request.into_parts();
    let (mut shown, mut count, mut trailers) = (Vec::new(), 0, HeaderMap::new());
    let mut broken = None;
    while let Some(frame) = body.frame().await {
        match frame.map(Frame::into_data) {
            Ok(Ok(data)) => {
                count += data.len();
                shown.extend(&data[..data.len().min(SHOWN - shown.len())]);
            }
            Ok(Err(frame)) => trailers.extend(frame.into_trailers().unwrap_or_default()),
            Err(error) => broken = Some(error.to_string()),
        }
    }
    json!({
        "backend": name,
        "method": head.method.as_str(),
        "target": head.uri.to_string(),
        "version": format!("{:?}", head.version),
        "headers": pairs(&head.headers),
        "body": String::from_utf8_lossy(&shown),
        "body_bytes": count,
        "body_error": broken,
        "trailers": pairs(&trailers),
    })
    .to_string()
}

fn pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
    headers.iter().map(|(name, value)| (name.to_string(), text(value.as_bytes()))).collect()
}

/// Answers `101` and echoes what follows until `gone`; `400` when no upgrade was asked for.
fn switch(
    mut request: Request<Incoming>,
    gone: CancellationToken,
) -> Response<BoxBody<Bytes, Infallible>> {
    let mut response = Response::new(Full::default().boxed());
    let Some(protocol) = request.headers().get(UPGRADE).cloned() else {
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return response;
    };
    let key = request.headers().get(SEC_WEBSOCKET_KEY).cloned();
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, "upgrade".parse().unwrap());
    response.headers_mut().insert(UPGRADE, protocol);
    if let Some(key) = &key {
        let accept = websocket_accept(key.as_bytes());
        response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept.parse().unwrap());
    }
    tokio::spawn(gone.run_until_cancelled_owned(async move {
        let Ok(upgraded) = hyper::upgrade::on(&mut request).await else { return };
        let io = TokioIo::new(upgraded);
        let _ended = if key.is_some() { echo_messages(io).await } else { echo_bytes(io).await };
    }));
    response
}

/// The answer to a `Sec-WebSocket-Key`, RFC 6455 section 4.2.2.
pub fn websocket_accept(key: &[u8]) -> String {
    let text = [key, b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, &text);
    base64::engine::general_purpose::STANDARD.encode(hash)
}

async fn echo_bytes(mut io: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
    let mut bytes = vec![0; 16_384];
    loop {
        let count = io.read(&mut bytes).await?;
        if count == 0 {
            return io.shutdown().await;
        }
        io.write_all(&bytes[..count]).await?;
        io.flush().await?;
    }
}

/// Echoes WebSocket frames without their mask; answers pings; ends after a close.
async fn echo_messages(mut io: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
    const CLOSE: u8 = 8;
    const PING: u8 = 9;
    const PONG: u8 = 10;
    loop {
        let (first, second) = (io.read_u8().await?, io.read_u8().await?);
        let length = match second & 0x7f {
            126 => usize::from(io.read_u16().await?),
            127 => usize::try_from(io.read_u64().await?).map_err(std::io::Error::other)?,
            short => usize::from(short),
        };
        let mut mask = [0; 4];
        if second & 0x80 != 0 {
            io.read_exact(&mut mask).await?;
        }
        let mut payload = vec![0; length];
        io.read_exact(&mut payload).await?;
        payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
        let opcode = first & 0x0f;
        let mut reply = vec![if opcode == PING { 0x80 | PONG } else { first }];
        match length {
            0..=125 => reply.push(u8::try_from(length).unwrap()),
            126..=0xffff => {
                reply.push(126);
                reply.extend(u16::try_from(length).unwrap().to_be_bytes());
            }
            _ => {
                reply.push(127);
                reply.extend(u64::try_from(length).unwrap().to_be_bytes());
            }
        }
        reply.extend(payload);
        io.write_all(&reply).await?;
        io.flush().await?;
        if opcode == CLOSE {
            return io.shutdown().await;
        }
    }
}

/// A listener whose queue is full: whoever connects hears nothing.
pub struct Deaf {
    listener: TcpListener,
    _queued: Vec<TcpStream>,
}

impl Deaf {
    /// Listens on a free port of 127.0.0.1 and fills its queue.
    pub async fn start() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let listener = socket.listen(1).unwrap();
        let addr = listener.local_addr().unwrap();
        let mut queued = Vec::new();
        while let Ok(tcp) = timeout(Duration::from_secs(2), TcpStream::connect(addr)).await {
            queued.push(tcp.unwrap());
        }
        Self { listener, _queued: queued }
    }

    pub fn addr(&self) -> SocketAddr {
        self.listener.local_addr().unwrap()
    }
}

/// A TCP server that keeps each request's bytes and answers with bytes of the test's choice.
pub struct RawBackend {
    addr: SocketAddr,
    seen: Arc<Seen>,
    server: AbortHandle,
}

#[derive(Default)]
struct Seen {
    connections: AtomicUsize,
    open: AtomicUsize,
    requests: Mutex<Vec<Vec<u8>>>,
    broken: Mutex<Vec<Vec<u8>>>,
    tunnelled: Mutex<BTreeMap<usize, Vec<u8>>>,
}

/// Bytes to answer with, and what happens to the connection after them.
#[derive(Clone, Debug)]
pub struct Answer {
    bytes: Vec<u8>,
    then: Then,
}

#[derive(Clone, Copy, Debug)]
enum Then {
    Keep,
    Close,
    Reset,
    Tunnel,
}

impl Answer {
    /// Bytes after which the connection waits for the next request.
    pub fn keep(bytes: impl AsRef<[u8]>) -> Self {
        Self { bytes: bytes.as_ref().to_vec(), then: Then::Keep }
    }

    /// Bytes and an orderly end of the connection.
    pub fn close(bytes: impl AsRef<[u8]>) -> Self {
        Self { then: Then::Close, ..Self::keep(bytes) }
    }

    /// Bytes and a reset of the connection.
    pub fn reset(bytes: impl AsRef<[u8]>) -> Self {
        Self { then: Then::Reset, ..Self::keep(bytes) }
    }

    /// Bytes, such as a `101`, after which the connection echoes whatever comes.
    ///
    /// The answer waits a moment for bytes that come too early; see [`RawBackend::early`].
    pub fn tunnel(bytes: impl AsRef<[u8]>) -> Self {
        Self { then: Then::Tunnel, ..Self::keep(bytes) }
    }

    /// `200` with this body.
    pub fn ok(body: &str) -> Self {
        Self::keep(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
    }
}

impl RawBackend {
    /// Answers each request with what `script` makes of its bytes.
    pub async fn start(script: impl Fn(&[u8]) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_on(SocketAddr::from(([127, 0, 0, 1], 0)), script).await
    }

    /// The same at an address that is none of loopback's; see [`Backend::outside`].
    pub async fn outside(script: impl Fn(&[u8]) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_on(outside(), script).await
    }

    async fn start_on(
        addr: SocketAddr,
        script: impl Fn(&[u8]) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let (addr, seen) = (listener.local_addr().unwrap(), Arc::<Seen>::default());
        let (script, kept) = (Arc::new(script), Arc::clone(&seen));
        let server = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((tcp, _)) = accepted else { continue };
                        let (script, seen) = (Arc::clone(&script), Arc::clone(&kept));
                        connections.spawn(async move { converse(tcp, &*script, &seen).await });
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Self { addr, seen, server: server.abort_handle() }
    }

    /// Answers every request alike.
    pub async fn answering(answer: Answer) -> Self {
        Self::start(move |_| answer.clone()).await
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> usize {
        self.seen.connections.load(Ordering::SeqCst)
    }

    /// How many connections are open now.
    pub fn open(&self) -> usize {
        self.seen.open.load(Ordering::SeqCst)
    }

    /// The complete requests so far, in the order of their ends.
    pub fn requests(&self) -> Vec<Vec<u8>> {
        self.seen.requests.lock().unwrap().clone()
    }

    /// Requests whose connection ended before they did, or that are not canonically framed.
    pub fn broken(&self) -> Vec<Vec<u8>> {
        self.seen.broken.lock().unwrap().clone()
    }

    /// What came through tunnels after the answer, joined.
    pub fn tunnelled(&self) -> Vec<u8> {
        self.seen.tunnelled.lock().unwrap().values().flatten().copied().collect()
    }

    /// Forgets what was seen so far.
    pub fn forget(&self) {
        self.seen.requests.lock().unwrap().clear();
        self.seen.broken.lock().unwrap().clear();
        self.seen.tunnelled.lock().unwrap().clear();
    }
}

/// Ends the listener and every connection.
impl Drop for RawBackend {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn converse(mut tcp: TcpStream, script: impl Fn(&[u8]) -> Answer, seen: &Seen) {
    let number = seen.connections.fetch_add(1, Ordering::SeqCst);
    seen.open.fetch_add(1, Ordering::SeqCst);
    let _without_delay = tcp.set_nodelay(true);
    let mut buffer = Vec::new();
    while let Some(request) = next_request(&mut tcp, &mut buffer, seen).await {
        let answer = script(&request);
        seen.requests.lock().unwrap().push(request);
        if matches!(answer.then, Then::Tunnel) {
            // Nothing should come before the answer; what does is filed as a broken request.
            let early = timeout(Duration::from_millis(200), tcp.read_buf(&mut buffer));
            if early.await.is_ok() || !buffer.is_empty() {
                seen.broken.lock().unwrap().push(std::mem::take(&mut buffer));
            }
        }
        if tcp.write_all(&answer.bytes).await.is_err() {
            break;
        }
        match answer.then {
            Then::Keep => {}
            Then::Close => break,
            Then::Reset => {
                let _as_reset = tcp.set_zero_linger();
                break;
            }
            Then::Tunnel => {
                while let Ok(1..) = tcp.read_buf(&mut buffer).await {
                    let bytes = std::mem::take(&mut buffer);
                    seen.tunnelled.lock().unwrap().entry(number).or_default().extend(&bytes);
                    let _ended = tcp.write_all(&bytes).await;
                }
                break;
            }
        }
    }
    seen.open.fetch_sub(1, Ordering::SeqCst);
}

/// The bytes of one request; `None` when the connection ends or the framing is not canonical.
async fn next_request(tcp: &mut TcpStream, buffer: &mut Vec<u8>, seen: &Seen) -> Option<Vec<u8>> {
    loop {
        match request_end(buffer) {
            Ok(Some(end)) => return Some(buffer.drain(..end).collect()),
            Ok(None) => {}
            Err(()) => break,
        }
        if !matches!(tcp.read_buf(buffer).await, Ok(1..)) {
            break;
        }
    }
    if !buffer.is_empty() {
        seen.broken.lock().unwrap().push(std::mem::take(buffer));
    }
    None
}

/// Where the first request of `bytes` ends, `None` while it has not.
fn request_end(bytes: &[u8]) -> Result<Option<usize>, ()> {
    let Some(head) = head_end(bytes) else { return Ok(None) };
    let text = String::from_utf8_lossy(&bytes[..head - 4]);
    if fields(&text).any(|it| it.0.trim() != it.0) {
        return Err(());
    }
    let length = Length::of(&text).unwrap_or(Length::Bytes(0));
    let cut = length.cut(&bytes[head..]).map_err(|_| ())?;
    Ok(cut.whole.then_some(head + cut.used))
}

mod checks {
    use super::*;
    use crate::harness::client::{Call, Client};
    use crate::harness::raw::Raw;

    #[tokio::test]
    async fn backends_tell_what_they_were_asked() {
        let backend = Backend::start("echo").await;
        let client = Client::new().connect_to(backend.addr());
        let call =
            Call::new("PUT", "http://a.test/x?y").header("x-fine", "yes").chunks(&["a", "b"]);
        let reply = client.request(call.trailer("x-sum", "1")).await.unwrap();
        let echo = reply.json();
        assert_eq!(reply.status, 200);
        for (name, value) in
            [("backend", "echo"), ("method", "PUT"), ("target", "/x?y"), ("body", "ab")]
        {
            assert_eq!(echo[name], value, "{echo}");
        }
        let headers = echo["headers"].as_array().unwrap();
        assert!(headers.contains(&json!(["host", "a.test"])), "{echo}");
        assert_eq!(echo["trailers"], json!([["x-sum", "1"]]));
        assert_eq!(client.get("http://a.test/prefix/status/418").await.unwrap().status, 418);
        assert_eq!(client.get("http://a.test/bytes/70000").await.unwrap().body.len(), 70_000);
        assert_eq!((backend.requests(), backend.connections()), (3, 3));
    }

    #[tokio::test]
    async fn websockets_echo_messages_and_bytes() {
        let backend = Backend::start("ws").await;
        let head = "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: websocket\r\n";
        let mut raw = Raw::plain(backend.addr()).await;
        raw.send(format!("{head}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")).await;
        let reply = raw.reply().await;
        assert_eq!(reply.status, Some(101));
        assert_eq!(reply.headers("sec-websocket-accept"), ["s3pPLMBiTxaQ9kYGzzhZRbK+xOo="]);
        raw.send(b"\x81\x82\x01\x02\x03\x04ik").await;
        assert_eq!(raw.bytes(4).await, b"\x81\x02hi");
        let mut raw = Raw::plain(backend.addr()).await;
        raw.send(format!("{head}\r\nhello")).await;
        assert_eq!(raw.reply().await.status, Some(101));
        assert_eq!(raw.bytes(5).await, b"hello");
    }
}
