//! Keys about who may ask.

use super::Key;

pub(super) const KEYS: &[Key] = &[];
