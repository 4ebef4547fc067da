//! Which answers are compressed, and how: what the client takes, what the settings say, what the answer is.

use http::header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, Method, Request, StatusCode, Version};

use super::coder::How;
use crate::model::settings::{Coding, Compression};

/// What the client of a request takes. `None` when its answer is to be left alone, whatever it is; without
/// compression that costs one look at the settings.
pub(in crate::proxy) fn taken<B>(compression: &Compression, request: &Request<B>) -> Option<Taken> {
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

/// What a client takes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(in crate::proxy) struct Taken {
    pub(super) gzip: bool,
    pub(super) brotli: bool,
}

impl Taken {
    /// RFC 9110 section 12.5.3. A coding whose weight cannot be read is not taken.
    fn read(headers: &HeaderMap) -> Self {
        let (mut gzip, mut brotli, mut any) = (None, None, None);
        for item in elements(headers, &ACCEPT_ENCODING) {
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

/// The ways in which an answer may be compressed for its client, the better one first; `None` for an answer
/// that no client gets compressed.
pub(super) fn ways(
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

/// Whether bytes are to stay as they are (RFC 9111 section 5.2.2.6).
fn forbids_transforming(headers: &HeaderMap) -> bool {
    elements(headers, &CACHE_CONTROL).any(|it| it.eq_ignore_ascii_case("no-transform"))
}

fn starts_with(text: &str, prefix: &str) -> bool {
    text.get(..prefix.len()).is_some_and(|it| it.eq_ignore_ascii_case(prefix))
}

/// The elements of a field that is a list.
pub(super) fn elements<'a>(
    headers: &'a HeaderMap,
    field: &HeaderName,
) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(field).iter().filter_map(|it| it.to_str().ok());
    values.flat_map(|it| it.split(',')).map(str::trim)
}

#[cfg(test)]
pub(super) mod tests {
    use http::HeaderValue;

    use super::*;
    use crate::model::settings::MediaTypes;
    use crate::proxy::compress::coder::tests::{BROTLI, GZIP};

    pub(in crate::proxy::compress) fn map(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(*name, HeaderValue::from_static(value));
        }
        headers
    }

    pub(in crate::proxy::compress) fn both() -> Compression {
        Compression { gzip: Some(Coding::gzip()), brotli: Some(Coding::brotli()) }
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
}
