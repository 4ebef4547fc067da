//! One unary call of gRPC over HTTP/2 without TLS.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, TE};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use tokio::time::timeout;

use super::otlp;

/// `opentelemetry/proto/collector/trace/v1/trace_service.proto`
const METHOD: &str = "opentelemetry.proto.collector.trace.v1.TraceService/Export";
/// How long a call may take, as in OpenTelemetry's own exporters.
const PATIENCE: Duration = Duration::from_secs(10);
/// Largest answer that is read, in bytes.
const LARGEST: usize = 64 << 10;

/// Calls the collector, over one connection as long as that is good.
#[derive(Debug)]
pub(super) struct Client(hyper_util::client::legacy::Client<HttpConnector, Full<Bytes>>);

/// Why spans were not taken.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) text: String,
    /// Whether they may be sent again.
    pub(super) again: bool,
}

impl Client {
    pub(super) fn new() -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(PATIENCE));
        connector.set_nodelay(true);
        let mut client = hyper_util::client::legacy::Client::builder(TokioExecutor::new());
        Self(client.http2_only(true).build(connector))
    }

    /// Sends spans; gives how many of them were refused.
    pub(super) async fn export(
        &mut self,
        host: &str,
        port: u16,
        message: Bytes,
    ) -> Result<u64, Failure> {
        let called = timeout(PATIENCE, self.call(host, port, message)).await;
        let called = called.unwrap_or_else(|_| Err(Failure::of("no answer in time", true)));
        if called.as_ref().is_err_and(|it| it.again) {
            // A connection whose other end has gone without a word would take the next call, too.
            *self = Self::new();
        }
        called
    }

    async fn call(&self, host: &str, port: u16, message: Bytes) -> Result<u64, Failure> {
        let request = Request::post(format!("http://{host}:{port}/{METHOD}"))
            .header(CONTENT_TYPE, "application/grpc")
            .header(TE, "trailers")
            .body(Full::new(framed(&message)))
            .map_err(|error| Failure::of(&error, false))?;
        let answer = self.0.request(request).await.map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            Failure::of(&cause.unwrap_or_else(|| error.to_string()), true)
        })?;
        let (head, body) = answer.into_parts();
        if head.status != StatusCode::OK {
            let again = matches!(head.status.as_u16(), 429 | 502..=504);
            return Err(Failure::of(&format!("status {} of HTTP", head.status), again));
        }
        let body = Limited::new(body, LARGEST).collect().await;
        let body = body.map_err(|error| Failure::of(&error, true))?;
        // An answer without a message says in its head what others say behind it.
        let end = body.trailers().filter(|it| it.contains_key("grpc-status"));
        judge(end.unwrap_or(&head.headers))?;
        let answer = body.to_bytes();
        Ok(answer.get(5..).map_or(0, otlp::refused))
    }
}

impl Failure {
    fn of(error: &(impl ToString + ?Sized), again: bool) -> Self {
        Self { text: error.to_string(), again }
    }
}

/// A message with its prefix: not compressed, and how long it is.
fn framed(message: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(message.len() + 5);
    bytes.put_u8(0);
    bytes.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    bytes.put_slice(message);
    bytes.freeze()
}

/// Reads the status of a call. By the specification of OTLP it may be made again after `CANCELLED`,
/// `DEADLINE_EXCEEDED`, `RESOURCE_EXHAUSTED`, `ABORTED`, `OUT_OF_RANGE`, `UNAVAILABLE` and `DATA_LOSS`.
fn judge(headers: &HeaderMap) -> Result<(), Failure> {
    let text = |name: &str| headers.get(name).and_then(|it| it.to_str().ok()).unwrap_or_default();
    match text("grpc-status") {
        "0" => Ok(()),
        status => {
            let again = matches!(status, "1" | "4" | "8" | "10" | "11" | "14" | "15" | "");
            Err(Failure::of(&format!("gRPC status {status} {}", text("grpc-message")), again))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_whether_to_try_again() {
        for (status, expected) in [
            (Some("0"), None),
            (Some("14"), Some(true)),
            (Some("8"), Some(true)),
            (Some("3"), Some(false)),
            (Some("12"), Some(false)),
            (None, Some(true)),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(status) = status {
                headers.insert("grpc-status", status.parse().expect("a value"));
            }
            let found = judge(&headers).err().map(|it| it.again);
            assert_eq!(found, expected, "{status:?}");
        }
    }

    #[test]
    fn a_message_has_its_length_before_it() {
        assert_eq!(framed(b"abc"), &b"\0\0\0\0\x03abc"[..]);
    }
}
