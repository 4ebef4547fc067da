//! From a claimed record to a chain: the part that costs something at the CA.
//!
//! The ledger is written before the CA hears of an order and when it issued; a certificate that nobody saw
//! the end of counts as issued.

use super::acme::Acme;
use super::doing::Doing;
use super::ledger::Ask;
use super::marks::{self, Marks};
use super::obtain::Item;
use super::order::{Found, Placed};
use super::record::Record;
use super::standing::State;
use super::trouble::{Class, Trouble};
use super::{Issuer, Keeper};

impl Keeper {
    /// Has a certificate issued; gives its chain, and the order's URL.
    pub(super) async fn issue(
        &self,
        item: &Item,
        key: &str,
        record: &mut Record,
        again: bool,
        doing: &Doing,
    ) -> Result<(String, Option<String>), Trouble> {
        let ask = item.ask(key);
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
                Ok(Found::Order(placed)) => return Ok(*placed),
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
        let flushed = self.book.flush_for(ask.key).await;
        if flushed.is_err() {
            self.book.open().release(ask.key, now);
        }
        flushed
    }

    async fn note_issue(&self, ask: &Ask<'_>, again: bool) -> Result<(), Trouble> {
        self.book.open().issued(ask, again, self.now());
        self.book.flush_for(ask.key).await
    }

    /// Registers the account anew, with a CA that lost it: once a day.
    pub(super) async fn register_again(&self, text: &str) -> Result<(), Trouble> {
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
