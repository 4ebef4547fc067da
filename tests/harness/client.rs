//! An HTTP client that goes where it is told, whatever the URL says.
//!
//! The URL's host is used for the server name and the `Host` field only; the connection goes to
//! 127.0.0.1 and the URL's port, or to [`Client::connect_to`].  One [`Connection`] is one TCP
//! connection: nothing is pooled, retried or redirected behind a test's back.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::header::{HOST, HeaderMap, HeaderName, HeaderValue, TRAILER, TRANSFER_ENCODING};
use hyper::{Method, Request, Response, Uri, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WantsClientCert};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CipherSuite, ClientConfig, ConfigBuilder, DigitallySignedStruct, RootCertStore,
    SignatureScheme, SupportedProtocolVersion,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::lockgate::Pair;

/// How connections are made; cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    tls: ClientConfig,
    to: Option<SocketAddr>,
    http2: bool,
    headers: HeaderMap,
    patience: Duration,
}

impl Client {
    /// Trusts nobody yet, speaks HTTP/1.1, gives each request 30 s.
    pub fn new() -> Self {
        Self {
            tls: trusting(RootCertStore::empty()),
            to: None,
            http2: false,
            headers: HeaderMap::new(),
            patience: Duration::from_secs(30),
        }
    }

    /// Trusts the certificates of `pem`, and no others.
    #[must_use]
    pub fn ca(self, pem: &str) -> Self {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
            roots.add(certificate.unwrap()).unwrap();
        }
        Self { tls: trusting(roots), ..self }
    }

    /// Takes any certificate.
    #[must_use]
    pub fn insecure(self) -> Self {
        Self { tls: any_certificate(), ..self }
    }

    /// Takes any certificate, and shows these when it is asked for one.
    #[must_use]
    pub fn showing(self, chain: &Pair) -> Self {
        Self { tls: any_certificate_of(Some(chain), rustls::ALL_VERSIONS), ..self }
    }

    /// Resumes no TLS session, so that every handshake shows a certificate.
    #[must_use]
    pub fn unresumed(mut self) -> Self {
        self.tls.resumption = Resumption::disabled();
        self
    }

    /// Connects to `addr` whatever the URL says.
    #[must_use]
    pub fn connect_to(self, addr: SocketAddr) -> Self {
        Self { to: Some(addr), ..self }
    }

    /// Speaks HTTP/2: by ALPN on `https`, with prior knowledge on `http`.
    #[must_use]
    pub fn http2(self) -> Self {
        Self { http2: true, ..self }
    }

    /// Sends this field with every request.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.append(field(name), text(value));
        self
    }

    /// Gives each connection and each request this long.
    #[must_use]
    pub fn timeout(self, patience: Duration) -> Self {
        Self { patience, ..self }
    }

    /// `GET url` on a connection of its own.
    pub async fn get(&self, url: &str) -> Result<Reply, ClientError> {
        self.request(Call::get(url)).await
    }

    /// Sends `call` on a connection of its own.
    pub async fn request(&self, call: Call) -> Result<Reply, ClientError> {
        let mut connection = self.connect(&call.url).await?;
        connection.send(call).await
    }

    /// Opens a connection for the scheme, host and port of `url`.
    pub async fn connect(&self, url: &str) -> Result<Connection, ClientError> {
        let url: Uri = url.parse().map_err(|error| ClientError::new(&error))?;
        let connection = timeout(self.patience, self.open(&url)).await;
        connection.map_err(|_| ClientError::late("connection", self.patience))?
    }

    async fn open(&self, url: &Uri) -> Result<Connection, ClientError> {
        let secure = url.scheme_str() == Some("https");
        let port = url.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let addr = self.to.unwrap_or(SocketAddr::from(([127, 0, 0, 1], port)));
        let tcp = TcpStream::connect(addr).await.map_err(|error| ClientError::new(&error))?;
        tcp.set_nodelay(true).map_err(|error| ClientError::new(&error))?;
        let (sender, certificates) = if secure {
            let mut tls = self.tls.clone();
            tls.alpn_protocols =
                vec![if self.http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
            let host = url.host().unwrap_or_default().to_owned();
            let name = ServerName::try_from(host).map_err(|error| ClientError::new(&error))?;
            let tls = TlsConnector::from(Arc::new(tls)).connect(name, tcp).await;
            let tls = tls.map_err(|error| ClientError::new(&error))?;
            let session = tls.get_ref().1;
            if self.http2 && session.alpn_protocol() != Some(b"h2") {
                return Err(ClientError::text("the server does not offer h2".to_owned()));
            }
            let certificates = session.peer_certificates().unwrap_or_default().to_vec();
            (self.handshake(tls).await?, certificates)
        } else {
            (self.handshake(tcp).await?, Vec::new())
        };
        let authority = url.authority().map(ToString::to_string).unwrap_or_default();
        let scheme = if secure { "https" } else { "http" };
        let (headers, patience) = (self.headers.clone(), self.patience);
        Ok(Connection { sender, scheme, authority, headers, patience, certificates })
    }

    async fn handshake<S>(&self, io: S) -> Result<Sender, ClientError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let io = TokioIo::new(io);
        if self.http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io)
                .await
                .map_err(|error| ClientError::hyper(&error))?;
            tokio::spawn(connection);
            return Ok(Sender::Http2(sender));
        }
        let (sender, connection) =
            http1::handshake(io).await.map_err(|error| ClientError::hyper(&error))?;
        tokio::spawn(connection);
        Ok(Sender::Http1(sender))
    }
}

/// A connection kept open; it ends when it is dropped.
pub struct Connection {
    sender: Sender,
    scheme: &'static str,
    authority: String,
    headers: HeaderMap,
    patience: Duration,
    certificates: Vec<CertificateDer<'static>>,
}

enum Sender {
    Http1(http1::SendRequest<BoxBody<Bytes, Infallible>>),
    Http2(http2::SendRequest<BoxBody<Bytes, Infallible>>),
}

impl Connection {
    /// `GET`; of a whole URL only path and query count, and its host when it has one.
    pub async fn get(&mut self, url: &str) -> Result<Reply, ClientError> {
        self.send(Call::get(url)).await
    }

    /// Sends `call` and reads the whole response.
    pub async fn send(&mut self, call: Call) -> Result<Reply, ClientError> {
        let exchanged = timeout(self.patience, self.exchange(call)).await;
        exchanged.map_err(|_| ClientError::late("response", self.patience))?
    }

    /// Sends `call` and gives the head of the response; its body is read as it comes.
    pub async fn begin(&mut self, call: Call) -> Result<Response<Incoming>, ClientError> {
        let begun = timeout(self.patience, self.respond(call)).await;
        begun.map_err(|_| ClientError::late("response", self.patience))?
    }

    /// Waits until the next request could be sent; `false` when the server has ended the
    /// connection.
    pub async fn ready(&mut self) -> bool {
        match &mut self.sender {
            Sender::Http1(sender) => sender.ready().await.is_ok(),
            Sender::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    pub fn is_http2(&self) -> bool {
        matches!(self.sender, Sender::Http2(_))
    }

    /// The server's certificate as DER; `None` without TLS.
    pub fn peer_certificate(&self) -> Option<&[u8]> {
        self.certificates.first().map(AsRef::as_ref)
    }

    /// The serial number of the server's certificate, as `0a:1b:…`.
    pub fn serial(&self) -> Option<String> {
        serial(self.peer_certificate()?)
    }

    /// The DNS names of the server's certificate.
    pub fn names(&self) -> Vec<String> {
        self.peer_certificate().map(names).unwrap_or_default()
    }

    async fn exchange(&mut self, call: Call) -> Result<Reply, ClientError> {
        Reply::read(self.respond(call).await?).await
    }

    async fn respond(&mut self, call: Call) -> Result<Response<Incoming>, ClientError> {
        let request = self.request(call)?;
        let response = match &mut self.sender {
            Sender::Http1(sender) => {
                sender.ready().await.map_err(|error| ClientError::hyper(&error))?;
                sender.send_request(request).await
            }
            Sender::Http2(sender) => {
                sender.ready().await.map_err(|error| ClientError::hyper(&error))?;
                sender.send_request(request).await
            }
        };
        response.map_err(|error| ClientError::hyper(&error))
    }

    fn request(&self, call: Call) -> Result<Request<BoxBody<Bytes, Infallible>>, ClientError> {
        let url: Uri = call.url.parse().map_err(|error| ClientError::new(&error))?;
        let path = url.path_and_query().map_or("/", |it| it.as_str());
        let authority = url.authority().map_or(self.authority.as_str(), |it| it.as_str());
        let mut headers = self.headers.clone();
        headers.extend(call.headers);
        let uri = match self.sender {
            Sender::Http1(_) => {
                if !headers.contains_key(HOST) {
                    headers.insert(HOST, text(authority));
                }
                if !call.sized {
                    headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
                }
                if !call.trailers.is_empty() && !headers.contains_key(TRAILER) {
                    let names: Vec<_> = call.trailers.keys().map(HeaderName::as_str).collect();
                    headers.insert(TRAILER, text(&names.join(", ")));
                }
                path.to_owned()
            }
            Sender::Http2(_) => format!("{}://{authority}{path}", self.scheme),
        };
        let body = if call.sized {
            Full::new(call.body.concat().into()).boxed()
        } else {
            let trailers = (!call.trailers.is_empty()).then(|| Frame::trailers(call.trailers));
            let frames = call.body.into_iter().map(Frame::data).chain(trailers);
            StreamBody::new(stream::iter(frames.map(Ok))).boxed()
        };
        let mut request = Request::builder().method(call.method).uri(uri).body(body);
        if let Ok(request) = &mut request {
            *request.headers_mut() = headers;
        }
        request.map_err(|error| ClientError::new(&error))
    }
}

/// A request to be sent.
#[derive(Clone, Debug)]
pub struct Call {
    method: Method,
    url: String,
    headers: HeaderMap,
    body: Vec<Bytes>,
    sized: bool,
    trailers: HeaderMap,
}

impl Call {
    pub fn new(method: &str, url: &str) -> Self {
        Self {
            method: method.parse().unwrap(),
            url: url.to_owned(),
            headers: HeaderMap::new(),
            body: Vec::new(),
            sized: true,
            trailers: HeaderMap::new(),
        }
    }

    pub fn get(url: &str) -> Self {
        Self::new("GET", url)
    }

    pub fn post(url: &str, body: impl Into<Bytes>) -> Self {
        Self::new("POST", url).body(body)
    }

    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.append(field(name), text(value));
        self
    }

    /// A body with a `Content-Length`.
    #[must_use]
    pub fn body(self, body: impl Into<Bytes>) -> Self {
        Self { body: vec![body.into()], ..self }
    }

    /// A body without `Content-Length`, sent in these pieces.
    #[must_use]
    pub fn chunks(self, chunks: &[&str]) -> Self {
        let body = chunks.iter().map(|it| Bytes::copy_from_slice(it.as_bytes())).collect();
        Self { body, sized: false, ..self }
    }

    /// A field after the body; the body goes without `Content-Length` then.
    #[must_use]
    pub fn trailer(mut self, name: &str, value: &str) -> Self {
        self.trailers.append(field(name), text(value));
        Self { sized: false, ..self }
    }
}

/// A whole response.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    pub version: Version,
    pub headers: HeaderMap,
    pub body: Bytes,
    pub trailers: HeaderMap,
}

impl Reply {
    async fn read(response: Response<Incoming>) -> Result<Self, ClientError> {
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| ClientError::hyper(&error))?;
        let trailers = body.trailers().cloned().unwrap_or_default();
        let (status, version, headers) = (head.status.as_u16(), head.version, head.headers);
        Ok(Self { status, version, headers, body: body.to_bytes(), trailers })
    }

    /// The first value of the field `name`.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|it| it.to_str().ok())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON; `null` when it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The name of the [`Backend`](super::backend::Backend) that answered.
    pub fn backend(&self) -> Option<String> {
        self.json()["backend"].as_str().map(str::to_owned)
    }

    /// What the backend was told in a field, by its echo; several values with commas.
    pub fn told(&self, name: &str) -> Option<String> {
        let echo = self.json();
        let fields = echo["headers"].as_array()?.iter().filter(|it| it[0] == name);
        let values: Vec<&str> = fields.filter_map(|it| it[1].as_str()).collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    /// The server ends the connection after this response.
    pub fn closes(&self) -> bool {
        self.header("connection").is_some_and(|it| it.eq_ignore_ascii_case("close"))
    }
}

/// Why there is no whole response.
#[derive(Clone, Debug)]
pub struct ClientError {
    text: String,
    unprocessed: bool,
}

impl ClientError {
    /// The server has certainly not acted on the request: it was never sent, or was refused by
    /// `RST_STREAM` or a GOAWAY without error.
    pub fn unprocessed(&self) -> bool {
        self.unprocessed
    }

    fn new(error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(error) = source {
            text = format!("{text}: {error}");
            source = error.source();
        }
        Self::text(text)
    }

    fn hyper(error: &hyper::Error) -> Self {
        let Self { text, .. } = Self::new(error);
        let refused = text.contains("refused stream") || text.contains("not a result of an error");
        Self { unprocessed: refused || error.is_canceled() || error.is_closed(), text }
    }

    fn late(what: &str, patience: Duration) -> Self {
        Self::text(format!("no {what} within {patience:?}"))
    }

    fn text(text: String) -> Self {
        Self { text, unprocessed: false }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for ClientError {}

/// The serial number in a certificate, as `0a:1b:…`.
pub fn serial(der: &[u8]) -> Option<String> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    Some(certificate.raw_serial_as_string())
}

/// The DNS names in a certificate.
pub fn names(der: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(der) else { return Vec::new() };
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let dns = names.value.general_names.iter().filter_map(|it| match it {
        x509_parser::extensions::GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    });
    dns.collect()
}

/// A TLS client that takes any certificate, and no ALPN yet.
pub fn any_certificate() -> ClientConfig {
    any_certificate_of(None, rustls::ALL_VERSIONS)
}

/// The same of these versions, which shows a certificate of its own, and those of its issuers behind it.
pub fn any_certificate_of(
    chain: Option<&Pair>,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    let config = taking_any(aws_lc_rs::default_provider(), versions);
    let Some(chain) = chain else { return config.with_no_client_auth() };
    let key = PemObject::from_pem_slice(chain.key.as_bytes()).unwrap();
    let key = aws_lc_rs::sign::any_supported_type(&key).unwrap();
    let chain = CertificateDer::pem_slice_iter(chain.certificate.as_bytes());
    // Whatever webpki would say of it.
    let shown = CertifiedKey::new(chain.map(Result::unwrap).collect(), key);
    config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown)))
}

/// One that offers a single suite of this version, and shows no certificate.
pub fn any_certificate_by(
    suite: CipherSuite,
    version: &'static SupportedProtocolVersion,
) -> ClientConfig {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.retain(|it| it.suite() == suite);
    taking_any(provider, &[version]).with_no_client_auth()
}

fn taking_any(
    provider: CryptoProvider,
    versions: &[&'static SupportedProtocolVersion],
) -> ConfigBuilder<ClientConfig, WantsClientCert> {
    let provider = Arc::new(provider);
    let verifier = Arc::new(AnyCertificate(Arc::clone(&provider)));
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions);
    config.unwrap().dangerous().with_custom_certificate_verifier(verifier)
}

fn trusting(roots: RootCertStore) -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    config.unwrap().with_root_certificates(roots).with_no_client_auth()
}

fn field(name: &str) -> HeaderName {
    name.parse().unwrap_or_else(|error| panic!("field name {name:?}: {error}"))
}

fn text(value: &str) -> HeaderValue {
    value.parse().unwrap_or_else(|error| panic!("field value {value:?}: {error}"))
}

/// Checks signatures, but not whom the certificate is for or who issued it.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

mod checks {
    use hyper::service::service_fn;
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    use super::*;
    use crate::harness::lockgate::{Pair, pair};
    use crate::harness::raw::{Raw, RawH2};

    /// An HTTP/2 server behind TLS that answers with the status its path names.
    async fn server(pair: &Pair) -> SocketAddr {
        let certificate = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap();
        let key = PemObject::from_pem_slice(pair.key.as_bytes()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let mut config = config.with_single_cert(vec![certificate], key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let acceptor = TlsAcceptor::from(Arc::new(config));
            while let Ok((tcp, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else { return };
                    let service = service_fn(async |request: Request<Incoming>| {
                        let status: u16 = request.uri().path()[1..].parse().unwrap();
                        let body = format!("{:?}", request.uri());
                        Response::builder().status(status).body(Full::<Bytes>::from(body))
                    });
                    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    let _ended = server.serve_connection(TokioIo::new(tls), service).await;
                });
            }
        });
        addr
    }

    #[tokio::test]
    async fn names_are_verified_and_addresses_are_not() {
        let pair = pair(&["a.test"]);
        let client = Client::new().ca(&pair.certificate).http2().connect_to(server(&pair).await);
        let mut connection = client.connect("https://a.test:1/").await.unwrap();
        let reply = connection.get("/201").await.unwrap();
        assert_eq!((reply.status, reply.text()), (201, "https://a.test:1/201".to_owned()));
        assert_eq!(
            connection.get("https://b.test/202").await.unwrap().text(),
            "https://b.test/202"
        );
        assert_eq!(connection.names(), ["a.test"]);
        assert!(connection.serial().is_some_and(|it| it.contains(':')));
        assert!(client.get("https://b.test/200").await.is_err());
        assert!(Client::new().http2().get("https://a.test/200").await.is_err());
        assert!(client.insecure().get("https://b.test/200").await.is_ok());
    }

    #[tokio::test]
    async fn raw_frames_are_answered() {
        let addr = server(&pair(&["a.test"])).await;
        let raw = Raw::tls(addr, "a.test", &["h2"]).await.unwrap();
        assert_eq!(raw.alpn(), Some("h2"));
        let mut h2 = RawH2::start(raw).await;
        for (stream, status) in [(1, 200), (3, 404), (5, 421), (7, 508), (9, 417)] {
            let path = format!("/{status}");
            let fields =
                [(":method", "GET"), (":scheme", "https"), (":authority", "a"), (":path", &*path)];
            let reply = h2.request(stream, &fields).await;
            assert_eq!((reply.status, reply.ended), (Some(status), true), "{reply:?}");
            assert_eq!(reply.body, format!("https://a{path}").as_bytes());
        }
        let reply = h2.request(11, &[(":method", "GET"), ("connection", "close")]).await;
        assert!(reply.refused() && reply.status.is_none() && !reply.ended, "{reply:?}");
    }
}
