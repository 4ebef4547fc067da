//! What is remembered of an order under way, in a Secret of our own.
//!
//! Key and request stand in it before the CA hears of them, the order's URL as soon as there is one, and
//! the certificate where it could not be written. Whoever takes it up claims it with a write that fails if
//! anybody else did: of two leaders one stops.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};

use super::trouble::Trouble;
use super::vault::Vault;
use super::{claims, marks};
use crate::model::name::ObjectName;
use crate::store::StoredSecret;

/// A record, claimed by us.
#[derive(Debug)]
pub(super) struct Record(StoredSecret);

/// What a record is made from.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claim<'a> {
    /// The Secret that the certificate is for.
    pub(super) secret: &'a ObjectName,
    /// The names it is to cover.
    pub(super) names: &'a BTreeSet<String>,
    /// Who is to issue it.
    pub(super) issuer: &'a str,
    /// Which profile of it.
    pub(super) profile: &'a str,
    /// Who we are.
    pub(super) holder: &'a str,
    /// A key to go on with, in PEM, instead of a new one.
    pub(super) key: Option<&'a str>,
    /// What is in the Secret now: a record of that is over.
    pub(super) held: &'a StoredSecret,
}

/// Where the record of an order for a Secret is; the same in every version of this program.
pub(super) fn place(namespace: &str, secret: &ObjectName) -> ObjectName {
    let mut name = PREFIX.to_owned();
    for byte in &digest(&SHA256, secret.to_string().as_bytes()).as_ref()[..8] {
        // Writing to a string does not fail.
        let _ = write!(name, "{byte:02x}");
    }
    ObjectName::new(namespace, name)
}

impl Record {
    /// Takes up the record of the same question, or makes one with a new key; says which.
    pub(super) async fn claim(
        vault: &Vault,
        place: ObjectName,
        claim: &Claim<'_>,
    ) -> Result<(Self, bool), Trouble> {
        let names = joined(claim.names);
        let found = vault.secret(&place).await?;
        let same = found.as_ref().is_some_and(|it| {
            let is = |entry: &str, text: &str| {
                it.data.get(entry).is_some_and(|it| it == text.as_bytes())
            };
            // One that somebody robbed of its key would be of no use for ever.
            let whole = ["key.pem", "csr.der"].iter().all(|entry| it.data.contains_key(*entry));
            whole
                && is("names", &names)
                && is("issuer", claim.issuer)
                && is("profile", claim.profile)
                && !is_over(it, claim.held, claim.key.is_some())
        });
        let mut record = match found {
            Some(found) if same => Self(found),
            found => Self::new(place, claim, names, found)?,
        };
        let attempt = record.text("attempt").and_then(|it| it.parse().ok()).unwrap_or(0_u32);
        record.set("attempt", &attempt.saturating_add(1).to_string());
        record.set("holder", claim.holder);
        record.save(vault).await?;
        Ok((record, same))
    }

    fn new(
        place: ObjectName,
        claim: &Claim<'_>,
        names: String,
        found: Option<StoredSecret>,
    ) -> Result<Self, Trouble> {
        let failed = |it: rcgen::Error| Trouble::Unusable(it.to_string());
        let key = match claim.key.map(KeyPair::from_pem) {
            Some(Ok(key)) => key,
            Some(Err(_)) | None => KeyPair::generate().map_err(failed)?,
        };
        let all: Vec<String> = claim.names.iter().cloned().collect();
        let mut params = CertificateParams::new(all).map_err(failed)?;
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&key).map_err(failed)?;
        let data = [
            ("key.pem", key.serialize_pem().into_bytes()),
            ("csr.der", csr.der().to_vec()),
            ("names", names.into_bytes()),
            ("issuer", claim.issuer.as_bytes().to_vec()),
            ("profile", claim.profile.as_bytes().to_vec()),
            ("secret", claim.secret.to_string().into_bytes()),
        ];
        let (version, rest) = found.map(|it| (it.version, it.rest)).unwrap_or_default();
        Ok(Self(StoredSecret { version, rest, ..claims::own(place, data) }))
    }

    pub(super) fn name(&self) -> &ObjectName {
        &self.0.name
    }

    pub(super) fn key(&self) -> Result<&[u8], Trouble> {
        self.entry("key.pem")
    }

    pub(super) fn csr(&self) -> Result<&[u8], Trouble> {
        self.entry("csr.der")
    }

    /// Where the order is.
    pub(super) fn url(&self) -> Option<&str> {
        self.text("url")
    }

    /// What was issued and could not be written.
    pub(super) fn chain(&self) -> Option<&str> {
        self.text("chain.pem")
    }

    /// Notes the order's URL; two leaders cannot both succeed.
    pub(super) async fn note_url(&mut self, vault: &Vault, url: &str) -> Result<(), Trouble> {
        if self.url() == Some(url) {
            return Ok(());
        }
        self.set("url", url);
        self.save(vault).await
    }

    /// The order led to nothing: key and request serve another one.
    pub(super) async fn drop_url(&mut self, vault: &Vault) -> Result<(), Trouble> {
        if self.0.data.remove("url").is_some() { self.save(vault).await } else { Ok(()) }
    }

    /// Notes what was issued and could not be written.
    pub(super) async fn keep_chain(&mut self, vault: &Vault, chain: &str) -> Result<(), Trouble> {
        if self.chain() == Some(chain) {
            return Ok(());
        }
        self.set("chain.pem", chain);
        self.save(vault).await
    }

    async fn save(&mut self, vault: &Vault) -> Result<(), Trouble> {
        vault.write(&mut self.0).await
    }

    fn set(&mut self, entry: &str, text: &str) {
        self.0.data.insert(entry.to_owned(), text.as_bytes().to_vec());
    }

    fn text(&self, entry: &str) -> Option<&str> {
        std::str::from_utf8(self.0.data.get(entry)?).ok()
    }

    fn entry(&self, name: &str) -> Result<&[u8], Trouble> {
        let missing = || Trouble::Unusable(format!("Secret {} holds no {name}", self.0.name));
        self.0.data.get(name).map(Vec::as_slice).ok_or_else(missing)
    }
}

/// Whether what a record is of is in the Secret already: whoever stored it stopped before forgetting the
/// record, and the same order would bring the same again. `reused` says that keys say nothing.
pub(super) fn is_over(record: &StoredSecret, held: &StoredSecret, reused: bool) -> bool {
    let text = |entry: &str| record.data.get(entry).and_then(|it| std::str::from_utf8(it).ok());
    let order = held.annotations.get(&marks::full(marks::ORDER)).map(String::as_str);
    let same = |ours: &str, theirs: &str| {
        record.data.get(ours).is_some_and(|it| Some(it) == held.data.get(theirs))
    };
    (order.is_some() && text("url") == order)
        || same("chain.pem", "tls.crt")
        || (!reused && same("key.pem", "tls.key"))
}

/// The Secret that a record is for.
pub(super) fn subject(record: &StoredSecret) -> Option<ObjectName> {
    std::str::from_utf8(record.data.get("secret")?).ok()?.parse().ok()
}

/// What the names of records begin with.
pub(super) const PREFIX: &str = "lockgate-order-";

/// The names in one text, the same for the same set.
pub(super) fn joined(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(",")
}
