//! Keys about how much one client may ask for.

use super::Key;

pub(super) const KEYS: &[Key] = &[];
