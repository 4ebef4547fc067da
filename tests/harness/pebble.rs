//! A real ACME certificate authority: Pebble, with a DNS server of its own.
//!
//! Every name resolves to 127.0.0.1, and none has an IPv6 address, until a test says otherwise.
//! Every order has to answer its challenges: nothing is ever reused or waved through.  All state
//! is in memory, so [`Pebble::restart`] makes a new CA that knows no account.
//!
//! Renewal information and profiles need 2.8 or newer; the 2.4 of Debian 12 ignores both.
//!
//! Its DNS server has port 53 of a loopback address of its own, so that [`Pebble::resolv_conf`] can
//! lead a program there.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    pin::Pin,
    process::Command,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use instant_acme::{Account, BodyWrapper, BytesResponse, HttpClient, NewAccount};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    apiproxy::{Failure, Identity, LoopbackClient},
    process::{Process, command, component, eventually, free_port},
};

/// How long a certificate lives if the test does not say.
const VALIDITY: Duration = Duration::from_hours(90 * 24);

const READY: Duration = Duration::from_secs(30);

/// How a [`Pebble`] is to behave.
#[derive(Clone, Debug)]
pub struct PebbleOptions {
    /// The port HTTP challenges are asked at.
    pub http_port: u16,
    /// The port TLS-ALPN challenges are asked at.
    pub tls_port: u16,
    /// How long a certificate lives; 90 days if not given.
    pub validity: Option<Duration>,
    /// Further profiles and the lifetimes of their certificates.
    pub profiles: Vec<(String, Duration)>,
    /// Names that are refused when ordered, with all below them.
    pub domain_blocklist: Vec<String>,
    /// The key id and base64url MAC key that new accounts have to be bound to.
    pub account_binding: Option<(String, String)>,
    /// Percentage of good nonces that are refused.
    pub nonce_reject: u8,
    /// The version: the newest there is, or the 2.4 of Debian 12.
    pub old: bool,
}

impl Default for PebbleOptions {
    fn default() -> Self {
        Self {
            http_port: 80,
            tls_port: 443,
            validity: None,
            profiles: Vec::new(),
            domain_blocklist: Vec::new(),
            account_binding: None,
            nonce_reject: 5,
            old: false,
        }
    }
}

/// A running CA with its DNS server; both end when it is dropped.
pub struct Pebble {
    ca: Process,
    dns: Process,
    ports: Ports,
    options: PebbleOptions,
    identity: Identity,
    client: LoopbackClient,
    dir: TempDir,
}

struct Ports {
    directory: u16,
    management: u16,
    dns: SocketAddr,
    dns_management: u16,
}

impl Pebble {
    /// Starts one and waits until its directory can be fetched.
    ///
    /// # Panics
    ///
    /// If the component is missing or does not get ready.
    pub async fn start(options: PebbleOptions) -> Self {
        let dir = tempfile::tempdir().expect("a temp dir can be made");
        let identity = Identity::generate("pebble listener");
        identity.write_to(dir.path());
        let ports = Ports {
            directory: free_port(),
            management: free_port(),
            dns: dns_address(),
            dns_management: free_port(),
        };
        let config = config(&options, &ports, &dir);
        fs::write(dir.path().join("pebble.json"), config.to_string()).expect("it can be written");
        let dns = spawn_dns(&ports);
        let resolv_conf = format!("nameserver {}\noptions timeout:2 attempts:2\n", ports.dns.ip());
        fs::write(dir.path().join("resolv.conf"), resolv_conf).expect("it can be written");
        let ca = spawn_ca(&dir, &ports, &options);
        let client = identity.client();
        let pebble = Self { ca, dns, ports, options, identity, client, dir };
        pebble.ready().await;
        pebble
    }

    /// The URL of the ACME directory.
    pub fn directory(&self) -> String {
        format!("https://127.0.0.1:{}/dir", self.ports.directory)
    }

    /// The port of the directory.
    pub fn port(&self) -> u16 {
        self.ports.directory
    }

    /// Who the directory's listener is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The root that vouches for the directory itself, as a PEM file.
    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("ca.pem")
    }

    /// The root of the certificates it issues; another one after a restart.
    ///
    /// # Panics
    ///
    /// If Pebble does not answer.
    pub async fn root_pem(&self) -> String {
        let (code, body) =
            self.ask("GET", &self.management("/roots/0"), None).await.expect("Pebble answers");
        assert_eq!(code, 200, "{body}");
        body
    }

    /// Where its DNS server listens, over UDP and TCP.
    pub fn dns(&self) -> SocketAddr {
        self.ports.dns
    }

    /// A resolv.conf(5) that names this DNS server and no other.
    pub fn resolv_conf(&self) -> PathBuf {
        self.dir.path().join("resolv.conf")
    }

    /// Makes a name resolve to this IPv4 address alone.
    pub async fn set_address(&self, host: &str, ip: &str) {
        let body = json!({ "host": dns_name(host), "addresses": [ip] });
        self.set_dns("/add-a", &body).await;
    }

    /// Ends [`Self::set_address`] for a name.
    pub async fn clear_address(&self, host: &str) {
        self.set_dns("/clear-a", &json!({ "host": dns_name(host) })).await;
    }

    /// Makes the DNS server fail for a name.
    pub async fn servfail(&self, host: &str) {
        self.set_dns("/set-servfail", &json!({ "host": dns_name(host) })).await;
    }

    /// Ends [`Self::servfail`] for a name.
    pub async fn clear_servfail(&self, host: &str) {
        self.set_dns("/clear-servfail", &json!({ "host": dns_name(host) })).await;
    }

    /// Sets the renewal window of a certificate it has issued, as RFC 3339 times.
    ///
    /// # Panics
    ///
    /// If it has not issued it, or is older than 2.8.
    pub async fn set_renewal_window(&self, cert_pem: &str, start: &str, end: &str) {
        let window = json!({ "suggestedWindow": { "start": start, "end": end } });
        let body = json!({ "certificate": cert_pem, "ariResponse": window.to_string() });
        let url = self.management("/set-renewal-info/");
        let (code, answer) = self.ask("POST", &url, Some(&body)).await.expect("Pebble answers");
        assert_eq!(code, 200, "{answer}");
    }

    /// Kills the CA and starts a new one at the same place: accounts, orders and root are gone.
    pub async fn restart(&mut self) {
        self.ca.kill();
        self.ca = spawn_ca(&self.dir, &self.ports, &self.options);
        self.ready().await;
    }

    /// The CA's process, to stop, kill or read the log of.
    pub fn process(&self) -> &Process {
        &self.ca
    }

    /// An account that is not the product's, with this directory or one in front of it.
    ///
    /// # Panics
    ///
    /// If the CA gives none.
    pub async fn stranger(&self, directory: &str) -> Account {
        let client = Box::new(Stranger(self.client.clone()));
        let new =
            NewAccount { contact: &[], terms_of_service_agreed: true, only_return_existing: false };
        let made =
            Account::builder_with_http(client).create(&new, directory.to_owned(), None).await;
        made.expect("the CA gives an account").0
    }

    async fn ready(&self) {
        let urls = [self.directory(), self.management("/roots/0"), self.dns_management("/")];
        eventually("a ready Pebble", READY, async || {
            for (process, what) in [(&self.ca, "pebble"), (&self.dns, "challtestsrv")] {
                assert_eq!(process.exit_code(), None, "{what} ended:\n{}", process.log());
            }
            for url in &urls {
                self.ask("GET", url, None).await?;
            }
            tokio::net::TcpStream::connect(self.ports.dns).await?;
            Ok::<_, Failure>(())
        })
        .await;
    }

    fn management(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.ports.management)
    }

    fn dns_management(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.ports.dns_management)
    }

    async fn set_dns(&self, path: &str, body: &Value) {
        let answer = self.ask("POST", &self.dns_management(path), Some(body)).await;
        let (code, text) = answer.expect("the DNS server answers");
        assert_eq!(code, 200, "{text}");
    }

    async fn ask(
        &self,
        method: &str,
        url: &str,
        body: Option<&Value>,
    ) -> Result<(u16, String), Failure> {
        let body = body.map(Value::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(url)
            .header(header::USER_AGENT, "lockgate-tests")
            .body(Full::new(Bytes::from(body)))?;
        let response = self.client.request(request).await?;
        let code = response.status().as_u16();
        let body = response.into_body().collect().await?.to_bytes();
        Ok((code, String::from_utf8(body.into())?))
    }
}

/// Old versions read `certificateValidityPeriod`, new ones the profile named `default`.
fn config(options: &PebbleOptions, ports: &Ports, dir: &TempDir) -> Value {
    let file = |name: &str| dir.path().join(name);
    let validity = options.validity.unwrap_or(VALIDITY);
    let profile = |name: &str, validity: Duration| json!({ "description": name, "validityPeriod": validity.as_secs() });
    let mut profiles = json!({ "default": profile("default", validity) });
    for (name, validity) in &options.profiles {
        profiles[name] = profile(name, *validity);
    }
    let mut pebble = json!({
        "listenAddress": format!("127.0.0.1:{}", ports.directory),
        "managementListenAddress": format!("127.0.0.1:{}", ports.management),
        "certificate": file("tls.pem"),
        "privateKey": file("tls.key"),
        "httpPort": options.http_port,
        "tlsPort": options.tls_port,
        "ocspResponderURL": "",
        "externalAccountBindingRequired": options.account_binding.is_some(),
        "domainBlocklist": options.domain_blocklist,
        "certificateValidityPeriod": validity.as_secs(),
        "profiles": profiles,
        "keyAlgorithm": "ecdsa",
    });
    if let Some((id, key)) = &options.account_binding {
        pebble["externalAccountMACKeys"] = json!({ id: key });
    }
    json!({ "pebble": pebble })
}

fn spawn_ca(dir: &TempDir, ports: &Ports, options: &PebbleOptions) -> Process {
    let program = if options.old { "LOCKGATE_PEBBLE_24" } else { "LOCKGATE_PEBBLE" };
    let mut pebble = command(component(program));
    pebble
        .arg("-config")
        .arg(dir.path().join("pebble.json"))
        .args(["-dnsserver", &ports.dns.to_string()])
        .env("PEBBLE_AUTHZREUSE", "0")
        .env("PEBBLE_VA_NOSLEEP", "1")
        .env("PEBBLE_WFE_NONCEREJECT", options.nonce_reject.to_string())
        .env_remove("PEBBLE_VA_ALWAYS_VALID");
    Process::spawn(pebble)
}

fn spawn_dns(ports: &Ports) -> Process {
    let program = component("LOCKGATE_CHALLTESTSRV");
    let help = Command::new(&program).arg("-h").output().expect("challtestsrv can be started");
    let help = String::from_utf8_lossy(&help.stderr).into_owned();
    // The flag was renamed, and DNS over HTTPS added, on the way to 2.10.
    let flag = if help.contains("-dnsserver") { "-dnsserver" } else { "-dns01" };
    let mut dns = command(program);
    dns.args([flag, &ports.dns.to_string()]);
    dns.args(["-management", &format!("127.0.0.1:{}", ports.dns_management)]);
    for off in ["-http01", "-https01", "-tlsalpn01", "-doh"] {
        if help.contains(off) {
            dns.args([off, ""]);
        }
    }
    dns.args(["-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""]);
    Process::spawn(dns)
}

/// As resolv.conf(5) cannot name a port, an address that nobody else has.
fn dns_address() -> SocketAddr {
    let [high, low] = free_port().to_be_bytes();
    SocketAddr::from((Ipv4Addr::new(127, high, low, 53), 53))
}

fn dns_name(host: &str) -> String {
    format!("{}.", host.trim_end_matches('.'))
}

/// The way of somebody's own ACME client to the CA.
struct Stranger(LoopbackClient);

impl HttpClient for Stranger {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, instant_acme::Error>> + Send>> {
        let client = self.0.clone();
        Box::pin(async move {
            let other = |it: &dyn std::fmt::Display| {
                instant_acme::Error::Other(std::io::Error::other(it.to_string()).into())
            };
            let (mut head, body) = request.into_parts();
            head.headers.insert(header::USER_AGENT, "somebody".parse().map_err(|it| other(&it))?);
            let body = body.collect().await.map_err(|it| other(&it))?.to_bytes();
            let answer = client.request(Request::from_parts(head, Full::new(body))).await;
            let (head, body) = answer.map_err(|it| other(&it))?.into_parts();
            let body = body.collect().await.map_err(|it| other(&it))?.to_bytes();
            Ok(BytesResponse::from(http::Response::from_parts(head, Full::new(body))))
        })
    }
}
