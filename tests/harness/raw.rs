//! Sends any bytes and shows what came back: for requests that no proper client would send.
//!
//! [`Raw`] speaks HTTP/1.1 over TCP or TLS, [`RawH2`] frames on top of it.  Certificates are not
//! verified here.  Nothing waits longer than [`PATIENCE`]; what is missing then shows in the reply.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsConnector;

use super::client::any_certificate;

/// How long anything here is waited for.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// How long a server that announced no `Connection: close` is watched for closing nevertheless.
const WATCH: Duration = Duration::from_secs(2);

/// The longest payload of a frame that every HTTP/2 peer takes.
const FRAME: usize = 16_384;

/// A byte stream, plain or encrypted.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection on which any bytes can be sent.
pub struct Raw {
    io: Box<dyn Io>,
    buffer: Vec<u8>,
    ended: bool,
    alpn: Option<String>,
}

/// One HTTP/1.1 response as it arrived.
#[derive(Clone, Debug, Default)]
pub struct RawReply {
    /// `None` when no complete head came.
    pub status: Option<u16>,
    /// Status line and fields without the empty line; without a status, whatever came.
    pub head: String,
    /// The body with chunks joined, as far as it came.
    pub body: Vec<u8>,
    /// Trailer lines of a chunked body.
    pub trailers: Vec<String>,
    /// Heads of 1xx responses before this one.
    pub interim: Vec<String>,
    /// The body reached the end that its framing promised.
    pub complete: bool,
    /// The server was seen to end the connection.
    pub closed: bool,
}

impl RawReply {
    /// All values of the field `name`.
    pub fn headers(&self, name: &str) -> Vec<&str> {
        fields(&self.head).filter(|it| it.0.eq_ignore_ascii_case(name)).map(|it| it.1).collect()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Sends `bytes` on a fresh connection; gives the first final response and whether the server
/// then closed.
pub async fn exchange(addr: SocketAddr, bytes: impl AsRef<[u8]>) -> RawReply {
    Raw::plain(addr).await.exchange(bytes).await
}

impl Raw {
    /// Connects without TLS.
    pub async fn plain(addr: SocketAddr) -> Self {
        let tcp = TcpStream::connect(addr).await;
        Self::over(tcp.unwrap_or_else(|error| panic!("{addr}: {error}")))
    }

    /// Connects without TLS from another of this machine's addresses.
    pub async fn plain_from(from: [u8; 4], addr: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((from, 0).into()).unwrap();
        let tcp = socket.connect(addr).await;
        Self::over(tcp.unwrap_or_else(|error| panic!("{addr}: {error}")))
    }

    fn over(tcp: TcpStream) -> Self {
        tcp.set_nodelay(true).unwrap();
        Self { io: Box::new(tcp), buffer: Vec::new(), ended: false, alpn: None }
    }

    /// Connects with TLS, asking for the name `sni` and offering the protocols `alpn`.
    pub async fn tls(addr: SocketAddr, sni: &str, alpn: &[&str]) -> io::Result<Self> {
        Self::over(TcpStream::connect(addr).await?).secure(sni, alpn).await
    }

    /// Goes on with TLS on a connection on which nothing was received yet.
    pub async fn secure(self, sni: &str, alpn: &[&str]) -> io::Result<Self> {
        let mut config = any_certificate();
        config.alpn_protocols = alpn.iter().map(|it| it.as_bytes().to_vec()).collect();
        let name = ServerName::try_from(sni.to_owned()).map_err(io::Error::other)?;
        let tls = TlsConnector::from(Arc::new(config)).connect(name, self.io);
        let tls = timeout(PATIENCE, tls).await??;
        let alpn = tls.get_ref().1.alpn_protocol();
        let alpn = alpn.map(|it| String::from_utf8_lossy(it).into_owned());
        Ok(Self { io: Box::new(tls), buffer: Vec::new(), ended: false, alpn })
    }

    /// The protocol that the server chose.
    pub fn alpn(&self) -> Option<&str> {
        self.alpn.as_deref()
    }

    /// Sends `bytes`; a connection the server has closed takes them silently, for what it answered
    /// before is what counts.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let all = async {
            self.io.write_all(bytes.as_ref()).await?;
            self.io.flush().await
        };
        let _closed = timeout(PATIENCE, all).await;
    }

    /// Ends our side of the connection, as FIN or `close_notify`.
    pub async fn finish(&mut self) {
        let _closed = timeout(PATIENCE, self.io.shutdown()).await;
    }

    /// Sends `bytes`, reads one final response, and watches whether the server closes.
    pub async fn exchange(&mut self, bytes: impl AsRef<[u8]>) -> RawReply {
        let head_only = bytes.as_ref().starts_with(b"HEAD ");
        self.send(bytes).await;
        let mut reply = if head_only { self.reply_to_head().await } else { self.reply().await };
        let announced = reply.headers("connection").iter().any(|it| names(it, "close"));
        reply.closed = self.closes(if announced { PATIENCE } else { WATCH }).await;
        reply
    }

    /// Reads one final response.
    pub async fn reply(&mut self) -> RawReply {
        self.read(false).await
    }

    /// Reads one final response to a HEAD request.
    pub async fn reply_to_head(&mut self) -> RawReply {
        self.read(true).await
    }

    /// Whether the server ends the connection within `patience`; what it says until then is kept
    /// for the next reply.
    pub async fn closes(&mut self, patience: Duration) -> bool {
        let ended = async { while self.more().await {} };
        timeout(patience, ended).await.is_ok()
    }

    /// Sends `piece` again and again, reading whatever comes, until the server ends the connection; gives
    /// the bytes sent, or `None` when it did not within `limit`.
    pub async fn flood(&mut self, piece: &[u8], limit: Duration) -> Option<usize> {
        let (mut read, mut write) = tokio::io::split(&mut self.io);
        let mut sent = 0;
        let ended = timeout(limit, async {
            let mut sink = tokio::io::sink();
            let reading = tokio::io::copy(&mut read, &mut sink);
            let writing = async {
                while write.write_all(piece).await.is_ok() && write.flush().await.is_ok() {
                    sent += piece.len();
                }
            };
            let _ended = tokio::join!(reading, writing);
        })
        .await;
        ended.is_ok().then_some(sent)
    }

    /// Sends a byte of `bytes` at each `pause` until they are all sent, and then waits; gives how long it
    /// took until the server ended the connection, or `None` when it did not within `limit`.
    pub async fn trickle(
        &mut self,
        bytes: &[u8],
        pause: Duration,
        limit: Duration,
    ) -> Option<Duration> {
        let begun = Instant::now();
        let (mut read, mut write) = tokio::io::split(&mut self.io);
        let reading = async {
            let mut scrap = [0; 4096];
            while matches!(read.read(&mut scrap).await, Ok(1..)) {}
        };
        let writing = async {
            for byte in bytes {
                let _closed = write.write_all(&[*byte]).await;
                let _closed = write.flush().await;
                sleep(pause).await;
            }
            std::future::pending::<()>().await;
        };
        let ended = async {
            tokio::select! {
                () = reading => {}
                () = writing => {}
            }
        };
        timeout(limit, ended).await.is_ok().then(|| begun.elapsed())
    }

    /// Everything up to the end of the connection, and whether that end was seen.
    pub async fn rest(&mut self) -> (Vec<u8>, bool) {
        let closed = self.closes(PATIENCE).await;
        (std::mem::take(&mut self.buffer), closed)
    }

    /// Exactly `count` bytes, or fewer if the connection ends or stalls.
    pub async fn bytes(&mut self, count: usize) -> Vec<u8> {
        let _stalled =
            timeout(PATIENCE, async { while self.buffer.len() < count && self.more().await {} })
                .await;
        self.take(count)
    }

    /// Reads on; `false` once the connection has ended, in whatever way.
    async fn more(&mut self) -> bool {
        if !self.ended {
            self.ended = matches!(self.io.read_buf(&mut self.buffer).await, Ok(0) | Err(_));
        }
        !self.ended
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        self.buffer.drain(..count.min(self.buffer.len())).collect()
    }

    async fn read(&mut self, head_only: bool) -> RawReply {
        let mut reply = RawReply::default();
        let _stalled = timeout(PATIENCE, self.read_into(&mut reply, head_only)).await;
        reply.closed = self.ended;
        reply
    }

    async fn read_into(&mut self, reply: &mut RawReply, head_only: bool) {
        let length = loop {
            while head_end(&self.buffer).is_none() {
                reply.head = String::from_utf8_lossy(&self.buffer).into_owned();
                if !self.more().await {
                    return;
                }
            }
            let end = head_end(&self.buffer).unwrap();
            let head = self.take(end);
            let head = String::from_utf8_lossy(&head[..end - 4]).into_owned();
            let Some(status) = status(&head) else {
                reply.head = head;
                return;
            };
            if (100..200).contains(&status) && status != 101 {
                reply.interim.push(head);
                continue;
            }
            (reply.status, reply.head) = (Some(status), head);
            break match status {
                101 | 204 | 304 => Length::Bytes(0),
                _ if head_only => Length::Bytes(0),
                _ => Length::of(&reply.head).unwrap_or(Length::Close),
            };
        };
        loop {
            match length.cut(&self.buffer) {
                Ok(cut) => {
                    (reply.body, reply.trailers) = (cut.body, cut.trailers);
                    if cut.whole {
                        reply.complete = true;
                        self.take(cut.used);
                        return;
                    }
                }
                Err(_) => return,
            }
            if !self.more().await {
                reply.complete = length == Length::Close;
                return;
            }
        }
    }
}

/// A WebSocket (RFC 6455), as far as tests need one: short messages that come back.
pub struct WebSocket(Raw);

impl WebSocket {
    /// Switches protocols at `/ws` of `host`.
    ///
    /// # Panics
    ///
    /// If the server does not switch, or not as it should.
    pub async fn open(mut raw: Raw, host: &str) -> Self {
        let head = format!(
            "GET /ws HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        raw.send(head).await;
        let reply = raw.reply().await;
        assert_eq!(reply.status, Some(101), "{reply:?}");
        assert_eq!(reply.headers("sec-websocket-accept"), ["s3pPLMBiTxaQ9kYGzzhZRbK+xOo="]);
        Self(raw)
    }

    /// Sends a message and looks whether it comes back.
    ///
    /// # Panics
    ///
    /// If it is longer than 125 bytes, which would need another head.
    pub async fn echoes(&mut self, text: &str) -> bool {
        const MASK: [u8; 4] = [1, 2, 3, 4];
        let length = u8::try_from(text.len()).ok().filter(|it| *it <= 125).expect("it is short");
        let masked = text.bytes().zip(MASK.into_iter().cycle()).map(|(byte, key)| byte ^ key);
        self.0
            .send([&[0x81, 0x80 | length], &MASK[..], &masked.collect::<Vec<_>>()].concat())
            .await;
        self.0.bytes(2 + text.len()).await == [&[0x81, length], text.as_bytes()].concat()
    }

    /// Whether the server ends the connection soon.
    pub async fn ends(&mut self) -> bool {
        self.0.closes(PATIENCE).await
    }
}

/// How a message says where its body ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Length {
    Bytes(usize),
    Chunked,
    /// Up to the end of the connection.
    Close,
}

/// As much of a body as has come.
#[derive(Debug, Default)]
pub struct Cut {
    /// The content, chunks joined.
    pub body: Vec<u8>,
    /// Trailer lines.
    pub trailers: Vec<String>,
    /// Bytes it took on the wire.
    pub used: usize,
    /// The end was reached.
    pub whole: bool,
}

impl Length {
    /// What the fields of `head` say; `None` when they say nothing.
    pub fn of(head: &str) -> Option<Self> {
        let value = |name: &str| {
            fields(head).filter(|it| it.0.eq_ignore_ascii_case(name)).map(|it| it.1).last()
        };
        if value("transfer-encoding").is_some_and(|it| names(it, "chunked")) {
            return Some(Self::Chunked);
        }
        value("content-length").and_then(|it| it.parse().ok()).map(Self::Bytes)
    }

    /// Cuts the body off the front of `bytes`; an error says what is not canonical about it.
    pub fn cut(self, bytes: &[u8]) -> Result<Cut, String> {
        match self {
            Self::Bytes(count) => {
                let used = count.min(bytes.len());
                let body = bytes[..used].to_vec();
                Ok(Cut { body, used, whole: used == count, ..Cut::default() })
            }
            Self::Chunked => cut_chunks(bytes),
            Self::Close => Ok(Cut { body: bytes.to_vec(), ..Cut::default() }),
        }
    }
}

/// Reads chunks as a careful sender writes them: bare hexadecimal sizes, CRLF, no extensions.
fn cut_chunks(bytes: &[u8]) -> Result<Cut, String> {
    let mut cut = Cut::default();
    loop {
        let Some(line) = line(&bytes[cut.used..])? else { return Ok(cut) };
        let digits = !line.is_empty() && line.bytes().all(|it| it.is_ascii_hexdigit());
        let size = usize::from_str_radix(&line, 16).ok().filter(|_| digits);
        let size = size.ok_or_else(|| format!("chunk size {line:?}"))?;
        let start = cut.used + line.len() + 2;
        if size == 0 {
            cut.used = start;
            break;
        }
        let Some(data) = bytes.get(start..start + size) else {
            cut.body.extend(&bytes[start.min(bytes.len())..]);
            return Ok(cut);
        };
        cut.body.extend(data);
        match &bytes[start + size..] {
            [b'\r', b'\n', ..] => cut.used = start + size + 2,
            [] | [b'\r'] => return Ok(cut),
            other => return Err(format!("chunk data ends with {:?}", &other[..2])),
        }
    }
    while let Some(line) = line(&bytes[cut.used..])? {
        cut.used += line.len() + 2;
        if line.is_empty() {
            cut.whole = true;
            return Ok(cut);
        }
        cut.trailers.push(line);
    }
    Ok(cut)
}

/// The first line of `bytes` without its CRLF; `None` while it is incomplete.
fn line(bytes: &[u8]) -> Result<Option<String>, String> {
    let Some(end) = bytes.iter().position(|it| *it == b'\n') else { return Ok(None) };
    let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
    match text.strip_suffix('\r') {
        Some(line) if !line.contains('\r') => Ok(Some(line.to_owned())),
        _ => Err(format!("line end of {text:?}")),
    }
}

/// Where the head of a message ends, its empty line included.
pub fn head_end(bytes: &[u8]) -> Option<usize> {
    bytes.windows(4).position(|it| it == b"\r\n\r\n").map(|at| at + 4)
}

/// Names and values of a head's fields; the first line is skipped.
pub fn fields(head: &str) -> impl Iterator<Item = (&str, &str)> {
    let lines = head.split("\r\n").skip(1);
    lines.filter_map(|it| it.split_once(':')).map(|(name, value)| (name, value.trim()))
}

/// Whether the comma-separated `list` contains `token`.
fn names(list: &str, token: &str) -> bool {
    list.split(',').any(|it| it.trim().eq_ignore_ascii_case(token))
}

fn status(head: &str) -> Option<u16> {
    head.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()
}

/// A hand-made HTTP/2 connection.
pub struct RawH2 {
    raw: Raw,
    replies: BTreeMap<u32, H2Reply>,
    goaway: Option<u32>,
}

/// What came back on one stream.
#[derive(Clone, Debug, Default)]
pub struct H2Reply {
    /// `None` when no head came.
    pub status: Option<u16>,
    pub body: Vec<u8>,
    /// Both sides agree that the response is whole: `END_STREAM` was seen.
    pub ended: bool,
    /// The error code of `RST_STREAM`.
    pub reset: Option<u32>,
    /// The error code of GOAWAY, whichever stream it was about.
    pub goaway: Option<u32>,
    /// The connection has ended.
    pub closed: bool,
}

impl H2Reply {
    /// The request was answered `400` or broken off as a protocol error.
    pub fn refused(&self) -> bool {
        self.status == Some(400) || (self.status.is_none() && self.broken_off())
    }

    /// The stream or the connection was broken off with an error.
    pub fn broken_off(&self) -> bool {
        let error = |code: Option<u32>| code.is_some_and(|it| it != 0);
        error(self.reset) || error(self.goaway)
    }
}

/// Types of HTTP/2 frames, RFC 9113 section 6.
pub mod frame {
    pub const DATA: u8 = 0;
    pub const HEADERS: u8 = 1;
    pub const PRIORITY: u8 = 2;
    pub const RST_STREAM: u8 = 3;
    pub const SETTINGS: u8 = 4;
    pub const PING: u8 = 6;
    pub const GOAWAY: u8 = 7;
    pub const WINDOW_UPDATE: u8 = 8;
    pub const CONTINUATION: u8 = 9;

    pub const END_STREAM: u8 = 1;
    pub const ACK: u8 = 1;
    pub const END_HEADERS: u8 = 4;
}

impl RawH2 {
    /// Sends the preface and settings that ask for no dynamic table and give wide windows.
    pub async fn start(mut raw: Raw) -> Self {
        raw.send(preface()).await;
        Self { raw, replies: BTreeMap::new(), goaway: None }
    }

    /// The same on a connection on which the preface was sent.
    pub fn resume(raw: Raw) -> Self {
        Self { raw, replies: BTreeMap::new(), goaway: None }
    }

    /// Sends a field section as it stands, pseudo-fields too, each field a literal never indexed.
    pub async fn headers(&mut self, stream: u32, fields: &[(&str, &str)], end: bool) {
        let block = literals(fields);
        let pieces = block.chunks(FRAME).count();
        for (at, piece) in block.chunks(FRAME).enumerate() {
            let kind = if at == 0 { frame::HEADERS } else { frame::CONTINUATION };
            let last = if at + 1 == pieces { frame::END_HEADERS } else { 0 };
            let flags = last | u8::from(end && at == 0);
            self.frame(kind, flags, stream, piece).await;
        }
    }

    pub async fn data(&mut self, stream: u32, bytes: &[u8], end: bool) {
        self.frame(frame::DATA, u8::from(end), stream, bytes).await;
    }

    /// Sends any bytes.
    pub async fn bytes(&mut self, bytes: &[u8]) {
        self.raw.send(bytes).await;
    }

    /// Whether the connection ends within `patience`; whatever has to be acknowledged until then is.
    pub async fn ends(&mut self, patience: Duration) -> bool {
        let ended = async {
            while self.advance().await {}
            while self.raw.more().await {}
        };
        timeout(patience, ended).await.is_ok()
    }

    /// The error code of GOAWAY, if one came.
    pub fn goaway(&self) -> Option<u32> {
        self.goaway
    }

    /// The connection below.
    pub fn raw(&mut self) -> &mut Raw {
        &mut self.raw
    }

    /// Sends any frame.
    pub async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.raw.send(encode(kind, flags, stream, payload)).await;
    }

    /// One request without a body, and what comes of it.
    pub async fn request(&mut self, stream: u32, fields: &[(&str, &str)]) -> H2Reply {
        self.headers(stream, fields, true).await;
        self.reply(stream).await
    }

    /// Reads until `stream` is over, in whatever way.
    pub async fn reply(&mut self, stream: u32) -> H2Reply {
        let over = |it: &H2Reply| it.ended || it.reset.is_some();
        let _stalled = timeout(PATIENCE, async {
            while !self.replies.get(&stream).is_some_and(over) && self.advance().await {}
        })
        .await;
        let reply = self.replies.get(&stream).cloned().unwrap_or_default();
        H2Reply { goaway: self.goaway, closed: self.raw.ended, ..reply }
    }

    /// Takes in one frame; `false` when no more will come.
    async fn advance(&mut self) -> bool {
        while self.raw.buffer.len() < 9 || self.raw.buffer.len() < 9 + payload(&self.raw.buffer) {
            if !self.raw.more().await {
                return false;
            }
        }
        let length = payload(&self.raw.buffer);
        let bytes = self.raw.take(9 + length);
        let (kind, flags, payload) = (bytes[3], bytes[4], &bytes[9..]);
        let stream = u32::from_be_bytes([bytes[5] & 0x7f, bytes[6], bytes[7], bytes[8]]);
        let ended = flags & frame::END_STREAM != 0;
        match kind {
            frame::SETTINGS if flags & frame::ACK == 0 => {
                self.frame(frame::SETTINGS, frame::ACK, 0, b"").await;
            }
            frame::PING if flags & frame::ACK == 0 => {
                self.frame(frame::PING, frame::ACK, 0, payload).await;
            }
            frame::GOAWAY => {
                self.goaway = Some(number(&payload[4..]));
                return number(&payload[4..]) == 0;
            }
            frame::DATA => {
                let reply = self.replies.entry(stream).or_default();
                reply.body.extend(payload);
                reply.ended |= ended;
            }
            frame::HEADERS => {
                let reply = self.replies.entry(stream).or_default();
                reply.status = reply.status.or_else(|| hpack_status(payload));
                reply.ended |= ended;
            }
            frame::RST_STREAM => {
                self.replies.entry(stream).or_default().reset = Some(number(payload));
            }
            _ => {}
        }
        true
    }
}

/// The client's preface, a `SETTINGS` and a `WINDOW_UPDATE` frame.
pub fn preface() -> Vec<u8> {
    const HEADER_TABLE_SIZE: [u8; 6] = [0, 1, 0, 0, 0, 0];
    const INITIAL_WINDOW_SIZE: [u8; 6] = [0, 4, 0x7f, 0xff, 0xff, 0xff];
    let settings = [HEADER_TABLE_SIZE, INITIAL_WINDOW_SIZE].concat();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    bytes.extend(encode(frame::SETTINGS, 0, 0, &settings));
    bytes.extend(encode(frame::WINDOW_UPDATE, 0, 0, &0x3fff_ffff_u32.to_be_bytes()));
    bytes
}

/// Fields as HPACK literals that are never indexed and not Huffman-coded, RFC 7541 section 6.2.3.
pub fn literals(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0x10);
        for text in [name, value] {
            integer(&mut block, text.len());
            block.extend(text.as_bytes());
        }
    }
    block
}

/// An integer with a prefix of seven bits, RFC 7541 section 5.1.
fn integer(block: &mut Vec<u8>, mut value: usize) {
    if value < 127 {
        block.push(u8::try_from(value).unwrap());
        return;
    }
    block.push(127);
    value -= 127;
    while value >= 128 {
        block.push(u8::try_from(value % 128).unwrap() | 0x80);
        value /= 128;
    }
    block.push(u8::try_from(value).unwrap());
}

/// A frame, at most [`FRAME`] bytes of it payload.
pub fn encode(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn payload(frame: &[u8]) -> usize {
    usize::from(frame[0]) << 16 | usize::from(frame[1]) << 8 | usize::from(frame[2])
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// The `:status` at the front of a field section; `None` for trailers.
fn hpack_status(mut block: &[u8]) -> Option<u16> {
    const STATIC: [u16; 7] = [200, 204, 206, 304, 400, 404, 500];
    // A table size update may come first; ours is 0 and fits its byte.
    while block.first()? & 0xe0 == 0x20 {
        block = &block[1..];
    }
    let first = *block.first()?;
    let name = match first {
        0x80.. => return STATIC.get(usize::from(first & 0x7f).checked_sub(8)?).copied(),
        0x40.. => first & 0x3f,
        _ => first & 0x0f,
    };
    if !(8..=14).contains(&name) {
        return None;
    }
    let length = usize::from(block.get(1)? & 0x7f);
    let value = block.get(2..2 + length)?;
    if block[1] & 0x80 == 0 {
        return std::str::from_utf8(value).ok()?.parse().ok();
    }
    huffman_digits(value)
}

/// Three Huffman-coded digits, RFC 7541 appendix B: 0 to 2 have five bits, 3 to 9 have six.
fn huffman_digits(bytes: &[u8]) -> Option<u16> {
    let mut bits = bytes.iter().flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1));
    let mut next = |count: usize| -> Option<u16> {
        (0..count).try_fold(0, |sum, _| Some(sum << 1 | u16::from(bits.next()?)))
    };
    let mut number = 0;
    for _ in 0..3 {
        let digit = match next(5)? {
            short @ 0..=2 => short,
            long => (long << 1 | next(1)?).checked_sub(0x19 - 3)?,
        };
        number = number * 10 + digit;
    }
    Some(number)
}

mod checks {
    use super::*;
    use crate::harness::backend::{Answer, Backend, RawBackend};

    #[tokio::test]
    async fn replies_tell_how_they_ended() {
        let backend = RawBackend::start(|request| match request {
            [b'G', b'E', b'T', b' ', b'/', b's', ..] => {
                Answer::close("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort")
            }
            _ => Answer::keep("HTTP/1.1 103 Hi\r\n\r\nHTTP/1.1 204 None\r\n\r\n"),
        })
        .await;
        let mut raw = Raw::plain(backend.addr()).await;
        raw.send("GET /n HTTP/1.1\r\n\r\nGET /s HTTP/1.1\r\n\r\n").await;
        let reply = raw.reply().await;
        assert_eq!((reply.status, reply.interim.len(), reply.complete), (Some(204), 1, true));
        let reply = raw.exchange("").await;
        assert_eq!((reply.status, reply.complete, reply.closed), (Some(200), false, true));
        assert_eq!((reply.text(), backend.requests().len()), ("short".to_owned(), 2));
        let mut raw = Raw::plain(backend.addr()).await;
        raw.send("GET /incomplete").await;
        raw.finish().await;
        assert_eq!(lossy(&raw.rest().await.0), "");
        assert_eq!(backend.broken(), [b"GET /incomplete"]);
    }

    #[tokio::test]
    async fn a_kept_connection_is_seen_to_be_kept() {
        let backend = Backend::start("kept").await;
        let mut raw = Raw::plain(backend.addr()).await;
        for _ in 0..2 {
            let reply = raw.exchange("GET /stream/2/1 HTTP/1.1\r\nHost: x\r\n\r\n").await;
            assert_eq!((reply.status, reply.complete, reply.closed), (Some(200), true, false));
            assert_eq!(reply.text(), "chunk 0\nchunk 1\n");
        }
        let reply = raw.exchange("GET / HTTP/1.1\r\nConnection: close\r\n\r\n").await;
        assert!(reply.complete && reply.closed, "{reply:#?}");
    }

    fn lossy(bytes: &[u8]) -> String {
        String::from_utf8_lossy(bytes).into_owned()
    }

    #[test]
    fn statuses_are_read_from_hpack() {
        for (block, expected) in [
            (&b"\x88"[..], Some(200)),
            (b"\x20\x8d", Some(404)),
            (b"\x08\x03421", Some(421)),
            // "308" is 011001 00000 011110.
            (b"\x48\x83\x64\x0f\x7f", Some(308)),
            (b"\x00\x01a\x01b", None),
        ] {
            assert_eq!(hpack_status(block), expected, "{block:?}");
        }
    }

    #[test]
    fn bodies_are_cut_only_where_they_are_canonical() {
        let cut = Length::Chunked.cut(b"3\r\nabc\r\n0\r\nx: y\r\n\r\nGET").unwrap();
        assert_eq!((cut.body, cut.used, cut.whole), (b"abc".to_vec(), 19, true));
        assert_eq!(cut.trailers, ["x: y"]);
        assert!(!Length::Chunked.cut(b"3\r\nabc\r\n0\r\n").unwrap().whole);
        assert_eq!(Length::Chunked.cut(b"3\r\nab").unwrap().body, b"ab");
        for bad in ["3;x\r\nabc\r\n", "0x3\r\nabc", "3\nabc\r\n", "3\r\nabcd\r\n"] {
            assert!(Length::Chunked.cut(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
