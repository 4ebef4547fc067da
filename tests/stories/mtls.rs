//! Client certificates: who has none that will do gets 400 from every path, whichever protocol is spoken,
//! whichever Ingress was there first; and a connection that was made for one host opens no other.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevokedCertParams, SerialNumber, date_time_ymd,
};
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, HandshakeKind, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::harness::backend::Backend;
use crate::harness::client::{Call, Client, any_certificate_of};
use crate::harness::cluster::Cluster;
use crate::harness::judge::Judge;
use crate::harness::lockgate::{
    Lockgate, Pair, backend, config_map, ingress, ingress_class, ingress_tls, pair, secret,
    tls_secret,
};
use crate::harness::process::{SOON, eventually};

const MISSING: &str = "No required SSL certificate was sent";
const CHALLENGES: &str = "/.well-known/acme-challenge";
const BAD: &str = "The SSL certificate error";

/// Who issues certificates to clients.
struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Acme");
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn authority(name: &str) -> CertificateParams {
    let mut params = params(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap()
}

impl Ca {
    fn new(name: &str) -> Self {
        let (key, params) = (KeyPair::generate().unwrap(), authority(name));
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    /// One below it.
    fn below(&self, name: &str) -> Self {
        let (key, params) = (KeyPair::generate().unwrap(), authority(name));
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn issue(&self, params: &CertificateParams) -> Pair {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Pair { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    fn client(&self, name: &str) -> Pair {
        let mut params = params(name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.issue(&params)
    }

    fn numbered(&self, name: &str, serial: u64) -> Pair {
        let mut params = params(name);
        params.serial_number = Some(SerialNumber::from(serial));
        self.issue(&params)
    }

    /// A client whose certificate ends `end` after 1970.
    fn until(&self, name: &str, end: Duration) -> Pair {
        let mut params = params(name);
        params.not_after = date_time_ymd(1970, 1, 1) + end;
        self.issue(&params)
    }

    fn crl(&self, revoked: u64) -> String {
        let day = Duration::from_secs(86_400);
        let revoked = RevokedCertParams {
            serial_number: SerialNumber::from(revoked),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(1970, 1, 1) + now() + day,
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![revoked],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }
}

/// A chain: a client's certificate and those of its issuers.
fn chain(client: &Pair, issuers: &[&Ca]) -> Pair {
    let issuers = issuers.iter().map(|it| it.pem.as_str());
    let certificate = [client.certificate.as_str()].into_iter().chain(issuers).collect();
    Pair { certificate, key: client.key.clone() }
}

/// An Ingress for `host`, whose backend is `web`.
fn host(name: &str, host: &str, path: &str, annotations: &[(&str, &str)]) -> String {
    ingress_tls(name, host, &[(path, "Prefix", "web", 80)], annotations, "tls")
}

/// The same, `age` seconds younger than the oldest there can be.
fn aged(age: u32, yaml: &str) -> String {
    let created = format!("  creationTimestamp: \"2026-01-01T00:00:{age:02}Z\"\n  namespace: ");
    yaml.replacen("  namespace: ", &created, 1)
}

fn objects(web: SocketAddr, more: &[String]) -> String {
    let usual = [
        ingress_class(),
        backend("web", 80, &[web]),
        tls_secret("tls", &pair(&["*.test", "*.w.test"])),
    ];
    usual.concat() + &more.concat()
}

/// Clients of both protocols that show a certificate, or none.
fn clients(lockgate: &Lockgate, shown: Option<&Pair>) -> [Client; 2] {
    let client = match shown {
        Some(shown) => Client::new().showing(shown),
        None => Client::new().insecure(),
    };
    let client = client.connect_to(lockgate.https);
    [client.clone(), client.http2()]
}

#[tokio::test(flavor = "multi_thread")]
async fn only_good_certificates_open_a_host() {
    let web = Backend::start("web").await;
    let (ca, other) = (Ca::new("ca"), Ca::new("ca"));
    let below = ca.below("below");
    let lowest = below.below("lowest");
    let asks: &[_] = &[("auth-tls-secret", "demo/ca")];
    let revoking: &[_] = &[("auth-tls-secret", "demo/revoking"), ("auth-tls-verify-depth", "0")];
    let lockgate = Lockgate::with_manifests(objects(
        web.addr(),
        &[
            host("a", "a.test", "/", asks),
            host("deep", "deep.test", "/", &[asks, &[("auth-tls-verify-depth", "2")]].concat()),
            host("flat", "flat.test", "/", &[asks, &[("auth-tls-verify-depth", "0")]].concat()),
            host("revoking", "revoking.test", "/", revoking),
            host("open", "open.test", "/", &[]),
            secret("ca", &[("ca.crt", &ca.pem)]),
            secret("revoking", &[("ca.crt", &ca.pem), ("ca.crl", &ca.crl(7))]),
        ],
    ));
    let lockgate = lockgate.start().await;
    lockgate.no_problem().await;
    let server = {
        let mut params = params("server");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        ca.issue(&params)
    };
    for (case, name, shown, expected) in [
        ("none", "a", None, MISSING),
        ("a good one", "a", Some(ca.client("client")), ""),
        ("another CA of the same name", "a", Some(other.client("client")), BAD),
        ("its own", "a", Some(pair(&["client"])), BAD),
        ("an old one", "a", Some(ca.until("client", Duration::from_secs(1_700_000_000))), BAD),
        ("a server's", "a", Some(server), BAD),
        ("one below", "a", Some(chain(&below.client("client"), &[&below])), ""),
        ("one below without it", "a", Some(below.client("client")), BAD),
        ("two below", "a", Some(chain(&lowest.client("client"), &[&lowest, &below])), BAD),
        ("two below", "deep", Some(chain(&lowest.client("c"), &[&below, &lowest])), ""),
        ("one below", "flat", Some(chain(&below.client("c"), &[&below])), BAD),
        ("not revoked", "revoking", Some(ca.numbered("client", 8)), ""),
        ("revoked", "revoking", Some(ca.numbered("client", 7)), BAD),
        ("none at an open host", "open", None, ""),
        ("one at an open host", "open", Some(ca.client("client")), ""),
    ] {
        for client in clients(&lockgate, shown.as_ref()) {
            let forged = |url: &str| {
                Call::get(url)
                    .header("ssl-client-verify", "SUCCESS")
                    .header("ssl-client-subject-dn", "CN=admin")
                    .header("ssl-client-cert", "forged")
            };
            let url = format!("https://{name}.test/x");
            let reply = client.request(forged(&url)).await.unwrap();
            let status = if expected.is_empty() { 200 } else { 400 };
            assert_eq!(reply.status, status, "{case} at {name}: {}", reply.text());
            assert!(reply.text().contains(expected), "{case} at {name}: {}", reply.text());
            if status == 200 {
                let open = name == "open";
                let verify = reply.told("ssl-client-verify");
                assert_eq!(verify.as_deref(), (!open).then_some("SUCCESS"), "{case} at {name}");
                let subject = reply.told("ssl-client-subject-dn");
                assert_eq!(subject.is_some_and(|it| it.ends_with(",O=Acme")), !open, "{case}");
                assert_eq!(reply.told("ssl-client-cert"), None, "{case} at {name}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mode_tells_endpoints_what_was_found() {
    let web = Backend::start("web").await;
    let ca = Ca::new("ca");
    let mode = |mode: &str| {
        let words = [("auth-tls-secret", "ca"), ("auth-tls-verify-client", mode)];
        host(
            &format!("mode-{}", mode.replace('_', "-")),
            &format!("{}.test", mode.replace('_', "-")),
            "/",
            &words,
        )
    };
    let lockgate = Lockgate::with_manifests(objects(
        web.addr(),
        &[
            mode("off"),
            mode("optional"),
            mode("optional_no_ca"),
            secret("ca", &[("ca.crt", &ca.pem)]),
        ],
    ));
    let lockgate = lockgate.start().await;
    lockgate.no_problem().await;
    let stranger = "FAILED:unable to verify the first certificate";
    for (host, shown, expected) in [
        ("off", None, Some("NONE")),
        ("off", Some(ca.client("client")), Some("NONE")),
        ("optional", None, Some("NONE")),
        ("optional", Some(ca.client("client")), Some("SUCCESS")),
        ("optional", Some(Ca::new("other").client("client")), None),
        ("optional-no-ca", None, Some("NONE")),
        ("optional-no-ca", Some(ca.client("client")), Some("SUCCESS")),
        ("optional-no-ca", Some(Ca::new("other").client("client")), Some(stranger)),
        ("optional-no-ca", Some(ca.until("client", Duration::from_secs(1_700_000_000))), None),
    ] {
        for client in clients(&lockgate, shown.as_ref()) {
            let reply = client.get(&format!("https://{host}.test/")).await.unwrap();
            let status = if expected.is_some() { 200 } else { 400 };
            assert_eq!(reply.status, status, "{host}: {}", reply.text());
            assert_eq!(reply.told("ssl-client-verify").as_deref(), expected, "{host}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn subjects_pages_and_the_certificate_itself() {
    let web = Backend::start("web").await;
    let (ca, judge) = (Ca::new("ca"), Judge::start().await);
    let asks = |more: (&'static str, &'static str)| [("auth-tls-secret", "demo/ca"), more];
    let url = judge.url("/status/200");
    let lockgate = Lockgate::with_manifests(objects(
        web.addr(),
        &[
            host("named", "named.test", "/", &asks(("auth-tls-match-cn", "CN=(one|two)"))),
            host("page", "page.test", "/", &asks(("auth-tls-error-page", "https://x.test/why"))),
            host(
                "pass",
                "pass.test",
                "/",
                &asks(("auth-tls-pass-certificate-to-upstream", "true")),
            ),
            host(
                "judged",
                "judged.test",
                "/",
                &[("auth-tls-secret", "demo/ca"), ("auth-url", &url)],
            ),
            secret("ca", &[("ca.crt", &ca.pem)]),
        ],
    ));
    let lockgate = lockgate.start().await;
    lockgate.no_problem().await;
    for (name, status) in [("one", 200), ("two", 200), ("three", 403)] {
        for client in clients(&lockgate, Some(&ca.client(name))) {
            let reply = client.get("https://named.test/").await.unwrap();
            assert_eq!(reply.status, status, "{name}: {}", reply.text());
        }
    }
    for shown in [None, Some(Ca::new("other").client("client"))] {
        for client in clients(&lockgate, shown.as_ref()) {
            let reply = client.get("https://page.test/").await.unwrap();
            assert_eq!((reply.status, reply.header("location")), (302, Some("https://x.test/why")));
        }
    }
    let shown = ca.client("client");
    for client in clients(&lockgate, Some(&shown)) {
        let reply = client.get("https://pass.test/").await.unwrap();
        let escaped = reply.told("ssl-client-cert").expect("a certificate");
        assert!(escaped.starts_with("-----BEGIN%20CERTIFICATE-----%0A"), "{escaped}");
        let plain = escaped.replace("%0A", "\n").replace("%20", " ").replace("%2B", "+");
        let plain = plain.replace("%2F", "/").replace("%3D", "=");
        assert_eq!(plain.replace('\r', ""), shown.certificate.replace('\r', ""));
        assert_eq!(reply.told("ssl-client-issuer-dn").as_deref(), Some("CN=ca,O=Acme"));
        assert_eq!(reply.told("ssl-client-subject-dn").as_deref(), Some("CN=client,O=Acme"));

        // A judge is told whom it judges.
        let call = Call::get("https://judged.test/").header("ssl-client-subject-dn", "CN=admin");
        assert_eq!(client.request(call).await.unwrap().status, 200);
        let question = judge.question();
        for (name, expected) in [
            ("ssl-client-verify", "SUCCESS"),
            ("ssl-client-subject-dn", "CN=client,O=Acme"),
            ("ssl-client-issuer-dn", "CN=ca,O=Acme"),
            ("ssl-client-cert", ""),
        ] {
            assert_eq!(question.field(name), expected, "{name}");
        }
    }
}

/// RFC 9110 section 15.5.20, for every pair of hosts and no name at all.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_opens_only_hosts_of_its_policy() {
    let web = Backend::start("web").await;
    let (one, other) = (Ca::new("one"), Ca::new("other"));
    let lockgate = Lockgate::with_manifests(objects(
        web.addr(),
        &[
            host("a", "a.test", "/", &[("auth-tls-secret", "demo/one")]),
            // The same by another name, and by a wildcard.
            host("b", "b.test", "/", &[("auth-tls-secret", "demo/same")]),
            host("w", "*.w.test", "/sub/", &[("auth-tls-secret", "demo/one")]),
            host("c", "c.test", "/", &[("auth-tls-secret", "demo/other")]),
            host(
                "d",
                "d.test",
                "/",
                &[("auth-tls-secret", "demo/one"), ("auth-tls-verify-client", "optional")],
            ),
            host("open", "open.test", "/", &[]),
            host("open-too", "x.w.test", "/", &[]),
            secret("one", &[("ca.crt", &one.pem)]),
            secret("same", &[("ca.crt", &one.pem)]),
            secret("other", &[("ca.crt", &other.pem)]),
        ],
    ));
    let lockgate = lockgate.start().await;
    lockgate.no_problem().await;
    let policies = [
        ("a.test", 1),
        ("b.test", 1),
        ("y.w.test", 1),
        ("c.test", 2),
        ("d.test", 3),
        ("open.test", 0),
        ("x.w.test", 0),
        ("unknown.test", 0),
        ("127.0.0.1", 0),
    ];
    let shown = one.client("client");
    for (name, policy) in policies {
        for (asked, wanted) in policies {
            for client in clients(&lockgate, Some(&shown)) {
                let mut connection = client.connect(&format!("https://{name}/")).await.unwrap();
                for path in ["/sub/x", "/sub"] {
                    let url = format!("https://{asked}{path}");
                    let Ok(reply) = connection.get(&url).await else {
                        // The first answer ended it.
                        assert!(policy != wanted || asked == "c.test", "{name} {asked}");
                        continue;
                    };
                    let expected: &[u16] = match (asked, wanted) {
                        _ if policy != wanted => &[421],
                        ("unknown.test" | "127.0.0.1", _) => &[404],
                        // Of another CA.
                        ("c.test", _) => &[400],
                        _ => &[200, 301],
                    };
                    let case = format!("{name} {asked}{path}: {} {}", reply.status, reply.text());
                    assert!(expected.contains(&reply.status), "{case}");
                }
            }
        }
    }
}

/// CVE-2026-85596 of another proxy: two Ingresses of one host with one CA, and neither asks for it.
#[tokio::test(flavor = "multi_thread")]
async fn two_ingresses_of_one_host_never_open_it() {
    let web = Backend::start("web").await;
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    let asks: &[_] = &[("auth-tls-secret", "demo/ca")];
    let optional: &[_] = &[("auth-tls-secret", "demo/ca"), ("auth-tls-verify-client", "optional")];
    let off: &[_] = &[("auth-tls-secret", "demo/ca"), ("auth-tls-verify-client", "off")];
    let deeper: &[_] = &[("auth-tls-secret", "demo/ca"), ("auth-tls-verify-depth", "3")];
    let named: &[_] = &[("auth-tls-secret", "demo/ca"), ("auth-tls-match-cn", "CN=nobody")];
    let strange: &[_] = &[("auth-tls-secret", "demo/other")];
    let gone: &[_] = &[("auth-tls-secret", "demo/gone")];
    let broken: &[_] = &[("auth-tls-secret", "demo/ca"), ("auth-tls-verify-client", "yes")];
    let word: &[_] = &[("auth-tls-verify-client", "on")];
    let hosts = [
        // Of the first and the second path: what a client without a certificate gets, and one with it.
        ("same", asks, asks, [400, 400, 200, 200]),
        ("optional", asks, optional, [400, 400, 200, 200]),
        ("off", asks, off, [400, 400, 200, 200]),
        ("deeper", asks, deeper, [400, 400, 200, 200]),
        ("named", asks, named, [400, 400, 403, 403]),
        ("silent", asks, &[], [400, 400, 200, 200]),
        ("word", asks, word, [400, 400, 200, 200]),
        ("lax-word", optional, word, [400, 400, 200, 200]),
    ];
    // What depends on the order: the older, the younger, and what both paths answer without and with.
    let ordered = [
        ("strange", asks, strange, [400, 400, 200, 503]),
        ("stranger", strange, asks, [400, 400, 400, 400]),
        ("gone", asks, gone, [400, 400, 200, 503]),
        ("gone-first", gone, asks, [403, 403, 403, 403]),
        ("broken", asks, broken, [400, 400, 200, 503]),
        ("broken-first", broken, asks, [403, 403, 403, 403]),
        ("alone", &[], word, [200, 503, 200, 503]),
    ];
    let mut more =
        vec![secret("ca", &[("ca.crt", &ca.pem)]), secret("other", &[("ca.crt", &other.pem)])];
    let mut cases = Vec::new();
    for (name, first, second, expected) in hosts {
        for order in ["older", "younger"] {
            let ages = if order == "older" { (1, 2) } else { (2, 1) };
            let name = format!("{name}-{order}");
            let at = format!("{name}.test");
            more.push(aged(ages.0, &host(&format!("{name}-one"), &at, "/one", first)));
            more.push(aged(ages.1, &host(&format!("{name}-two"), &at, "/two", second)));
            cases.push((at, expected));
        }
    }
    for (name, first, second, expected) in ordered {
        let at = format!("{name}.test");
        more.push(aged(1, &host(&format!("{name}-one"), &at, "/one", first)));
        more.push(aged(2, &host(&format!("{name}-two"), &at, "/two", second)));
        cases.push((at, expected));
    }
    let lockgate = Lockgate::with_manifests(objects(web.addr(), &more)).start().await;
    let shown = ca.client("client");
    for (at, expected) in cases {
        for version in 0..2 {
            let mut found = Vec::new();
            for shown in [None, Some(&shown)] {
                for path in ["/one", "/two"] {
                    let client = &clients(&lockgate, shown)[version];
                    let reply = client.get(&format!("https://{at}{path}")).await.unwrap();
                    found.push(reply.status);
                }
            }
            assert_eq!(found, expected, "{at}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_secret_is_missing_is_closed() {
    let web = Backend::start("web").await;
    let ca = Ca::new("ca");
    let asks = [("auth-tls-secret", "demo/ca")];
    let elsewhere = [("auth-tls-secret", "other/ca")];
    let hosts = [
        host("a", "a.test", "/", &asks),
        host("b", "b.test", "/", &elsewhere),
        host("c", "c.test", "/", &[]),
    ];
    // A connection without a request is to last for all of this.
    let patience = config_map("settings", &[("client-header-timeout", "60")]);
    let lockgate = Lockgate::with_manifests(objects(web.addr(), &hosts) + &patience);
    let lockgate = lockgate.args(["--configmap=demo/settings"]).start().await;
    let client = ca.client("client");
    let status = async |name: &str, shown: Option<&Pair>| {
        let url = format!("https://{name}.test/");
        let mut found = Vec::new();
        for client in clients(&lockgate, shown) {
            found.push(client.get(&url).await.unwrap().status);
        }
        found
    };
    for (name, expected) in [("a", 403), ("b", 403), ("c", 200)] {
        assert_eq!(status(name, Some(&client)).await, [expected; 2], "{name}");
    }
    assert_eq!(lockgate.answers("http://a.test/", 403).await.status, 403);
    let text = lockgate.problem("ClientTls").await;
    assert!(text.contains("answers 403"), "{text}");
    // A connection that was made before is not one of the new policy.
    let [mut before, mut before_h2] = {
        let [one, two] = clients(&lockgate, Some(&client));
        [
            one.connect("https://a.test/").await.unwrap(),
            two.connect("https://a.test/").await.unwrap(),
        ]
    };
    lockgate.write("secret.yaml", secret("ca", &[("ca.crt", &ca.pem)]));
    eventually("the host opens", SOON, async || {
        let found = status("a", Some(&client)).await;
        (found == [200; 2]).then_some(()).ok_or(format!("{found:?}"))
    })
    .await;
    assert_eq!(status("a", None).await, [400; 2]);
    let reply = before.get("/").await.unwrap();
    assert_eq!((reply.status, reply.closes()), (421, true), "{}", reply.text());
    assert_eq!(before_h2.get("/").await.unwrap().status, 421);
    eventually("the old connection ends", SOON, async || !before_h2.ready().await).await;
    // Another CA: what was good is not, on connections that are open neither.
    let [mut open, mut open_h2] = {
        let [one, two] = clients(&lockgate, Some(&client));
        [
            one.connect("https://a.test/").await.unwrap(),
            two.connect("https://a.test/").await.unwrap(),
        ]
    };
    assert_eq!(
        (open.get("/").await.unwrap().status, open_h2.get("/").await.unwrap().status),
        (200, 200)
    );
    lockgate.write("secret.yaml", secret("ca", &[("ca.crt", &Ca::new("new").pem)]));
    eventually("the host closes", SOON, async || status("a", Some(&client)).await == [400; 2])
        .await;
    assert_eq!(
        (open.get("/").await.unwrap().status, open_h2.get("/").await.unwrap().status),
        (421, 421)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn in_clear_nobody_can_show_a_certificate() {
    let web = Backend::start("web").await;
    let ca = Ca::new("ca");
    let words =
        |more: &[(&'static str, &'static str)]| [&[("auth-tls-secret", "demo/ca")], more].concat();
    let clear = words(&[("ssl-redirect", "false")]);
    let optional = words(&[("ssl-redirect", "false"), ("auth-tls-verify-client", "optional")]);
    let lockgate = Lockgate::with_manifests(objects(
        web.addr(),
        &[
            host("redirected", "redirected.test", "/", &words(&[])),
            host("clear", "clear.test", "/sub/", &clear),
            host("optional", "optional.test", "/", &optional),
            ingress("no-tls", "no-tls.test", &[("/", "Prefix", "web", 80)], &clear),
            ingress(
                "solver",
                "solved.test",
                &[(&format!("{CHALLENGES}/one"), "Exact", "web", 80)],
                &[],
            ),
            // As older releases of cert-manager write it.
            ingress(
                "older",
                "gone.test",
                &[(&format!("{CHALLENGES}/two"), "Prefix", "web", 80)],
                &[],
            ),
            host("solved", "solved.test", "/", &clear),
            host("gone", "gone.test", "/", &[("auth-tls-secret", "demo/gone")]),
            secret("ca", &[("ca.crt", &ca.pem)]),
        ],
    ));
    let lockgate = lockgate.start().await;
    for client in [lockgate.client(), lockgate.client().http2()] {
        for (url, status) in [
            ("http://redirected.test/", 308),
            ("http://clear.test/sub/", 400),
            ("http://clear.test/sub", 400),
            ("http://clear.test/", 400),
            ("http://optional.test/", 200),
            ("http://no-tls.test/", 400),
            // A CA asks in clear, and gets to who answers one challenge.
            ("http://solved.test/CHALLENGES/one", 200),
            ("http://solved.test/CHALLENGES/other", 400),
            ("http://gone.test/CHALLENGES/two", 200),
            ("http://gone.test/CHALLENGES/two/x", 403),
            ("http://gone.test/", 403),
        ] {
            let url = url.replace("/CHALLENGES", CHALLENGES);
            let call = Call::get(&url)
                .header("x-forwarded-proto", "https")
                .header("ssl-client-verify", "SUCCESS");
            let reply = client.request(call).await.unwrap();
            assert_eq!(reply.status, status, "{url}: {}", reply.text());
            if status == 200 && !url.contains("gone.test") {
                assert_eq!(reply.told("ssl-client-verify").as_deref(), Some("NONE"), "{url}");
            }
        }
    }
    for client in clients(&lockgate, None) {
        let reply = client.get(&format!("https://solved.test{CHALLENGES}/one")).await.unwrap();
        assert_eq!(reply.status, 400, "over TLS it is as any other path");
    }
}

/// Shakes hands with a name and asks its host for something; whether the session was resumed, and the status.
async fn visit(config: &Arc<ClientConfig>, to: SocketAddr, name: &str) -> (bool, u16) {
    let server = ServerName::try_from(name.to_owned()).unwrap();
    let tcp = TcpStream::connect(to).await.unwrap();
    let mut tls = TlsConnector::from(Arc::clone(config)).connect(server, tcp).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
    tls.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // Who closes without a goodbye has answered all the same.
    let _ = tls.read_to_end(&mut answer).await;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).and_then(|it| it.parse().ok());
    let resumed = tls.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed);
    (resumed, status.unwrap_or_else(|| panic!("{answer:?}")))
}

/// A client that remembers sessions, and speaks one version of TLS.
fn remembering(
    shown: Option<&Pair>,
    version: &'static SupportedProtocolVersion,
) -> Arc<ClientConfig> {
    let mut config = any_certificate_of(shown, &[version]);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::in_memory_sessions(32);
    Arc::new(config)
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_keep_their_client_and_never_cross_policies() {
    let web = Backend::start("web").await;
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    let all = |ca: &Ca| {
        objects(
            web.addr(),
            &[
                host("a", "a.test", "/", &[("auth-tls-secret", "demo/ca")]),
                host("open", "open.test", "/", &[]),
                secret("ca", &[("ca.crt", &ca.pem)]),
            ],
        )
    };
    let lockgate = Lockgate::with_manifests(all(&ca)).start().await;
    let at = lockgate.https;
    let good = ca.client("client");
    let mut clients = Vec::new();
    for version in [&TLS12, &TLS13] {
        let good = remembering(Some(&good), version);
        assert_eq!(visit(&good, at, "a.test").await, (false, 200));
        for _ in 0..5 {
            assert_eq!(visit(&good, at, "a.test").await, (true, 200), "who it is stays known");
        }
        let none = remembering(None, version);
        assert_eq!(visit(&none, at, "a.test").await, (false, 400));
        assert_eq!(visit(&none, at, "a.test").await, (true, 400), "nobody stays nobody");
        // Of a certificate that is about to end.
        let mut life = 8;
        let short = loop {
            let pair = ca.until("client", now() + Duration::from_secs(life));
            let short = remembering(Some(&pair), version);
            let visited = visit(&short, at, "a.test").await;
            if visited == (false, 200) {
                break short;
            }
            // It ended on the way; a slower machine needs a longer one.
            assert!(visited == (false, 400) && life < 60, "{visited:?}");
            life *= 2;
        };
        clients.push((good, short, version));
    }
    for (_, short, _) in &clients {
        eventually("the certificate ends", SOON * 2, async || {
            let visited = visit(short, at, "a.test").await;
            (visited == (true, 400)).then_some(()).ok_or(format!("{visited:?}"))
        })
        .await;
    }
    // Another CA is another policy, and so is the first one that comes back: no old ticket is good for it.
    for (new, status) in [(&other, 400), (&ca, 200)] {
        lockgate.edit(all(new));
        let newcomer = new.client("newcomer");
        eventually("the other CA", SOON, async || {
            visit(&remembering(Some(&newcomer), &TLS13), at, "a.test").await == (false, 200)
        })
        .await;
        for (good, ..) in &clients {
            assert_eq!(visit(good, at, "a.test").await, (false, status));
        }
    }
}

/// What ingress-nginx's own example makes: `openssl x509 -req` without a word of extensions gives version 1.
#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_version_1_are_good_where_an_authority_signed_them() {
    let web = Backend::start("web").await;
    let files = tempfile::tempdir().unwrap();
    let openssl = |line: &str| {
        let mut command = std::process::Command::new("openssl");
        let output = command.args(line.split(' ')).current_dir(files.path()).output().unwrap();
        assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let read = |name: &str| std::fs::read_to_string(files.path().join(name)).unwrap();
    let mut shown = Vec::new();
    for ca in ["ca", "other"] {
        openssl(&format!(
            "req -x509 -sha256 -newkey rsa:2048 -keyout {ca}.key -out {ca}.crt -days 9 -nodes -subj /CN=My"
        ));
        for (name, key) in [("rsa", "rsa:2048"), ("ec", "ec -pkeyopt ec_paramgen_curve:P-256")] {
            let name = format!("{ca}-{name}");
            openssl(&format!(
                "req -new -newkey {key} -keyout {name}.key -out {name}.csr -nodes -subj /CN={name}"
            ));
            openssl(&format!(
                "x509 -req -sha256 -days 9 -in {name}.csr -CA {ca}.crt -CAkey {ca}.key -set_serial 02 -out {name}.crt"
            ));
            let (certificate, key) = (read(&format!("{name}.crt")), read(&format!("{name}.key")));
            shown.push((ca == "ca", Pair { certificate, key }));
        }
    }
    let lockgate = Lockgate::with_manifests(objects(
        web.addr(),
        &[
            host("a", "a.test", "/", &[("auth-tls-secret", "demo/ca")]),
            host(
                "any",
                "any.test",
                "/",
                &[("auth-tls-secret", "demo/ca"), ("auth-tls-verify-client", "optional_no_ca")],
            ),
            secret("ca", &[("ca.crt", &read("ca.crt"))]),
        ],
    ));
    let lockgate = lockgate.start().await;
    for (good, shown) in &shown {
        for version in [&TLS12, &TLS13] {
            let config = remembering(Some(shown), version);
            let expected = if *good { 200 } else { 400 };
            for resumed in [false, true] {
                let visited = visit(&config, lockgate.https, "a.test").await;
                assert_eq!(visited, (resumed, expected), "{good} {version:?}");
            }
            let visited = visit(&config, lockgate.https, "any.test").await;
            assert_eq!(visited.1, 200, "{good} {version:?}");
        }
    }
}

/// `kubectl create secret generic ca --from-file=ca.crt` makes a Secret of a type that is not listed.
#[tokio::test(flavor = "multi_thread")]
async fn in_a_cluster_the_authority_may_be_in_any_secret() {
    let (cluster, web) = tokio::join!(Cluster::installed(), Backend::outside("web"));
    let (ca, other) = (Ca::new("ca"), Ca::new("other"));
    cluster.apply(&backend("web", 80, &[web.addr()])).await;
    cluster.apply(&secret("ca", &[("ca.crt", &ca.pem)])).await;
    let lockgate = cluster.lockgate("lockgate").await.start().await;
    let asks = [("nginx.ingress.kubernetes.io/auth-tls-secret", "demo/ca")];
    cluster.apply(&ingress("a", "a.test", &[("/", "Prefix", "web", 80)], &asks)).await;
    let status = async |ca: &Ca| {
        let client = Client::new().showing(&ca.client("client")).connect_to(lockgate.https);
        client.get("https://a.test/").await.map_or(0, |it| it.status)
    };
    eventually("the authority is read", SOON, async || status(&ca).await == 200).await;
    lockgate.no_problem().await;
    // It is, and stays, while other things change.
    for round in 0..5 {
        let name = format!("x{round}");
        let host = format!("{name}.test");
        cluster.apply(&ingress(&name, &host, &[("/", "Prefix", "web", 80)], &[])).await;
        lockgate.answers(&format!("http://{host}/"), 200).await;
        assert_eq!((status(&ca).await, status(&other).await), (200, 400), "{round}");
    }
    cluster.apply(&secret("ca", &[("ca.crt", &other.pem)])).await;
    // Such Secrets are read again every 30 s, and at once when they change.
    let limit = Duration::from_secs(15);
    eventually("the new authority", limit, async || status(&other).await == 200).await;
    assert_eq!(status(&ca).await, 400);
}
