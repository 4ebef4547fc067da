//! Networks that may ask, and what the ConfigMap blocks.

use std::net::IpAddr;

use http::HeaderMap;
use http::header::{REFERER, USER_AGENT};

use super::{Opinion, Refusal};
use crate::model::access::Blocked;
use crate::model::guard::Guard;

/// What a route's lists say of an address: first who may not ask, then who may, and with such a list nobody
/// else.
pub(super) fn opinion(guard: &Guard, address: IpAddr) -> Opinion {
    if guard.deny.as_ref().is_some_and(|it| it.contains(address)) {
        return Opinion::Refused(Refusal::forbidden());
    }
    match &guard.allow {
        None => Opinion::Silent,
        Some(allow) if allow.contains(address) => Opinion::Granted,
        Some(_) => Opinion::Refused(Refusal::forbidden()),
    }
}

/// Whether they let an address ask at all.
pub(in crate::proxy) fn may_ask(guard: &Guard, address: IpAddr) -> bool {
    !matches!(opinion(guard, address), Opinion::Refused(_))
}

/// Whether the ConfigMap blocks a client, by its address or what its request says of it.
pub(in crate::proxy) fn is_blocked(
    blocked: &Blocked,
    address: IpAddr,
    headers: &HeaderMap,
) -> bool {
    blocked.networks.contains(address)
        || blocked.agents.have(headers.get(USER_AGENT))
        || blocked.referers.have(headers.get(REFERER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deny_goes_before_allow() {
        let list = |text: &str| {
            Some(text).filter(|it| !it.is_empty()).map(|it| it.parse().expect("a list"))
        };
        let forbidden = Opinion::Refused(Refusal::forbidden());
        for (deny, allow, address, expected) in [
            ("", "", "10.0.0.1", Opinion::Silent),
            ("", "10.0.0.0/8", "10.0.0.1", Opinion::Granted),
            ("", "10.0.0.0/8", "11.0.0.1", forbidden.clone()),
            ("10.0.0.1", "", "10.0.0.1", forbidden.clone()),
            ("10.0.0.1", "", "10.0.0.2", Opinion::Silent),
            ("10.0.0.1", "10.0.0.0/8", "10.0.0.1", forbidden.clone()),
            ("10.0.0.1", "10.0.0.0/8", "10.0.0.2", Opinion::Granted),
            ("10.0.0.1", "10.0.0.0/8", "11.0.0.2", forbidden.clone()),
            ("", "10.0.0.0/8", "::ffff:10.0.0.1", Opinion::Granted),
            ("", "2001:db8::/32", "2001:db8::1", Opinion::Granted),
        ] {
            let guard = Guard { deny: list(deny), allow: list(allow), ..Guard::default() };
            let found = opinion(&guard, address.parse().expect("an address"));
            assert_eq!(found, expected, "deny {deny:?}, allow {allow:?}: {address}");
        }
    }
}
