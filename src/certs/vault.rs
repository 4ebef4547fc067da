//! The store as certificates see it: nothing is written once another replica leads.
//!
//! A leader that was stopped for a while does not know that it lost the lease; asking right before each
//! write, by the monotonic clock, is what keeps two of them from writing. What slips through the moment
//! between asking and writing fails on the object's version.

use super::trouble::Trouble;
use crate::lease::Leadership;
use crate::model::name::ObjectName;
use crate::store::{Store, StoreError, StoredMap, StoredSecret};

/// A store with a guard.
#[derive(Clone, Debug)]
pub struct Vault {
    store: Store,
    leadership: Leadership,
}

impl Vault {
    /// Guards `store`.
    pub fn new(store: Store, leadership: Leadership) -> Self {
        Self { store, leadership }
    }

    /// Whether this replica may write.
    pub(super) fn is_open(&self) -> bool {
        self.leadership.holds()
    }

    /// Waits until that changes.
    pub(super) async fn changed(&mut self) {
        self.leadership.changed().await;
    }

    pub(super) async fn secret(&self, name: &ObjectName) -> Result<Option<StoredSecret>, Trouble> {
        Ok(self.store.secret(name).await?)
    }

    /// Reads the Secrets of ours in a namespace whose names begin like this.
    pub(super) async fn secrets(
        &self,
        namespace: &str,
        prefix: &str,
    ) -> Result<Vec<StoredSecret>, Trouble> {
        Ok(self.store.secrets(namespace, prefix).await?)
    }

    /// Writes a Secret, which afterwards has the version that the next write needs.
    pub(super) async fn write(&self, secret: &mut StoredSecret) -> Result<(), Trouble> {
        self.guard()?;
        secret.version = self.store.write_secret(secret, false).await?;
        Ok(())
    }

    /// Writes a Secret that is new, unless somebody was faster: then it becomes theirs. Says whether it was
    /// written.
    pub(super) async fn write_first(&self, secret: &mut StoredSecret) -> Result<bool, Trouble> {
        match self.write(secret).await {
            Err(Trouble::Store(StoreError::Conflict(name))) => {
                let theirs = self.secret(&secret.name).await?;
                *secret = theirs.ok_or(StoreError::Conflict(name))?;
                Ok(false)
            }
            other => other.map(|()| true),
        }
    }

    /// Has the store check a write without doing it.
    pub(super) async fn rehearse(&self, secret: &StoredSecret) -> Result<(), Trouble> {
        self.guard()?;
        self.store.write_secret(secret, true).await?;
        Ok(())
    }

    /// Deletes a Secret as it is now.
    pub(super) async fn delete(&self, name: &ObjectName) -> Result<(), Trouble> {
        match self.store.secret(name).await? {
            Some(found) => self.delete_seen(&found).await,
            None => Ok(()),
        }
    }

    /// Deletes a Secret, if nobody wrote it since it was read.
    pub(super) async fn delete_seen(&self, secret: &StoredSecret) -> Result<(), Trouble> {
        self.guard()?;
        Ok(self.store.delete_secret(secret).await?)
    }

    pub(super) async fn map(&self, name: &ObjectName) -> Result<Option<StoredMap>, Trouble> {
        Ok(self.store.config_map(name).await?)
    }

    /// Writes a ConfigMap, which afterwards has the version that the next write needs.
    pub(super) async fn write_map(&self, map: &mut StoredMap) -> Result<(), Trouble> {
        self.guard()?;
        map.version = self.store.write_config_map(map).await?;
        Ok(())
    }

    fn guard(&self) -> Result<(), Trouble> {
        if self.is_open() { Ok(()) } else { Err(Trouble::Deposed) }
    }
}
