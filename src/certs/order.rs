//! RFC 8555: from names to a certificate. instant-acme is spoken to here, in `client` and `eab` only.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use instant_acme::{
    Account, AuthorizationStatus, CertificateIdentifier, ChallengeType, Error, Identifier, Key,
    NewOrder, Order, OrderStatus, Problem, RetryPolicy, RevocationReason, RevocationRequest,
};
use jiff::Timestamp;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use serde::Deserialize;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::account;
use super::ari::{self, Told};
use super::client::{AcmeClient, Unheard};
use super::doing::Doing;
use super::eab::{self, Binding};
use super::limit;
use super::meter::Meter;
use super::standing::State;
use super::trouble::Trouble;
use super::vault::Vault;
use crate::lease::Leadership;
use crate::metrics::Metrics;
use crate::model::name::ObjectName;

/// How long a directory is believed before it is read again.
const DIRECTORY: Duration = Duration::from_secs(86_400);
/// How long the CA may take to validate.
const VALIDATION: RetryPolicy = RetryPolicy::new().timeout(Duration::from_secs(90));
/// How long it may take to sign.
const ISSUANCE: RetryPolicy = RetryPolicy::new().timeout(Duration::from_secs(120));

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
    wall: fn() -> Timestamp,
    /// The account, made when it is first needed.
    account: Arc<Mutex<Option<Held>>>,
}

impl std::fmt::Debug for Acme {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acme").field("directory", &self.options.directory).finish_non_exhaustive()
    }
}

/// The account with what the directory said when it was made.
#[derive(Clone)]
struct Held {
    account: Account,
    directory: Directory,
    since: Instant,
}

/// What instant-acme does not tell of a directory (RFC 8555 section 7.1.1, RFC 9773 section 4).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Directory {
    renewal_info: Option<String>,
    meta: Meta,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Meta {
    profiles: BTreeMap<String, serde_json::Value>,
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

/// What became of an order whose URL was on record.
pub(super) enum Found {
    /// It goes on.
    Order(Placed),
    /// The CA no longer knows it, or never did: nobody can say how it ended.
    Gone,
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
        Ok(Self { options: Arc::new(options), client, wall, account: Arc::default() })
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
        let held = self.account.try_lock().ok()?;
        held.as_ref().map(|it| it.account.id().to_owned())
    }

    /// What every replica answers challenges with (RFC 8555 section 8.1).
    pub(super) async fn thumbprint(&self, vault: &Vault) -> Result<String, Trouble> {
        account::load(vault, &self.options.account).await?.thumbprint()
    }

    /// The account's URL.
    pub(super) async fn account(&self, vault: &Vault) -> Result<String, Trouble> {
        Ok(self.held(vault).await?.account.id().to_owned())
    }

    /// Sees to it that the account's key exists, so that replicas can answer challenges.
    pub(super) async fn prepare(&self, vault: &Vault) -> Result<(), Trouble> {
        account::load(vault, &self.options.account).await.map(drop)
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

    /// Takes up the order at `url`.
    pub(super) async fn find(&self, vault: &Vault, url: &str) -> Result<Found, Trouble> {
        let account = self.held(vault).await?.account;
        match account.order(url.to_owned()).await {
            Ok(mut order) => match order.state().status {
                OrderStatus::Invalid => Err(self.reasons(&mut order).await),
                _ => Ok(Found::Order(Placed { order })),
            },
            Err(error) => match refusal(&error) {
                Some((problem, status)) if is_gone(problem, status) => Ok(Found::Gone),
                _ => Err(self.sort(error).await),
            },
        }
    }

    /// Places an order for `names`, in place of the certificate `replaces`.
    pub(super) async fn place(
        &self,
        vault: &Vault,
        names: impl IntoIterator<Item = &String>,
        replaces: Option<&str>,
    ) -> Result<Placed, Trouble> {
        let Held { account, directory, .. } = self.held(vault).await?;
        let skew = self.skew().unwrap_or(0);
        if skew.abs() > 86_400 {
            return Err(Trouble::Clock(skew));
        }
        let names: Vec<Identifier> = names.into_iter().cloned().map(Identifier::Dns).collect();
        let mut order = NewOrder::new(&names);
        if let Some(profile) = &self.options.profile {
            if !directory.meta.profiles.contains_key(profile) {
                return Err(self.no_profile(&directory, profile));
            }
            order = order.profile(profile);
        }
        let replaces = replaces.filter(|_| directory.renewal_info.is_some());
        if let Some((key, serial)) = replaces.and_then(|it| it.split_once('.')) {
            order = order.replaces(CertificateIdentifier {
                authority_key_identifier: key.into(),
                serial: serial.into(),
            });
        }
        let mut order = match account.new_order(&order).await {
            Ok(order) => order,
            Err(error) if replaces.is_some() && is_about_replacing(&error) => {
                return Err(Trouble::Replaces(error.to_string()));
            }
            Err(error) => return Err(self.sort(error).await),
        };
        let echoed = order.state().profile.clone();
        if self.options.profile.is_some() && echoed != self.options.profile {
            let text = format!("it ordered with the profile {echoed:?} instead");
            return Err(Trouble::Refused { text, bad: Vec::new() });
        }
        Ok(Placed { order })
    }

    fn no_profile(&self, directory: &Directory, profile: &str) -> Trouble {
        let known: Vec<&str> = directory.meta.profiles.keys().map(String::as_str).collect();
        let text = match known.is_empty() {
            true => format!("{} has no profiles, so not {profile:?} either", self.name()),
            false => format!("it has no profile {profile:?}, but {}", known.join(", ")),
        };
        Trouble::Refused { text, bad: Vec::new() }
    }

    /// Has the names validated and the request signed; gives the chain in PEM.
    ///
    /// Goes on from whatever state the order is in.
    pub(super) async fn complete(
        &self,
        placed: Placed,
        csr: &[u8],
        doing: &Doing,
    ) -> Result<String, Trouble> {
        let Placed { mut order } = placed;
        let mut status = order.state().status;
        if status == OrderStatus::Pending {
            doing.at(State::Validating);
            self.answer(&mut order).await?;
            status = match order.poll_ready(&VALIDATION).await {
                Ok(status) => status,
                // Pebble puts the reason into the order, Let's Encrypt into the authorization.
                Err(Error::Api(_) | Error::Timeout(_)) => OrderStatus::Invalid,
                Err(error) => return Err(self.sort(error).await),
            };
        }
        match status {
            OrderStatus::Ready => {
                doing.at(State::Finalizing);
                match order.finalize_csr(csr).await {
                    Ok(()) => {}
                    // Finalized before, by whoever was here first; whose key it holds is checked later.
                    Err(error) if is_a(&error, "orderNotReady") => {}
                    Err(error) => return Err(self.sort(error).await),
                }
            }
            OrderStatus::Processing | OrderStatus::Valid => {}
            OrderStatus::Pending | OrderStatus::Invalid => {
                return Err(self.reasons(&mut order).await);
            }
        }
        doing.at(State::Downloading);
        match order.poll_certificate(&ISSUANCE).await {
            Ok(chain) => Ok(chain),
            // The order has a reason of its own, or ended without one.
            Err(Error::Api(problem)) => Err(self.sort_problem(&problem, None, None)),
            Err(error) => Err(self.sort(error).await),
        }
    }

    /// Revokes a certificate that this account ordered (RFC 8555 section 7.6).
    pub(super) async fn revoke(
        &self,
        vault: &Vault,
        leaf: &CertificateDer<'_>,
        reason: &str,
    ) -> Result<(), Trouble> {
        let account = self.held(vault).await?.account;
        let request = RevocationRequest { certificate: leaf, reason: Some(reason_of(reason)) };
        match account.revoke(&request).await {
            Ok(()) => Ok(()),
            Err(error) if is_a(&error, "alreadyRevoked") => Ok(()),
            Err(error) => Err(self.sort(error).await),
        }
    }

    /// Registers the same key anew, with a CA that lost the account.
    pub(super) async fn register_again(&self, vault: &Vault) -> Result<(), Trouble> {
        *self.account.lock().await = None;
        account::load(vault, &self.options.account).await?.forget(vault).await?;
        self.held(vault).await.map(drop)
    }

    /// Tells the CA that its challenges may be tried: every replica answers them already.
    async fn answer(&self, order: &mut Order) -> Result<(), Trouble> {
        let mut authorizations = order.authorizations();
        while let Some(authorization) = authorizations.next().await {
            let mut authorization = match authorization {
                Ok(it) => it,
                Err(error) => return Err(self.sort(error).await),
            };
            if authorization.status != AuthorizationStatus::Pending {
                continue;
            }
            let name = authorization.identifier().to_string();
            let Some(mut challenge) = authorization.challenge(ChallengeType::Http01) else {
                let text = format!("it offers no http-01 challenge for {name}");
                return Err(Trouble::Refused { text, bad: vec![name] });
            };
            if let Err(error) = challenge.set_ready().await {
                // One that was tried already is heard of no more: how it went says the order.
                if !is_a(&error, "malformed") {
                    return Err(self.sort(error).await);
                }
            }
        }
        Ok(())
    }

    /// The account: as its Secret has it, or registered with our own key, which gives the same account
    /// however often it is done.
    async fn held(&self, vault: &Vault) -> Result<Held, Trouble> {
        let mut held = self.account.lock().await;
        if let Some(held) = &*held
            && held.since.elapsed() < DIRECTORY
        {
            return Ok(held.clone());
        }
        let directory = self.directory().await?;
        let mut stored = account::load(vault, &self.options.account).await?;
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
        let made = Held { account, directory, since: Instant::now() };
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
        let key = Key::from_pkcs8_der(copy)
            .map_err(|it| Trouble::Unusable(format!("the account's key: {it}")))?;
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

    /// Sorts an error; after one that says the account is unknown, it is made again next time.
    async fn sort(&self, error: Error) -> Trouble {
        let trouble = self.sort_now(error);
        if matches!(trouble, Trouble::Account(_)) {
            *self.account.lock().await = None;
        }
        trouble
    }

    fn sort_now(&self, error: Error) -> Trouble {
        let down = |text: String| Trouble::Down { text, wait: None };
        match error {
            Error::Api(problem) => self.sort_problem(&problem, None, None),
            Error::Other(other) => match other.downcast_ref::<Unheard>() {
                Some(unheard) => self.unheard(unheard),
                None => down(other.to_string()),
            },
            Error::Timeout(_) => Trouble::Unfinished("it takes too long".to_owned()),
            other => down(other.to_string()),
        }
    }

    fn unheard(&self, unheard: &Unheard) -> Trouble {
        let text = unheard.to_string();
        match unheard {
            Unheard::Deposed => Trouble::Deposed,
            Unheard::Refused(it) => self.sort_problem(&it.problem, Some(it.status), it.wait),
            Unheard::Status(429, wait) => self.limited(text, *wait),
            Unheard::Status(_, wait) => Trouble::Down { text, wait: *wait },
            Unheard::Slow | Unheard::Broken(_) => Trouble::Down { text, wait: None },
        }
    }

    fn limited(&self, text: String, wait: Option<i64>) -> Trouble {
        let now = (self.wall)().as_second() - super::skew(self.skew());
        Trouble::Limited(limit::read(text, wait, now))
    }

    /// `status` is that of the answer; a problem inside of an object has none.
    fn sort_problem(&self, problem: &Problem, status: Option<u16>, wait: Option<i64>) -> Trouble {
        let text = described(problem);
        let bad: Vec<String> =
            problem.subproblems.iter().filter_map(|it| name_of(it.identifier.as_ref())).collect();
        match kind(problem) {
            "rateLimited" => self.limited(text, wait),
            _ if status == Some(429) => self.limited(text, wait),
            "badNonce" | "orderNotReady" => Trouble::Unfinished(text),
            "accountDoesNotExist" => Trouble::Account(text),
            "serverInternal" => Trouble::Down { text, wait },
            "connection" | "dns" | "incorrectResponse" | "tls" => Trouble::Invalid { text, bad },
            // Inside of an object it is about a challenge, else about us.
            "unauthorized" if status.is_none() => Trouble::Invalid { text, bad },
            "externalAccountRequired" => {
                Trouble::Refused { text: format!("{text}: {}", eab::MISSING), bad }
            }
            _ if status.or(problem.status).is_some_and(|it| it >= 500) => {
                Trouble::Down { text, wait }
            }
            _ => Trouble::Refused { text, bad },
        }
    }

    /// What the CA says went wrong with each name.
    async fn reasons(&self, order: &mut Order) -> Trouble {
        let (mut reasons, mut bad, mut refused) = (Vec::new(), Vec::new(), false);
        let mut authorizations = order.authorizations();
        loop {
            let authorization = match authorizations.next().await {
                None => break,
                Some(Ok(authorization)) => authorization,
                Some(Err(error)) => return self.sort(error).await,
            };
            let name = authorization.identifier().to_string();
            for problem in authorization.challenges.iter().filter_map(|it| it.error.as_ref()) {
                reasons.push(format!("{name}: {}", described(problem)));
                refused |= matches!(kind(problem), "caa" | "rejectedIdentifier");
                self.client.meter().inspect(|it| it.failed(kind(problem)));
                bad.push(name.clone());
            }
        }
        bad.dedup();
        let text = reasons.join("; ");
        match order.state().error.clone() {
            _ if refused => Trouble::Refused { text, bad },
            _ if !bad.is_empty() => Trouble::Invalid { text, bad },
            Some(problem) => self.sort_problem(&problem, None, None),
            None if order.state().status == OrderStatus::Invalid => {
                Trouble::Invalid { text: "it does not say why".to_owned(), bad }
            }
            None => Trouble::Unfinished("it did not finish validating in time".to_owned()),
        }
    }
}

/// The problem in an error, and the status it came with.
fn refusal(error: &Error) -> Option<(&Problem, u16)> {
    match error {
        Error::Api(problem) => Some((problem, problem.status.unwrap_or(0))),
        Error::Other(other) => match other.downcast_ref::<Unheard>()? {
            Unheard::Refused(it) => Some((&it.problem, it.status)),
            _ => None,
        },
        _ => None,
    }
}

fn kind(problem: &Problem) -> &str {
    problem.r#type.as_deref().unwrap_or_default().rsplit(':').next().unwrap_or_default()
}

fn is_a(error: &Error, wanted: &str) -> bool {
    refusal(error).is_some_and(|(problem, _)| kind(problem) == wanted)
}

/// Whether the CA no longer knows an order, or never did.
fn is_gone(problem: &Problem, status: u16) -> bool {
    status == 404 || matches!(kind(problem), "malformed" | "unauthorized")
}

/// Whether an order was refused, or answered otherwise than it was asked, for the sake of `replaces`.
fn is_about_replacing(error: &Error) -> bool {
    match refusal(error) {
        Some((problem, status)) => {
            status == 404
                || matches!(kind(problem), "alreadyReplaced" | "unauthorized" | "malformed")
        }
        // What instant-acme says of an order that came back without it.
        None => match error {
            Error::Unsupported(_) => true,
            Error::Other(other) => !other.is::<Unheard>(),
            _ => false,
        },
    }
}

fn name_of(identifier: Option<&Identifier>) -> Option<String> {
    match identifier? {
        Identifier::Dns(name) => Some(name.clone()),
        _ => None,
    }
}

/// RFC 5280 section 5.3.1, as the flags of other tools spell it.
fn reason_of(text: &str) -> RevocationReason {
    let word: String = text.chars().filter(char::is_ascii_alphanumeric).collect();
    match word.to_ascii_lowercase().as_str() {
        "keycompromise" | "1" => RevocationReason::KeyCompromise,
        "affiliationchanged" | "3" => RevocationReason::AffiliationChanged,
        "superseded" | "4" => RevocationReason::Superseded,
        "cessationofoperation" | "5" => RevocationReason::CessationOfOperation,
        _ => RevocationReason::Unspecified,
    }
}

/// The type and words of a problem and of all that are in it.
fn described(problem: &Problem) -> String {
    let mut text =
        format!("{}: {}", kind(problem), problem.detail.as_deref().unwrap_or("no detail"));
    for inner in &problem.subproblems {
        text.push_str("; ");
        if let Some(name) = name_of(inner.identifier.as_ref()) {
            text.push_str(&name);
            text.push_str(": ");
        }
        text.push_str(inner.detail.as_deref().unwrap_or("no detail"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::client::Refusal;
    use super::super::trouble::Class;
    use super::*;
    use crate::metrics::Replica;

    fn acme() -> Acme {
        let options = AcmeOptions {
            directory: "https://ca.test/directory".to_owned(),
            trust: Some(Vec::new()),
            email: None,
            profile: None,
            binding: None,
            account: ObjectName::new("lockgate", "account"),
        };
        let metrics = Arc::new(Metrics::new(&Replica::default()).expect("names differ"));
        Acme::new(options, Leadership::sole(), metrics, || Timestamp::UNIX_EPOCH).expect("a CA")
    }

    fn refused(kind: &str, status: u16) -> Error {
        let problem = Problem {
            r#type: Some(format!("urn:ietf:params:acme:error:{kind}")),
            detail: Some("no".to_owned()),
            status: None,
            subproblems: Vec::new(),
        };
        let refusal = Refusal { problem, status, wait: Some(7) };
        Error::Other(Box::new(Unheard::Refused(Box::new(refusal))))
    }

    #[test]
    fn r_bak_errors_are_sorted_by_whose_fault_they_are() {
        let acme = acme();
        let status = |it| Error::Other(Box::new(Unheard::Status(it, None)));
        for (error, expected) in [
            (refused("rateLimited", 429), Class::C),
            (refused("malformed", 429), Class::C),
            (status(429), Class::C),
            (status(503), Class::A),
            (status(404), Class::A),
            (refused("serverInternal", 500), Class::A),
            (refused("malformed", 503), Class::A),
            (Error::Other(Box::new(Unheard::Slow)), Class::A),
            (Error::Str("error response from newNonce resource"), Class::A),
            (refused("rejectedIdentifier", 400), Class::D),
            (refused("caa", 403), Class::D),
            (refused("badCSR", 400), Class::D),
            (refused("unauthorized", 403), Class::D),
            (refused("userActionRequired", 403), Class::D),
            (refused("externalAccountRequired", 403), Class::D),
            (refused("connection", 400), Class::B),
            (refused("dns", 400), Class::B),
            (refused("accountDoesNotExist", 400), Class::G),
            (Error::Other(Box::new(Unheard::Deposed)), Class::F),
        ] {
            let text = format!("{error:?}");
            assert_eq!(acme.sort_now(error).class(), expected, "{text}");
        }
    }

    #[test]
    fn r_ren_6_what_is_about_replacing_is_known() {
        for (error, expected) in [
            (refused("alreadyReplaced", 409), true),
            (refused("unauthorized", 403), true),
            (refused("malformed", 400), true),
            (refused("notFound", 404), true),
            (Error::Unsupported("ARI"), true),
            (Error::Other("replaces field mismatch".into()), true),
            (refused("rateLimited", 429), false),
            (refused("serverInternal", 500), false),
            (Error::Other(Box::new(Unheard::Slow)), false),
            (Error::Str("missing"), false),
        ] {
            assert_eq!(is_about_replacing(&error), expected, "{error:?}");
        }
    }

    #[test]
    fn reasons_for_revoking_are_spelled_in_any_way() {
        for (text, expected) in
            [("keyCompromise", 1), ("key-compromise", 1), ("superseded", 4), ("", 0), ("why", 0)]
        {
            assert_eq!(reason_of(text) as u8, expected, "{text}");
        }
    }
}
