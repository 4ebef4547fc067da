//! Keeps a client on one endpoint by a cookie: `affinity`, with ingress-nginx's cookie.
//!
//! The cookie says `KEY|MARK`: which endpoint, of which backend. One is given to clients that brought none
//! which still leads somewhere, on the paths of Ingresses that ask for affinity and nowhere else.

use std::fmt::Write as _;
use std::net::SocketAddr;

use http::header::{SET_COOKIE, USER_AGENT};
use http::{HeaderMap, HeaderValue};

use super::Visit;
use super::cookie;
use super::observe::Extra;
use crate::live::balance::{Balancer, Turns};
use crate::model::sharing::{Affinity, SameSite};

/// Whether a client's cookie is of this backend, and not of the canary's or the main one's beside it.
pub(super) fn keeps(balancer: &Balancer, headers: &HeaderMap) -> bool {
    let Some((affinity, mark)) = balancer.backend.affinity.as_deref().zip(balancer.mark()) else {
        return false;
    };
    brought(affinity, headers).is_some_and(|(_, it)| it == Some(mark))
}

/// The key in a client's cookie, and what follows the bar.
fn brought<'a>(affinity: &Affinity, headers: &'a HeaderMap) -> Option<(&'a str, Option<&'a str>)> {
    let name = affinity.cookie.name();
    let value = cookie::value(headers, |it| it == name).filter(|it| !it.is_empty())?;
    let mut parts = value.split('|');
    Some((parts.next()?, parts.next()))
}

/// A client at a backend with affinity.
pub(super) struct Session<'a> {
    affinity: &'a Affinity,
    balancer: &'a Balancer,
    /// The place of the endpoint that its cookie names.
    held: Option<usize>,
    /// `SameSite=None` would do this client harm.
    chokes: bool,
}

impl<'a> Session<'a> {
    /// `None` for a backend without affinity.
    pub(super) fn of(balancer: &'a Balancer, headers: &HeaderMap) -> Option<Box<Self>> {
        let affinity = balancer.backend.affinity.as_deref()?;
        let held = brought(affinity, headers).and_then(|(key, _)| balancer.place_of(key));
        let chokes = affinity.cookie.conditional && {
            let agent = headers.get(USER_AGENT).and_then(|it| it.to_str().ok());
            agent.is_some_and(|it| !SameSite::none_is_known_to(it))
        };
        Some(Box::new(Self { affinity, balancer, held, chokes }))
    }

    /// The endpoint that the client's cookie names.
    pub(super) fn held(&self) -> Option<SocketAddr> {
        self.held.and_then(|it| self.balancer.address_at(it))
    }

    /// Endpoints in the order to try them: whoever is kept is kept, unless failures move it.
    pub(super) fn turns(&self, now: std::time::Instant) -> Turns<'a> {
        let only = !self.affinity.cookie.change_on_failure;
        self.balancer.turns_of(now, self.held, only)
    }

    /// Notes that an endpoint answered: a client that was not kept there gets a cookie.
    pub(super) fn answered(&self, address: SocketAddr, visit: &Visit<'_>) {
        let held = self.held();
        let own = visit.way.route.options.sharing.as_ref();
        if held == Some(address) || !own.is_some_and(|it| it.affinity) {
            return;
        }
        let worker = &visit.link.worker;
        let key = self.balancer.key_of(address, worker.random());
        let Some((key, mark)) = key.zip(self.balancer.mark()) else { return };
        let text =
            self.text(&key, mark, &visit.way.route.path, visit.peer.tls, || worker.clock().unix());
        if let Ok(value) = HeaderValue::try_from(text) {
            visit.trace.extras.borrow_mut().push(Extra::Add(SET_COOKIE, value));
        }
    }

    /// The cookie as ingress-nginx writes it.
    fn text(
        &self,
        key: &str,
        mark: &str,
        path: &str,
        tls: bool,
        now: impl FnOnce() -> i64,
    ) -> String {
        let cookie = &self.affinity.cookie;
        let mut text = format!("{}={key}|{mark}", cookie.name());
        if let Some(seconds) = cookie.expires {
            let _ = write!(text, "; Expires={}", netscape(now().saturating_add(seconds)));
        }
        if let Some(seconds) = cookie.max_age {
            let _ = write!(text, "; Max-Age={seconds}");
        }
        if let Some(domain) = &cookie.domain {
            let _ = write!(text, "; Domain={domain}");
        }
        text.push_str("; Path=");
        match &cookie.path {
            Some(path) => text.push_str(path),
            None => push_path(&mut text, path),
        }
        if cookie.secure || tls {
            text.push_str("; Secure");
        }
        text.push_str("; HttpOnly");
        if let Some(it) = cookie.same_site
            && !(it == SameSite::None && self.chokes)
        {
            let _ = write!(text, "; SameSite={}", it.as_str());
        }
        text
    }
}

/// A rule's path; what would end the attribute or the field is escaped.
fn push_path(text: &mut String, path: &str) {
    for byte in path.bytes() {
        if byte.is_ascii_graphic() && byte != b';' {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
}

/// A time as Netscape's cookies had it, which nginx still writes: years of two digits to 2037.
fn netscape(seconds: i64) -> String {
    let earliest = jiff::Timestamp::UNIX_EPOCH;
    let latest = jiff::Timestamp::MAX;
    let time = jiff::Timestamp::from_second(seconds);
    let time = time.unwrap_or(if seconds < 0 { earliest } else { latest }).max(earliest);
    let years = if time.strftime("%Y").to_string().as_str() > "2037" {
        "%a, %d-%b-%Y %H:%M:%S GMT"
    } else {
        "%a, %d-%b-%y %H:%M:%S GMT"
    };
    time.strftime(years).to_string()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::header::COOKIE;

    use super::*;
    use crate::model::name::ObjectName;
    use crate::model::plan::{Backend, BackendId};
    use crate::model::sharing::{Mode, SessionCookie};

    #[test]
    fn times_are_those_of_netscape() {
        for (seconds, expected) in [
            (1_136_214_245, "Mon, 02-Jan-06 15:04:05 GMT"),
            (0, "Thu, 01-Jan-70 00:00:00 GMT"),
            (-5, "Thu, 01-Jan-70 00:00:00 GMT"),
            (2_145_916_799, "Thu, 31-Dec-37 23:59:59 GMT"),
            (2_145_916_800, "Fri, 01-Jan-2038 00:00:00 GMT"),
            (i64::MAX, "Thu, 30-Dec-9999 22:00:00 GMT"),
        ] {
            assert_eq!(netscape(seconds), expected, "{seconds}");
        }
    }

    fn balancer(cookie: SessionCookie) -> Arc<Balancer> {
        let id = BackendId { service: ObjectName::new("demo", "web"), port: "80".into() };
        let affinity = Affinity { mode: Mode::Balanced, cookie };
        let backend = Backend {
            addresses: vec![([10, 0, 0, 1], 80).into()],
            affinity: Some(Arc::new(affinity)),
            ..Backend::default()
        };
        Balancer::next(&id, &backend, None)
    }

    #[test]
    fn a_cookie_has_the_attributes_that_are_set() {
        let all = SessionCookie {
            name: Some("route".into()),
            path: Some("/shop".into()),
            domain: Some("a.test".into()),
            same_site: Some(SameSite::None),
            secure: true,
            expires: Some(3600),
            max_age: Some(60),
            ..SessionCookie::default()
        };
        let lax = SessionCookie {
            same_site: Some(SameSite::Lax),
            conditional: true,
            ..Default::default()
        };
        let none = SessionCookie { same_site: Some(SameSite::None), ..lax.clone() };
        let plain = SessionCookie::default();
        for (cookie, tls, agent, expected) in [
            (&plain, false, "", "INGRESSCOOKIE=K|M; Path=/a%3Bb%20c; HttpOnly"),
            (&plain, true, "", "INGRESSCOOKIE=K|M; Path=/a%3Bb%20c; Secure; HttpOnly"),
            (
                &all,
                false,
                "Chrome/51",
                "route=K|M; Expires=Mon, 02-Jan-06 16:04:05 GMT; Max-Age=60; Domain=a.test; \
                 Path=/shop; Secure; HttpOnly; SameSite=None",
            ),
            (
                &lax,
                false,
                "Chrome/51",
                "INGRESSCOOKIE=K|M; Path=/a%3Bb%20c; HttpOnly; SameSite=Lax",
            ),
            (&none, false, "Chrome/51", "INGRESSCOOKIE=K|M; Path=/a%3Bb%20c; HttpOnly"),
            (
                &none,
                false,
                "Chrome/99",
                "INGRESSCOOKIE=K|M; Path=/a%3Bb%20c; HttpOnly; SameSite=None",
            ),
        ] {
            let balancer = balancer(cookie.clone());
            let headers = [(USER_AGENT, HeaderValue::from_static(agent))].into_iter().collect();
            let session = Session::of(&balancer, &headers).expect("a session");
            let text = session.text("K", "M", "/a;b c", tls, || 1_136_214_245);
            assert_eq!(text, expected, "{cookie:?} {agent}");
        }
    }

    #[test]
    fn only_a_cookie_of_the_backend_keeps() {
        let balancer = balancer(SessionCookie::default());
        let mark = balancer.mark().expect("a mark").to_owned();
        for (cookie, expected) in [
            (format!("INGRESSCOOKIE=x|{mark}"), true),
            (format!("a=b; INGRESSCOOKIE=x|{mark}|more"), true),
            ("INGRESSCOOKIE=x|other".to_owned(), false),
            ("INGRESSCOOKIE=x".to_owned(), false),
            ("INGRESSCOOKIE=".to_owned(), false),
            (format!("ingresscookie=x|{mark}"), false),
            (format!("route=x|{mark}"), false),
        ] {
            let value: HeaderValue = cookie.parse().expect("a value");
            let headers = [(COOKIE, value)].into_iter().collect();
            assert_eq!(keeps(&balancer, &headers), expected, "{cookie}");
        }
    }
}
