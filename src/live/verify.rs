//! Whose certificates handshakes take: all that this program says to rustls of who is believed.
//!
//! Towards endpoints an authority decides, or nobody; towards clients the handshake takes any certificate, and
//! a [judge](super::judge) looks at it afterwards.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{
    CertificateDer, ServerName, SignatureVerificationAlgorithm, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

use crate::model::client_tls::Demand;
use crate::model::upstream::Authorities;

/// Whether a certificate is good now, its issuer aside; RFC 5280 section 4.1.2.5.
pub(super) fn validity(certificate: &X509Certificate<'_>, now: UnixTime) -> Result<(), Error> {
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let validity = certificate.validity();
    if now < validity.not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > validity.not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

/// Looks at certificates as webpki does, and takes one that is itself among the trusted, as OpenSSL and so
/// nginx do. What `openssl req -x509` makes is an authority, which webpki takes for no server's certificate;
/// name and time are checked of such a one, too.
#[derive(Debug)]
pub(super) struct Verified {
    webpki: Arc<WebPkiServerVerifier>,
    authorities: Arc<Authorities>,
}

impl Verified {
    pub(super) fn new(authorities: &Arc<Authorities>, provider: Arc<CryptoProvider>) -> Arc<Self> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(authorities.0.iter().cloned());
        let webpki = WebPkiServerVerifier::builder_with_provider(roots.into(), provider);
        // Fails for no roots at all, and there is one.
        let webpki = webpki.build().expect("an authority is trusted");
        Arc::new(Self { webpki, authorities: authorities.clone() })
    }
}

impl ServerCertVerifier for Verified {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let checked = self.webpki.verify_server_cert(end_entity, intermediates, name, ocsp, now);
        let Err(Error::InvalidCertificate(CertificateError::Other(_))) = &checked else {
            return checked;
        };
        if !self.authorities.0.contains(end_entity) {
            return checked;
        }
        verify_server_name(&ParsedCertificate::try_from(end_entity)?, name)?;
        let (_, parsed) = X509Certificate::from_der(end_entity)
            .map_err(|_| Error::from(CertificateError::BadEncoding))?;
        validity(&parsed, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.webpki.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// Takes any certificate of a server.
#[derive(Debug)]
pub struct AnyServer {
    algorithms: WebPkiSupportedAlgorithms,
    /// Whether the server has to prove that it has the certificate's key.
    with_key: bool,
}

impl AnyServer {
    /// Takes it from a server that has its key (`proxy-ssl-verify: off`, the default).
    pub(super) fn with_key(provider: &CryptoProvider) -> Arc<Self> {
        Self::new(provider, true)
    }

    /// Takes it from whoever shows it, for what is believed on other grounds.
    pub fn unproven(provider: &CryptoProvider) -> Arc<Self> {
        Self::new(provider, false)
    }

    fn new(provider: &CryptoProvider, with_key: bool) -> Arc<Self> {
        Arc::new(Self { algorithms: provider.signature_verification_algorithms, with_key })
    }
}

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if !self.with_key {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if !self.with_key {
            return Ok(HandshakeSignatureValid::assertion());
        }
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// Asks for a certificate and takes any, or none; that its key is the client's is checked.
#[derive(Debug)]
pub(super) struct AnyClient {
    /// Whose certificates clients are asked for.
    hints: Vec<DistinguishedName>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl AnyClient {
    /// Most bytes of names that clients are told, which come with every handshake.
    const HINTS: usize = 8 << 10;

    pub(super) fn new(demand: &Demand) -> Arc<Self> {
        let parse = |it: &CertificateDer<'_>| {
            let (_, certificate) = X509Certificate::from_der(it).ok()?;
            Some(DistinguishedName::from(certificate.subject().as_raw().to_vec()))
        };
        let mut hints: Vec<_> = demand.authorities.0.iter().filter_map(parse).collect();
        // Without any name clients choose by themselves.
        if hints.iter().map(|it| it.as_ref().len()).sum::<usize>() > Self::HINTS {
            hints.clear();
        }
        let provider: CryptoProvider = rustls::crypto::aws_lc_rs::default_provider();
        Arc::new(Self { hints, algorithms: provider.signature_verification_algorithms })
    }

    /// What webpki does for certificates that it can read.
    fn verify_by_key(
        &self,
        message: &[u8],
        certificate: &X509Certificate<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let bad = || Error::from(CertificateError::BadSignature);
        let key = certificate.public_key();
        let algorithm = contents(key.raw).and_then(contents).ok_or_else(bad)?;
        let mut known = self.algorithms.mapping.iter();
        let (_, known) = known.find(|(it, _)| *it == signed.scheme).ok_or_else(bad)?;
        let fitting = known.iter().filter(|it| it.public_key_alg_id().as_ref() == algorithm);
        let data = &key.subject_public_key.data;
        let is_good = |it: &dyn SignatureVerificationAlgorithm| {
            it.verify_signature(data, message, signed.signature()).is_ok()
        };
        let found = { fitting }.any(|it| is_good(*it));
        found.then(HandshakeSignatureValid::assertion).ok_or_else(bad)
    }
}

/// A certificate, if it is of version 1.
fn old<'a>(certificate: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    (parsed.version() == X509Version::V1).then_some(parsed)
}

/// What is in the first element of some DER (X.690 section 8.1).
fn contents(der: &[u8]) -> Option<&[u8]> {
    let (&length, rest) = der.get(1..)?.split_first()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(length), rest),
        0x81 => (usize::from(*rest.first()?), &rest[1..]),
        0x82 => (usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?])), &rest[2..]),
        _ => return None,
    };
    rest.get(..length)
}

impl ClientCertVerifier for AnyClient {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match old(certificate) {
            Some(old) => self.verify_by_key(message, &old, signed),
            None => verify_tls12_signature(message, certificate, signed, &self.algorithms),
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        match old(certificate) {
            Some(old) => {
                let key = SubjectPublicKeyInfoDer::from(old.public_key().raw);
                verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms)
            }
            None => verify_tls13_signature(message, certificate, signed, &self.algorithms),
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
