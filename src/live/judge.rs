//! Who looks at the certificates of clients.
//!
//! The handshake takes any certificate whose key the client proves to have; whether it is a good one is
//! decided beside the handshake, and told in HTTP, as nginx does. A session that is resumed brings the
//! certificate of its first handshake along, which is looked at again each time: what has expired since, or
//! was revoked, is not good.
//!
//! webpki reads certificates of version 3 only. `openssl x509 -req` makes those of version 1, and so do many
//! instructions for clients of nginx: such a one is good when an authority that we trust has signed it
//! itself.

use std::sync::Arc;

use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{CertificateError, Error, RootCertStore};
use x509_parser::oid_registry::{OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA};
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

use super::verify;
use crate::model::client_tls::{Demand, Verify, holds};

/// What is wrong with a certificate, in OpenSSL's words, which applications know from nginx.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Flaw {
    /// Nobody we trust has issued it.
    Stranger,
    /// It has issued itself.
    SelfSigned,
    /// It is not good any more.
    Expired,
    /// It is not good yet.
    Early,
    /// Its issuer has taken it back.
    Revoked,
    /// Its issuer's list of the revoked is not there.
    NoList,
    /// That list is too old.
    OldList,
    /// It is not for clients.
    Purpose,
    /// It is broken in some other way.
    Broken,
}

impl Flaw {
    /// As `ssl-client-verify` has it behind `FAILED:`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stranger => "unable to verify the first certificate",
            Self::SelfSigned => "self-signed certificate",
            Self::Expired => "certificate has expired",
            Self::Early => "certificate is not yet valid",
            Self::Revoked => "certificate revoked",
            Self::NoList => "unable to get certificate CRL",
            Self::OldList => "CRL has expired",
            Self::Purpose => "unsuitable certificate purpose",
            Self::Broken => "certificate rejected",
        }
    }

    /// Whether `optional_no_ca` lets it pass: it is only about who issued the certificate.
    pub fn is_about_issuer(self) -> bool {
        matches!(self, Self::Stranger | Self::SelfSigned)
    }
}

/// Looks at certificates for one policy.
#[derive(Debug)]
pub struct Judge {
    demand: Arc<Demand>,
    /// `None` where the library takes no such authorities: then nothing is good.
    webpki: Option<Arc<dyn ClientCertVerifier>>,
}

impl Judge {
    pub(super) fn new(demand: Arc<Demand>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(demand.authorities.0.iter().cloned());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut builder = WebPkiClientVerifier::builder_with_provider(roots.into(), provider);
        if let Some(revocations) = &demand.revocations {
            // As with nginx's `ssl_crl` every certificate needs a list, and one that is not too old.
            builder = builder.with_crls(revocations.0.iter().cloned());
            builder = builder.enforce_revocation_expiration();
        }
        Self { webpki: builder.build().ok(), demand }
    }

    /// Whether there has to be a good one.
    pub fn verify(&self) -> Verify {
        self.demand.verify
    }

    /// Looks at a chain, the client's own certificate first. Costs a check of a signature for each.
    pub fn look(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> Result<(), Flaw> {
        let Some(((leaf, rest), webpki)) = chain.split_first().zip(self.webpki.as_ref()) else {
            return Err(Flaw::Broken);
        };
        let (_, parsed) = X509Certificate::from_der(leaf).map_err(|_| Flaw::Broken)?;
        if parsed.version() == X509Version::V1 {
            return self.look_at_old(leaf, &parsed, now);
        }
        let between = self.within_depth(&parsed, rest);
        let Err(error) = webpki.verify_client_cert(leaf, &between, now) else { return Ok(()) };
        let flaw = flaw(&error, &parsed);
        // webpki takes no authority for a client's certificate; OpenSSL takes one that it trusts itself.
        let trusted = flaw.is_about_issuer() || flaw == Flaw::Broken;
        if trusted && self.demand.revocations.is_none() && holds(&self.demand.authorities, leaf) {
            return validity(&parsed, now);
        }
        // Time is told first: who would let a stranger pass does not let an old one.
        if flaw.is_about_issuer() {
            validity(&parsed, now)?;
        }
        Err(flaw)
    }

    /// Looks at a certificate of version 1, which says nothing of purposes. Where there are lists of the revoked
    /// none is good.
    fn look_at_old(
        &self,
        leaf: &CertificateDer<'_>,
        parsed: &X509Certificate<'_>,
        now: UnixTime,
    ) -> Result<(), Flaw> {
        validity(parsed, now)?;
        let Demand { authorities, revocations, .. } = &*self.demand;
        if revocations.is_some() {
            return Err(Flaw::NoList);
        }
        let sha1 = [OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA];
        if sha1.contains(&parsed.signature_algorithm.algorithm) {
            return Err(Flaw::Broken);
        }
        let signed = |authority: &CertificateDer<'_>| {
            X509Certificate::from_der(authority).is_ok_and(|(_, authority)| {
                let may = authority.is_ca() || authority.version() == X509Version::V1;
                may && authority.subject().as_raw() == parsed.issuer().as_raw()
                    && validity(&authority, now).is_ok()
                    && parsed.verify_signature(Some(authority.public_key())).is_ok()
            })
        };
        if holds(authorities, leaf) || authorities.0.iter().any(signed) {
            return Ok(());
        }
        let own = parsed.subject().as_raw() == parsed.issuer().as_raw();
        Err(if own { Flaw::SelfSigned } else { Flaw::Stranger })
    }

    /// Certificates that are at most as many steps from the leaf as may be between it and an authority.
    fn within_depth<'a>(
        &self,
        leaf: &X509Certificate<'_>,
        rest: &'a [CertificateDer<'a>],
    ) -> Vec<CertificateDer<'a>> {
        let parse = |it: &'a CertificateDer<'a>| Some((it, X509Certificate::from_der(it).ok()?.1));
        let mut left: Vec<_> = rest.iter().filter_map(parse).collect();
        let mut wanted = vec![leaf.issuer().as_raw().to_vec()];
        let mut kept = Vec::new();
        for _ in 0..self.demand.depth {
            let issues =
                |it: &X509Certificate<'_>| wanted.iter().any(|name| it.subject().as_raw() == name);
            let (found, others): (Vec<_>, Vec<_>) =
                left.into_iter().partition(|(_, it)| issues(it));
            left = others;
            wanted = found.iter().map(|(_, it)| it.issuer().as_raw().to_vec()).collect();
            if found.is_empty() {
                break;
            }
            kept.extend(found.into_iter().map(|(it, _)| CertificateDer::from(it.as_ref())));
        }
        kept
    }
}

/// Whether it is good now, in OpenSSL's words.
fn validity(certificate: &X509Certificate<'_>, now: UnixTime) -> Result<(), Flaw> {
    verify::validity(certificate, now).map_err(|it| flaw(&it, certificate))
}

fn flaw(error: &Error, certificate: &X509Certificate<'_>) -> Flaw {
    let Error::InvalidCertificate(error) = error else { return Flaw::Broken };
    match error {
        CertificateError::UnknownIssuer
            if certificate.subject().as_raw() == certificate.issuer().as_raw() =>
        {
            Flaw::SelfSigned
        }
        CertificateError::UnknownIssuer => Flaw::Stranger,
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => Flaw::Expired,
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Flaw::Early,
        CertificateError::Revoked => Flaw::Revoked,
        CertificateError::UnknownRevocationStatus => Flaw::NoList,
        CertificateError::ExpiredRevocationList
        | CertificateError::ExpiredRevocationListContext { .. } => Flaw::OldList,
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            Flaw::Purpose
        }
        _ => Flaw::Broken,
    }
}
