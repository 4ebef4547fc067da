//! Keys about TLS towards clients.

use super::Key;

pub(super) const KEYS: &[Key] = &[];
