//! What each Ingress says of TLS towards clients, by itself.

use std::collections::BTreeSet;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;

use crate::compile::objects::Objects;
use crate::compile::routes::{Ours, hosts_of};
use crate::model::client_tls::{ClientTls, Demand, Guard, Revocations, Verify};
use crate::model::host::HostPattern;
use crate::model::name::ObjectName;
use crate::model::upstream::Authorities;

/// An Ingress that says something of TLS towards clients.
pub(super) struct Saying<'a> {
    pub(super) name: &'a ObjectName,
    pub(super) words: &'a ClientTls,
    pub(super) hosts: BTreeSet<HostPattern>,
}

impl<'a> Saying<'a> {
    /// `None` for one that says nothing.
    pub(super) fn of(ours: &'a Ours<'_>) -> Option<Self> {
        let words = ours.options.client_tls.as_deref()?;
        (words.asks() || words.passthrough).then(|| Self {
            name: ours.name,
            words,
            hosts: hosts_of(ours.ingress),
        })
    }

    /// The Secret it names, unless that is in another namespace.
    pub(super) fn secret(&self) -> Option<ObjectName> {
        let text = self.words.secret.as_ref()?;
        let own = || ObjectName::new(self.name.namespace.clone(), text.clone());
        let secret = text.parse().unwrap_or_else(|_| own());
        (secret.namespace == self.name.namespace).then_some(secret)
    }
}

/// What the words of one Ingress come to.
pub(super) enum Found {
    /// It says nothing of certificates, or nothing by itself: it names no Secret.
    Nothing,
    Guard(Guard),
    /// Something is not there or cannot be read.
    Broken(String),
}

/// Reads the Secret it names, if any.
pub(super) fn look_up(saying: &Saying<'_>, objects: &Objects) -> Found {
    let ClientTls { secret, verify, depth, error_page, pass_certificate, subject, unread, .. } =
        saying.words;
    if *unread {
        return Found::Broken("an annotation auth-tls-... cannot be read".to_owned());
    }
    let Some(text) = secret else { return Found::Nothing };
    let Some(name) = saying.secret() else {
        return Found::Broken(format!("auth-tls-secret {text} is in another namespace"));
    };
    let verify = verify.unwrap_or(Verify::On);
    let demand = match demand(&name, verify, depth.unwrap_or(1), objects) {
        Ok(demand) => (verify != Verify::Off).then(|| Arc::new(demand)),
        Err(why) => return Found::Broken(format!("auth-tls-secret {name}{why}")),
    };
    Found::Guard(Guard {
        demand,
        error_page: error_page.clone(),
        pass_certificate: *pass_certificate,
        subjects: subject.iter().cloned().collect(),
    })
}

/// The error goes on after the Secret's name.
fn demand(
    name: &ObjectName,
    verify: Verify,
    depth: u8,
    objects: &Objects,
) -> Result<Demand, String> {
    let secret = objects.secrets.get(name).ok_or(" is not there")?;
    let authorities = match &secret.authorities {
        Some(Ok(authorities)) => authorities.clone(),
        Some(Err(error)) => return Err(format!(": ca.crt {error}")),
        None => return Err(": ca.crt is missing".to_owned()),
    };
    let revocations = match &secret.revocations {
        Some(Ok(revocations)) => Some(revocations.clone()),
        Some(Err(error)) => return Err(format!(": ca.crl {error}")),
        None => None,
    };
    if !is_usable(&authorities, revocations.as_deref()) {
        return Err(": ca.crl holds what is no list of version 2 (RFC 5280)".to_owned());
    }
    Ok(Demand { authorities, revocations, verify, depth })
}

/// Whether certificates can be checked with these.
fn is_usable(authorities: &Authorities, revocations: Option<&Revocations>) -> bool {
    let Some(revocations) = revocations else { return true };
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(authorities.0.iter().cloned());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
    builder.with_crls(revocations.0.iter().cloned()).build().is_ok()
}
