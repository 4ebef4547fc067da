//! Ports whose connections, or datagrams, are handed on to a Service as they are: what ingress-nginx's
//! `--tcp-services-configmap` and `--udp-services-configmap` list.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::name::ObjectName;
use super::plan::{Backend, BackendId};

/// What a stream is carried by.
#[expect(missing_docs, reason = "the names say it")]
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Transport {
    Tcp,
    Udp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// A port of ours by which a stream comes in.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Door {
    /// What listens there.
    pub transport: Transport,
    /// Its number.
    pub port: u16,
}

impl fmt::Display for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} port {}", self.transport, self.port)
    }
}

/// Where what comes in by a door goes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Stream {
    /// The Service and its port.
    pub id: BackendId,
    /// Who answers there; nobody where there is no such Service.
    pub backend: Backend,
    /// Each connection begins with a PROXY header.
    pub from_proxy: bool,
    /// The endpoint gets a PROXY header of version 1 first.
    pub to_proxy: bool,
}

/// How streams are handed on, for all of them; `proxy-stream-timeout` is in
/// [`TlsSettings`](super::client_tls::TlsSettings::stream_timeout).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct StreamSettings {
    /// `proxy-stream-next-upstream`: another endpoint is tried where one cannot be connected to.
    pub next: bool,
    /// `proxy-stream-next-upstream-tries`: most endpoints that are tried, the first included; `None` for all.
    pub tries: Option<usize>,
    /// `proxy-stream-next-upstream-timeout`: for how long another one may still be tried; `None` for ever.
    pub within: Option<Duration>,
    /// `proxy-stream-responses`: how many datagrams answer one.
    pub responses: u32,
}

impl Default for StreamSettings {
    fn default() -> Self {
        Self { next: true, tries: Some(3), within: Some(Duration::from_secs(600)), responses: 1 }
    }
}

/// A value of those ConfigMaps: `namespace/service:port[:PROXY][:PROXY]`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// The Service.
    pub service: ObjectName,
    /// Its port: a number or a name.
    pub port: Arc<str>,
    /// The first `PROXY`.
    pub from_proxy: bool,
    /// The second one.
    pub to_proxy: bool,
}

impl FromStr for Entry {
    type Err = &'static str;

    /// As ingress-nginx reads it, which takes `PROXY` in either case and nothing in place of the first one;
    /// any other word it passes over, and we do not.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "of the form namespace/service:port[:PROXY][:PROXY]";
        let mut parts = text.trim().split(':');
        let service: ObjectName = parts.next().unwrap_or_default().parse().map_err(|_| FORM)?;
        let port = parts.next().filter(|it| !it.is_empty()).ok_or(FORM)?;
        let mut proxy = || match parts.next() {
            None | Some("") => Ok(false),
            Some(word) if word.eq_ignore_ascii_case("PROXY") => Ok(true),
            Some(_) => Err(FORM),
        };
        let (from_proxy, to_proxy) = (proxy()?, proxy()?);
        if parts.next().is_some() || !service.is_valid() {
            return Err(FORM);
        }
        Ok(Self { service, port: port.into(), from_proxy, to_proxy })
    }
}

/// Reads a key of those ConfigMaps: a port's number, the one way it is written.
pub fn port(text: &str) -> Option<u16> {
    let port: u16 = text.parse().ok().filter(|it| *it > 0)?;
    (port.to_string() == text).then_some(port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_ingress_nginxs() {
        for (text, expected) in [
            ("shop/db:5432", Some(("shop/db", "5432", false, false))),
            (" shop/db:5432\n", Some(("shop/db", "5432", false, false))),
            ("shop/db:postgres", Some(("shop/db", "postgres", false, false))),
            ("shop/db:5432:PROXY", Some(("shop/db", "5432", true, false))),
            ("shop/db:5432:proxy:Proxy", Some(("shop/db", "5432", true, true))),
            ("shop/db:5432::PROXY", Some(("shop/db", "5432", false, true))),
            ("shop/db:5432:", Some(("shop/db", "5432", false, false))),
            ("shop/db:5432:PROXY:", Some(("shop/db", "5432", true, false))),
            ("", None),
            ("db:5432", None),
            ("shop/db", None),
            ("shop/db:", None),
            ("/db:5432", None),
            ("shop/:5432", None),
            ("a/b/c:5432", None),
            ("shop/db:5432:TLS", None),
            ("shop/db:5432:PROXY:PROXY:PROXY", None),
            ("shop/d b:5432", None),
        ] {
            let found: Result<Entry, _> = text.parse();
            let expected = expected.map(|(service, port, from_proxy, to_proxy)| {
                let service = service.parse().expect("a name");
                Entry { service, port: port.into(), from_proxy, to_proxy }
            });
            assert_eq!(found.ok(), expected, "{text:?}");
        }
    }

    #[test]
    fn a_port_is_written_one_way() {
        for (text, expected) in [
            ("1", Some(1)),
            ("9000", Some(9000)),
            ("65535", Some(65535)),
            ("0", None),
            ("65536", None),
            ("-1", None),
            ("+80", None),
            ("080", None),
            ("http", None),
            ("", None),
        ] {
            assert_eq!(port(text), expected, "{text:?}");
        }
    }
}
