//! One certificate, from the first look at its Secret to the last write.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::ari::Window;
use super::claims;
use super::doing::Doing;
use super::due::{self, Due, due};
use super::ledger::{self, Ask, Failure};
use super::marks::{self, moment};
use super::record::{self, Claim, Record};
use super::standing::State;
use super::trouble::{Class, Trouble};
use super::{Issuer, Keeper, chain};
use crate::compile::objects::{ISSUED_AT, ISSUER, MANAGED, PREFIX};
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

    /// What comes after a failure, for people: what was asked for is tried once.
    pub(super) fn next_try(&self, trouble: &Trouble, pause: i64) -> String {
        if self.is_answered(trouble) {
            return "ask again for another try".to_owned();
        }
        format!("next try in {pause} s")
    }

    /// Whether a failure is the answer to who asked.
    fn is_answered(&self, trouble: &Trouble) -> bool {
        self.due == Due::Asked && is_final(trouble)
    }

    /// As the ledger hears of it.
    pub(super) fn ask<'a>(&'a self, key: &'a str) -> Ask<'a> {
        let Self { names, due, early, forced, .. } = self;
        Ask { key, names, first: due.is_first(), forced: *forced, early: *early }
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
        if result.as_ref().is_err_and(|it| item.is_answered(it)) {
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
            held: &secret,
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

    /// How long an item waits whose failure was noted, in seconds.
    pub(super) fn wait(&self, item: &Item, trouble: &Trouble, now: i64) -> i64 {
        let key = ledger::key(self.issuer.name(), &item.names);
        let until = self.book.open().backoff(&key, &self.spec()).until;
        if matches!(trouble.class(), Class::F | Class::H) || until <= now {
            return self.pause(item, trouble, now);
        }
        until - now
    }

    /// What is asked beside the names: when it changes, what was refused is asked again.
    pub(super) fn spec(&self) -> String {
        match &self.issuer {
            Issuer::Acme(acme) => acme.profile().unwrap_or_default().to_owned(),
            Issuer::Local(_) => String::new(),
        }
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
        draft.annotations.extend([claims::managed()]);
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
        for name in [marks::RENEW, marks::REVOKE, marks::REVOKED, marks::ARI_WINDOW] {
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
}

/// Whether the answer to a request of a person is there.
pub(super) fn is_final(trouble: &Trouble) -> bool {
    matches!(trouble.class(), Class::B | Class::C | Class::D | Class::H)
}

/// What is wanted, with the Secret as it is now.
fn seen(secret: &StoredSecret, wanted: &Wanted) -> Wanted {
    let all = secret.annotations.iter();
    let marks = all.filter_map(|(name, value)| Some((name.strip_prefix(PREFIX)?, value.as_str())));
    Wanted {
        exists: secret.version.is_some(),
        held: held(secret).map(Arc::new),
        issuer: secret.annotations.get(ISSUER).cloned(),
        issued_at: secret.annotations.get(ISSUED_AT).and_then(|it| it.parse().ok()),
        marks: marks.collect(),
        marked: secret.annotations.contains_key(MANAGED),
        ..wanted.clone()
    }
}

/// The pair in a Secret as it is now.
pub(super) fn held(secret: &StoredSecret) -> Option<Keypair> {
    let entry = |name: &str| secret.data.get(name).map(Vec::as_slice);
    Keypair::parse(entry("tls.crt"), entry("tls.key")).ok()
}

pub(super) fn fresh(name: &ObjectName) -> StoredSecret {
    StoredSecret {
        name: name.clone(),
        kind: "kubernetes.io/tls".to_owned(),
        labels: [claims::labelled()].into(),
        ..StoredSecret::default()
    }
}

/// Whether somebody changed a Secret while it was being written.
pub(super) fn is_race(trouble: &Trouble) -> bool {
    matches!(trouble, Trouble::Store(StoreError::Conflict(_)))
}
