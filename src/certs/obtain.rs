//! One certificate, from the first look at its Secret to the last write.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::ari::{Ari, Window};
use super::claims::{self, Kept};
use super::doing::Doing;
use super::due::{self, Due, due};
use super::ledger::{self, Ask, Failure};
use super::marks::{self, Marks, moment};
use super::order::{Acme, Found, Placed};
use super::record::{self, Claim, Record};
use super::standing::State;
use super::trouble::{Class, Trouble};
use super::{Issuer, Keeper, chain};
use crate::compile::objects::{ISSUED_AT, ISSUER, MANAGED, MANAGER, PREFIX};
use crate::model::keypair::Keypair;
use crate::model::name::ObjectName;
use crate::model::plan::Wanted;
use crate::store::{StoreError, StoredSecret};

/// What is to be got.
#[derive(Clone, Debug)]
pub(super) struct Item {
    pub(super) name: ObjectName,
    pub(super) wanted: Wanted,
    /// Those to be ordered: all that are wanted, or for want of that a part.
    pub(super) names: BTreeSet<String>,
    pub(super) due: Due,
    /// The CA's window as it is known.
    pub(super) window: Option<Window>,
    /// Whether the CA wants it before its time.
    pub(super) early: bool,
    /// Whether a person asked for it past the budget.
    pub(super) forced: bool,
}

/// What came of it.
#[derive(Clone, Debug)]
pub(super) enum Got {
    /// A certificate was issued and stored.
    Stored(Arc<Keypair>),
    /// Nothing was to be done any more.
    Settled,
}

impl Item {
    /// Whether it is for a part of the names.
    pub(super) fn is_subset(&self) -> bool {
        self.names != self.wanted.names
    }
}

impl Keeper {
    /// Gets one certificate into its Secret, and writes into the ledger how that went.
    pub(super) async fn obtain(&self, item: &Item, doing: Doing) -> Result<Got, Trouble> {
        let key = ledger::key(self.issuer.name(), &item.names);
        let mut result = self.attempt(item, &key, &doing).await;
        if let Err(Trouble::Account(text)) = &result {
            result = match self.register_again(text).await {
                Ok(()) => self.attempt(item, &key, &doing).await,
                Err(trouble) => Err(trouble),
            };
        }
        let now = self.now();
        match &result {
            Ok(_) => self.book.open().settled(&key, now),
            Err(trouble) => self.note_failure(item, &key, trouble, now),
        }
        if let Err(error) = self.book.flush().await {
            tracing::warn!(%error, "the ledger was not written and will be");
        }
        if item.due == Due::Asked && result.as_ref().is_err_and(is_final) {
            // Who asked was told how it went, and may ask again.
            self.take_mark_off(&item.name, marks::RENEW).await;
        }
        result
    }

    async fn attempt(&self, item: &Item, key: &str, doing: &Doing) -> Result<Got, Trouble> {
        let Item { name, wanted, names, .. } = item;
        let mut secret = match self.vault.secret(name).await? {
            None => fresh(name),
            Some(found) if claims::is_ours(&found) => found,
            Some(_) => return Err(Trouble::Foreign),
        };
        let place = record::place(&self.namespace, name);
        if self.is_settled(&secret, item) {
            // Whoever stored it may have stopped before forgetting the record, which would spoil the next.
            self.vault.delete(&place).await?;
            return Ok(Got::Settled);
        }
        self.rehearse(&secret).await?;
        let profile = match &self.issuer {
            Issuer::Acme(acme) => acme.profile().unwrap_or_default(),
            Issuer::Local(_) => "",
        };
        let old_key = secret.data.get("tls.key").and_then(|it| std::str::from_utf8(it).ok());
        let claim = Claim {
            secret: name,
            names,
            issuer: self.issuer.name(),
            profile,
            holder: &self.holder,
            key: old_key.filter(|_| wanted.reuse_key),
        };
        let (mut record, again) = Record::claim(&self.vault, place, &claim).await?;
        doing.at(State::Claimed);
        let (text, order) = match record.chain() {
            Some(chain) => (chain.to_owned(), record.url().map(str::to_owned)),
            None => self.issue(item, key, &mut record, again, doing).await?,
        };
        doing.at(State::Storing);
        let pair = match chain::read(&text, record.key()?, names, self.now()) {
            Ok(pair) => Arc::new(pair),
            Err(why) => {
                // The same order would bring the same again.
                self.vault.delete(record.name()).await?;
                return Err(Trouble::Unusable(why));
            }
        };
        secret.data.insert("tls.crt".to_owned(), text.clone().into_bytes());
        secret.data.insert("tls.key".to_owned(), record.key()?.to_vec());
        self.mark(&mut secret, item, &pair, order.as_deref());
        if let Err(trouble) = self.vault.write(&mut secret).await {
            // It is written from here as soon as it can be, and not ordered again.
            if let Err(error) = record.keep_chain(&self.vault, &text).await {
                tracing::warn!(secret = %name, %error, "what was issued is with the CA alone");
            }
            return Err(trouble);
        }
        self.vault.delete(record.name()).await?;
        Ok(Got::Stored(pair))
    }

    /// Has a certificate issued; gives its chain, and the order's URL.
    async fn issue(
        &self,
        item: &Item,
        key: &str,
        record: &mut Record,
        again: bool,
        doing: &Doing,
    ) -> Result<(String, Option<String>), Trouble> {
        let ask = self.ask(item, key);
        let now = self.now();
        let reserved = {
            let mut ledger = self.book.open();
            let open = ledger.reserved(key).is_some();
            if open && !again {
                // Its record is lost, and with it what anybody knows of its end.
                ledger.abandon(key, now);
            }
            open && again
        };
        if !reserved && record.url().is_none() {
            self.reserve(&ask).await?;
        }
        doing.at(State::Ordering);
        let acme = match &self.issuer {
            Issuer::Local(local) => {
                let chain = local.issue(&self.vault, record.csr()?, now).await?;
                self.note_issue(&ask, again).await?;
                return Ok((chain, None));
            }
            Issuer::Acme(acme) => acme,
        };
        let placed = self.placed(acme, item, &ask, record).await?;
        record.note_url(&self.vault, placed.url()).await?;
        doing.order(placed.url());
        let text = format!("the CA has an order for Secret {}: {}", item.name, placed.url());
        self.tell(&item.wanted.ingresses, "OrderCreated", &text, false);
        let url = placed.url().to_owned();
        match acme.complete(placed, record.csr()?, doing).await {
            Ok(chain) => {
                self.note_issue(&ask, again).await?;
                Ok((chain, Some(url)))
            }
            Err(trouble) => {
                if matches!(trouble.class(), Class::B | Class::D) {
                    self.book.open().release(key, self.now());
                    record.drop_url(&self.vault).await?;
                }
                Err(trouble)
            }
        }
    }

    /// The order on record, or a new one.
    async fn placed(
        &self,
        acme: &Acme,
        item: &Item,
        ask: &Ask<'_>,
        record: &mut Record,
    ) -> Result<Placed, Trouble> {
        if let Some(url) = record.url() {
            match acme.find(&self.vault, url).await {
                Ok(Found::Order(placed)) => return Ok(placed),
                Ok(Found::Gone) => {
                    // It may have been issued before it went.
                    self.book.open().abandon(ask.key, self.now());
                    record.drop_url(&self.vault).await?;
                    self.reserve(ask).await?;
                }
                Err(trouble) => {
                    if matches!(trouble.class(), Class::B | Class::D) {
                        self.book.open().release(ask.key, self.now());
                        record.drop_url(&self.vault).await?;
                    }
                    return Err(trouble);
                }
            }
        }
        let account = acme.account(&self.vault).await?;
        let replaces = replaced(item, &account);
        let mut placed = acme.place(&self.vault, ask.names, replaces).await;
        if let Err(Trouble::Replaces(text)) = &placed {
            tracing::info!(secret = %item.name, text, "ordered once more, in place of nothing");
            self.book.open().ordered(self.now());
            placed = acme.place(&self.vault, ask.names, None).await;
        }
        if placed.is_err() {
            // Without its URL nobody can have finalized it.
            self.book.open().release(ask.key, self.now());
        }
        placed
    }

    /// Takes a place in the budgets, and writes that down before anything is asked.
    async fn reserve(&self, ask: &Ask<'_>) -> Result<(), Trouble> {
        let now = self.now();
        {
            let mut ledger = self.book.open();
            ledger
                .admits(ask, false, now)
                .map_err(|it| Trouble::Budget { text: it.text, until: it.until })?;
            ledger.reserve(ask.key, now);
        }
        let flushed = self.book.flush().await;
        if flushed.is_err() {
            self.book.open().release(ask.key, now);
        }
        flushed
    }

    async fn note_issue(&self, ask: &Ask<'_>, again: bool) -> Result<(), Trouble> {
        self.book.open().issued(ask, again, self.now());
        self.book.flush().await
    }

    fn note_failure(&self, item: &Item, key: &str, trouble: &Trouble, now: i64) {
        let class = trouble.class();
        if matches!(class, Class::F | Class::H) || matches!(trouble, Trouble::Down { .. }) {
            // Waited for elsewhere: by the item, in the budgets, by everybody.
            return;
        }
        let until = now + self.pause(item, trouble, now);
        let mut ledger = self.book.open();
        if let Trouble::Limited(limited) = trouble
            && limited.scope != super::limit::Scope::Set
        {
            ledger.limit(&limited.scope, limited.until);
        }
        let failure = Failure {
            class,
            attempt: trouble.is_attempt(),
            until,
            error: &trouble.to_string(),
            bad: trouble.bad(),
            spec: &self.spec(),
        };
        ledger.failed(key, &failure, now);
    }

    /// How long an item waits after a failure, in seconds.
    pub(super) fn pause(&self, item: &Item, trouble: &Trouble, now: i64) -> i64 {
        let key = ledger::key(self.issuer.name(), &item.names);
        let failures = self.book.open().backoff(&key, &self.spec()).failures;
        let failures = failures.saturating_add(u32::from(trouble.is_attempt()));
        let left = item.wanted.held.as_ref().map(|it| it.not_after - now);
        trouble.pause(failures, super::spread(&key, failures), left, now)
    }

    /// What is asked beside the names: when it changes, what was refused is asked again.
    pub(super) fn spec(&self) -> String {
        match &self.issuer {
            Issuer::Acme(acme) => acme.profile().unwrap_or_default().to_owned(),
            Issuer::Local(_) => String::new(),
        }
    }

    pub(super) fn ask<'a>(&self, item: &'a Item, key: &'a str) -> Ask<'a> {
        let Item { names, due, early, forced, .. } = item;
        Ask { key, names, first: due.is_first(), forced: *forced, early: *early }
    }

    async fn register_again(&self, text: &str) -> Result<(), Trouble> {
        let Issuer::Acme(acme) = &self.issuer else { return Ok(()) };
        let now = self.now();
        if let Err(until) = self.book.open().register(acme.name(), now) {
            let text = format!("{text}; it was registered anew within a day");
            return Err(Trouble::Budget { text, until });
        }
        self.book.flush().await?;
        tracing::warn!(text, "the CA no longer knows the account, which is registered anew");
        acme.register_again(&self.vault).await
    }

    /// Whether somebody already did what is to be done.
    fn is_settled(&self, secret: &StoredSecret, item: &Item) -> bool {
        let now = Wanted { names: item.names.clone(), ..seen(secret, &item.wanted) };
        due(&now, self.issuer.name(), item.window.as_ref(), self.now()).is_none()
    }

    /// Has the API server check the write before anything is asked of the CA.
    async fn rehearse(&self, secret: &StoredSecret) -> Result<(), Trouble> {
        let mut draft = secret.clone();
        for entry in ["tls.crt", "tls.key"] {
            draft.data.entry(entry.to_owned()).or_insert_with(|| b"rehearsal".to_vec());
        }
        draft.annotations.insert(MANAGED.to_owned(), "v1".to_owned());
        // Or nothing changes, and nothing is checked.
        draft.annotations.insert(ISSUED_AT.to_owned(), self.now().to_string());
        self.vault.rehearse(&draft).await
    }

    /// Writes down what is known of the certificate beside it, and takes off what was asked.
    fn mark(&self, secret: &mut StoredSecret, item: &Item, pair: &Keypair, order: Option<&str>) {
        let now = self.now();
        let renewal = due::renewal(pair.not_before, pair.not_after, &pair.id, None, Some(now));
        let (account, profile) = match &self.issuer {
            Issuer::Acme(acme) => (acme.account_url(), acme.profile().map(str::to_owned)),
            Issuer::Local(_) => (None, None),
        };
        claims::adopt(secret);
        for name in [marks::RENEW, marks::REVOKE, marks::ARI_WINDOW] {
            secret.annotations.remove(&marks::full(name));
        }
        secret.annotations.insert(ISSUER.to_owned(), self.issuer.name().to_owned());
        secret.annotations.insert(ISSUED_AT.to_owned(), now.to_string());
        for (name, value) in [
            (marks::CERT_ID, Some(pair.id.clone())),
            (marks::NAMES, Some(record::joined(&item.names))),
            (marks::NOT_AFTER, Some(moment(pair.not_after))),
            (marks::RENEW_AT, Some(moment(renewal.at))),
            (marks::ACCOUNT, account),
            (marks::PROFILE, profile),
            (marks::ORDER, order.map(str::to_owned)),
        ] {
            match value {
                Some(value) => secret.annotations.insert(marks::full(name), value),
                None => secret.annotations.remove(&marks::full(name)),
            };
        }
    }

    /// Makes a Secret that was handed over ours; nothing of what it holds changes.
    pub(super) async fn adopt(&self, name: &ObjectName) -> Result<(), Trouble> {
        let Some(mut secret) = self.vault.secret(name).await? else { return Ok(()) };
        if !claims::is_ours(&secret) {
            return Err(Trouble::Foreign);
        }
        claims::adopt(&mut secret);
        self.vault.write(&mut secret).await
    }

    /// Puts back what a Secret held before somebody else changed it.
    pub(super) async fn restore(&self, name: &ObjectName, kept: &Kept) -> Result<(), Trouble> {
        let mut secret = match self.vault.secret(name).await? {
            None => fresh(name),
            Some(found) if claims::is_ours(&found) => found,
            Some(_) => return Err(Trouble::Foreign),
        };
        let (crt, key) = kept.pair.to_pem();
        secret.data.insert("tls.crt".to_owned(), crt.into_bytes());
        secret.data.insert("tls.key".to_owned(), key.into_bytes());
        for (name, value) in &kept.marks {
            secret.annotations.insert(format!("{PREFIX}{name}"), value.to_string());
        }
        self.vault.write(&mut secret).await
    }

    /// Revokes what a Secret holds, once; what is wanted is ordered anew.
    pub(super) async fn revoke(
        &self,
        name: &ObjectName,
        pair: &Keypair,
        reason: &str,
    ) -> Result<(), Trouble> {
        if let (Issuer::Acme(acme), Some(leaf)) = (&self.issuer, pair.chain.first()) {
            match acme.revoke(&self.vault, leaf, reason).await {
                // Asked once and refused for good is done, too: its owner is told.
                Err(trouble) if is_final(&trouble) => {
                    self.take_mark_off(name, marks::REVOKE).await;
                    return Err(trouble);
                }
                other => other?,
            }
        }
        let Some(mut secret) = self.vault.secret(name).await? else { return Ok(()) };
        secret.annotations.remove(&marks::full(marks::REVOKE));
        secret.annotations.insert(marks::full(marks::RENEW), "now".to_owned());
        self.vault.write(&mut secret).await
    }

    /// Asks when the CA wants a certificate renewed, and writes down a window that is news.
    pub(super) async fn look_up_window(
        &self,
        name: &ObjectName,
        wanted: &Wanted,
        mut known: Ari,
    ) -> Ari {
        let (Issuer::Acme(acme), Some(held)) = (&self.issuer, &wanted.held) else { return known };
        let told = acme.renewal_info(&self.vault, &held.id).await;
        let now = self.now();
        known.tried = Some(now);
        match told {
            Ok(Some(told)) => known.take(Ok(told), now),
            Ok(None) => known.take(Err(Some(86_400)), now),
            Err(trouble) => {
                tracing::debug!(secret = %name, %trouble, "no renewal window");
                let wait = match trouble {
                    Trouble::Down { wait, .. } => wait,
                    Trouble::Limited(it) => Some(it.until - now),
                    _ => None,
                };
                known.take(Err(wait), now);
            }
        }
        if known.window != Marks(&wanted.marks).window()
            && let Some(window) = &known.window
            && let Err(error) = self.write_window(name, held, window).await
        {
            tracing::debug!(secret = %name, %error, "the renewal window was not written down");
        }
        known
    }

    async fn write_window(
        &self,
        name: &ObjectName,
        held: &Keypair,
        window: &Window,
    ) -> Result<(), Trouble> {
        let Some(mut secret) = self.vault.secret(name).await? else { return Ok(()) };
        let id = marks::full(marks::CERT_ID);
        if !claims::is_ours(&secret) || secret.annotations.get(&id) != Some(&held.id) {
            return Ok(());
        }
        let issued = secret.annotations.get(ISSUED_AT).and_then(|it| it.parse().ok());
        let renewal = due::renewal(held.not_before, held.not_after, &held.id, Some(window), issued);
        secret.annotations.insert(marks::full(marks::ARI_WINDOW), window.to_string());
        secret.annotations.insert(marks::full(marks::RENEW_AT), moment(renewal.at));
        self.vault.write(&mut secret).await
    }

    /// Forgets what somebody asked; they are told why.
    async fn take_mark_off(&self, name: &ObjectName, mark: &str) {
        let taken = async {
            let Some(mut secret) = self.vault.secret(name).await? else { return Ok(()) };
            match secret.annotations.remove(&marks::full(mark)) {
                Some(_) => self.vault.write(&mut secret).await,
                None => Ok(()),
            }
        };
        if let Err::<(), Trouble>(error) = taken.await {
            tracing::warn!(secret = %name, %error, "an annotation was not taken off");
        }
    }
}

/// Whether the answer to a request of a person is there.
fn is_final(trouble: &Trouble) -> bool {
    matches!(trouble.class(), Class::B | Class::C | Class::D | Class::H)
}

/// The certificate that a new one takes the place of, where the CA is to know: one of this account's.
fn replaced<'a>(item: &'a Item, account: &str) -> Option<&'a str> {
    let held = item.wanted.held.as_ref()?;
    let marks = Marks(&item.wanted.marks);
    let ours = marks.get(marks::ACCOUNT) == Some(account);
    let same = marks.get(marks::CERT_ID) == Some(&*held.id);
    let shared = item.names.iter().any(|name| held.names.iter().any(|it| it.to_string() == *name));
    // Half an id is none: the CA could not find it.
    let whole = !held.id.starts_with('.');
    (ours && same && shared && whole).then_some(&*held.id)
}

/// What is wanted, with the Secret as it is now.
fn seen(secret: &StoredSecret, wanted: &Wanted) -> Wanted {
    let entry = |name: &str| secret.data.get(name).map(Vec::as_slice);
    let all = secret.annotations.iter();
    let marks = all.filter_map(|(name, value)| {
        Some((name.strip_prefix(PREFIX)?.into(), value.as_str().into()))
    });
    Wanted {
        exists: secret.version.is_some(),
        held: Keypair::parse(entry("tls.crt"), entry("tls.key")).ok().map(Arc::new),
        issuer: secret.annotations.get(ISSUER).cloned(),
        issued_at: secret.annotations.get(ISSUED_AT).and_then(|it| it.parse().ok()),
        marks: marks.collect(),
        marked: secret.annotations.contains_key(MANAGED),
        ..wanted.clone()
    }
}

fn fresh(name: &ObjectName) -> StoredSecret {
    StoredSecret {
        name: name.clone(),
        kind: "kubernetes.io/tls".to_owned(),
        labels: [("app.kubernetes.io/managed-by".to_owned(), MANAGER.to_owned())].into(),
        ..StoredSecret::default()
    }
}

/// Whether somebody changed a Secret while it was being written.
pub(super) fn is_race(trouble: &Trouble) -> bool {
    matches!(trouble, Trouble::Store(StoreError::Conflict(_)))
}
