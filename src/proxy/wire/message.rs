//! The heads of requests and answers in HTTP/1.1, RFC 9112 sections 2 to 6.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRAILER, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Version, request};
use httparse::{Header, ParserConfig, Response, Status};

use super::Torn;
use super::chunked::Chunked;

/// Most fields of an answer, or of its trailers.
const MOST_FIELDS: usize = 100;

/// How a request's body is framed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Framing {
    /// There is none.
    None,
    /// By its length, of which so much is to come.
    Length(u64),
    Chunked,
}

/// Writes a request's head, with the field that frames its body; with `Content-Length: 0` where there is none
/// and its client said so.
pub(super) fn write(head: &request::Parts, framing: Framing, to: &mut BytesMut) {
    let target = head.uri.path_and_query().map_or("/", |it| it.as_str());
    let fields: usize =
        head.headers.iter().map(|(name, it)| name.as_str().len() + it.len() + 4).sum();
    to.reserve(head.method.as_str().len() + target.len() + fields + 64);
    for part in [head.method.as_str(), " ", target, " HTTP/1.1\r\n"] {
        to.extend_from_slice(part.as_bytes());
    }
    // Nobody else says where a body ends, whatever put a field there.
    let framed = |name: &HeaderName| *name == CONTENT_LENGTH || *name == TRANSFER_ENCODING;
    write_fields(head.headers.iter().filter(|(name, _)| !framed(name)), to);
    let length = match framing {
        Framing::Length(length) => Some(length),
        Framing::None if head.headers.contains_key(CONTENT_LENGTH) => Some(0),
        Framing::None | Framing::Chunked => None,
    };
    if let Some(length) = length {
        to.extend_from_slice(b"content-length: ");
        to.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
        to.extend_from_slice(b"\r\n");
    } else if framing == Framing::Chunked {
        to.extend_from_slice(b"transfer-encoding: chunked\r\n");
    }
    to.extend_from_slice(b"\r\n");
}

fn write_fields<'a>(
    fields: impl IntoIterator<Item = (&'a HeaderName, &'a HeaderValue)>,
    to: &mut BytesMut,
) {
    for (name, value) in fields {
        to.extend_from_slice(name.as_str().as_bytes());
        to.extend_from_slice(b": ");
        to.extend_from_slice(value.as_bytes());
        to.extend_from_slice(b"\r\n");
    }
}

/// Writes a chunk's size before it.
pub(super) fn write_chunk_size(bytes: usize, to: &mut BytesMut) {
    use std::fmt::Write as _;
    // Memory takes whatever is written to it.
    let _ = write!(to, "{bytes:x}\r\n");
}

/// Writes what ends a chunked body: of the trailers those which the head announced (RFC 9110 section 6.6.2).
pub(super) fn write_end(trailers: &HeaderMap, announced: &[HeaderName], to: &mut BytesMut) {
    to.extend_from_slice(b"0\r\n");
    write_fields(trailers.iter().filter(|(name, _)| announced.contains(name)), to);
    to.extend_from_slice(b"\r\n");
}

/// The trailers that a head announces.
pub(super) fn announced(headers: &HeaderMap) -> Vec<HeaderName> {
    let values = headers.get_all(TRAILER).iter().filter_map(|it| it.to_str().ok());
    values.flat_map(|it| it.split(',')).filter_map(|it| it.trim().parse().ok()).collect()
}

/// An answer's head.
#[derive(Debug)]
pub(in crate::proxy) struct AnswerHead {
    pub(in crate::proxy) status: StatusCode,
    pub(in crate::proxy) headers: HeaderMap,
}

/// How an answer's body ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Ending {
    /// After so many bytes; also of an answer without a body.
    Length(u64),
    /// As its chunks say.
    Chunked(Chunked),
    /// With the connection.
    Close,
}

/// Where a head that begins `input` ends, its empty line included, where it is there: nobody has found that
/// in the first `seen` bytes. A line may end without CR (RFC 9112 section 2.2).
pub(super) fn end(input: &[u8], seen: usize) -> Option<usize> {
    let from = seen.saturating_sub(3);
    memchr::memchr_iter(b'\n', &input[from..]).find_map(|at| match input[from + at + 1..] {
        [b'\n', ..] => Some(from + at + 2),
        [b'\r', b'\n', ..] => Some(from + at + 3),
        _ => None,
    })
}

/// Whether this can still become an answer's head.
pub(super) fn is_beginning(input: &[u8]) -> bool {
    let mut fields = [const { MaybeUninit::uninit() }; MOST_FIELDS];
    let mut answer = Response::new(&mut []);
    let parsed =
        ParserConfig::default().parse_response_with_uninit_headers(&mut answer, input, &mut fields);
    parsed.is_ok()
}

/// Reads a whole head: itself, how its body ends in answer to `method`, and whether the connection carries
/// another request after that. `None` for an interim answer (RFC 9110 section 15.2) but 101.
pub(super) fn read(
    head: &Bytes,
    method: &Method,
) -> Result<Option<(AnswerHead, Ending, bool)>, Torn> {
    let mut fields = [const { MaybeUninit::uninit() }; MOST_FIELDS];
    let mut answer = Response::new(&mut []);
    let parsed =
        ParserConfig::default().parse_response_with_uninit_headers(&mut answer, head, &mut fields);
    if !matches!(parsed, Ok(Status::Complete(length)) if length == head.len()) {
        return Err(Torn::Invalid("it is no head of an answer"));
    }
    let status = answer.code.and_then(|it| StatusCode::from_u16(it).ok());
    let status = status.ok_or(Torn::Invalid("its status is none"))?;
    if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(None);
    }
    let version = if answer.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
    let mut headers = HeaderMap::with_capacity(answer.headers.len());
    append(head, answer.headers, &mut headers)?;
    let ending = ending(status, version, method, &mut headers)?;
    let switches = status == StatusCode::SWITCHING_PROTOCOLS;
    let lasts = lasts(&headers, version) && ending != Ending::Close && !switches;
    Ok(Some((AnswerHead { status, headers }, ending, lasts)))
}

/// Reads the fields of a trailer section, its empty line included.
pub(super) fn fields(section: &Bytes, to: &mut HeaderMap) -> Result<(), Torn> {
    let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
    match httparse::parse_headers(section, &mut fields) {
        Ok(Status::Complete((length, fields))) if length == section.len() => {
            append(section, fields, to)
        }
        _ => Err(Torn::Invalid("its trailers are none")),
    }
}

/// Adds fields whose values lie within `text`, which they share.
fn append(text: &Bytes, fields: &[Header<'_>], to: &mut HeaderMap) -> Result<(), Torn> {
    for field in fields {
        let name = HeaderName::from_bytes(field.name.as_bytes());
        let value = match field.value {
            // Nothing lies nowhere.
            [] => Ok(HeaderValue::from_static("")),
            value => HeaderValue::from_maybe_shared(text.slice_ref(value)),
        };
        let (Ok(name), Ok(value)) = (name, value) else {
            return Err(Torn::Invalid("a field of it is none"));
        };
        to.append(name, value);
    }
    Ok(())
}

/// How an answer's body ends: RFC 9112 section 6.3.
fn ending(
    status: StatusCode,
    version: Version,
    method: &Method,
    headers: &mut HeaderMap,
) -> Result<Ending, Torn> {
    let bodiless = matches!(status.as_u16(), 101 | 204 | 304) || *method == Method::HEAD;
    if bodiless {
        return Ok(Ending::Length(0));
    }
    let codings = headers.get_all(TRANSFER_ENCODING);
    if let Some(last) = codings.iter().next_back() {
        if version == Version::HTTP_10 {
            return Err(Torn::Invalid("HTTP/1.0 knows no transfer codings"));
        }
        let last = last.as_bytes().rsplit(|it| *it == b',').next().unwrap_or_default();
        let chunked = last.trim_ascii().eq_ignore_ascii_case(b"chunked");
        return Ok(if chunked { Ending::Chunked(Chunked::default()) } else { Ending::Close });
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let Some(first) = lengths.next() else { return Ok(Ending::Close) };
    let many = lengths.next().is_some() || first.as_bytes().contains(&b',');
    let said =
        headers.get_all(CONTENT_LENGTH).iter().flat_map(|it| it.as_bytes().split(|it| *it == b','));
    let mut length = None;
    for said in said {
        let said = number(said.trim_ascii());
        if said.is_none() || length.is_some_and(|it| Some(it) != said) {
            return Err(Torn::Invalid("its length is none"));
        }
        length = said;
    }
    let length = length.unwrap_or_default();
    if many {
        // The same said twice is said once.
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Ok(Ending::Length(length))
}

/// Digits and nothing else.
fn number(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(text).ok()?.parse().ok())?
}

/// Whether the connection lasts beyond a message: RFC 9112 section 9.3.
pub(super) fn lasts(headers: &HeaderMap, version: Version) -> bool {
    let mut lasts = version == Version::HTTP_11;
    let said = headers.get_all(CONNECTION).iter();
    for word in said.flat_map(|it| it.as_bytes().split(|it| *it == b',')) {
        match word.trim_ascii() {
            word if word.eq_ignore_ascii_case(b"close") => return false,
            word if word.eq_ignore_ascii_case(b"keep-alive") => lasts = true,
            _ => {}
        }
    }
    lasts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(text: &str, method: &Method) -> Result<Option<(AnswerHead, Ending, bool)>, Torn> {
        read(&Bytes::copy_from_slice(text.as_bytes()), method)
    }

    #[test]
    fn heads_end_with_an_empty_line() {
        for (text, expected) in [
            ("", None),
            ("a\r\n", None),
            ("a\r\n\r", None),
            ("a\r\n\r\n", Some(5)),
            ("a\n\nrest", Some(3)),
            ("a\r\nb: c\r\n\r\nrest\r\n\r\n", Some(11)),
        ] {
            for seen in 0..=text.len().saturating_sub(1).min(expected.unwrap_or(usize::MAX) - 1) {
                assert_eq!(end(text.as_bytes(), seen), expected, "{text:?} from {seen}");
            }
        }
    }

    #[test]
    fn an_answer_says_how_it_ends() {
        let chunked = Ending::Chunked(Chunked::Size);
        for (fields, ending, lasts) in [
            ("Content-Length: 5\r\n", Ending::Length(5), true),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", Ending::Length(5), true),
            ("Content-Length: 5, 5\r\n", Ending::Length(5), true),
            ("Content-Length: 5\r\nConnection: x, Close\r\n", Ending::Length(5), false),
            (
                "Connection: keep-alive\r\nConnection: close\r\nContent-Length: 0\r\n",
                Ending::Length(0),
                false,
            ),
            ("Transfer-Encoding: chunked\r\n", chunked, true),
            ("Transfer-Encoding: gzip, Chunked\r\nContent-Length: 5\r\n", chunked, true),
            ("Transfer-Encoding: gzip\r\n", Ending::Close, false),
            ("", Ending::Close, false),
        ] {
            let read = answer(&format!("HTTP/1.1 200 OK\r\n{fields}\r\n"), &Method::GET);
            let (head, found, last) = read.expect(fields).expect(fields);
            assert_eq!((found, last), (ending, lasts), "{fields}");
            assert!(head.headers.get_all(CONTENT_LENGTH).iter().count() <= 1, "{fields}");
        }
        for (first, method, ending, lasts) in [
            ("HTTP/1.1 204 No Content", Method::GET, Ending::Length(0), true),
            (
                "HTTP/1.1 304 Not Modified\r\nContent-Length: 7",
                Method::GET,
                Ending::Length(0),
                true,
            ),
            ("HTTP/1.1 200\r\nContent-Length: 7", Method::HEAD, Ending::Length(0), true),
            ("HTTP/1.0 200 OK\r\nContent-Length: 7", Method::GET, Ending::Length(7), false),
            (
                "HTTP/1.0 200 OK\r\nContent-Length: 7\r\nConnection: Keep-Alive",
                Method::GET,
                Ending::Length(7),
                true,
            ),
        ] {
            let read = answer(&format!("{first}\r\n\r\n"), &method);
            let (_, found, last) = read.expect(first).expect(first);
            assert_eq!((found, last), (ending, lasts), "{first}");
        }
    }

    #[test]
    fn interim_answers_are_none() {
        for status in [100, 102, 103, 199] {
            let read = answer(&format!("HTTP/1.1 {status} x\r\nlink: y\r\n\r\n"), &Method::GET);
            assert!(matches!(read, Ok(None)), "{status}");
        }
        let read = answer("HTTP/1.1 101 x\r\nupgrade: websocket\r\n\r\n", &Method::GET);
        assert!(matches!(read, Ok(Some((_, Ending::Length(0), false)))));
    }

    #[test]
    fn what_is_no_head_is_refused() {
        for text in [
            "HTTP/2 200 OK\r\n\r\n",
            "HTTP/1.1 20 OK\r\n\r\n",
            "HTTP/1.1 000 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\nno field\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n",
            "HTTP/1.1 200 OK\r\na : b\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1 1\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1, 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length:\r\n\r\n",
            "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            let read = answer(text, &Method::GET);
            assert!(matches!(read, Err(Torn::Invalid(_))), "{text:?}: {read:?}");
        }
        let many = "a: b\r\n".repeat(MOST_FIELDS + 1);
        assert!(answer(&format!("HTTP/1.1 200 OK\r\n{many}\r\n"), &Method::GET).is_err());
        assert!(!is_beginning(b"nonsense"));
        assert!(is_beginning(b"HTTP/1.1 200 OK\r\na:"));
    }

    #[test]
    fn a_request_is_written_whole() {
        let request =
            http::Request::put("/a?b").header("host", "a.test").header("x-a", "b").body(());
        let (head, ()) = request.expect("a request").into_parts();
        let mut said = head.clone();
        said.headers.insert(CONTENT_LENGTH, HeaderValue::from_static("7"));
        said.headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("gzip"));
        for (head, framing, field) in [
            (&head, Framing::None, ""),
            (&head, Framing::Length(12), "content-length: 12\r\n"),
            (&head, Framing::Chunked, "transfer-encoding: chunked\r\n"),
            (&said, Framing::None, "content-length: 0\r\n"),
            (&said, Framing::Length(12), "content-length: 12\r\n"),
            (&said, Framing::Chunked, "transfer-encoding: chunked\r\n"),
        ] {
            let mut written = BytesMut::new();
            write(head, framing, &mut written);
            let expected = format!("PUT /a?b HTTP/1.1\r\nhost: a.test\r\nx-a: b\r\n{field}\r\n");
            assert_eq!(written, expected);
        }
        let mut end = BytesMut::new();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("1"));
        trailers.insert("x-other", HeaderValue::from_static("2"));
        let mut headers = HeaderMap::new();
        headers.insert(TRAILER, HeaderValue::from_static("x-end, X-Sum"));
        write_end(&trailers, &announced(&headers), &mut end);
        assert_eq!(end, "0\r\nx-sum: 1\r\n\r\n");
        let mut size = BytesMut::new();
        write_chunk_size(255, &mut size);
        assert_eq!(size, "ff\r\n");
    }
}
