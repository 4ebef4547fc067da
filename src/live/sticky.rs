//! Which endpoint a client's cookie names: `affinity`, with ingress-nginx's cookies.
//!
//! A cookie is `KEY|MARK`. The mark is ingress-nginx's, and so is the key of mode `persistent`: who comes
//! from there stays where they were. A key of mode `balanced` is a place on a ring; one of ingress-nginx's
//! leads to some endpoint, and always to the same.

use std::sync::Arc;

use md5::{Digest, Md5};

use super::balance::Endpoint;
use super::ring::{Ring, hash};
use crate::model::sharing::Mode;

/// What tells endpoints by cookies and makes cookies for endpoints.
#[derive(Debug)]
pub(super) struct Sticky {
    mark: Box<str>,
    keys: Keys,
}

#[derive(Debug)]
enum Keys {
    /// Of mode `balanced`.
    Ring(Ring),
    /// Of mode `persistent`: each endpoint's key, in the order of keys, with its place.
    Own(Box<[(Box<str>, usize)]>),
}

impl Sticky {
    /// For the endpoints of a backend, which goes by `name` in logs.
    pub(super) fn new(name: &str, mode: Mode, endpoints: &[Arc<Endpoint>]) -> Self {
        let keys = match mode {
            Mode::Balanced => Keys::Ring(endpoints.iter().map(|it| it.address).collect()),
            Mode::Persistent => {
                // With the name for salt: what the addresses are is nobody's business.
                let key = |it: &Endpoint| hexadecimal(&format!("{name}{}", it.address)).into();
                let mut keys: Vec<_> = endpoints.iter().map(|it| key(it)).zip(0..).collect();
                keys.sort_unstable();
                Keys::Own(keys.into())
            }
        };
        let mark = hexadecimal(&format!("{}{name}", hexadecimal(name))).into();
        Self { mark, keys }
    }

    /// What follows the bar: tells a backend's cookies from its canary's.
    pub(super) fn mark(&self) -> &str {
        &self.mark
    }

    /// The place of the endpoint that a key leads to; `None` where it is gone.
    pub(super) fn place_of(&self, key: &str) -> Option<usize> {
        match &self.keys {
            Keys::Ring(ring) => {
                let own = key.len() == 16 && key.bytes().all(|it| it.is_ascii_hexdigit());
                let own = own.then(|| u64::from_str_radix(key, 16).ok()).flatten();
                ring.owners(own.unwrap_or_else(|| hash(&key))).next()
            }
            Keys::Own(keys) => {
                let found = keys.binary_search_by(|(it, _)| (**it).cmp(key)).ok()?;
                Some(keys[found].1)
            }
        }
    }

    /// A key that leads to an endpoint.
    pub(super) fn key_of(&self, endpoint: &Endpoint, place: usize, random: u64) -> String {
        match &self.keys {
            Keys::Ring(ring) => format!("{:016x}", ring.key_of(&endpoint.address, place, random)),
            Keys::Own(keys) => {
                let own = keys.iter().find(|(_, it)| *it == place);
                own.map(|(key, _)| key.to_string()).unwrap_or_default()
            }
        }
    }
}

/// MD5 in hexadecimal: no secret depends on it.
fn hexadecimal(text: &str) -> String {
    use std::fmt::Write as _;
    let digest = Md5::digest(text.as_bytes());
    digest.iter().fold(String::with_capacity(32), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoints(ports: &[u16]) -> Vec<Arc<Endpoint>> {
        ports.iter().map(|it| Endpoint::new(([10, 0, 0, 1], *it).into())).collect()
    }

    #[test]
    fn marks_and_keys_are_those_of_ingress_nginx() {
        let sticky = Sticky::new("demo-web-80", Mode::Persistent, &endpoints(&[8080, 8081]));
        // printf '%s%s' "$(printf demo-web-80 | md5sum | head -c32)" demo-web-80 | md5sum
        assert_eq!(sticky.mark(), "4eccf85e3a373e847aa679b764930aaa");
        // printf demo-web-8010.0.0.1:8080 | md5sum
        assert_eq!(sticky.place_of("b873f094e3ec3b1a54196451325e9daa"), Some(0));
        assert_eq!(sticky.place_of("1795168800.007.12.345678"), None);
    }

    #[test]
    fn keys_lead_back_to_their_endpoints() {
        for mode in [Mode::Balanced, Mode::Persistent] {
            let endpoints = endpoints(&[1, 2, 3, 4, 5]);
            let sticky = Sticky::new("a-b-80", mode, &endpoints);
            for (place, endpoint) in endpoints.iter().enumerate() {
                for random in 0..50_u64 {
                    let key = sticky.key_of(endpoint, place, hash(&random));
                    assert_eq!(sticky.place_of(&key), Some(place), "{mode:?} {key}");
                }
            }
        }
    }

    #[test]
    fn a_key_of_old_leads_somewhere_and_stays_there() {
        let sticky = Sticky::new("a-b-80", Mode::Balanced, &endpoints(&[1, 2, 3]));
        for key in ["1795168800.007.12.345678", "", "zzzzzzzzzzzzzzzz", "+123456789abcdef"] {
            let first = sticky.place_of(key);
            assert!(first.is_some_and(|it| it < 3), "{key}");
            assert_eq!(sticky.place_of(key), first, "{key}");
        }
    }

    #[test]
    fn a_persistent_client_stays_when_endpoints_come() {
        let few = endpoints(&[2, 4]);
        let key = Sticky::new("a-b-80", Mode::Persistent, &few).key_of(&few[1], 1, 0);
        for (ports, expected) in
            [(&[1, 2, 3, 4, 5][..], Some(3)), (&[4], Some(0)), (&[1, 2, 3], None), (&[], None)]
        {
            let sticky = Sticky::new("a-b-80", Mode::Persistent, &endpoints(ports));
            assert_eq!(sticky.place_of(&key), expected, "{ports:?}");
        }
    }
}
