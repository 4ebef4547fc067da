//! What endpoints are spoken to with.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use rustls::version::{TLS12, TLS13};

use super::verify::{AnyServer, Verified};
use crate::model::plan::Route;
use crate::model::upstream::UpstreamTls;

/// A way to speak to an endpoint. Connections of one transport are shared by all routes that have it.
#[derive(Clone, Debug)]
pub struct Transport {
    /// Equal for equal transports, and never used for another one again.
    pub id: u64,
    /// HTTP/2, not HTTP/1.1.
    pub h2: bool,
    /// Over TLS.
    pub tls: Option<Arc<Tls>>,
}

/// TLS towards an endpoint.
#[derive(Debug)]
pub struct Tls {
    /// Keeps the sessions of its endpoints, too.
    pub config: Arc<ClientConfig>,
    /// The name the certificate must have, where it is looked at.
    pub name: ServerName<'static>,
}

/// The transports of a route.
#[derive(Clone, Debug)]
pub struct Transports {
    /// For requests that came in clear.
    plain: Transport,
    /// For those that came over TLS, where that makes a difference.
    secure: Option<Transport>,
}

impl Transports {
    /// The transport of a request.
    pub fn of(&self, came_secure: bool) -> &Transport {
        self.secure.as_ref().filter(|_| came_secure).unwrap_or(&self.plain)
    }
}

/// The transports with TLS, handed from one plan's to the next so that connections stay in use.
#[derive(Debug)]
pub(super) struct Known {
    tls: HashMap<(Arc<UpstreamTls>, bool), Transport>,
    next: u64,
}

impl Default for Known {
    fn default() -> Self {
        Self { tls: HashMap::new(), next: 2 }
    }
}

impl Known {
    /// Begins with the numbers that were not given yet.
    pub(super) fn after(previous: &Self) -> Self {
        Self { tls: HashMap::new(), next: previous.next }
    }

    /// The transports of a route, as they were in `previous` where they are the same.
    pub(super) fn of(&mut self, route: &Route, previous: &Self) -> Transports {
        let h2 = route.options.protocol.is_h2();
        let [plain, secure] = [false, true].map(|came_secure| {
            let tls = route.upstream_tls.as_ref();
            match tls.filter(|_| route.options.protocol.is_secure(came_secure)) {
                Some(tls) => self.secure(tls, h2, previous),
                None => Transport { id: h2.into(), h2, tls: None },
            }
        });
        let secure = (plain.id != secure.id).then_some(secure);
        Transports { plain, secure }
    }

    fn secure(&mut self, tls: &Arc<UpstreamTls>, h2: bool, previous: &Self) -> Transport {
        let key = (tls.clone(), h2);
        if let Some(made) = self.tls.get(&key) {
            return made.clone();
        }
        let made = previous.tls.get(&key).cloned().unwrap_or_else(|| {
            let id = self.next;
            self.next += 1;
            Transport { id, h2, tls: Some(Tls::new(tls, h2).into()) }
        });
        self.tls.insert(key, made.clone());
        made
    }
}

impl Tls {
    pub(super) fn new(tls: &UpstreamTls, h2: bool) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let versions: Vec<_> = [(tls.versions.tls13, &TLS13), (tls.versions.tls12, &TLS12)]
            .into_iter()
            .filter_map(|(spoken, version)| spoken.then_some(version))
            .collect();
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&versions)
            .expect("a version of TLS is spoken");
        let config = config.dangerous();
        let config = match &tls.authorities {
            None => config.with_custom_certificate_verifier(AnyServer::with_key(&provider)),
            Some(authorities) => {
                config.with_custom_certificate_verifier(Verified::new(authorities, provider))
            }
        };
        let shown = tls.client.as_ref().and_then(|it| it.certified().ok());
        let mut config = match shown {
            Some(shown) => {
                config.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(shown)))
            }
            None => config.with_no_client_auth(),
        };
        config.enable_sni = tls.server_name;
        config.alpn_protocols = vec![if h2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        Self { config: Arc::new(config), name: tls.name.clone() }
    }
}
