//! How the CA is spoken to: instant-acme's messages over our own HTTP client.
//!
//! Ours because it sets a deadline, says who is asking, keeps what a failed answer said beside its JSON
//! (status, `Retry-After`), and sends nothing once another replica leads.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderValue, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};

use crate::lease::Leadership;

/// Longest wait for an answer, body included (certmagic's is 2 minutes, Traefik's 30 s).
const PATIENCE: Duration = Duration::from_secs(30);
/// Largest answer that is read, in bytes: a certificate chain has some ten thousand.
const LARGEST: usize = 1 << 20;

/// What the last failed answer said beside its body.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Said {
    /// `Retry-After`, where it gives seconds.
    pub(super) wait: Option<Duration>,
}

/// A client for one directory; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct AcmeClient {
    http: Client<HttpsConnector<HttpConnector>, BodyWrapper<Bytes>>,
    leadership: Leadership,
    said: Arc<Mutex<Said>>,
}

/// What we could not send or take.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unheard {
    #[error("no answer within {} s", PATIENCE.as_secs())]
    Slow,
    #[error("status {0} without an ACME problem")]
    Status(u16),
    #[error("{0}")]
    Broken(String),
    #[error("another replica leads by now")]
    Deposed,
}

impl AcmeClient {
    /// A client that trusts the system's CAs, or only those in `trust` (PEM).
    pub(super) fn new(trust: Option<&[u8]>, leadership: Leadership) -> anyhow::Result<Self> {
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
        Ok(Self { http, leadership, said: Arc::default() })
    }

    /// What the last failed answer said beside its body.
    pub(super) fn said(&self) -> Said {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn exchange(
        self,
        mut request: Request<BodyWrapper<Bytes>>,
    ) -> Result<BytesResponse, Unheard> {
        if !self.leadership.holds() {
            return Err(Unheard::Deposed);
        }
        let agent = concat!("lockgate/", env!("CARGO_PKG_VERSION"), " instant-acme");
        request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(agent));
        let head = request.method() == http::Method::HEAD;
        let broken = |it: &dyn std::error::Error| Unheard::Broken(chain(it));
        let answer = self.http.request(request).await.map_err(|it| broken(&it))?;
        let (head_of, body) = answer.into_parts();
        let body = Limited::new(body, LARGEST).collect().await.map_err(|it| broken(&*it))?;
        let status = head_of.status;
        if status.is_client_error() || status.is_server_error() {
            let wait = head_of.headers.get(RETRY_AFTER).and_then(|it| it.to_str().ok());
            let wait = wait.and_then(|it| it.trim().parse().ok()).map(Duration::from_secs);
            *self.said.lock().unwrap_or_else(PoisonError::into_inner) = Said { wait };
            let json = head_of.headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok());
            if head || !json.is_some_and(|it| it.contains("json")) {
                return Err(Unheard::Status(status.as_u16()));
            }
        }
        let answer = http::Response::from_parts(head_of, Full::new(body.to_bytes()));
        Ok(BytesResponse::from(answer))
    }
}

impl HttpClient for AcmeClient {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let exchange = self.clone().exchange(request);
        Box::pin(async move {
            match tokio::time::timeout(PATIENCE, exchange).await {
                Ok(Ok(answer)) => Ok(answer),
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
