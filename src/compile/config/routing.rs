//! Keys about redirects, hosts and paths.

use super::Key;

pub(super) const KEYS: &[Key] = &[];
