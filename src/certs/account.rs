//! The ACME account: one key, in one Secret, for the whole cluster.
//!
//! The key is stored before it is used, so a replica that is restarted again and again registers one
//! account and no more. Its thumbprint stands beside it: every replica reads it there and can answer
//! challenges.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use rustls::pki_types::PrivatePkcs8KeyDer;

use super::claims;
use super::trouble::Trouble;
use super::vault::Vault;
use crate::model::name::ObjectName;
use crate::store::StoredSecret;

const KEY: &str = "key.der";
const THUMBPRINT: &str = "thumbprint";

/// The account's URL, with the directory it is of and the address it was given.
const URL: &str = "account";
const DIRECTORY: &str = "directory";
const CONTACT: &str = "contact";

/// The account as its Secret has it.
#[derive(Debug)]
pub(super) struct Stored(StoredSecret);

/// Reads the account's Secret, or makes one with a new key.
pub(super) async fn load(vault: &Vault, name: &ObjectName) -> Result<Stored, Trouble> {
    if let Some(found) = vault.secret(name).await? {
        let mut stored = Stored(found);
        // Without it, or with another key's, nobody would answer a challenge.
        if let Ok(thumbprint) = stored.thumbprint()
            && stored.text(THUMBPRINT) != Some(&thumbprint)
        {
            stored.0.data.insert(THUMBPRINT.to_owned(), thumbprint.into_bytes());
            vault.write(&mut stored.0).await?;
        }
        return Ok(stored);
    }
    let made = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
        .map_err(|_| Trouble::Key("none could be made".to_owned()))?;
    let made = made.as_ref().to_vec();
    let data = [(KEY, made.clone()), (THUMBPRINT, thumbprint(&made)?.into_bytes())];
    let mut secret = claims::own(name.clone(), data);
    if vault.write_first(&mut secret).await? {
        tracing::info!(secret = %name, "ACME account key made");
    }
    Ok(Stored(secret))
}

impl Stored {
    /// Its key in PKCS #8.
    pub(super) fn key(&self) -> Result<PrivatePkcs8KeyDer<'static>, Trouble> {
        match self.0.data.get(KEY) {
            Some(key) => Ok(key.clone().into()),
            None => Err(Trouble::Key(format!("Secret {} holds no {KEY}", self.0.name))),
        }
    }

    /// What challenges are answered with.
    pub(super) fn thumbprint(&self) -> Result<String, Trouble> {
        thumbprint(self.key()?.secret_pkcs8_der()).map_err(|it| match it {
            Trouble::Key(text) => Trouble::Key(format!("Secret {}: {text}", self.0.name)),
            other => other,
        })
    }

    /// Its URL at the CA of this directory, where it is registered there.
    pub(super) fn url(&self, directory: &str) -> Option<&str> {
        self.text(DIRECTORY).filter(|it| *it == directory)?;
        self.text(URL)
    }

    /// Whether the CA was given this address.
    pub(super) fn has_contact(&self, email: Option<&str>) -> bool {
        self.text(CONTACT).unwrap_or_default() == email.unwrap_or_default()
    }

    /// Notes where it is registered, and with what address.
    pub(super) async fn note(
        &mut self,
        vault: &Vault,
        directory: &str,
        url: &str,
        email: Option<&str>,
    ) -> Result<(), Trouble> {
        for (entry, text) in [(DIRECTORY, directory), (URL, url), (CONTACT, email.unwrap_or(""))] {
            self.0.data.insert(entry.to_owned(), text.as_bytes().to_vec());
        }
        vault.write(&mut self.0).await
    }

    /// The CA no longer knows it.
    pub(super) async fn forget(&mut self, vault: &Vault) -> Result<(), Trouble> {
        if self.0.data.remove(URL).is_some() { vault.write(&mut self.0).await } else { Ok(()) }
    }

    fn text(&self, entry: &str) -> Option<&str> {
        let bytes = self.0.data.get(entry)?;
        std::str::from_utf8(bytes).ok().filter(|it| !it.is_empty())
    }
}

/// RFC 7638: the hash of the public key as JSON, its members in order and without spaces.
fn thumbprint(pkcs8: &[u8]) -> Result<String, Trouble> {
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8)
        .map_err(|_| Trouble::Key(format!("{KEY} is no key on P-256 in PKCS #8")))?;
    // 4 || x || y, of 32 octets each.
    let point = pair.public_key().as_ref();
    let (Some(x), Some(y)) = (point.get(1..33), point.get(33..65)) else {
        return Err(Trouble::Key(format!("{KEY} is no key on P-256 in PKCS #8")));
    };
    let encode = |it: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(it);
    let key = format!(r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#, encode(x), encode(y));
    Ok(encode(digest(&SHA256, key.as_bytes()).as_ref()))
}

#[cfg(test)]
mod tests {
    use super::super::trouble::Class;
    use super::*;
    use crate::lease::Leadership;
    use crate::store::{Directory, Store};

    /// A changed address is no other account, and another CA has no account with its URL.
    #[test]
    fn r_acc_the_address_is_no_part_of_the_account() {
        let data = [(DIRECTORY, "https://ca"), (URL, "https://ca/1"), (CONTACT, "me@a.test")];
        let data = data.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()));
        let secret = StoredSecret { data: data.into(), ..StoredSecret::default() };
        let stored = Stored(secret);
        assert_eq!(stored.url("https://ca"), Some("https://ca/1"));
        assert_eq!(stored.url("https://staging"), None);
        assert!(stored.has_contact(Some("me@a.test")));
        assert!(!stored.has_contact(Some("you@a.test")) && !stored.has_contact(None));
    }

    /// A thumbprint that is missing, or of another key, would leave every challenge unanswered.
    #[tokio::test]
    async fn r_acc_the_thumbprint_beside_the_key_is_the_keys() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::Directory(Directory::new([], directory.path().join("issued")));
        let vault = Vault::new(store, Leadership::sole());
        let name = ObjectName::new("lockgate", "account");
        let made = load(&vault, &name).await.expect("an account");
        let right = made.thumbprint().expect("a thumbprint");
        for entry in [None, Some(""), Some("another"), Some(&*format!("{right}\n"))] {
            let mut secret = vault.secret(&name).await.expect("a store").expect("a Secret");
            secret.data.remove(THUMBPRINT);
            let bytes = entry.map(|it| it.as_bytes().to_vec());
            secret.data.extend(bytes.map(|it| (THUMBPRINT.to_owned(), it)));
            vault.write(&mut secret).await.expect("written");
            load(&vault, &name).await.expect("an account");
            let found = vault.secret(&name).await.expect("a store").expect("a Secret");
            assert_eq!(found.data[THUMBPRINT], right.as_bytes(), "{entry:?}");
        }
    }

    /// A key that is broken is nobody's names' fault.
    #[test]
    fn a_key_that_cannot_be_read_is_our_own_trouble() {
        for data in [None, Some(b"broken".to_vec())] {
            let data = data.map(|it| (KEY.to_owned(), it)).into_iter().collect();
            let stored = Stored(StoredSecret { data, ..StoredSecret::default() });
            let trouble = stored.thumbprint().expect_err("no key");
            assert_eq!((trouble.class(), trouble.reason()), (Class::F, "NotReady"), "{trouble}");
        }
    }

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
