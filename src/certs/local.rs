//! A small CA of our own, for machines without one.
//!
//! Its key lives in a Secret, `lockgate-local-ca`, and is made when it is first needed. Nobody trusts it
//! by itself: its certificate (`ca.crt`) is given to those who should.

use std::collections::BTreeMap;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::pki_types::CertificateSigningRequestDer;

use super::claims;
use super::trouble::Trouble;
use super::vault::Vault;
use crate::model::name::ObjectName;
use crate::store::StoredSecret;

/// How long the CA itself lasts.
const LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);
/// How far certificates begin in the past, for clocks that are behind.
const BACK: Duration = Duration::from_secs(3600);

/// The built-in CA.
#[derive(Clone, Debug)]
pub struct Local {
    /// Where its key is.
    pub secret: ObjectName,
    /// How long its certificates last.
    pub validity: Duration,
}

impl Local {
    /// Signs a request at `now`, in seconds since 1970; gives the chain in PEM.
    pub(super) async fn issue(
        &self,
        vault: &Vault,
        csr: &[u8],
        now: i64,
    ) -> Result<String, Trouble> {
        let (certificate, key) = self.ca(vault, now).await?;
        let failed = |it: rcgen::Error| Trouble::Unusable(it.to_string());
        let key = KeyPair::from_pem(&key).map_err(failed)?;
        let issuer = Issuer::from_ca_cert_pem(&certificate, key).map_err(failed)?;
        let mut request =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(csr))
                .map_err(failed)?;
        set_life(&mut request.params, now, self.validity);
        request.params.use_authority_key_identifier_extension = true;
        request.params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        request.params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let signed = request.signed_by(&issuer).map_err(failed)?;
        Ok(format!("{}{certificate}", signed.pem()))
    }

    /// The CA's certificate and key, made when they are not there.
    async fn ca(&self, vault: &Vault, now: i64) -> Result<(String, String), Trouble> {
        if let Some(secret) = vault.secret(&self.secret).await? {
            return read(&secret);
        }
        let (certificate, key) = made(now).map_err(|it| Trouble::Unusable(it.to_string()))?;
        let entries = [("tls.crt", &certificate), ("tls.key", &key), ("ca.crt", &certificate)];
        let data = entries.map(|(name, text)| (name.to_owned(), text.clone().into_bytes()));
        let mut secret = StoredSecret {
            name: self.secret.clone(),
            kind: "kubernetes.io/tls".to_owned(),
            data: BTreeMap::from(data),
            annotations: [claims::managed()].into(),
            ..StoredSecret::default()
        };
        vault.write_first(&mut secret).await?;
        read(&secret)
    }
}

fn read(secret: &StoredSecret) -> Result<(String, String), Trouble> {
    let text = |name: &str| String::from_utf8(secret.data.get(name)?.clone()).ok();
    match (text("tls.crt"), text("tls.key")) {
        (Some(certificate), Some(key)) => Ok((certificate, key)),
        _ => Err(Trouble::Unusable(format!("Secret {} holds no CA", secret.name))),
    }
}

fn made(now: i64) -> Result<(String, String), rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, "Lockgate");
    name.push(DnType::CommonName, "Lockgate local CA");
    params.distinguished_name = name;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_life(&mut params, now, LIFE);
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

/// Sets beginning and end of a certificate made at `now`.
fn set_life(params: &mut CertificateParams, now: i64, length: Duration) {
    let now = Duration::from_secs(u64::try_from(now).unwrap_or_default());
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    // A certificate of two minutes must not begin so early that it is due at once.
    params.not_before = epoch + now - BACK.min(length / 10);
    params.not_after = epoch + now + length;
}
