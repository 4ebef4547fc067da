//! Limits: how much one client may ask for.

use super::super::Instead;
use super::never;
use super::{Annotation, missing};

pub(super) const ROWS: &[Annotation] = &[
    missing("limit-rps", "", "Requests a second and client.", never, Instead::Serve),
    missing("limit-rpm", "", "Requests a minute and client.", never, Instead::Serve),
    missing("limit-connections", "", "Connections a client.", never, Instead::Serve),
    missing("limit-burst-multiplier", "5", "How many may come at once.", never, Instead::Serve),
    missing("limit-allowlist", "", "Clients without limits.", never, Instead::Serve),
    missing("limit-whitelist", "", "Older name of `limit-allowlist`.", never, Instead::Serve),
    missing("limit-rate", "0", "Bandwidth of an answer.", never, Instead::Serve),
    missing("limit-rate-after", "0", "From which byte on.", never, Instead::Serve),
];
