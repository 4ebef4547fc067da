//! A certificate chain and its private key, known to belong together.

use std::fmt::{self, Write as _};
use std::sync::{Arc, LazyLock, OnceLock};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

use super::common::Common;
use super::host::HostPattern;

/// Largest `tls.crt` or `tls.key` that is read, in bytes: a chain of a hundred certificates fits, a
/// megabyte of PEM that would cost every replica a second of parsing does not.
const LARGEST: usize = 256 << 10;

/// Those of all pairs there are.
static ISSUERS: LazyLock<Common<Issuer>> = LazyLock::new(Common::default);

/// What a `kubernetes.io/tls` Secret holds.
///
/// The signing key is made on first use, so that ten thousand certificates nobody asks for cost
/// their bytes and no more.
pub struct Keypair {
    /// The certificate itself.
    pub leaf: CertificateDer<'static>,
    /// Who signed it.
    pub issuer: Arc<Issuer>,
    key: PrivateKeyDer<'static>,
    /// DNS names the leaf is for, lower-cased; the subject's common name where it has no other.
    pub names: Box<[HostPattern]>,
    /// Seconds since 1970.
    pub not_before: i64,
    /// Seconds since 1970.
    pub not_after: i64,
    /// In hexadecimal.
    pub serial: String,
    /// What the CA knows the leaf by (RFC 9773 section 4.1); without its first half where the leaf
    /// names no key of its issuer.
    pub id: String,
    certified: OnceLock<Arc<CertifiedKey>>,
}

/// Who signed a certificate: what all pairs under one certificate of a CA have in common.
#[derive(Clone, Debug, Default, Eq, Hash, PartialEq)]
pub struct Issuer {
    /// Its common name; empty without one.
    pub common_name: String,
    /// Its organization; empty without one.
    pub organization: String,
    /// What follows the leaf in `tls.crt`.
    pub chain: Box<[CertificateDer<'static>]>,
}

/// Why a chain and a key cannot be served.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum KeypairError {
    /// The Secret lacks one of its two entries.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// Larger than any real chain.
    #[error("{0} is larger than 256 KiB")]
    Large(&'static str),
    /// RFC 7468.
    #[error("{0} is not PEM: {1}")]
    Pem(&'static str, String),
    /// RFC 5280.
    #[error("tls.crt does not begin with an X.509 certificate")]
    Certificate,
    /// No algorithm we sign with.
    #[error("tls.key is not a key that can sign: {0}")]
    Key(String),
    /// Two halves of different pairs.
    #[error("tls.key does not belong to the certificate in tls.crt")]
    Mismatch,
}

impl Keypair {
    /// Reads `tls.crt` and `tls.key`, and checks that they belong together.
    pub fn parse(crt: Option<&[u8]>, key: Option<&[u8]>) -> Result<Self, KeypairError> {
        let crt = bounded("tls.crt", crt)?;
        let key = bounded("tls.key", key)?;
        let mut chain = CertificateDer::pem_slice_iter(crt)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| KeypairError::Pem("tls.crt", error.to_string()))?
            .into_iter();
        let key = PrivateKeyDer::from_pem_slice(key)
            .map_err(|error| KeypairError::Pem("tls.key", error.to_string()))?;
        let der = chain.next().ok_or(KeypairError::Certificate)?;
        let (_, leaf) = X509Certificate::from_der(&der).map_err(|_| KeypairError::Certificate)?;
        let (not_before, not_after) =
            (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());
        let serial = leaf.raw_serial().iter().fold(String::new(), |mut text, byte| {
            // Writing to a string does not fail.
            let _ = write!(text, "{byte:02x}");
            text
        });
        let text = |it: Option<&x509_parser::x509::AttributeTypeAndValue<'_>>| {
            it.and_then(|it| it.as_str().ok()).unwrap_or_default().to_owned()
        };
        let issuer = Issuer {
            common_name: text(leaf.issuer().iter_common_name().next()),
            organization: text(leaf.issuer().iter_organization().next()),
            chain: chain.collect(),
        };
        let mut pair = Self {
            names: names(&leaf).into(),
            not_before,
            not_after,
            serial,
            id: id(&leaf),
            issuer: issuer.into(),
            // What PEM was read into has room to spare.
            leaf: der.as_ref().to_vec().into(),
            key,
            certified: OnceLock::new(),
        };
        match pair.certify()?.keys_match() {
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {
                pair.issuer = ISSUERS.of(pair.issuer);
                Ok(pair)
            }
            Err(_) => Err(KeypairError::Mismatch),
        }
    }

    /// The certificates, leaf first, as in `tls.crt`.
    pub fn chain(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        std::iter::once(&self.leaf).chain(&*self.issuer.chain)
    }

    /// What rustls signs handshakes with.
    pub fn certified(&self) -> Result<Arc<CertifiedKey>, KeypairError> {
        if let Some(made) = self.certified.get() {
            return Ok(made.clone());
        }
        let made = Arc::new(self.certify()?);
        Ok(self.certified.get_or_init(|| made).clone())
    }

    /// Whether the leaf is for a host.
    pub fn covers(&self, host: &HostPattern) -> bool {
        self.names.iter().any(|name| name.covers_all(host))
    }

    /// `tls.crt` and `tls.key`, as they are written into a Secret.
    pub fn to_pem(&self) -> (String, String) {
        let chain = self.chain().map(|it| pem("CERTIFICATE", it)).collect();
        let label = match &self.key {
            PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
            PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
            _ => "PRIVATE KEY",
        };
        (chain, pem(label, self.key.secret_der()))
    }

    fn certify(&self) -> Result<CertifiedKey, KeypairError> {
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&self.key)
            .map_err(|error| KeypairError::Key(error.to_string()))?;
        Ok(CertifiedKey::new(self.chain().cloned().collect(), key))
    }
}

impl PartialEq for Keypair {
    /// Equal chains are equal pairs: each was checked to match its own key.
    fn eq(&self, other: &Self) -> bool {
        self.leaf == other.leaf && self.issuer == other.issuer
    }
}

impl Eq for Keypair {}

impl fmt::Debug for Keypair {
    /// Never shows the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keypair")
            .field("names", &self.names)
            .field("serial", &self.serial)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

fn bounded<'a>(name: &'static str, bytes: Option<&'a [u8]>) -> Result<&'a [u8], KeypairError> {
    match bytes {
        None | Some([]) => Err(KeypairError::Missing(name)),
        Some(it) if it.len() > LARGEST => Err(KeypairError::Large(name)),
        Some(it) => Ok(it),
    }
}

/// The key identifier of the issuer and the serial number, each in base64url, with a dot between them.
fn id(leaf: &X509Certificate<'_>) -> String {
    let issuer = leaf.iter_extensions().find_map(|it| match it.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(it) => it.key_identifier.as_ref().map(|it| it.0),
        _ => None,
    });
    let encode = |it: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(it);
    format!("{}.{}", encode(issuer.unwrap_or_default()), encode(leaf.raw_serial()))
}

/// RFC 7468: lines of 64 characters between two marks.
fn pem(label: &str, der: &[u8]) -> String {
    let mut text = format!("-----BEGIN {label}-----\n");
    for (at, character) in BASE64_STANDARD.encode(der).chars().enumerate() {
        if at > 0 && at % 64 == 0 {
            text.push('\n');
        }
        text.push(character);
    }
    text.push('\n');
    text + &format!("-----END {label}-----\n")
}

/// Subject alternative names (RFC 5280 section 4.2.1.6), or the common name where there are none.
fn names(leaf: &X509Certificate<'_>) -> Vec<HostPattern> {
    let alternative = leaf.subject_alternative_name().ok().flatten();
    let dns = alternative.iter().flat_map(|it| &it.value.general_names).filter_map(|it| match it {
        GeneralName::DNSName(name) => name.parse().ok(),
        _ => None,
    });
    let mut names: Vec<HostPattern> = dns.collect();
    if names.is_empty() {
        let common = leaf.subject().iter_common_name().filter_map(|it| it.as_str().ok());
        names.extend(common.filter_map(|it| it.parse().ok()));
    }
    names.retain(|it| *it != HostPattern::Any);
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str) -> (String, String) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).expect("a certificate");
        (made.cert.pem(), made.signing_key.serialize_pem())
    }

    #[test]
    fn a_pair_knows_its_names_and_its_end() {
        let (crt, key) = pair("*.Example.org");
        let parsed = Keypair::parse(Some(crt.as_bytes()), Some(key.as_bytes())).expect("a pair");
        assert_eq!(*parsed.names, [HostPattern::Wildcard("example.org".into())]);
        assert!(parsed.covers(&HostPattern::Exact("a.example.org".into())));
        assert!(!parsed.covers(&HostPattern::Exact("example.org".into())));
        assert!(parsed.not_after > parsed.not_before);
    }

    #[test]
    fn a_pair_survives_being_written_down() {
        let (crt, key) = pair("a.test");
        let parsed = Keypair::parse(Some(crt.as_bytes()), Some(key.as_bytes())).expect("a pair");
        let (crt, key) = parsed.to_pem();
        let again = Keypair::parse(Some(crt.as_bytes()), Some(key.as_bytes())).expect("a pair");
        assert_eq!(parsed, again);
        assert_eq!(parsed.id, again.id);
    }

    #[test]
    fn halves_of_two_pairs_are_refused() {
        let ((crt, _), (_, key)) = (pair("a.test"), pair("b.test"));
        let parsed = Keypair::parse(Some(crt.as_bytes()), Some(key.as_bytes()));
        assert_eq!(parsed.expect_err("no pair"), KeypairError::Mismatch);
    }

    #[test]
    fn what_is_not_a_pair_is_refused() {
        let (crt, key) = pair("a.test");
        let large = vec![b'A'; LARGEST + 1];
        for (crt, key, expected) in [
            (None, Some(key.as_bytes()), KeypairError::Missing("tls.crt")),
            (Some(crt.as_bytes()), Some(&b""[..]), KeypairError::Missing("tls.key")),
            (Some(&large[..]), Some(key.as_bytes()), KeypairError::Large("tls.crt")),
            (Some(&b"nonsense"[..]), Some(key.as_bytes()), KeypairError::Certificate),
        ] {
            assert_eq!(Keypair::parse(crt, key).expect_err("no pair"), expected);
        }
        let half = &crt.as_bytes()[..crt.len() / 2];
        assert!(Keypair::parse(Some(half), Some(key.as_bytes())).is_err());
    }
}
