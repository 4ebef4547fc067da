//! What is done to our Secrets beside ordering: taken over, put back, revoked, noted on.

use super::ari::{Ari, Window};
use super::claims::{self, Kept};
use super::due;
use super::marks::{self, Marks, moment};
use super::obtain::{fresh, held, is_final};
use super::record;
use super::trouble::Trouble;
use super::{Issuer, Keeper};
use crate::compile::objects::{ISSUED_AT, PREFIX};
use crate::model::keypair::Keypair;
use crate::model::name::ObjectName;
use crate::model::plan::{Plan, Wanted};
use crate::store::StoreError;

impl Keeper {
    /// Deletes the records of what is stored already; gives the Secrets of those that nobody wants.
    pub(super) async fn tidy(&self, plan: &Plan) -> Result<Vec<ObjectName>, Trouble> {
        let mut orphans = Vec::new();
        for found in self.vault.secrets(&self.namespace, record::PREFIX).await? {
            let Some(subject) = record::subject(&found) else { continue };
            if found.name != record::place(&self.namespace, &subject) {
                // An earlier version's, which looked for it there: nobody takes it up any more.
                if claims::is_ours(&found) {
                    tracing::info!(secret = %subject, "an earlier version's record of an order is deleted");
                    self.vault.delete(&found.name).await?;
                }
                continue;
            }
            let Some(wanted) = plan.wanted.get(&subject) else {
                orphans.push(subject);
                continue;
            };
            let held = self.vault.secret(&subject).await?;
            if held.is_some_and(|it| record::is_over(&found, &it, wanted.reuse_key)) {
                tracing::info!(secret = %subject, "the record of an order that is stored is deleted");
                self.vault.delete_seen(&found).await?;
            }
        }
        Ok(orphans)
    }

    /// Deletes the record of an order.
    pub(super) async fn forget(&self, name: &ObjectName) -> Result<(), Trouble> {
        self.vault.delete(&record::place(&self.namespace, name)).await
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
        for (name, value) in kept.marks.iter() {
            secret.annotations.insert(format!("{PREFIX}{name}"), value.to_string());
        }
        self.vault.write(&mut secret).await
    }

    /// Revokes what a Secret holds, once; from then on another is due, until it holds another.
    pub(super) async fn revoke(
        &self,
        name: &ObjectName,
        pair: &Keypair,
        reason: &str,
    ) -> Result<(), Trouble> {
        let Some(mut secret) = self.vault.secret(name).await? else { return Ok(()) };
        if !claims::is_ours(&secret) {
            return Err(Trouble::Foreign);
        }
        let asked = secret.annotations.contains_key(&marks::full(marks::REVOKE));
        if !asked || held(&secret).is_none_or(|it| it.id != pair.id) {
            // What somebody wanted revoked is not what is there: they, or we, are to look again.
            return Err(Trouble::Store(StoreError::Conflict(name.clone())));
        }
        if let Issuer::Acme(acme) = &self.issuer {
            match acme.revoke(&self.vault, &pair.leaf, reason).await {
                // Asked once and refused for good is done, too: its owner is told.
                Err(trouble) if is_final(&trouble) => {
                    self.take_mark_off(name, marks::REVOKE).await;
                    return Err(trouble);
                }
                other => other?,
            }
        }
        secret.annotations.remove(&marks::full(marks::REVOKE));
        secret.annotations.insert(marks::full(marks::REVOKED), pair.id.clone());
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
    pub(super) async fn take_mark_off(&self, name: &ObjectName, mark: &str) {
        let taken = async {
            let Some(mut secret) = self.vault.secret(name).await? else { return Ok(()) };
            if !claims::is_ours(&secret) {
                return Ok(());
            }
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
