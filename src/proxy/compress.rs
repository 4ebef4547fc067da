//! Compresses answers on their way to the client, by the rules of nginx's gzip and brotli filters.
//!
//! A coding works on what comes, at most [`STEP`] at a time, and hands out whatever it holds as soon as
//! the endpoint pauses: an event that trickles in reaches the client at once. What all codings of a
//! worker may hold in memory is bounded; an answer that finds no room is sent as it is.
//!
//! HEAD is left alone, as nginx does: its answer has the fields of an answer that is not compressed.

use std::cell::Cell;
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use brotli::enc::StandardAlloc;
use brotli::enc::encode::{BrotliEncoderOperation, BrotliEncoderStateStruct};
use bytes::Bytes;
use flate2::{Compress, Compression as Level, FlushCompress, Status};
use http::header::{
    ACCEPT_ENCODING, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE,
    ETAG, VARY,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::{Body, Frame};

use super::body::{CutOff, ReplyBody};
use crate::model::settings::{Coding, Compression};

/// How much is compressed before others on the worker get their turn, in bytes; a few milliseconds at the
/// higher levels.
const STEP: usize = 64 << 10;
/// The same for brotli's levels 10 and 11, which are fifty times slower.
const COSTLY_STEP: usize = 8 << 10;
/// How much is gathered before it goes to the client while the endpoint goes on sending, in bytes.
const PIECE: usize = 16 << 10;
/// What the codings of one worker may hold in memory, in bytes.
const ROOM: usize = 256 << 20;
/// Binary logarithm of brotli's window: 256 KiB. ngx_brotli's is twice that, for half as much memory
/// again and next to nothing in size.
const BROTLI_WINDOW: i32 = 18;

/// What a client takes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Taken {
    gzip: bool,
    brotli: bool,
}

/// What the client of a request takes. `None` when its answer is to be left alone, whatever it is; without
/// compression that costs one look at the settings.
pub(super) fn taken<B>(compression: &Compression, request: &Request<B>) -> Option<Taken> {
    if compression.gzip.is_none() && compression.brotli.is_none() {
        return None;
    }
    if request.method() == Method::HEAD || forbids_transforming(request.headers()) {
        return None;
    }
    // nginx's gzip_http_version: a compressed answer has no length, and HTTP/1.0 no chunks.
    if request.version() < Version::HTTP_11 {
        return Some(Taken::default());
    }
    Some(Taken::read(request.headers()))
}

/// Compresses an answer if it is one of those that are; says so in its head, and in `Vary` also when the
/// client takes no coding.
pub(super) fn encode(
    response: Response<ReplyBody>,
    taken: Taken,
    compression: &Compression,
    room: &Rc<Room>,
) -> Response<ReplyBody> {
    let length = response.body().size_hint().exact();
    let (status, headers) = (response.status(), response.headers());
    let Some(ways) = ways(compression, taken, status, headers, length) else { return response };
    let (mut head, body) = response.into_parts();
    add_vary(&mut head.headers);
    let mut ways = ways.into_iter().flatten();
    let Some((how, share)) = ways.find_map(|it| Some((it, room.share(it.memory())?))) else {
        return Response::from_parts(head, body);
    };
    head.headers.insert(CONTENT_ENCODING, HeaderValue::from_static(how.name()));
    head.headers.remove(CONTENT_LENGTH);
    head.headers.remove(ACCEPT_RANGES);
    weaken_etag(&mut head.headers);
    let coded = CodedBody::new(body, how, length, share);
    Response::from_parts(head, ReplyBody::Coded(Box::new(coded)))
}

impl Taken {
    /// RFC 9110 section 12.5.3. A coding whose weight cannot be read is not taken.
    fn read(headers: &HeaderMap) -> Self {
        let (mut gzip, mut brotli, mut any) = (None, None, None);
        let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|it| it.to_str().ok());
        for item in values.flat_map(|it| it.split(',')) {
            let mut parts = item.split(';').map(str::trim);
            let place = match parts.next() {
                Some(it) if it.eq_ignore_ascii_case("gzip") => &mut gzip,
                // RFC 9110 section 8.4.1.3.
                Some(it) if it.eq_ignore_ascii_case("x-gzip") => &mut gzip,
                Some(it) if it.eq_ignore_ascii_case("br") => &mut brotli,
                Some("*") => &mut any,
                _ => continue,
            };
            *place = Some(place.unwrap_or(true) && parts.all(is_wanted));
        }
        let of = |named: Option<bool>| named.or(any).unwrap_or(false);
        Self { gzip: of(gzip), brotli: of(brotli) }
    }
}

/// Whether a parameter of a coding is a weight above 0 (RFC 9110 section 12.4.2).
fn is_wanted(parameter: &str) -> bool {
    let Some((name, weight)) = parameter.split_once('=') else { return false };
    let (whole, rest) = weight.trim().split_once('.').unwrap_or((weight.trim(), ""));
    let digits = rest.len() <= 3 && rest.bytes().all(|it| it.is_ascii_digit());
    let zeros = rest.bytes().all(|it| it == b'0');
    name.trim().eq_ignore_ascii_case("q")
        && digits
        && match whole {
            "0" => !zeros,
            "1" => zeros,
            _ => false,
        }
}

/// How an answer is compressed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum How {
    Gzip { level: u8 },
    Brotli { level: u8 },
}

impl How {
    fn name(self) -> &'static str {
        match self {
            Self::Gzip { .. } => "gzip",
            Self::Brotli { .. } => "br",
        }
    }

    /// The most that it holds, in bytes, as measured.
    fn memory(self) -> usize {
        match self {
            Self::Gzip { .. } => 400 << 10,
            Self::Brotli { level: 0..=1 } => 1 << 20,
            Self::Brotli { level: 2..=4 } => 4 << 20,
            Self::Brotli { level: 5..=6 } => 6 << 20,
            Self::Brotli { level: 7 } => 12 << 20,
            Self::Brotli { level: 8 } => 20 << 20,
            Self::Brotli { level: 9 } => 36 << 20,
            Self::Brotli { .. } => 8 << 20,
        }
    }

    fn is_costly(self) -> bool {
        matches!(self, Self::Brotli { level: 10.. })
    }

    fn step(self) -> usize {
        if self.is_costly() { COSTLY_STEP } else { STEP }
    }
}

/// The ways in which an answer may be sent, the better one first; `None` for an answer that nobody gets
/// compressed.
fn ways(
    compression: &Compression,
    taken: Taken,
    status: StatusCode,
    headers: &HeaderMap,
    length: Option<u64>,
) -> Option<[Option<How>; 2]> {
    let compressed = [StatusCode::OK, StatusCode::FORBIDDEN, StatusCode::NOT_FOUND];
    if !compressed.contains(&status)
        || length == Some(0)
        || headers.contains_key(CONTENT_ENCODING)
        || forbids_transforming(headers)
    {
        return None;
    }
    let media_type = headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok());
    let media_type = media_type.map(|it| it.split(';').next().unwrap_or_default().trim());
    // Messages of gRPC are compressed one by one, by those who speak it.
    if media_type.is_some_and(|it| starts_with(it, "application/grpc")) {
        return None;
    }
    let suits = |coding: &&Coding| {
        length.is_none_or(|it| it >= coding.min_length) && coding.types.cover(media_type)
    };
    let brotli = compression.brotli.as_ref().filter(suits);
    let gzip = compression.gzip.as_ref().filter(suits);
    (brotli.is_some() || gzip.is_some()).then(|| {
        [
            brotli.filter(|_| taken.brotli).map(|it| How::Brotli { level: it.level }),
            gzip.filter(|_| taken.gzip).map(|it| How::Gzip { level: it.level }),
        ]
    })
}

/// RFC 9111 section 5.2.2.6.
fn forbids_transforming(headers: &HeaderMap) -> bool {
    names(headers, &CACHE_CONTROL).any(|it| it.eq_ignore_ascii_case("no-transform"))
}

/// The elements of a field that is a list.
fn names<'a>(headers: &'a HeaderMap, field: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(field).iter().filter_map(|it| it.to_str().ok());
    values.flat_map(|it| it.split(',')).map(str::trim)
}

fn starts_with(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|it| it.eq_ignore_ascii_case(prefix))
}

fn add_vary(headers: &mut HeaderMap) {
    let known = |it: &str| it == "*" || it.eq_ignore_ascii_case("accept-encoding");
    if !names(headers, &VARY).any(known) {
        headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
    }
}

/// The bytes are no longer those that a strong tag stands for (RFC 9110 section 8.8.3).
fn weaken_etag(headers: &mut HeaderMap) {
    let Some(tag) = headers.get(ETAG) else { return };
    if tag.as_bytes().starts_with(b"W/") {
        return;
    }
    let weak = [b"W/", tag.as_bytes()].concat();
    match HeaderValue::from_bytes(&weak) {
        Ok(weak) if tag.as_bytes().starts_with(b"\"") => drop(headers.insert(ETAG, weak)),
        // It is no tag; nginx removes it, too.
        _ => drop(headers.remove(ETAG)),
    }
}

/// What the codings of one worker may still take of its memory.
#[derive(Debug)]
pub(super) struct Room {
    left: Cell<usize>,
}

impl Default for Room {
    fn default() -> Self {
        Self { left: Cell::new(ROOM) }
    }
}

impl Room {
    fn share(self: &Rc<Self>, bytes: usize) -> Option<Share> {
        self.left.set(self.left.get().checked_sub(bytes)?);
        Some(Share { room: self.clone(), bytes })
    }
}

/// Memory set aside for one answer.
#[derive(Debug)]
struct Share {
    room: Rc<Room>,
    bytes: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.room.left.set(self.room.left.get() + self.bytes);
    }
}

/// An answer's body on its way through a coding.
#[derive(Debug)]
pub(super) struct CodedBody {
    /// Where it comes from; empty once all of it came, so that the endpoint's connection is free.
    plain: ReplyBody,
    /// `None` once all of it is in `output`.
    coder: Option<(Coder, Share)>,
    how: How,
    /// What came and is not compressed yet.
    input: Bytes,
    /// What is compressed and not sent yet.
    output: Vec<u8>,
    trailers: Option<HeaderMap>,
    /// Whether the coder may hold something back.
    holds: bool,
    /// Whether the endpoint had a chance to go on since something came.
    paused: bool,
    /// How much may be compressed before others get their turn, in bytes.
    left: usize,
}

impl CodedBody {
    fn new(plain: ReplyBody, how: How, length: Option<u64>, share: Share) -> Self {
        Self {
            plain,
            coder: Some((Coder::new(how, length), share)),
            how,
            input: Bytes::new(),
            output: Vec::new(),
            trailers: None,
            holds: false,
            paused: false,
            left: how.step(),
        }
    }

    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        loop {
            if self.output.len() >= PIECE || (self.coder.is_none() && !self.output.is_empty()) {
                return self.hand_over();
            }
            if self.coder.is_none() {
                return Poll::Ready(self.trailers.take().map(|it| Ok(Frame::trailers(it))));
            }
            if !self.input.is_empty() {
                if self.left == 0 {
                    return self.yield_now(cx);
                }
                let piece = self.input.split_to(self.input.len().min(self.left));
                self.left -= piece.len();
                // Of the slow levels nothing is put off, or it would be done all at once in the end.
                let goal = if self.how.is_costly() { Goal::Flush } else { Goal::More };
                self.compress(&piece, goal)?;
                continue;
            }
            match Pin::new(&mut self.plain).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.paused = false;
                    match frame.into_data() {
                        Ok(data) => self.input = data,
                        // Kept until the end was read, which frees the endpoint's connection.
                        Err(frame) => self.trailers = frame.into_trailers().ok(),
                    }
                }
                Poll::Ready(Some(Err(cut))) => return Poll::Ready(Some(Err(cut))),
                Poll::Ready(None) => self.finish()?,
                Poll::Pending if !self.holds && self.output.is_empty() => {
                    self.left = self.how.step();
                    return Poll::Pending;
                }
                Poll::Pending if self.holds && !self.paused => {
                    // A task that reads the connection (HTTP/2, reading ahead) may have more by then.
                    self.paused = true;
                    return self.yield_now(cx);
                }
                Poll::Pending => {
                    if self.holds {
                        self.compress(&[], Goal::Flush)?;
                    }
                    return self.hand_over();
                }
            }
        }
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.coder.is_none() && self.output.is_empty() && self.trailers.is_none()
    }

    fn hand_over(&mut self) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.output).into()))))
    }

    fn yield_now<T>(&mut self, cx: &Context<'_>) -> Poll<T> {
        self.left = self.how.step();
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn finish(&mut self) -> Result<(), CutOff> {
        self.compress(&[], Goal::End)?;
        self.coder = None;
        self.plain = ReplyBody::empty();
        Ok(())
    }

    fn compress(&mut self, input: &[u8], goal: Goal) -> Result<(), CutOff> {
        self.holds = goal == Goal::More;
        let Some((coder, _)) = &mut self.coder else { return Ok(()) };
        let fed = coder.feed(input, goal, &mut self.output);
        fed.then_some(()).ok_or(CutOff::Ours("it could not be compressed"))
    }
}

/// What is to come of what was fed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Goal {
    /// Whatever compresses best.
    More,
    /// All of it can be read by the client.
    Flush,
    /// The same, and nothing follows.
    End,
}

enum Coder {
    Gzip(Compress),
    Brotli(Box<BrotliEncoderStateStruct<StandardAlloc>>),
}

impl fmt::Debug for Coder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip(_) => "Gzip",
            Self::Brotli(_) => "Brotli",
        })
    }
}

impl Coder {
    /// Of a short answer, whose `length` is known, a smaller window sees as much and takes less time to
    /// set up.
    fn new(how: How, length: Option<u64>) -> Self {
        /// What zlib keeps free of its window, in bytes.
        const LOOK_AHEAD: u64 = 262;
        match how {
            How::Gzip { level } => {
                let fits = |it: &u8| {
                    length.is_some_and(|length| length.saturating_add(LOOK_AHEAD) <= 1 << it)
                };
                let window = (9..15).find(fits).unwrap_or(15);
                Self::Gzip(Compress::new_gzip(Level::new(level.into()), window))
            }
            How::Brotli { level } => {
                let mut state = BrotliEncoderStateStruct::new(StandardAlloc::default());
                state.params.quality = level.into();
                state.params.lgwin = BROTLI_WINDOW;
                // 64 KiB, as much as one step: it is what is compressed at once.
                state.params.lgblock = 16;
                Self::Brotli(Box::new(state))
            }
        }
    }

    /// Appends to `output` what comes of `input`; whether that went well.
    fn feed(&mut self, input: &[u8], goal: Goal, output: &mut Vec<u8>) -> bool {
        /// How much the output grows by, in bytes.
        const MORE: usize = 4 << 10;
        match self {
            Self::Gzip(state) => {
                let flush = match goal {
                    Goal::More => FlushCompress::None,
                    Goal::Flush => FlushCompress::Sync,
                    Goal::End => FlushCompress::Finish,
                };
                let mut input = input;
                loop {
                    output.reserve(MORE);
                    let before = state.total_in();
                    let Ok(status) = state.compress_vec(input, output, flush) else { return false };
                    // No more than the length of `input`.
                    let read = usize::try_from(state.total_in() - before).unwrap_or_default();
                    input = input.get(read..).unwrap_or_default();
                    let has_room = output.len() < output.capacity();
                    match goal {
                        Goal::End if status == Status::StreamEnd => return true,
                        Goal::More | Goal::Flush if input.is_empty() && has_room => return true,
                        // It got no further, and would not the next time.
                        _ if has_room && status == Status::BufError => return false,
                        _ => {}
                    }
                }
            }
            Self::Brotli(state) => {
                let operation = match goal {
                    Goal::More => BrotliEncoderOperation::BROTLI_OPERATION_PROCESS,
                    Goal::Flush => BrotliEncoderOperation::BROTLI_OPERATION_FLUSH,
                    Goal::End => BrotliEncoderOperation::BROTLI_OPERATION_FINISH,
                };
                let (mut left, mut read) = (input.len(), 0);
                loop {
                    let (mut room, mut end) = (MORE, output.len());
                    output.resize(end + MORE, 0);
                    let done = state.compress_stream(
                        operation,
                        &mut left,
                        input,
                        &mut read,
                        &mut room,
                        output,
                        &mut end,
                        &mut None,
                        &mut |_, _, _, _| (),
                    );
                    output.truncate(end);
                    if !done {
                        return false;
                    }
                    if left == 0 && !state.has_more_output() {
                        return goal != Goal::End || state.is_finished();
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;
    use crate::model::settings::MediaTypes;

    const GZIP: How = How::Gzip { level: 1 };
    const BROTLI: How = How::Brotli { level: 4 };

    fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    fn both() -> Compression {
        Compression { gzip: Some(Coding::gzip()), brotli: Some(Coding::brotli()) }
    }

    /// Text that is worth compressing.
    fn text(bytes: usize) -> Vec<u8> {
        let lines =
            (0_u32..).map(|it| format!("item {it} costs {}\n", it.wrapping_mul(2_654_435_761)));
        lines.flat_map(String::into_bytes).take(bytes).collect()
    }

    fn reader<'a>(how: How, coded: &'a [u8]) -> Box<dyn Read + 'a> {
        match how {
            How::Gzip { .. } => Box::new(flate2::read::GzDecoder::new(coded)),
            How::Brotli { .. } => Box::new(brotli::Decompressor::new(coded, 4096)),
        }
    }

    #[test]
    fn what_a_client_takes() {
        for (fields, gzip, brotli) in [
            (&[][..], false, false),
            (&["gzip"], true, false),
            (&["GZip, deflate, BR"], true, true),
            (&["x-gzip"], true, false),
            (&["deflate", "br"], false, true),
            (&["identity"], false, false),
            (&["gzip2, brotli"], false, false),
            (&[""], false, false),
            // Weights.
            (&["gzip;q=1.000, br;q=0.001"], true, true),
            (&["gzip ; Q=0.5,br ; q=0"], true, false),
            (&["gzip;q=0.000, br;q=0."], false, false),
            (&["br;q=1., gzip;q=0.1"], true, true),
            (&["gzip;q=2, br;q=0.0001"], false, false),
            (&["gzip;q=, br;q"], false, false),
            (&["gzip;q=1.5, br;q=-1"], false, false),
            (&["gzip;level=9"], false, false),
            // Whatever is not named.
            (&["*"], true, true),
            (&["*;q=0"], false, false),
            (&["br;q=0, *"], true, false),
            (&["*;q=0, gzip"], true, false),
            // Said twice: who refuses once does not want it.
            (&["gzip;q=0", "gzip"], false, false),
        ] {
            let mut headers = HeaderMap::new();
            for value in fields {
                headers.append(ACCEPT_ENCODING, HeaderValue::from_static(value));
            }
            assert_eq!(Taken::read(&headers), Taken { gzip, brotli }, "{fields:?}");
        }
    }

    #[test]
    fn some_requests_are_left_alone() {
        for (method, version, control, expected) in [
            ("GET", Version::HTTP_11, "no-cache", Some(true)),
            ("POST", Version::HTTP_2, "max-age=0", Some(true)),
            ("GET", Version::HTTP_10, "no-cache", Some(false)),
            ("HEAD", Version::HTTP_11, "no-cache", None),
            ("GET", Version::HTTP_11, "no-cache, No-Transform", None),
        ] {
            let mut request = Request::new(());
            *request.method_mut() = method.parse().unwrap_or_default();
            *request.version_mut() = version;
            *request.headers_mut() =
                map(&[("accept-encoding", "gzip"), ("cache-control", control)]);
            let taken = taken(&both(), &request).map(|it| it.gzip);
            assert_eq!(taken, expected, "{method} {version:?} {control}");
            assert_eq!(super::taken(&Compression::default(), &request), None);
        }
    }

    #[test]
    fn which_answers_are_compressed() {
        let json = ("content-type", "application/json");
        let (gzip, brotli) = (Some([None, Some(GZIP)]), Some([Some(BROTLI), Some(GZIP)]));
        for (status, headers, length, expected) in [
            (200, &[json][..], Some(1000), brotli),
            (403, &[json], Some(1000), brotli),
            (404, &[json], None, brotli),
            // Statuses.
            (101, &[json], Some(1000), None),
            (201, &[json], Some(1000), None),
            (204, &[json], None, None),
            (206, &[json], Some(1000), None),
            (304, &[json], Some(1000), None),
            (500, &[json], Some(1000), None),
            // Lengths.
            (200, &[json], Some(256), brotli),
            (200, &[json], Some(255), Some([Some(BROTLI), None])),
            (200, &[json], Some(20), Some([Some(BROTLI), None])),
            (200, &[json], Some(19), None),
            (200, &[json], Some(0), None),
            // Types.
            (200, &[("content-type", "Text/HTML; charset=utf-8")], None, brotli),
            (200, &[("content-type", " text/plain ;x=y")], None, brotli),
            (200, &[("content-type", "font/ttf")], None, gzip),
            (200, &[("content-type", "image/png")], None, None),
            (200, &[("content-type", "text/event-stream")], None, None),
            (200, &[], None, None),
            // What forbids it.
            (200, &[json, ("content-encoding", "identity")], None, None),
            (200, &[json, ("cache-control", "public, no-transform")], None, None),
            (200, &[json, ("cache-control", "public")], None, brotli),
        ] {
            let mut compression = both();
            let types = "application/json text/plain font/ttf";
            if let Some(coding) = &mut compression.gzip {
                coding.types = MediaTypes::parse(types).unwrap_or_default();
            }
            let taken = Taken { gzip: true, brotli: true };
            let status = StatusCode::from_u16(status).unwrap_or_default();
            let found = ways(&compression, taken, status, &map(headers), length);
            assert_eq!(found, expected, "{status} {headers:?} {length:?}");
            let found = ways(&compression, Taken::default(), status, &map(headers), length);
            assert_eq!(found, expected.map(|_| [None; 2]), "{status} {headers:?} {length:?}");
        }
        let all = Coding { types: MediaTypes::All, ..Coding::gzip() };
        let all = Compression { gzip: Some(all), brotli: None };
        let taken = Taken { gzip: true, brotli: true };
        for (media_type, expected) in [
            (None, gzip),
            (Some("image/png"), gzip),
            (Some("application/grpc"), None),
            (Some("application/gRPC-web+proto"), None),
        ] {
            let headers: HeaderMap = media_type
                .map(|it| (CONTENT_TYPE, HeaderValue::from_static(it)))
                .into_iter()
                .collect();
            let found = ways(&all, taken, StatusCode::OK, &headers, None);
            assert_eq!(found, expected, "{media_type:?}");
        }
    }

    #[test]
    fn tags_become_weak_and_caches_are_told() {
        for (before, after) in [
            (
                &[("etag", "\"x\""), ("vary", "Origin")][..],
                &[("etag", "W/\"x\""), ("vary", "Origin"), ("vary", "Accept-Encoding")][..],
            ),
            (&[("etag", "W/\"x\"")], &[("etag", "W/\"x\""), ("vary", "Accept-Encoding")]),
            (&[("etag", "x")], &[("vary", "Accept-Encoding")]),
            (&[("vary", "Origin, accept-encoding")], &[("vary", "Origin, accept-encoding")]),
            (&[("vary", "*")], &[("vary", "*")]),
        ] {
            let mut headers = map(before);
            add_vary(&mut headers);
            weaken_etag(&mut headers);
            assert_eq!(headers, map(after), "{before:?}");
        }
    }

    #[test]
    fn every_level_gives_back_what_it_got() {
        let levels = (1..=9).map(|level| How::Gzip { level });
        for how in levels.chain((0..=11).map(|level| How::Brotli { level })) {
            for length in [0, 1, 300, 70_000] {
                let plain = text(length);
                for known in [None, Some(length as u64)] {
                    let mut coder = Coder::new(how, known);
                    let mut coded = Vec::new();
                    for piece in plain.chunks(30_000) {
                        assert!(coder.feed(piece, Goal::More, &mut coded), "{how:?}");
                    }
                    assert!(coder.feed(&[], Goal::End, &mut coded), "{how:?}");
                    let mut back = Vec::new();
                    reader(how, &coded).read_to_end(&mut back).expect("it is whole");
                    assert!(back == plain, "{how:?} {length} {known:?}");
                    assert!(length < 300 || coded.len() < length, "{how:?} {length}");
                }
            }
        }
    }

    #[test]
    fn what_is_flushed_can_be_read() {
        for how in [GZIP, BROTLI, How::Brotli { level: 0 }, How::Brotli { level: 11 }] {
            let (mut coder, mut coded) = (Coder::new(how, None), Vec::new());
            for events in 1..=20 {
                assert!(coder.feed(b"data: tick\n\n", Goal::More, &mut coded), "{how:?}");
                for _ in 0..2 {
                    assert!(coder.feed(&[], Goal::Flush, &mut coded), "{how:?}");
                }
                let mut back = vec![0; 12 * events];
                reader(how, &coded).read_exact(&mut back).expect("all of it is there");
                assert_eq!(back, b"data: tick\n\n".repeat(events), "{how:?}");
            }
        }
    }

    #[test]
    fn what_finds_no_room_is_sent_as_it_is() {
        let room = Rc::new(Room { left: Cell::new(GZIP.memory()) });
        let taken = Taken { gzip: true, brotli: true };
        let answer = || {
            let mut response = Response::new(ReplyBody::from(text(1000)));
            *response.headers_mut() = map(&[("content-type", "text/plain")]);
            encode(response, taken, &both(), &room)
        };
        let coding = |it: &Response<ReplyBody>| it.headers().get(CONTENT_ENCODING).cloned();
        let first = answer();
        assert_eq!(coding(&first), Some(HeaderValue::from_static("gzip")), "brotli takes more");
        let second = answer();
        assert_eq!(coding(&second), None);
        assert_eq!(second.headers()[VARY], "Accept-Encoding");
        drop(first);
        assert!(coding(&answer()).is_some());
    }

    #[tokio::test]
    async fn a_body_is_compressed_in_turns() {
        use http_body_util::BodyExt;
        let room = Rc::new(Room::default());
        for how in [GZIP, BROTLI, How::Brotli { level: 10 }] {
            let plain = text(100_000);
            let share = room.share(how.memory()).expect("there is room");
            let mut body = CodedBody::new(ReplyBody::from(plain.clone()), how, None, share);
            let (mut pauses, mut coded) = (0, Vec::new());
            let mut cx = Context::from_waker(std::task::Waker::noop());
            loop {
                match body.poll(&mut cx) {
                    Poll::Pending => pauses += 1,
                    Poll::Ready(Some(Ok(frame))) => {
                        coded.extend(frame.into_data().expect("there are no trailers"));
                    }
                    Poll::Ready(Some(Err(cut))) => panic!("{how:?}: {cut}"),
                    Poll::Ready(None) => break,
                }
            }
            assert_eq!(pauses, (plain.len() - 1) / how.step(), "{how:?}");
            assert!(body.is_end_stream());
            assert_eq!(room.left.get(), ROOM, "given back before the body is dropped");
            let mut back = Vec::new();
            reader(how, &coded).read_to_end(&mut back).expect("it is whole");
            assert!(back == plain, "{how:?}");
        }
        let empty = encode(Response::new(ReplyBody::empty()), Taken::default(), &both(), &room);
        assert!(empty.into_body().collect().await.expect("it is whole").to_bytes().is_empty());
    }
}
