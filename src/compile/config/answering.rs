//! Keys about answers on their way to clients.

use super::Key;

pub(super) const KEYS: &[Key] = &[];
