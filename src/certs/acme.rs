//! A CA that speaks ACME, and our account with it.

use std::collections::BTreeMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use instant_acme::{Account, Key};
use jiff::Timestamp;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::account;
use super::ari::{self, Told};
use super::client::AcmeClient;
use super::eab::{self, Binding};
use super::meter::Meter;
use super::trouble::Trouble;
use super::vault::Vault;
use crate::lease::Leadership;
use crate::metrics::Metrics;
use crate::model::name::ObjectName;

/// How long a directory is believed before it is read again.
const DIRECTORY: Duration = Duration::from_secs(86_400);

/// A CA, as the flags name it.
#[derive(Clone, Debug)]
pub struct AcmeOptions {
    /// `--acme-directory`
    pub directory: String,
    /// Content of `--acme-ca-file`: whom to trust for the directory's own TLS.
    pub trust: Option<Vec<u8>>,
    /// `--acme-email`
    pub email: Option<String>,
    /// `--acme-profile`
    pub profile: Option<String>,
    /// What the CA handed out for our account, where it wants to know whose it is.
    pub binding: Option<Binding>,
    /// Where the account's key is.
    pub account: ObjectName,
}

/// A CA that speaks ACME.
#[derive(Clone)]
pub struct Acme {
    pub(super) options: Arc<AcmeOptions>,
    pub(super) client: AcmeClient,
    pub(super) wall: fn() -> Timestamp,
    /// The account, made when it is first needed.
    pub(super) account: Arc<Mutex<Option<Held>>>,
    /// What is asked while that is being made.
    known: Arc<std::sync::Mutex<Known>>,
}

/// What is known of the account.
#[derive(Debug, Default)]
struct Known {
    /// Its URL, once it was needed.
    url: Option<String>,
    /// That of the key with which challenges are answered.
    thumbprint: Option<String>,
}

impl std::fmt::Debug for Acme {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acme").field("directory", &self.options.directory).finish_non_exhaustive()
    }
}

/// The account with what the directory said when it was made.
#[derive(Clone)]
pub(super) struct Held {
    pub(super) account: Account,
    pub(super) directory: Directory,
    /// That of its key.
    thumbprint: String,
    since: Instant,
}

/// What instant-acme does not tell of a directory (RFC 8555 section 7.1.1, RFC 9773 section 4).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Directory {
    pub(super) renewal_info: Option<String>,
    pub(super) meta: Meta,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Meta {
    pub(super) profiles: BTreeMap<String, serde_json::Value>,
}

impl Acme {
    /// A CA that is not contacted yet. Fails when `--acme-ca-file` holds no certificates.
    pub fn new(
        options: AcmeOptions,
        leadership: Leadership,
        metrics: Arc<Metrics>,
        wall: fn() -> Timestamp,
    ) -> anyhow::Result<Self> {
        let client = AcmeClient::new(options.trust.as_deref(), leadership, wall)?;
        let client = client.measured(Meter::new(metrics, &options.directory));
        Ok(Self {
            options: Arc::new(options),
            client,
            wall,
            account: Arc::default(),
            known: Arc::default(),
        })
    }

    /// The directory's URL: the name of this issuer.
    pub fn name(&self) -> &str {
        &self.options.directory
    }

    /// The profile that is ordered, if one is.
    pub(super) fn profile(&self) -> Option<&str> {
        self.options.profile.as_deref()
    }

    /// Seconds by which our clock is ahead of the CA's; nothing before it first answered.
    pub(super) fn skew(&self) -> Option<i64> {
        self.client.skew()
    }

    /// The account's URL, once it was needed.
    pub(super) fn account_url(&self) -> Option<String> {
        self.known().url.clone()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What every replica answers challenges with (RFC 8555 section 8.1).
    pub(super) async fn thumbprint(&self, vault: &Vault) -> Result<String, Trouble> {
        account::load(vault, &self.options.account).await?.thumbprint()
    }

    /// The account's URL.
    pub(super) async fn account(&self, vault: &Vault) -> Result<String, Trouble> {
        Ok(self.held(vault).await?.account.id().to_owned())
    }

    /// Sees to it that the account's key exists, so that replicas can answer challenges; what was known of
    /// another key is forgotten.
    pub(super) async fn prepare(&self, vault: &Vault) -> Result<(), Trouble> {
        let thumbprint = self.thumbprint(vault).await?;
        let mut known = self.known();
        if known.thumbprint.as_ref().is_some_and(|it| *it != thumbprint) {
            tracing::warn!("somebody changed the ACME account's key");
            known.url = None;
        }
        known.thumbprint = Some(thumbprint);
        Ok(())
    }

    /// Whether challenges that are answered with `thumbprint` are answered with our key.
    pub(super) fn is_known_by(&self, thumbprint: Option<&str>) -> bool {
        thumbprint.is_some() && self.known().thumbprint.as_deref() == thumbprint
    }

    /// Asks for the directory, and for nothing else.
    pub(super) async fn probe(&self) -> Result<(), Trouble> {
        self.directory().await.map(drop)
    }

    /// When the CA wants the certificate `id` renewed; nothing from a CA that does not say such things.
    pub(super) async fn renewal_info(
        &self,
        vault: &Vault,
        id: &str,
    ) -> Result<Option<Told>, Trouble> {
        let Some(url) = self.held(vault).await?.directory.renewal_info else { return Ok(None) };
        let answer = self.client.get(&format!("{}/{id}", url.trim_end_matches('/'))).await;
        let answer = answer.map_err(|it| self.unheard(&it))?;
        let told = ari::read(id, &answer.body, answer.wait);
        let wait = answer.wait;
        told.map(Some).ok_or(Trouble::Down { text: "no renewal window came".to_owned(), wait })
    }

    /// Registers the same key anew, with a CA that lost the account.
    pub(super) async fn register_again(&self, vault: &Vault) -> Result<(), Trouble> {
        *self.account.lock().await = None;
        account::load(vault, &self.options.account).await?.forget(vault).await?;
        self.held(vault).await.map(drop)
    }

    /// The account: as its Secret has it, or registered with our own key, which gives the same account
    /// however often it is done.
    pub(super) async fn held(&self, vault: &Vault) -> Result<Held, Trouble> {
        let mut held = self.account.lock().await;
        // Another key would be another account, whose challenges nobody answers.
        let ours = self.known().thumbprint.clone();
        let is_ours = |it: &str| ours.as_ref().is_none_or(|ours| ours == it);
        if let Some(held) = &*held
            && held.since.elapsed() < DIRECTORY
            && is_ours(&held.thumbprint)
        {
            return Ok(held.clone());
        }
        let directory = self.directory().await?;
        let mut stored = account::load(vault, &self.options.account).await?;
        let thumbprint = stored.thumbprint()?;
        if !is_ours(&thumbprint) {
            return Err(Trouble::Key("it was changed a moment ago".to_owned()));
        }
        let (name, email) = (&self.options.directory, self.options.email.as_deref());
        let account = match stored.url(name).map(str::to_owned) {
            Some(url) => self.restored(url, stored.key()?).await?,
            None => self.registered(stored.key()?).await?,
        };
        let known = stored.url(name) == Some(account.id());
        if !known || !stored.has_contact(email) {
            let contact = email.map(|it| format!("mailto:{it}"));
            let contacts: Vec<&str> = contact.iter().map(String::as_str).collect();
            if (known || email.is_some())
                && let Err(error) = account.update_contacts(&contacts).await
            {
                // A CA that wants no address is no reason to have no certificates.
                tracing::warn!(%error, "the CA did not take the e-mail address");
            }
            stored.note(vault, name, account.id(), email).await?;
        }
        tracing::info!(account = account.id(), "ACME account ready");
        self.known().url = Some(account.id().to_owned());
        let made = Held { account, directory, thumbprint, since: Instant::now() };
        *held = Some(made.clone());
        Ok(made)
    }

    async fn restored(
        &self,
        url: String,
        key: PrivatePkcs8KeyDer<'static>,
    ) -> Result<Account, Trouble> {
        let builder = Account::builder_with_http(Box::new(self.client.clone()));
        let made = builder.from_parts(url, key, self.options.directory.clone()).await;
        made.map_err(|error| self.sort_now(error))
    }

    async fn registered(&self, pkcs8: PrivatePkcs8KeyDer<'static>) -> Result<Account, Trouble> {
        let directory = self.options.directory.clone();
        if let Some(binding) = &self.options.binding {
            let (email, der) = (self.options.email.as_deref(), pkcs8.secret_pkcs8_der());
            let made = eab::register(&self.client.frank(), &directory, der, email, binding).await;
            let url = made.map_err(|error| self.sort_now(error))?;
            return self.restored(url, pkcs8).await;
        }
        let copy = PrivatePkcs8KeyDer::from(pkcs8.secret_pkcs8_der().to_vec());
        let key = Key::from_pkcs8_der(copy).map_err(|it| Trouble::Key(it.to_string()))?;
        let builder = Account::builder_with_http(Box::new(self.client.clone()));
        let made = builder.create_from_key((key, PrivateKeyDer::Pkcs8(pkcs8)), directory).await;
        made.map(|(account, _)| account).map_err(|error| self.sort_now(error))
    }

    async fn directory(&self) -> Result<Directory, Trouble> {
        let answer = self.client.get(self.name()).await.map_err(|it| self.unheard(&it))?;
        serde_json::from_slice(&answer.body).map_err(|error| {
            let text = format!("its directory cannot be read: {error}");
            Trouble::Down { text, wait: answer.wait }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::Issuer;
    use super::super::desk::tests::keeper;

    /// A certificate that is stored while the account is being made ready again says whose it is.
    #[tokio::test]
    async fn the_accounts_url_is_known_while_it_is_made_ready() {
        let Issuer::Acme(acme) = keeper().issuer else { panic!("another issuer") };
        assert_eq!(acme.account_url(), None);
        acme.known().url = Some("https://ca.test/1".to_owned());
        let _busy = acme.account.lock().await;
        assert_eq!(acme.account_url().as_deref(), Some("https://ca.test/1"));
    }
}
