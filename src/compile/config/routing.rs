//! Keys about redirects, hosts and paths.

use super::{Key, default_of};

pub(super) const KEYS: &[Key] =
    &[default_of("relative-redirects"), default_of("preserve-trailing-slash")];
