//! Keys about logs, mirrors and traces.

use super::Key;

pub(super) const KEYS: &[Key] = &[];
