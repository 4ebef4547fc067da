//! How the CA is spoken to: instant-acme's messages over our own HTTP client.
//!
//! Ours because it sets a deadline, says who is asking, keeps what a failed answer said beside its JSON
//! (status, `Retry-After`), tells a page of HTML from a refusal, compares the CA's clock with ours, and
//! sends nothing once another replica leads.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, DATE, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient, Problem};
use jiff::Timestamp;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use super::meter::Meter;
use crate::lease::Leadership;

/// Longest wait for an answer, body included (certmagic's is 2 minutes, Traefik's 30 s).
const PATIENCE: Duration = Duration::from_secs(30);
/// Largest answer that is read, in bytes: a certificate chain has some ten thousand.
const LARGEST: usize = 1 << 20;

/// The skew before the CA first answered.
const NEVER: i64 = i64::MIN;

/// A client for one directory; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct AcmeClient {
    http: Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>,
    leadership: Leadership,
    wall: fn() -> Timestamp,
    /// Seconds by which our clock is ahead of the CA's, by its last answer.
    skew: Arc<AtomicI64>,
    /// Whether a problem is an answer like any other.
    frank: bool,
    meter: Option<Meter>,
}

/// What we could not send or take.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unheard {
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Slow,
    /// An answer of 400 and above that is no ACME problem, and `Retry-After` in seconds.
    #[error("status {0} without an ACME problem")]
    Status(u16, Option<i64>),
    #[error("{0}")]
    Broken(String),
    #[error("another replica leads by now")]
    Deposed,
    /// The CA said no, in its own words.
    #[error("{}", .0.problem)]
    Refused(Box<Refusal>),
}

/// An ACME problem with what the answer said beside it, which instant-acme drops.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) problem: Problem,
    pub(super) status: u16,
    /// `Retry-After`, in seconds.
    pub(super) wait: Option<i64>,
}

/// An answer to a plain GET.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) body: Bytes,
    /// `Retry-After`, in seconds.
    pub(super) wait: Option<i64>,
}

impl AcmeClient {
    /// A client that trusts the system's CAs, or only those in `trust` (PEM).
    pub(super) fn new(
        trust: Option<&[u8]>,
        leadership: Leadership,
        wall: fn() -> Timestamp,
    ) -> anyhow::Result<Self> {
        let builder = HttpsConnectorBuilder::new();
        let builder = match trust {
            None => builder.try_with_platform_verifier()?,
            Some(pem) => {
                let mut roots = RootCertStore::empty();
                for certificate in CertificateDer::pem_slice_iter(pem) {
                    roots.add(certificate?)?;
                }
                let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
                let config = ClientConfig::builder_with_provider(provider)
                    .with_safe_default_protocol_versions()?
                    .with_root_certificates(roots)
                    .with_no_client_auth();
                builder.with_tls_config(config)
            }
        };
        let connector = builder.https_only().enable_http1().enable_http2().build();
        let http = Client::builder(TokioExecutor::new()).build(connector);
        let skew = Arc::new(AtomicI64::new(NEVER));
        Ok(Self { http, leadership, wall, skew, frank: false, meter: None })
    }

    /// The same, with its requests counted.
    pub(super) fn measured(self, meter: Meter) -> Self {
        Self { meter: Some(meter), ..self }
    }

    /// Where its requests are counted, if they are.
    pub(super) fn meter(&self) -> Option<&Meter> {
        self.meter.as_ref()
    }

    /// The same, for callers that read problems themselves.
    pub(super) fn frank(&self) -> Self {
        Self { frank: true, ..self.clone() }
    }

    /// Seconds by which our clock is ahead of the CA's; nothing before it first answered.
    pub(super) fn skew(&self) -> Option<i64> {
        Some(self.skew.load(Ordering::Relaxed)).filter(|it| *it != NEVER)
    }

    /// Asks for something that needs no signature.
    pub(super) async fn get(&self, url: &str) -> Result<Answer, Unheard> {
        let request = Request::builder().uri(url).body(BodyWrapper::default());
        let request = request.map_err(|it| Unheard::Broken(it.to_string()))?;
        let exchange = self.clone().exchange(request);
        let (head, body) =
            tokio::time::timeout(PATIENCE, exchange).await.unwrap_or(Err(Unheard::Slow))?;
        Ok(Answer { body, wait: self.wait(&head.headers) })
    }

    /// One request and its answer; what is 400 and above is an error, except a nonce that instant-acme
    /// asks for again by itself.
    async fn exchange(
        self,
        mut request: Request<BodyWrapper<Bytes>>,
    ) -> Result<(http::response::Parts, Bytes), Unheard> {
        if !self.leadership.holds() {
            return Err(Unheard::Deposed);
        }
        let agent = concat!("lockgate/", env!("CARGO_PKG_VERSION"), " instant-acme");
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(agent));
        let broken = |it: &dyn std::error::Error| Unheard::Broken(chain(it));
        let mut asked = self.meter().map(|it| it.begin(request.method(), request.uri()));
        let answer = self.send(request).await.map_err(|it| broken(&it))?;
        let (head, body) = answer.into_parts();
        let body = Limited::new(body, LARGEST).collect().await.map_err(|it| broken(&*it))?;
        let body = body.to_bytes();
        self.note_date(&head.headers);
        let status = head.status;
        if let Some(asked) = &mut asked {
            asked.status = status.as_u16();
        }
        if !(status.is_client_error() || status.is_server_error()) {
            return Ok((head, body));
        }
        let wait = self.wait(&head.headers);
        let json = head.headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok());
        let problem = json
            .filter(|it| it.contains("json"))
            .and_then(|_| serde_json::from_slice::<Problem>(&body).ok());
        match problem {
            None => Err(Unheard::Status(status.as_u16(), wait)),
            Some(_) if self.frank => Ok((head, body)),
            Some(it) if it.r#type.as_deref().is_some_and(|it| it.ends_with(":badNonce")) => {
                Ok((head, body))
            }
            Some(problem) => {
                let status = status.as_u16();
                Err(Unheard::Refused(Box::new(Refusal { problem, status, wait })))
            }
        }
    }

    /// Sends a request. What changes nothing is sent once more where there was a connection and no answer: a CA
    /// ends idle ones when it likes, and a request may cross with that.
    async fn send(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Result<http::Response<Incoming>, hyper_util::client::legacy::Error> {
        let (head, body) = request.into_parts();
        let changes_nothing = matches!(head.method, Method::GET | Method::HEAD);
        let again = changes_nothing.then(|| head.clone());
        match (self.http.request(Request::from_parts(head, body)).await, again) {
            (Err(error), Some(head)) if !error.is_connect() && self.leadership.holds() => {
                self.http.request(Request::from_parts(head, BodyWrapper::default())).await
            }
            (answer, _) => answer,
        }
    }

    /// `Retry-After` in seconds from now: a number, or a date by the CA's clock (RFC 9110 section 10.2.3).
    fn wait(&self, headers: &HeaderMap) -> Option<i64> {
        let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
        if let Ok(seconds) = text.parse::<u32>() {
            return Some(i64::from(seconds));
        }
        let now = date(headers).unwrap_or_else(|| (self.wall)().as_second());
        Some((moment(text)? - now).max(0))
    }

    fn note_date(&self, headers: &HeaderMap) {
        if let Some(theirs) = date(headers) {
            self.skew.store((self.wall)().as_second() - theirs, Ordering::Relaxed);
        }
    }
}

fn date(headers: &HeaderMap) -> Option<i64> {
    moment(headers.get(DATE)?.to_str().ok()?)
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` in seconds since 1970.
fn moment(text: &str) -> Option<i64> {
    let parsed = jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text);
    parsed.ok().map(Timestamp::as_second)
}

impl HttpClient for AcmeClient {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let exchange = self.clone().exchange(request);
        Box::pin(async move {
            match tokio::time::timeout(PATIENCE, exchange).await {
                Ok(Ok((head, body))) => {
                    Ok(BytesResponse::from(http::Response::from_parts(head, Full::new(body))))
                }
                Ok(Err(error)) => Err(Error::Other(Box::new(error))),
                Err(_) => Err(Error::Other(Box::new(Unheard::Slow))),
            }
        })
    }
}

/// An error with all that caused it, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |it| it.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use rustls::ServerConfig;
    use rustls::pki_types::PrivatePkcs8KeyDer;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;

    /// A CA that ends its first connections, so many, when it was asked something, and answers on the next.
    async fn ending(times: usize) -> (String, AcmeClient) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a pair");
        let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into();
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("a configuration");
        let tls = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        tokio::spawn(async move {
            for number in 0.. {
                let (stream, _) = listener.accept().await.expect("a connection");
                let mut stream = tls.accept(stream).await.expect("a handshake");
                let _ = stream.read(&mut [0; 4096]).await.expect("a request");
                if number >= times {
                    let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                    stream.write_all(answer).await.expect("sent");
                }
                let _ = stream.shutdown().await;
            }
        });
        let trust = made.cert.pem();
        let client =
            AcmeClient::new(Some(trust.as_bytes()), Leadership::sole(), Timestamp::default);
        (format!("https://localhost:{port}/dir"), client.expect("a client"))
    }

    #[tokio::test]
    async fn r_bak_a_broken_connection_is_no_outage() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        for (times, heard) in [(0, true), (1, true), (2, false)] {
            let (url, client) = ending(times).await;
            let found = client.get(&url).await.map(|it| it.body);
            assert_eq!(found.is_ok_and(|it| it == "ok"), heard, "{times}");
        }
        // Whoever signs may have been understood: it is for the caller to find out.
        let (url, client) = ending(1).await;
        let post = Request::post(&url).body(BodyWrapper::from(Bytes::from("{}").to_vec()));
        assert!(client.exchange(post.expect("a request")).await.is_err());
    }

    #[test]
    fn r_bak_retry_after_is_a_number_or_a_date() {
        let wall = || Timestamp::from_second(784_111_777).unwrap_or_default();
        let client = AcmeClient::new(Some(b""), Leadership::sole(), wall).expect("a client");
        for (text, date, expected) in [
            ("7", None, Some(7)),
            (" 120 ", None, Some(120)),
            ("Sun, 06 Nov 1994 08:50:37 GMT", None, Some(60)),
            ("Sun, 06 Nov 1994 08:48:37 GMT", None, Some(0)),
            // By the CA's own clock, which is an hour behind.
            ("Sun, 06 Nov 1994 07:50:37 GMT", Some("Sun, 06 Nov 1994 07:49:37 GMT"), Some(60)),
            ("soon", None, None),
            ("-5", None, None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, text.parse().expect("a value"));
            if let Some(date) = date {
                headers.insert(DATE, date.parse().expect("a value"));
            }
            assert_eq!(client.wait(&headers), expected, "{text}");
        }
    }

    #[test]
    fn r_clk_the_cas_clock_is_compared_with_ours() {
        let wall = || Timestamp::from_second(784_111_777).unwrap_or_default();
        let client = AcmeClient::new(Some(b""), Leadership::sole(), wall).expect("a client");
        assert_eq!(client.skew(), None);
        let mut headers = HeaderMap::new();
        client.note_date(&headers);
        assert_eq!(client.skew(), None);
        headers.insert(DATE, HeaderValue::from_static("Sun, 06 Nov 1994 07:49:37 GMT"));
        client.note_date(&headers);
        assert_eq!(client.skew(), Some(3_600));
    }
}
