//! Sessions of TLS outlive the renewal of a certificate: who was here before shakes hands the short way
//! as ever, and who comes anew is shown the new certificate.

use std::sync::Arc;

use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, ProtocolVersion, RootCertStore, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::harness::backend::Backend;
use crate::harness::client::serial;
use crate::harness::lockgate::{
    Authority, Lockgate, Pair, backend, ingress_class, ingress_tls, tls_secret,
};
use crate::harness::process::{SOON, eventually};

/// What a handshake was like.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Handshake {
    resumed: bool,
    version: Option<ProtocolVersion>,
    /// The certificate's serial number; of a resumed session that of its first handshake.
    serial: Option<String>,
}

/// A client that knows no session yet, speaks one version of TLS and trusts `authority` alone.
fn client(authority: &Authority, version: &'static SupportedProtocolVersion) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(aws_lc_rs::default_provider().into());
    let config = config.with_protocol_versions(&[version]).unwrap();
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.resumption = Resumption::in_memory_sessions(32);
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Arc::new(config)
}

/// Shakes hands and asks for something, for a session's ticket comes along with an answer.
async fn visit(config: &Arc<ClientConfig>, lockgate: &Lockgate) -> Handshake {
    let name = ServerName::try_from("a.test").unwrap();
    let tcp = TcpStream::connect(lockgate.https).await.unwrap();
    let mut tls = TlsConnector::from(Arc::clone(config)).connect(name, tcp).await.unwrap();
    tls.write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    tls.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&answer));
    let session = tls.get_ref().1;
    Handshake {
        resumed: session.handshake_kind() == Some(HandshakeKind::Resumed),
        version: session.protocol_version(),
        serial: session.peer_certificates().and_then(|it| serial(&it[0])),
    }
}

/// Both versions, before the renewal, after it, and after another one.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_outlive_the_renewal_of_their_certificate() {
    let (web, authority) = (Backend::start("web").await, Authority::new());
    let objects = |pair: &Pair| {
        let objects = [
            ingress_class(),
            ingress_tls("one", "a.test", &[("/", "Prefix", "web", 80)], &[], "tls"),
            backend("web", 80, &[web.addr()]),
            tls_secret("tls", pair),
        ];
        objects.concat()
    };
    let lockgate = Lockgate::with_manifests(objects(&authority.issue(&["a.test"])));
    let lockgate = lockgate.start().await;
    let mut shown = visit(&client(&authority, &TLS13), &lockgate).await.serial;
    let mut early = Vec::new();
    for (version, name) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)]
    {
        let config = client(&authority, version);
        let first = visit(&config, &lockgate).await;
        let expected = Handshake { resumed: false, version: Some(name), serial: shown.clone() };
        assert_eq!(first, expected);
        let resumed = Handshake { resumed: true, ..first };
        for round in 0..20 {
            // Whichever worker takes it, for any can read the tickets of the others.
            assert_eq!(visit(&config, &lockgate).await, resumed, "{name:?}, visit {round}");
        }
        early.push((version, config, resumed));
    }
    for renewal in ["a renewal", "another renewal"] {
        lockgate.edit(objects(&authority.issue(&["a.test"])));
        shown = eventually(renewal, SOON, async || {
            let serial = visit(&client(&authority, &TLS13), &lockgate).await.serial;
            (serial != shown).then_some(serial)
        })
        .await;
        for (version, config, resumed) in &early {
            for round in 0..5 {
                let visited = visit(config, &lockgate).await;
                assert_eq!(visited, *resumed, "{renewal}, visit {round}");
            }
            let newcomer = visit(&client(&authority, version), &lockgate).await;
            let expected = Handshake { resumed: false, serial: shown.clone(), ..resumed.clone() };
            assert_eq!(newcomer, expected, "{renewal}");
        }
    }
}
