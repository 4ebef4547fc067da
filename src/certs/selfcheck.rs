//! What the CA will see of a host, looked at from here first.
//!
//! A challenge that nobody can pass costs one of the few failures a CA allows in an hour, so each host is
//! asked beforehand for the answer to a made-up token. What is seen is advice: from inside a cluster
//! the world may look different (hairpin NAT, split DNS), and the CA has the last word.
//!
//! The names are what tenants write. Nothing but the ports of HTTP and HTTPS is connected to, inside this
//! network nothing but the challenge itself is asked for, wherever a redirect leads, a kilobyte is read at
//! most, and nobody learns of it more than its status and whether it is ours.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::header::{HOST, LOCATION, USER_AGENT};
use http::uri::Scheme;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::TlsConnector;

use super::dns::{Resolver, Unresolved};

/// Longest look at a host, DNS included.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most redirects that are followed, as Boulder.
const REDIRECTS: u32 = 10;
/// Largest answer that is read, in bytes; the right one has some 80.
const LARGEST: usize = 1024;
/// Where challenges are asked for; RFC 8555 section 8.3.
const PATH: &str = "/.well-known/acme-challenge/";

/// What was seen of a host.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Seen {
    /// Our answer.
    Ok,
    /// Somebody else's answer.
    Foreign,
    /// The name has no address.
    NoDns,
    /// Nobody answers at its address.
    Unreachable,
    /// Our answer over IPv4 or over IPv6, but not over both.
    PartlyIpv6,
    /// It cannot be told from here.
    Inconclusive,
}

impl Seen {
    /// One word, as it stands in JSON and Events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "Ok",
            Self::Foreign => "Foreign",
            Self::NoDns => "NoDNS",
            Self::Unreachable => "Unreachable",
            Self::PartlyIpv6 => "PartlyIPv6",
            Self::Inconclusive => "Inconclusive",
        }
    }
}

/// What was seen of a host, and what to do about it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Look {
    /// In a word.
    pub seen: Seen,
    /// In a sentence for people.
    pub text: String,
    /// Where the name points.
    pub addresses: Vec<IpAddr>,
}

/// Looks at `host` as a CA would, by the system's resolver: one address of each family, at `port`.
///
/// The right answer is `token.thumbprint`. Takes 10 s at most.
pub async fn look(host: &str, port: u16, thumbprint: &str) -> Look {
    look_by(&Resolver::System, host, port, thumbprint).await
}

/// Looks at `host` with addresses of this resolver's.
pub async fn look_by(resolver: &Resolver, host: &str, port: u16, thumbprint: &str) -> Look {
    let sight = Sight { resolver, host, port, thumbprint, deadline: Instant::now() + PATIENCE };
    let addresses = match sight.resolve(host).await {
        Ok(addresses) => addresses,
        Err(look) => return look,
    };
    let four = addresses.iter().copied().find(IpAddr::is_ipv4);
    let six = addresses.iter().copied().find(IpAddr::is_ipv6);
    let (four, six) = tokio::join!(sight.at(four), sight.at(six));
    let (seen, text) = judge(host, port, four, six);
    Look { seen, text, addresses }
}

/// Looks at one address of `host`.
pub async fn look_at(
    resolver: &Resolver,
    host: &str,
    address: IpAddr,
    port: u16,
    thumbprint: &str,
) -> Look {
    let sight = Sight { resolver, host, port, thumbprint, deadline: Instant::now() + PATIENCE };
    let view = sight.at(Some(address)).await;
    let (four, six) = if address.is_ipv4() { (view, None) } else { (None, view) };
    let (seen, text) = judge(host, port, four, six);
    Look { seen, text, addresses: vec![address] }
}

/// What one address gave.
#[derive(Clone, Debug, Eq, PartialEq)]
struct View {
    address: IpAddr,
    answer: Answer,
}

#[derive(Clone, Debug, Eq, PartialEq)]
enum Answer {
    Ours,
    /// Something came that is not the answer.
    Other(String),
    /// Nothing came.
    Nothing(String),
    /// We have no way there.
    NoWay,
}

/// Puts what was seen over both families into one word and one sentence.
fn judge(host: &str, port: u16, four: Option<View>, six: Option<View>) -> (Seen, String) {
    match (four, six) {
        (Some(one), None) | (None, Some(one)) => alone(host, port, &one),
        (Some(four), Some(six)) => {
            let (first, second) = (alone(host, port, &four), alone(host, port, &six));
            match (&four.answer, &six.answer) {
                (Answer::Ours, Answer::Ours | Answer::NoWay) | (_, Answer::NoWay) => first,
                (Answer::NoWay, _) | (Answer::Nothing(_), Answer::Other(_)) => second,
                (Answer::Ours, _) => {
                    let text = "correct or remove its AAAA record";
                    let other = described(port, &six);
                    let ours = four.address;
                    (Seen::PartlyIpv6, format!("{host} is right at {ours}, but {other}: {text}"))
                }
                (_, Answer::Ours) => {
                    let text = "correct or remove its A record";
                    let other = described(port, &four);
                    let ours = six.address;
                    (Seen::PartlyIpv6, format!("{host} is right at {ours}, but {other}: {text}"))
                }
                _ => first,
            }
        }
        (None, None) => (Seen::NoDns, no_address(host)),
    }
}

fn alone(host: &str, port: u16, view: &View) -> (Seen, String) {
    let what = described(port, view);
    match view.answer {
        Answer::Ours => (Seen::Ok, format!("{host} points here: {what}")),
        Answer::Other(_) => (
            Seen::Foreign,
            format!(
                "{host} is answered by something else: {what}: point its DNS record to this proxy, or \
                 pass {PATH} on to it unchanged"
            ),
        ),
        Answer::Nothing(_) => (
            Seen::Unreachable,
            format!(
                "{host} cannot be reached: {what}: open port {port} there to everybody, or point the DNS \
                 record to this proxy"
            ),
        ),
        Answer::NoWay => (
            Seen::Inconclusive,
            format!("{host} cannot be judged from here: {what}; the CA will see for itself"),
        ),
    }
}

fn described(port: u16, View { address, answer }: &View) -> String {
    let at = SocketAddr::new(*address, port);
    match answer {
        Answer::Ours => format!("{at} gives our answer"),
        Answer::Other(text) | Answer::Nothing(text) => format!("{at} {text}"),
        Answer::NoWay => format!("there is no way from here to {at}"),
    }
}

fn no_address(host: &str) -> String {
    format!("{host} has no address in DNS: add an A or AAAA record that points to this proxy")
}

/// One look: at whom, until when.
struct Sight<'a> {
    resolver: &'a Resolver,
    host: &'a str,
    port: u16,
    thumbprint: &'a str,
    deadline: Instant,
}

impl Sight<'_> {
    /// The addresses of a name; what to say where it has none.
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, Look> {
        let of = |seen, text| Look { seen, text, addresses: Vec::new() };
        match timeout_at(self.deadline, self.resolver.addresses(host)).await {
            Ok(Ok(addresses)) if !addresses.is_empty() => Ok(addresses),
            Ok(Ok(_)) => Err(of(Seen::NoDns, no_address(host))),
            Ok(Err(Unresolved::Failing)) => Err(of(
                Seen::NoDns,
                format!("DNS fails for {host} (SERVFAIL): repair its zone, DNSSEC included"),
            )),
            Ok(Err(Unresolved::Silent(text))) => {
                let text = format!("the resolver here cannot say where {host} points: {text}");
                Err(of(Seen::Inconclusive, text))
            }
            Err(_) => {
                let text = format!("the resolver here does not say in time where {host} points");
                Err(of(Seen::Inconclusive, text))
            }
        }
    }

    async fn at(&self, address: Option<IpAddr>) -> Option<View> {
        let address = address?;
        let answer = match timeout_at(self.deadline, self.ask(address)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(broken)) => broken,
            Err(_) => Answer::Nothing("does not answer in time".to_owned()),
        };
        Some(View { address, answer })
    }

    /// Asks for the answer to a made-up token, and follows where that leads.
    async fn ask(&self, address: IpAddr) -> Result<Answer, Answer> {
        let token = token();
        let challenge = format!("{PATH}{token}");
        let mut place = Place {
            secure: false,
            host: self.host.to_owned(),
            port: self.port,
            path: challenge.clone(),
        };
        let mut address = address;
        for followed in 0..=REDIRECTS {
            let after = match followed {
                0 => String::new(),
                1 => " after a redirect".to_owned(),
                count => format!(" after {count} redirects"),
            };
            let other = |text: String| Answer::Other(format!("{text}{after}"));
            let response = match place.request(address).await {
                Ok(response) => response,
                // Whoever redirects has answered.
                Err(Answer::Nothing(text)) if followed > 0 => return Ok(other(text)),
                Err(broken) => return Err(broken),
            };
            let status = response.status().as_u16();
            if matches!(status, 301 | 302 | 307 | 308) {
                let location = response.headers().get(LOCATION).and_then(|it| it.to_str().ok());
                let Some(next) = location.and_then(|it| place.follow(it)) else {
                    return Ok(other("redirects to nowhere".to_owned()));
                };
                if ![80, 443, self.port].contains(&next.port) {
                    return Ok(other(format!("redirects to port {}, not 80 or 443", next.port)));
                }
                if next.host != place.host {
                    let found = self.resolve(&next.host).await;
                    let found =
                        found.map_err(|_| other("redirects to a name without address".into()))?;
                    let same = found.iter().find(|it| it.is_ipv4() == address.is_ipv4());
                    let Some(it) = same.or(found.first()) else {
                        return Ok(other("redirects to a name without address".into()));
                    };
                    address = *it;
                }
                // A path may say one thing and come to another: `..`, `%2e`, a query.
                if !is_public(address) && next.path != challenge {
                    return Ok(other("redirects to another path inside this network".into()));
                }
                place = next;
                continue;
            }
            if status != 200 {
                return Ok(other(format!("answers with status {status}")));
            }
            let body = Limited::new(response.into_body(), LARGEST).collect().await;
            let Ok(body) = body else { return Ok(other("answers with something long".into())) };
            let body = body.to_bytes();
            let body = body.trim_ascii_end();
            let start = format!("{token}.");
            return Ok(match body.strip_prefix(start.as_bytes()) {
                Some(rest) if rest == self.thumbprint.as_bytes() => Answer::Ours,
                Some(_) => other("answers for another ACME account".into()),
                None => other("answers with something else".into()),
            });
        }
        Ok(Answer::Other(format!("redirects more than {REDIRECTS} times")))
    }
}

/// What is asked for next.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Place {
    secure: bool,
    host: String,
    port: u16,
    path: String,
}

impl Place {
    async fn request(&self, address: IpAddr) -> Result<Response<Incoming>, Answer> {
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
    fn follow(&self, location: &str) -> Option<Self> {
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
fn is_public(address: IpAddr) -> bool {
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

/// 32 characters of RFC 8555's token alphabet.
fn token() -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let random: [u8; 32] = rand::random();
    random.iter().map(|it| char::from(ALPHABET[usize::from(it & 63)])).collect()
}

/// TLS that takes any certificate, as CAs do while they validate: there may be none yet.
fn trusting() -> Result<Arc<ClientConfig>, Answer> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|_| Answer::NoWay)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(schemes)))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Believes everybody.
#[derive(Debug)]
struct Anybody(Vec<SignatureScheme>);

impl ServerCertVerifier for Anybody {
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
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    const OURS: &str = "thumbprint-of-ours";

    /// Answers every request with what `reply` makes of its path, for as long as the test runs.
    async fn server(reply: impl Fn(&str) -> String + Send + Sync + 'static) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                serve(stream, &reply).await;
            }
        });
        address
    }

    /// Answers one request.
    async fn serve(
        mut stream: impl AsyncRead + AsyncWrite + Unpin,
        reply: impl Fn(&str) -> String,
    ) {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let Ok(byte) = stream.read_u8().await else { break };
            head.push(byte);
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        let path = head.split(' ').nth(1).unwrap_or_default();
        let _ = stream.write_all(reply(path).as_bytes()).await;
        let _ = stream.shutdown().await;
    }

    fn reply(status: u16, headers: &str, body: &str) -> String {
        let length = body.len();
        format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n{headers}\r\n{body}")
    }

    fn answer(path: &str, thumbprint: &str) -> String {
        let token = path.rsplit('/').next().unwrap_or_default();
        assert_eq!(token.len(), 32, "{path}");
        reply(200, "", &format!("{token}.{thumbprint}\n"))
    }

    async fn seen(reply: impl Fn(&str) -> String + Send + Sync + 'static) -> Look {
        let address = server(reply).await;
        look("127.0.0.1", address.port(), OURS).await
    }

    #[tokio::test]
    async fn r_pre_3_each_answer_is_told_apart() {
        let ours = seen(|path| answer(path, OURS)).await;
        assert_eq!(ours.seen, Seen::Ok, "{}", ours.text);
        assert_eq!(ours.addresses, ["127.0.0.1".parse::<IpAddr>().expect("an address")]);

        let first = AtomicBool::new(true);
        let hop = move |path: &str| {
            if first.swap(false, Ordering::Relaxed) {
                return reply(302, &format!("location: {path}\r\n"), "");
            }
            answer(path, OURS)
        };
        let redirected = seen(hop).await;
        assert_eq!(redirected.seen, Seen::Ok, "{}", redirected.text);

        for (what, look, part) in [
            ("status", seen(|_| reply(404, "", "")).await, "status 404"),
            ("body", seen(|_| reply(200, "", "secret of somebody")).await, "something else"),
            ("account", seen(|path| answer(path, "other")).await, "another ACME account"),
            ("long", seen(|_| reply(200, "", &"x".repeat(2000))).await, "long"),
            (
                "loop",
                seen(|path| reply(301, &format!("location: {path}\r\n"), "")).await,
                "more than 10",
            ),
            // A tenant's server must not choose what is asked of somebody else's.
            (
                "inside",
                seen(|path| match path {
                    "/delete" => panic!("asked for"),
                    _ => reply(301, "location: /delete\r\n", ""),
                })
                .await,
                "inside this network",
            ),
            (
                "port",
                seen(|_| reply(301, "location: http://127.0.0.1:22/\r\n", "")).await,
                "port 22",
            ),
            ("nowhere", seen(|_| reply(301, "location: ftp://a/\r\n", "")).await, "nowhere"),
        ] {
            assert_eq!(look.seen, Seen::Foreign, "{what}: {}", look.text);
            assert!(look.text.contains(part), "{what}: {}", look.text);
            assert!(!look.text.contains("secret"), "{what}: {}", look.text);
        }
        let silent = seen(|_| String::new()).await;
        assert_eq!(silent.seen, Seen::Unreachable, "{}", silent.text);
    }

    /// Inside this network a redirect chooses nothing of what is asked for.
    #[tokio::test]
    async fn r_pre_3_no_detour_leads_to_another_path_inside_this_network() {
        for detour in
            ["/../../latest", "/%2e%2e/x", "/..;/x", "?restart=1", "?", "x", "/", "/../y?z", "%20"]
        {
            let asked = Arc::new(AtomicBool::new(false));
            let again = asked.clone();
            let look = seen(move |path| {
                assert!(!again.swap(true, Ordering::Relaxed), "{path} is asked for");
                reply(302, &format!("location: {path}{detour}\r\n"), "")
            });
            let look = look.await;
            assert_eq!(look.seen, Seen::Foreign, "{detour}: {}", look.text);
            assert!(look.text.contains("inside this network"), "{detour}: {}", look.text);
        }
    }

    /// A host may be sent to HTTPS before it has a certificate that anybody trusts.
    #[tokio::test]
    async fn r_pre_3_a_redirect_to_https_is_followed_whatever_is_shown_there() {
        let made =
            rcgen::generate_simple_self_signed(["ingress.local".to_owned()]).expect("a pair");
        let key = made.signing_key.serialize_der();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key.try_into().expect("a key"))
            .expect("a pair");
        let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move {
            let (plain, _) = listener.accept().await.expect("a connection");
            let location = |path: &str| format!("location: https://{address}{path}\r\n");
            serve(plain, |path| reply(308, &location(path), "")).await;
            let (secure, _) = listener.accept().await.expect("a connection");
            let secure = acceptor.accept(secure).await.expect("a handshake");
            serve(secure, |path| answer(path, OURS)).await;
        });
        let look = look("127.0.0.1", address.port(), OURS).await;
        assert_eq!(look.seen, Seen::Ok, "{}", look.text);
    }

    #[tokio::test]
    async fn r_pre_3_a_closed_port_is_unreachable() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("an address").port();
        drop(listener);
        let look = look("127.0.0.1", port, OURS).await;
        assert_eq!(look.seen, Seen::Unreachable, "{}", look.text);
        assert!(look.text.contains("refuses"), "{}", look.text);
    }

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
    fn r_pre_3_both_families_make_one_judgement() {
        let four = |answer| Some(View { address: IpAddr::from([192, 0, 2, 1]), answer });
        let six = |answer| Some(View { address: "2001:db8::1".parse().expect("one"), answer });
        let other = || Answer::Other("answers with status 404".to_owned());
        let nothing = || Answer::Nothing("refuses the connection".to_owned());
        for (a, b, expected) in [
            (four(Answer::Ours), None, Seen::Ok),
            (None, six(Answer::Ours), Seen::Ok),
            (four(Answer::Ours), six(Answer::Ours), Seen::Ok),
            // A cluster without IPv6 says nothing about the world's.
            (four(Answer::Ours), six(Answer::NoWay), Seen::Ok),
            (None, six(Answer::NoWay), Seen::Inconclusive),
            (four(Answer::Ours), six(other()), Seen::PartlyIpv6),
            (four(Answer::Ours), six(nothing()), Seen::PartlyIpv6),
            (four(nothing()), six(Answer::Ours), Seen::PartlyIpv6),
            (four(nothing()), six(other()), Seen::Foreign),
            (four(other()), six(nothing()), Seen::Foreign),
            (four(nothing()), six(nothing()), Seen::Unreachable),
            (four(nothing()), six(Answer::NoWay), Seen::Unreachable),
            (None, None, Seen::NoDns),
        ] {
            let (seen, text) = judge("a.test", 80, a.clone(), b.clone());
            assert_eq!(seen, expected, "{a:?} {b:?}");
            assert!(text.contains("a.test"), "{text}");
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
