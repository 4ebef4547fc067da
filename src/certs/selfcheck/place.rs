//! Where a host and its redirects say to ask, and one request there.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{HOST, USER_AGENT};
use http::uri::Scheme;
use http::{Request, Response, Uri};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::PATIENCE;
use super::verdict::Answer;
use crate::live::verify::AnyServer;

/// What is asked for next.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Place {
    pub(super) secure: bool,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) path: String,
}

impl Place {
    /// Asks there, at this address, for the answer.
    pub(super) async fn request(&self, address: IpAddr) -> Result<Response<Incoming>, Answer> {
        let stream = TcpStream::connect((address, self.port)).await.map_err(|error| {
            use std::io::ErrorKind::{AddrNotAvailable, NetworkUnreachable};
            match error.kind() {
                // Most clusters have no IPv6.
                NetworkUnreachable | AddrNotAvailable => Answer::NoWay,
                std::io::ErrorKind::ConnectionRefused => {
                    Answer::Nothing("refuses the connection".to_owned())
                }
                _ => Answer::Nothing(format!("cannot be connected to ({error})")),
            }
        })?;
        if !self.secure {
            return self.send(stream).await;
        }
        let name = ServerName::try_from(self.host.clone())
            .map_err(|_| Answer::Other("redirects to no valid name".to_owned()))?;
        let connector = TlsConnector::from(trusting()?);
        let stream = connector.connect(name, stream).await;
        let failed = |_| Answer::Nothing("redirects to HTTPS, which fails".to_owned());
        self.send(stream.map_err(failed)?).await
    }

    async fn send<S>(&self, stream: S) -> Result<Response<Incoming>, Answer>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let broken = |_: hyper::Error| Answer::Nothing("breaks the connection off".to_owned());
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Ends with the sender and the answer, which this function's caller drops.
        tokio::spawn(async move { drop(timeout_at(Instant::now() + PATIENCE, connection).await) });
        let agent = concat!("lockgate/", env!("CARGO_PKG_VERSION"), " self-check");
        let request = Request::get(&self.path)
            .header(HOST, self.authority())
            .header(USER_AGENT, agent)
            .body(Empty::<bytes::Bytes>::new())
            .map_err(|_| Answer::Other("redirects to nowhere".to_owned()))?;
        sender.send_request(request).await.map_err(broken)
    }

    fn authority(&self) -> String {
        let host = match self.host.parse::<IpAddr>() {
            Ok(IpAddr::V6(it)) => format!("[{it}]"),
            _ => self.host.clone(),
        };
        let usual = if self.secure { 443 } else { 80 };
        if self.port == usual { host } else { format!("{host}:{}", self.port) }
    }

    /// Where a `Location` leads from here: RFC 9110 section 10.2.2; `None` for what cannot be followed.
    pub(super) fn follow(&self, location: &str) -> Option<Self> {
        let location = location.split('#').next()?;
        if location.starts_with('/') && !location.starts_with("//") {
            return Some(Self { path: location.to_owned(), ..self.clone() });
        }
        let full = match location.strip_prefix("//") {
            Some(rest) => {
                format!("{}://{rest}", if self.secure { Scheme::HTTPS } else { Scheme::HTTP })
            }
            None => location.to_owned(),
        };
        let uri: Uri = full.parse().ok()?;
        let secure = match uri.scheme_str()? {
            "http" => false,
            "https" => true,
            _ => return None,
        };
        let host = uri.host()?.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let path = uri.path_and_query().map_or("/", |it| it.as_str()).to_owned();
        Some(Self { secure, host, port, path })
    }
}

/// Whether an address is one of the world's (RFC 6890): what is asked for at others is never a tenant's
/// choice.
pub(super) fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(it) => {
            let [a, b, c, _] = it.octets();
            // RFC 6598: shared by providers, and by clusters.
            let shared = a == 100 && b & 0xc0 == 64;
            // What protocols and benchmarks have for themselves, and what was never given out.
            let special = a == 0 || (a, b, c) == (192, 0, 0) || (a == 198 && b & 0xfe == 18);
            !(shared
                || special
                || a >= 240
                || it.is_private()
                || it.is_loopback()
                || it.is_link_local()
                || it.is_multicast())
        }
        IpAddr::V6(it) => {
            let segments = it.segments();
            // RFC 6052 and 8215: IPv4, anybody's. RFC 3879: private to sites, once.
            let four = segments[..2] == [0x64, 0xff9b] || segments[..6] == [0; 6];
            let site = segments[0] & 0xffc0 == 0xfec0;
            !(four
                || site
                || it.is_unique_local()
                || it.is_unicast_link_local()
                || it.is_multicast())
        }
    }
}

/// TLS that takes any certificate, as CAs do while they validate: there may be none yet.
fn trusting() -> Result<Arc<ClientConfig>, Answer> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let anybody = AnyServer::unproven(&provider);
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| Answer::NoWay)?
        .dangerous()
        .with_custom_certificate_verifier(anybody)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn r_pre_3_addresses_of_the_world_are_told_from_ours() {
        for (address, expected) in [
            ("203.0.113.7", true),
            ("2a00:1450::1", true),
            ("10.1.2.3", false),
            ("100.64.0.1", false),
            ("100.128.0.1", true),
            ("169.254.169.254", false),
            ("127.0.0.1", false),
            ("0.0.0.0", false),
            ("0.1.2.3", false),
            ("192.0.0.8", false),
            ("192.0.1.1", true),
            ("198.18.0.1", false),
            ("198.19.255.255", false),
            ("198.20.0.1", true),
            ("239.1.1.1", false),
            ("240.10.0.5", false),
            ("255.255.255.255", false),
            ("64:ff9b::a00:1", false),
            ("64:ff9b:1::a00:1", false),
            ("64:ff9c::1", true),
            ("::10.0.0.1", false),
            ("::", false),
            ("fec0::1", false),
            ("feff::1", false),
            ("ff02::1", false),
            ("::1", false),
            ("::ffff:10.0.0.1", false),
            ("fd00::1", false),
            ("fe80::1", false),
        ] {
            let parsed = address.parse().expect("an address");
            assert_eq!(is_public(parsed), expected, "{address}");
        }
    }

    #[test]
    fn r_pre_3_a_location_is_followed_from_where_it_was_given() {
        let here = Place { secure: false, host: "a.test".into(), port: 80, path: "/x".into() };
        for (location, expected) in [
            ("/y?z#part", Some("http a.test:80 /y?z")),
            ("https://b.test/y", Some("https b.test:443 /y")),
            ("//b.test:8080/y", Some("http b.test:8080 /y")),
            ("http://[2001:db8::1]/", Some("http 2001:db8::1:80 /")),
            ("ftp://b.test/", None),
            ("y", None),
            ("", None),
        ] {
            let place = here.follow(location);
            let scheme = |it: &Place| if it.secure { "https" } else { "http" };
            let text =
                place.map(|it| format!("{} {}:{} {}", scheme(&it), it.host, it.port, it.path));
            assert_eq!(text.as_deref(), expected, "{location}");
        }
    }
}
