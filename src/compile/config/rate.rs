//! Keys about how much one client may ask for.

use super::{Key, default_of, key};

pub(super) const KEYS: &[Key] = &[
    default_of("limit-rate"),
    default_of("limit-rate-after"),
    key(
        "limit-req-status-code",
        "Status for requests above `limit-rps` or `limit-rpm`.",
        |value, it| {
            it.limit_statuses.requests = status(value)?;
            Ok(())
        },
    ),
    key("limit-conn-status-code", "Status for requests above `limit-connections`.", |value, it| {
        it.limit_statuses.connections = status(value)?;
        Ok(())
    }),
];

/// nginx takes these.
fn status(value: &str) -> Result<u16, &'static str> {
    let status = value.parse().ok().filter(|it| (400..=599).contains(it));
    status.ok_or("a status from 400 to 599")
}
