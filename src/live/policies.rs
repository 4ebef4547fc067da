//! TLS policies: what is asked of clients in a handshake, and what it is done with.
//!
//! Hosts that ask for the same share one policy, with one configuration of rustls, one store of sessions
//! and one set of ticket keys, which outlive every change of routes and certificates: sessions are resumed
//! after a renewal. No session crosses policies: another CA, another list of the revoked, another mode is
//! another policy, and its clients begin anew.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Instant;

use arc_swap::ArcSwap;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerSessionMemoryCache,
};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{ConfigBuilder, ServerConfig, SupportedCipherSuite, WantsVerifier};

use super::Live;
use super::judge::Judge;
use super::tickets::Tickets;
use super::verify::AnyClient;
use crate::model::client_tls::{Demand, HostTls, TlsSettings};

/// Most sessions in memory where clients get no tickets; ingress-nginx's 10 MB hold four times as many.
const SESSIONS: usize = 10_000;
/// The same where they do, for old ones that take none.
const FEW_SESSIONS: usize = 256;

/// A policy's name; never given to another one.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct PolicyId(u64);

impl PolicyId {
    /// Asks nothing of clients.
    pub const OPEN: Self = Self(0);
    /// No handshake is ours: it is handed on.
    pub const THROUGH: Self = Self(1);
    /// The first of those that ask for certificates.
    const FIRST: u64 = 2;
}

/// What a handshake is done with.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Its name.
    pub id: PolicyId,
    /// rustls's configuration; `None` only where the library refused it, and nobody is let in.
    pub config: Option<Arc<ServerConfig>>,
    /// Who looks at a client's certificate; `None` where none is asked for.
    pub judge: Option<Arc<Judge>>,
}

/// All policies of what is served.
#[derive(Debug)]
pub struct Policies {
    settings: TlsSettings,
    open: Policy,
    asking: HashMap<Arc<Demand>, Policy>,
    next: u64,
    resolver: Arc<Resolver>,
}

impl Policies {
    /// The open policy alone.
    pub(super) fn empty() -> Self {
        let (settings, resolver) = (TlsSettings::default(), Arc::default());
        let open = open(&settings, &resolver);
        Self { settings, open, asking: HashMap::new(), next: PolicyId::FIRST, resolver }
    }

    /// Begins with what is the same for all, as it was in `previous` where the settings are.
    pub(super) fn after(previous: &Self, settings: &TlsSettings) -> Self {
        let resolver = previous.resolver.clone();
        let open = if previous.settings == *settings {
            previous.open.clone()
        } else {
            open(settings, &resolver)
        };
        let (settings, next) = (settings.clone(), previous.next);
        Self { settings, open, asking: HashMap::new(), next, resolver }
    }

    /// The policy of a host, made on first use.
    pub(super) fn add(&mut self, tls: Option<&HostTls>, previous: &Self) -> PolicyId {
        let demand = match tls {
            None | Some(HostTls::Denied) => return PolicyId::OPEN,
            Some(HostTls::Through) => return PolicyId::THROUGH,
            Some(HostTls::Asks(guard)) => match &guard.demand {
                None => return PolicyId::OPEN,
                Some(demand) => demand,
            },
        };
        if let Some(known) = self.asking.get(demand) {
            return known.id;
        }
        let before = previous.asking.get(demand);
        let made = match before {
            Some(before) if previous.settings == self.settings => before.clone(),
            _ => {
                let id = before.map_or(PolicyId(self.next), |it| it.id);
                asking(id, demand, &self.settings, &self.resolver)
            }
        };
        if before.is_none() {
            self.next += 1;
        }
        let id = made.id;
        self.asking.insert(demand.clone(), made);
        id
    }

    /// The policy of that name; that of [`PolicyId::THROUGH`] is nobody's.
    pub fn policy(&self, tls: Option<&HostTls>) -> &Policy {
        let demand = match tls {
            Some(HostTls::Asks(guard)) => guard.demand.as_ref(),
            _ => None,
        };
        demand.and_then(|it| self.asking.get(it)).unwrap_or(&self.open)
    }

    /// Has certificates found in what is served at each time.
    pub(super) fn attach(&self, current: &Arc<ArcSwap<Live>>) {
        // A second time would be another proxy with the same `Live`, which there is not.
        let _ = self.resolver.0.set(Arc::downgrade(current));
    }
}

fn open(settings: &TlsSettings, resolver: &Arc<Resolver>) -> Policy {
    let config = begin(settings).map(ConfigBuilder::<ServerConfig, _>::with_no_client_auth);
    let config = config.map(|it| it.with_cert_resolver(resolver.clone()));
    let config = config.and_then(|it| finish(it, settings, true));
    Policy { id: PolicyId::OPEN, config, judge: None }
}

fn asking(
    id: PolicyId,
    demand: &Arc<Demand>,
    settings: &TlsSettings,
    resolver: &Arc<Resolver>,
) -> Policy {
    let config = begin(settings).map(|it| it.with_client_cert_verifier(AnyClient::new(demand)));
    let config = config.map(|it| it.with_cert_resolver(resolver.clone()));
    let config = config.and_then(|it| finish(it, settings, false));
    Policy { id, config, judge: Some(Arc::new(Judge::new(demand.clone()))) }
}

fn begin(settings: &TlsSettings) -> Option<ConfigBuilder<ServerConfig, WantsVerifier>> {
    let TlsSettings { versions, ciphers, .. } = settings;
    let versions = [(versions.tls13, &TLS13), (versions.tls12, &TLS12)];
    let versions: Vec<_> = versions.into_iter().filter_map(|(it, v)| it.then_some(v)).collect();
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    let offered = |it: &SupportedCipherSuite| it.tls13().is_some() || ciphers.offer(it.suite());
    provider.cipher_suites.retain(offered);
    ServerConfig::builder_with_provider(provider.into()).with_protocol_versions(&versions).ok()
}

/// `small` tells that a session is: it holds no certificate that a client chose.
fn finish(
    mut config: ServerConfig,
    settings: &TlsSettings,
    small: bool,
) -> Option<Arc<ServerConfig>> {
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    if settings.h2 {
        config.alpn_protocols.insert(0, b"h2".to_vec());
    }
    config.max_early_data_size = 0;
    let resumption = settings.resumption;
    config.session_storage = if small && resumption.cache {
        ServerSessionMemoryCache::new(if resumption.tickets { FEW_SESSIONS } else { SESSIONS })
    } else {
        Arc::new(NoServerSessionStorage {})
    };
    if resumption.tickets {
        config.ticketer = Arc::new(Tickets::new(settings.session_timeout, Instant::now()).ok()?);
    } else if !(small && resumption.cache) {
        config.send_tls13_tickets = 0;
    }
    Some(Arc::new(config))
}

/// Finds the key of a server name in what is served now.
#[derive(Debug, Default)]
struct Resolver(OnceLock<Weak<ArcSwap<Live>>>);

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.0.get()?.upgrade()?;
        Some(current.load().keys.find(hello.server_name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::client_tls::{Guard, Resumption, Verify};
    use crate::model::upstream::Authorities;

    fn asks(authorities: &Arc<Authorities>, verify: Verify, depth: u8) -> HostTls {
        let authorities = authorities.clone();
        let demand = Demand { authorities, revocations: None, verify, depth };
        let demand = Some(Arc::new(demand));
        HostTls::Asks(Guard {
            demand,
            error_page: None,
            pass_certificate: false,
            subjects: Vec::new(),
        })
    }

    fn authorities(name: &str) -> Arc<Authorities> {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        Arc::new(Authorities(vec![made.cert.der().clone()]))
    }

    /// The configuration is what sessions hang on.
    fn config<'a>(policies: &'a Policies, tls: &HostTls) -> &'a Arc<ServerConfig> {
        policies.policy(Some(tls)).config.as_ref().expect("a configuration")
    }

    #[test]
    fn a_policy_is_what_is_asked_for_and_outlives_swaps() {
        let settings = TlsSettings::default();
        let [one, other] = ["one", "other"].map(authorities);
        let same = Arc::new(Authorities(one.0.clone()));
        let empty = Policies::empty();
        let mut first = Policies::after(&empty, &settings);
        let on = asks(&one, Verify::On, 1);
        let id = first.add(Some(&on), &empty);
        let mut next = Policies::after(&first, &settings);
        for (case, tls, same) in [
            ("the same", asks(&one, Verify::On, 1), true),
            ("the same certificates", asks(&same, Verify::On, 1), true),
            ("another mode", asks(&one, Verify::Optional, 1), false),
            ("another depth", asks(&one, Verify::On, 2), false),
            ("another CA", asks(&other, Verify::On, 1), false),
        ] {
            let given = next.add(Some(&tls), &first);
            assert_eq!(given == id, same, "{case}");
            assert_eq!(Arc::ptr_eq(config(&first, &on), config(&next, &tls)), same, "{case}");
        }
        assert!(Arc::ptr_eq(
            next.open.config.as_ref().expect("a configuration"),
            empty.open.config.as_ref().expect("a configuration"),
        ));
    }

    #[test]
    fn a_policy_that_was_gone_is_another_one() {
        let settings = TlsSettings::default();
        let on = asks(&authorities("one"), Verify::On, 1);
        let empty = Policies::empty();
        let mut first = Policies::after(&empty, &settings);
        let id = first.add(Some(&on), &empty);
        let gone = Policies::after(&first, &settings);
        let mut again = Policies::after(&gone, &settings);
        assert_ne!(again.add(Some(&on), &gone), id);
    }

    #[test]
    fn hosts_that_ask_for_nothing_are_open() {
        let mut policies = Policies::empty();
        let off = HostTls::Asks(Guard {
            demand: None,
            error_page: None,
            pass_certificate: false,
            subjects: Vec::new(),
        });
        for (tls, expected) in [
            (None, PolicyId::OPEN),
            (Some(&HostTls::Denied), PolicyId::OPEN),
            (Some(&off), PolicyId::OPEN),
            (Some(&HostTls::Through), PolicyId::THROUGH),
        ] {
            assert_eq!(policies.add(tls, &Policies::empty()), expected, "{tls:?}");
        }
    }

    #[test]
    fn settings_are_those_of_the_configuration() {
        let on = asks(&authorities("one"), Verify::On, 1);
        for (tickets, cache, of_open, of_asking) in [
            // Whether there are tickets, whether there is a store, and whether TLS 1.3 resumes at all.
            (true, true, (true, true, true), (true, false, true)),
            (true, false, (true, false, true), (true, false, true)),
            (false, true, (false, true, true), (false, false, false)),
            (false, false, (false, false, false), (false, false, false)),
        ] {
            let settings = TlsSettings {
                resumption: Resumption { tickets, cache },
                h2: false,
                ..TlsSettings::default()
            };
            let before = Policies::empty();
            let mut policies = Policies::after(&before, &settings);
            policies.add(Some(&on), &before);
            for (tls, expected) in [(None, of_open), (Some(&on), of_asking)] {
                let config = policies.policy(tls).config.as_ref().expect("a configuration");
                let found = (
                    config.ticketer.enabled(),
                    config.session_storage.can_cache(),
                    config.send_tls13_tickets > 0,
                );
                assert_eq!(found, expected, "{tickets} {cache}");
                assert_eq!(config.alpn_protocols, [b"http/1.1".to_vec()]);
            }
        }
    }
}
