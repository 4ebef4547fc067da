//! Certificates by server name.

use std::collections::HashMap;
use std::sync::Arc;

use rustls::sign::CertifiedKey;

use crate::model::host::{HostPattern, parent};
use crate::model::keypair::Keypair;
use crate::model::name::ObjectName;
use crate::model::plan::{Certificate, Plan};

/// What each name shows in a handshake.
#[derive(Debug)]
pub struct Keys {
    exact: HashMap<Box<str>, Held>,
    wildcard: HashMap<Box<str>, Held>,
    /// Shown to names without a certificate of their own.
    chosen: Option<Held>,
    fake: Arc<CertifiedKey>,
}

/// A pair and the Secret it came from.
#[derive(Clone, Debug)]
pub struct Held {
    /// Where it came from.
    pub secret: ObjectName,
    /// The pair.
    pub keypair: Arc<Keypair>,
}

impl Keys {
    pub(super) fn empty(fake: Arc<CertifiedKey>) -> Self {
        Self { exact: HashMap::new(), wildcard: HashMap::new(), chosen: None, fake }
    }

    /// The keys of `plan`. Where a Secret became unreadable or went away, the last good pair it gave a
    /// host stays.
    pub(super) fn next(plan: &Plan, previous: &Self) -> Self {
        let mut keys = Self::empty(previous.fake.clone());
        for (host, certificate) in &plan.certificates {
            let (map, before, name) = match host {
                HostPattern::Exact(name) => (&mut keys.exact, &previous.exact, name),
                HostPattern::Wildcard(name) => (&mut keys.wildcard, &previous.wildcard, name),
                HostPattern::Any => continue,
            };
            if let Some(held) = held(certificate, before.get(name)) {
                map.insert(name.clone(), held);
            }
        }
        keys.chosen = plan
            .default_certificate
            .as_ref()
            .and_then(|certificate| held(certificate, previous.chosen.as_ref()));
        keys
    }

    /// The key for a server name, which a client may not have sent: of the name itself, else of the
    /// wildcard above it, else the default.
    pub fn find(&self, server_name: Option<&str>) -> Arc<CertifiedKey> {
        let held = server_name.and_then(|it| self.own(it)).or(self.chosen());
        let certified = held.and_then(|it| it.keypair.certified().ok());
        certified.unwrap_or_else(|| self.fake.clone())
    }

    /// The pair of a server name itself, or of the wildcard above it.
    pub fn own(&self, server_name: &str) -> Option<&Held> {
        if server_name.bytes().any(|it| it.is_ascii_uppercase()) {
            return self.named(&server_name.to_ascii_lowercase());
        }
        self.named(server_name)
    }

    /// The pair for names without one of their own; without it they are shown the self-signed one.
    pub fn chosen(&self) -> Option<&Held> {
        self.chosen.as_ref()
    }

    /// Every host with a certificate of its own, and what it shows.
    pub fn all(&self) -> impl Iterator<Item = (HostPattern, &Held)> {
        let exact = self.exact.iter().map(|(name, it)| (HostPattern::Exact(name.clone()), it));
        let wildcard =
            self.wildcard.iter().map(|(name, it)| (HostPattern::Wildcard(name.clone()), it));
        exact.chain(wildcard)
    }

    fn named(&self, name: &str) -> Option<&Held> {
        let name = name.strip_suffix('.').unwrap_or(name);
        self.exact.get(name).or_else(|| self.wildcard.get(parent(name)?))
    }
}

fn held(certificate: &Certificate, before: Option<&Held>) -> Option<Held> {
    let secret = certificate.secret.as_ref()?;
    match &certificate.keypair {
        Some(keypair) => Some(Held { secret: secret.clone(), keypair: keypair.clone() }),
        None => before.filter(|it| certificate.keeps_last && it.secret == *secret).cloned(),
    }
}
