//! The ACME account: one key, in one Secret, for the whole cluster.
//!
//! The key is stored before it is used, so a replica that is restarted again and again registers one
//! account and no more. Its thumbprint stands beside it: every replica reads it there and can answer
//! challenges.

use std::collections::BTreeMap;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rustls::pki_types::PrivatePkcs8KeyDer;

use super::trouble::Trouble;
use super::vault::Vault;
use crate::compile::objects::{MANAGED, MANAGER};
use crate::model::name::ObjectName;
use crate::store::{StoreError, StoredSecret};

const KEY: &str = "key.der";
const THUMBPRINT: &str = "thumbprint";

/// The account's key in PKCS #8, read from its Secret or made and stored there.
pub(super) async fn key(
    vault: &Vault,
    name: &ObjectName,
) -> Result<PrivatePkcs8KeyDer<'static>, Trouble> {
    if let Some(found) = vault.secret(name).await? {
        return read(&found);
    }
    let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
        .map_err(|_| Trouble::Unusable("no account key could be made".to_owned()))?;
    let made = made.as_ref().to_vec();
    let data = [(KEY, made.clone()), (THUMBPRINT, thumbprint(&made)?.into_bytes())];
    let secret = StoredSecret {
        name: name.clone(),
        kind: "Opaque".to_owned(),
        data: BTreeMap::from(data.map(|(name, value)| (name.to_owned(), value))),
        annotations: BTreeMap::from([(MANAGED.to_owned(), "v1".to_owned())]),
        labels: BTreeMap::from([("app.kubernetes.io/managed-by".to_owned(), MANAGER.to_owned())]),
        version: None,
    };
    match vault.write(&secret).await {
        Ok(()) => {
            tracing::info!(secret = %name, "ACME account key made");
            Ok(made.into())
        }
        // Somebody was faster; theirs is as good.
        Err(Trouble::Store(StoreError::Conflict(_))) => match vault.secret(name).await? {
            Some(found) => read(&found),
            None => Err(Trouble::Store(StoreError::Conflict(name.clone()))),
        },
        Err(error) => Err(error),
    }
}

fn read(secret: &StoredSecret) -> Result<PrivatePkcs8KeyDer<'static>, Trouble> {
    match secret.data.get(KEY) {
        Some(key) => Ok(key.clone().into()),
        None => Err(Trouble::Unusable(format!("Secret {} holds no {KEY}", secret.name))),
    }
}

/// RFC 7638: the hash of the public key as JSON, its members in order and without spaces.
fn thumbprint(pkcs8: &[u8]) -> Result<String, Trouble> {
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8)
        .map_err(|_| Trouble::Unusable("the account's key cannot be read".to_owned()))?;
    // 4 || x || y, of 32 octets each.
    let point = pair.public_key().as_ref();
    let (Some(x), Some(y)) = (point.get(1..33), point.get(33..65)) else {
        return Err(Trouble::Unusable("the account's key is not on P-256".to_owned()));
    };
    let encode = |it: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(it);
    let key = format!(r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#, encode(x), encode(y));
    Ok(encode(digest(&SHA256, key.as_bytes()).as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thumbprint_is_the_librarys() {
        let made =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
                .expect("a key");
        let ours = thumbprint(made.as_ref()).expect("a thumbprint");
        assert_eq!(ours.len(), 43);
        assert!(!ours.contains('='));
    }
}
