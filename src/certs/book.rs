//! Where the ledger is written down: ConfigMaps of our own namespace, one a page.
//!
//! Each write names the version it was read at. When that fails somebody else keeps the book: nothing more
//! is ordered until it was read anew.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ledger::{Budget, Ledger, PAGES};
use super::trouble::Trouble;
use super::vault::Vault;
use crate::model::name::ObjectName;
use crate::store::{StoreError, StoredMap};

/// The entry that holds a page.
const ENTRY: &str = "ledger.json";

/// The ledger with its ConfigMaps; cheap to clone.
#[derive(Clone, Debug)]
pub(super) struct Book {
    vault: Vault,
    namespace: Box<str>,
    ledger: Arc<Mutex<Ledger>>,
    /// As last read or written; held while writing, so that pages are written in order.
    maps: Arc<tokio::sync::Mutex<Vec<StoredMap>>>,
    /// Whether it was read since this replica leads.
    read: Arc<AtomicBool>,
}

impl Book {
    pub(super) fn new(vault: Vault, namespace: &str, budget: Budget) -> Self {
        Self {
            vault,
            namespace: namespace.into(),
            ledger: Arc::new(Mutex::new(Ledger::new(budget))),
            maps: Arc::default(),
            read: Arc::default(),
        }
    }

    /// The ledger; to be held for a moment only.
    pub(super) fn open(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what is in memory is what was written down.
    pub(super) fn is_read(&self) -> bool {
        self.read.load(Ordering::Acquire)
    }

    /// Another replica may write from now on.
    pub(super) fn shut(&self) {
        self.read.store(false, Ordering::Release);
    }

    /// Reads all pages.
    pub(super) async fn read(&self, now: i64) -> Result<(), Trouble> {
        let mut maps = self.maps.lock().await;
        let mut found = Vec::with_capacity(PAGES);
        for at in 0..PAGES {
            let name = format!("lockgate-acme-ledger-{at}");
            let name = ObjectName::new(self.namespace.clone(), name);
            let map = self.vault.map(&name).await?;
            found.push(map.unwrap_or(StoredMap { name, ..StoredMap::default() }));
        }
        let mut ledger = self.open();
        for (at, map) in found.iter().enumerate() {
            ledger.read(at, map.data.get(ENTRY).map_or("{}", |it| it));
        }
        ledger.prune(now);
        drop(ledger);
        *maps = found;
        self.read.store(true, Ordering::Release);
        Ok(())
    }

    /// Writes what changed. After an error it is in memory, and written next time.
    pub(super) async fn flush(&self) -> Result<(), Trouble> {
        self.write(|_| true).await
    }

    /// Writes what changed, and fails only where that is what an order of this set is reckoned by: nobody
    /// else's page holds it up.
    pub(super) async fn flush_for(&self, key: &str) -> Result<(), Trouble> {
        let needed = Ledger::pages_of(key);
        self.write(|at| needed.contains(&at)).await
    }

    async fn write(&self, is_needed: impl Fn(usize) -> bool) -> Result<(), Trouble> {
        let mut maps = self.maps.lock().await;
        if !self.is_read() {
            return Err(Trouble::Deposed);
        }
        self.open().prune_daily();
        let mut dirty: Vec<usize> = self.open().dirty().collect();
        dirty.sort_by_key(|at| !is_needed(*at));
        let mut result = Ok(());
        for at in dirty {
            let Some(map) = maps.get_mut(at) else { continue };
            let text = self.open().write(at);
            map.data.insert(ENTRY.to_owned(), text);
            let Err(error) = self.vault.write_map(map).await else { continue };
            self.open().unwritten(at);
            if matches!(error, Trouble::Store(StoreError::Conflict(_) | StoreError::Gone(_))) {
                self.shut();
                return Err(error);
            }
            let refused = matches!(error, Trouble::Store(StoreError::Forbidden(_)));
            if is_needed(at) {
                result = result.and(Err(error));
            } else {
                tracing::warn!(%error, page = at, "a page of the ledger was not written and will be");
            }
            if !refused {
                // Others would fare no better, each for as long.
                break;
            }
        }
        result
    }
}
