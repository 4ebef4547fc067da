//! RFC 8555: from names to a certificate. instant-acme is spoken to here and in `client` only.

use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, ChallengeType, Error, Identifier, Key, NewOrder, Order,
    OrderStatus, Problem, RetryPolicy,
};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::account;
use super::client::{AcmeClient, Unheard};
use super::eab::{self, Binding};
use super::trouble::Trouble;
use super::vault::Vault;
use crate::lease::Leadership;
use crate::model::name::ObjectName;

/// How long a directory is believed before it is read again.
const DIRECTORY: Duration = Duration::from_secs(86_400);
/// How long the CA may take to validate, and to issue.
const POLL: RetryPolicy = RetryPolicy::new().timeout(Duration::from_secs(90));

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
    options: Arc<AcmeOptions>,
    client: AcmeClient,
    /// The account, made when it is first needed.
    account: Arc<Mutex<Option<(Account, Instant)>>>,
}

impl std::fmt::Debug for Acme {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acme").field("directory", &self.options.directory).finish_non_exhaustive()
    }
}

/// An order that the CA knows.
pub(super) struct Placed {
    order: Order,
}

impl Placed {
    /// Its URL, to be remembered before anything else is done with it.
    pub(super) fn url(&self) -> &str {
        self.order.url()
    }
}

impl Acme {
    /// A CA that is not contacted yet. Fails when `--acme-ca-file` holds no certificates.
    pub fn new(options: AcmeOptions, leadership: Leadership) -> anyhow::Result<Self> {
        let client = AcmeClient::new(options.trust.as_deref(), leadership)?;
        Ok(Self { options: Arc::new(options), client, account: Arc::default() })
    }

    /// The directory's URL: the name of this issuer.
    pub fn name(&self) -> &str {
        &self.options.directory
    }

    /// Sees to it that the account's key exists, so that replicas can answer challenges.
    pub(super) async fn prepare(&self, vault: &Vault) -> Result<(), Trouble> {
        account::key(vault, &self.options.account).await.map(drop)
    }

    /// Takes up the order at `url`, or places one for `names`.
    pub(super) async fn place(
        &self,
        vault: &Vault,
        names: impl IntoIterator<Item = &String>,
        url: Option<&str>,
    ) -> Result<Placed, Trouble> {
        let account = self.account(vault).await?;
        if let Some(url) = url {
            match account.order(url.to_owned()).await {
                Ok(mut order) => {
                    if order.state().status != OrderStatus::Invalid {
                        return Ok(Placed { order });
                    }
                }
                // Gone: the same key and request serve a new one.
                Err(Error::Api(problem)) if is_gone(&problem) => {}
                Err(error) => return Err(self.trouble(error).await),
            }
        }
        let names: Vec<Identifier> = names.into_iter().cloned().map(Identifier::Dns).collect();
        let mut order = NewOrder::new(&names);
        if let Some(profile) = &self.options.profile {
            if !account.profiles().any(|it| it.name == profile) {
                return Err(Trouble::Refused(format!("it has no profile {profile:?}")));
            }
            order = order.profile(profile);
        }
        match account.new_order(&order).await {
            Ok(order) => Ok(Placed { order }),
            Err(error) => Err(self.trouble(error).await),
        }
    }

    /// Has the names validated and the request signed; gives the chain in PEM.
    pub(super) async fn complete(&self, placed: Placed, csr: &[u8]) -> Result<String, Trouble> {
        let Placed { mut order } = placed;
        let mut status = order.state().status;
        if status == OrderStatus::Pending {
            self.answer(&mut order).await?;
            status = match order.poll_ready(&POLL).await {
                Ok(status) => status,
                // Pebble puts the reason into the order, Let's Encrypt into the authorization.
                Err(Error::Api(_) | Error::Timeout(_)) => OrderStatus::Invalid,
                Err(error) => return Err(self.trouble(error).await),
            };
        }
        match status {
            OrderStatus::Ready => {
                if let Err(error) = order.finalize_csr(csr).await {
                    return Err(self.trouble(error).await);
                }
            }
            OrderStatus::Processing | OrderStatus::Valid => {}
            OrderStatus::Pending | OrderStatus::Invalid => return Err(reasons(&mut order).await),
        }
        match order.poll_certificate(&POLL).await {
            Ok(chain) => Ok(chain),
            Err(error) => Err(self.trouble(error).await),
        }
    }

    /// Tells the CA that its challenges may be tried: every replica answers them already.
    async fn answer(&self, order: &mut Order) -> Result<(), Trouble> {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = match authorization {
                Ok(it) => it,
                Err(error) => return Err(self.trouble(error).await),
            };
            if authorization.status != AuthorizationStatus::Pending {
                continue;
            }
            let name = authorization.identifier().to_string();
            let Some(mut challenge) = authorization.challenge(ChallengeType::Http01) else {
                return Err(Trouble::Refused(format!("it offers no http-01 challenge for {name}")));
            };
            if let Err(error) = challenge.set_ready().await {
                return Err(self.trouble(error).await);
            }
        }
        Ok(())
    }

    /// The account, registered with our own key: that gives the same account however often it is done.
    async fn account(&self, vault: &Vault) -> Result<Account, Trouble> {
        let mut held = self.account.lock().await;
        if let Some((account, since)) = &*held
            && since.elapsed() < DIRECTORY
        {
            return Ok(account.clone());
        }
        let pkcs8 = account::key(vault, &self.options.account).await?;
        let copy = PrivatePkcs8KeyDer::from(pkcs8.secret_pkcs8_der().to_vec());
        let key = Key::from_pkcs8_der(copy)
            .map_err(|it| Trouble::Unusable(format!("the account's key: {it}")))?;
        let builder = Account::builder_with_http(Box::new(self.client.clone()));
        let directory = self.options.directory.clone();
        let made = match &self.options.binding {
            None => {
                let key = (key, PrivateKeyDer::Pkcs8(pkcs8));
                builder.create_from_key(key, directory).await.map(|(account, _)| account)
            }
            Some(binding) => {
                let der = pkcs8.secret_pkcs8_der();
                let email = self.options.email.as_deref();
                match eab::register(&self.client, &directory, der, email, binding).await {
                    Ok(url) => builder.from_parts(url, pkcs8, directory).await,
                    Err(error) => Err(error),
                }
            }
        };
        let account = made.map_err(|error| self.sort(error))?;
        if let Some(email) = &self.options.email {
            // A CA that wants no address is no reason to have no certificates.
            if let Err(error) = account.update_contacts(&[&format!("mailto:{email}")]).await {
                tracing::warn!(%error, "the CA did not take the e-mail address");
            }
        }
        tracing::info!(account = account.id(), "ACME account ready");
        *held = Some((account.clone(), Instant::now()));
        Ok(account)
    }

    /// Sorts an error; after one that says the account is unknown, it is made again next time.
    async fn trouble(&self, error: Error) -> Trouble {
        let unknown = matches!(&error, Error::Api(it)
            if it.r#type.as_deref().is_some_and(|it| it.ends_with(":accountDoesNotExist")));
        if unknown {
            *self.account.lock().await = None;
            return Trouble::Down(
                "it no longer knows the account, which is registered anew".into(),
            );
        }
        self.sort(error)
    }

    fn sort(&self, error: Error) -> Trouble {
        match error {
            Error::Api(problem) => self.sort_problem(&problem),
            Error::Other(other) => match other.downcast_ref::<Unheard>() {
                Some(Unheard::Deposed) => Trouble::Deposed,
                Some(Unheard::Status(429)) => {
                    Trouble::Limited { text: other.to_string(), wait: self.client.said().wait }
                }
                _ => Trouble::Down(other.to_string()),
            },
            Error::Timeout(_) => Trouble::Down("it takes too long".to_owned()),
            other => Trouble::Down(other.to_string()),
        }
    }

    fn sort_problem(&self, problem: &Problem) -> Trouble {
        let text = described(problem);
        let kind = problem.r#type.as_deref().unwrap_or_default();
        let kind = kind.rsplit(':').next().unwrap_or_default();
        match kind {
            "rateLimited" => Trouble::Limited { text, wait: self.client.said().wait },
            "serverInternal" | "badNonce" | "orderNotReady" => Trouble::Down(text),
            "connection" | "dns" | "incorrectResponse" | "tls" | "unauthorized" => {
                Trouble::Invalid(text)
            }
            "externalAccountRequired" => Trouble::Refused(format!("{text}: {}", eab::MISSING)),
            _ if problem.status.is_some_and(|it| it >= 500) => Trouble::Down(text),
            _ => Trouble::Refused(text),
        }
    }
}

/// Whether the CA no longer knows an order, or never did.
fn is_gone(problem: &Problem) -> bool {
    let kind = problem.r#type.as_deref().unwrap_or_default();
    problem.status == Some(404) || kind.ends_with(":malformed") || kind.ends_with(":unauthorized")
}

/// What the CA says went wrong with each name.
async fn reasons(order: &mut Order) -> Trouble {
    let mut reasons = Vec::new();
    let mut authorizations = order.authorizations();
    while let Some(Ok(authorization)) = authorizations.next().await {
        let name = authorization.identifier().to_string();
        let problems = authorization.challenges.iter().filter_map(|it| it.error.as_ref());
        reasons.extend(problems.map(|it| format!("{name}: {}", described(it))));
    }
    if reasons.is_empty() {
        return Trouble::Down("it did not finish validating in time".to_owned());
    }
    Trouble::Invalid(reasons.join("; "))
}

/// The type and words of a problem and of all that are in it.
fn described(problem: &Problem) -> String {
    let kind = problem.r#type.as_deref().unwrap_or_default();
    let kind = kind.rsplit(':').next().unwrap_or_default();
    let mut text = format!("{kind}: {}", problem.detail.as_deref().unwrap_or("no detail"));
    for inner in &problem.subproblems {
        text.push_str("; ");
        text.push_str(inner.detail.as_deref().unwrap_or("no detail"));
    }
    text
}
