//! What the CA will see of a host, looked at from here first.
//!
//! A challenge that nobody can pass costs one of the few failures a CA allows in an hour, so each host is
//! asked beforehand for the answer to a made-up token. What is seen is advice: from inside a cluster
//! the world may look different (hairpin NAT, split DNS), and the CA has the last word.
//!
//! The names are what tenants write. Nothing but the ports of HTTP and HTTPS is connected to, inside this
//! network nothing but the challenge itself is asked for, wherever a redirect leads, a kilobyte is read at
//! most, and nobody learns of it more than its status and whether it is ours.

mod place;
#[cfg(test)]
mod tests;
mod verdict;

use std::net::IpAddr;
use std::time::Duration;

use http::header::LOCATION;
use http_body_util::{BodyExt, Limited};
use tokio::time::{Instant, timeout_at};

use super::dns::{Resolver, Unresolved};
use place::{Place, is_public};
use verdict::{Answer, View, judge, no_address};

/// Longest look at a host, DNS included.
const PATIENCE: Duration = Duration::from_secs(10);
/// Most redirects that are followed, as Boulder.
const REDIRECTS: u32 = 10;
/// Largest answer that is read, in bytes; the right one has some 80.
const LARGEST: usize = 1024;
/// Where challenges are asked for; RFC 8555 section 8.3.
const PATH: &str = "/.well-known/acme-challenge/";

/// What was seen of a host.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Seen {
    /// Our answer.
    Ok,
    /// Somebody else's answer.
    Foreign,
    /// The name has no address.
    NoDns,
    /// Nobody answers at its address.
    Unreachable,
    /// Our answer over IPv4 or over IPv6, but not over both.
    PartlyIpv6,
    /// It cannot be told from here.
    Inconclusive,
}

impl Seen {
    /// One word, as it stands in JSON and Events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "Ok",
            Self::Foreign => "Foreign",
            Self::NoDns => "NoDNS",
            Self::Unreachable => "Unreachable",
            Self::PartlyIpv6 => "PartlyIPv6",
            Self::Inconclusive => "Inconclusive",
        }
    }
}

/// What was seen of a host, and what to do about it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Look {
    /// In a word.
    pub seen: Seen,
    /// In a sentence for people.
    pub text: String,
    /// Where the name points.
    pub addresses: Vec<IpAddr>,
}

/// Looks at `host` as a CA would, by the system's resolver: one address of each family, at `port`.
///
/// The right answer is `token.thumbprint`. Takes 10 s at most.
pub async fn look(host: &str, port: u16, thumbprint: &str) -> Look {
    look_by(&Resolver::System, host, port, thumbprint).await
}

/// Looks at `host` with addresses of this resolver's.
pub async fn look_by(resolver: &Resolver, host: &str, port: u16, thumbprint: &str) -> Look {
    let sight = Sight { resolver, host, port, thumbprint, deadline: Instant::now() + PATIENCE };
    let addresses = match sight.resolve(host).await {
        Ok(addresses) => addresses,
        Err(look) => return look,
    };
    let four = addresses.iter().copied().find(IpAddr::is_ipv4);
    let six = addresses.iter().copied().find(IpAddr::is_ipv6);
    let (four, six) = tokio::join!(sight.at(four), sight.at(six));
    let (seen, text) = judge(host, port, four, six);
    Look { seen, text, addresses }
}

/// Looks at one address of `host`.
pub async fn look_at(
    resolver: &Resolver,
    host: &str,
    address: IpAddr,
    port: u16,
    thumbprint: &str,
) -> Look {
    let sight = Sight { resolver, host, port, thumbprint, deadline: Instant::now() + PATIENCE };
    let view = sight.at(Some(address)).await;
    let (four, six) = if address.is_ipv4() { (view, None) } else { (None, view) };
    let (seen, text) = judge(host, port, four, six);
    Look { seen, text, addresses: vec![address] }
}

/// One look: at whom, until when.
struct Sight<'a> {
    resolver: &'a Resolver,
    host: &'a str,
    port: u16,
    thumbprint: &'a str,
    deadline: Instant,
}

impl Sight<'_> {
    /// The addresses of a name; what to say where it has none.
    async fn resolve(&self, host: &str) -> Result<Vec<IpAddr>, Look> {
        let of = |seen, text| Look { seen, text, addresses: Vec::new() };
        match timeout_at(self.deadline, self.resolver.addresses(host)).await {
            Ok(Ok(addresses)) if !addresses.is_empty() => Ok(addresses),
            Ok(Ok(_)) => Err(of(Seen::NoDns, no_address(host))),
            Ok(Err(Unresolved::Failing)) => Err(of(
                Seen::NoDns,
                format!("DNS fails for {host} (SERVFAIL): repair its zone, DNSSEC included"),
            )),
            Ok(Err(Unresolved::Silent(text))) => {
                let text = format!("the resolver here cannot say where {host} points: {text}");
                Err(of(Seen::Inconclusive, text))
            }
            Err(_) => {
                let text = format!("the resolver here does not say in time where {host} points");
                Err(of(Seen::Inconclusive, text))
            }
        }
    }

    async fn at(&self, address: Option<IpAddr>) -> Option<View> {
        let address = address?;
        let answer = match timeout_at(self.deadline, self.ask(address)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(broken)) => broken,
            Err(_) => Answer::Nothing("does not answer in time".to_owned()),
        };
        Some(View { address, answer })
    }

    /// Asks for the answer to a made-up token, and follows where that leads.
    async fn ask(&self, address: IpAddr) -> Result<Answer, Answer> {
        let token = token();
        let challenge = format!("{PATH}{token}");
        let mut place = Place {
            secure: false,
            host: self.host.to_owned(),
            port: self.port,
            path: challenge.clone(),
        };
        let mut address = address;
        for followed in 0..=REDIRECTS {
            let after = match followed {
                0 => String::new(),
                1 => " after a redirect".to_owned(),
                count => format!(" after {count} redirects"),
            };
            let other = |text: String| Answer::Other(format!("{text}{after}"));
            let response = match place.request(address).await {
                Ok(response) => response,
                // Whoever redirects has answered.
                Err(Answer::Nothing(text)) if followed > 0 => return Ok(other(text)),
                Err(broken) => return Err(broken),
            };
            let status = response.status().as_u16();
            if matches!(status, 301 | 302 | 307 | 308) {
                let location = response.headers().get(LOCATION).and_then(|it| it.to_str().ok());
                let Some(next) = location.and_then(|it| place.follow(it)) else {
                    return Ok(other("redirects to nowhere".to_owned()));
                };
                if ![80, 443, self.port].contains(&next.port) {
                    return Ok(other(format!("redirects to port {}, not 80 or 443", next.port)));
                }
                if next.host != place.host {
                    let found = self.resolve(&next.host).await;
                    let found =
                        found.map_err(|_| other("redirects to a name without address".into()))?;
                    let same = found.iter().find(|it| it.is_ipv4() == address.is_ipv4());
                    let Some(it) = same.or(found.first()) else {
                        return Ok(other("redirects to a name without address".into()));
                    };
                    address = *it;
                }
                // A path may say one thing and come to another: `..`, `%2e`, a query.
                if !is_public(address) && next.path != challenge {
                    return Ok(other("redirects to another path inside this network".into()));
                }
                place = next;
                continue;
            }
            if status != 200 {
                return Ok(other(format!("answers with status {status}")));
            }
            let body = Limited::new(response.into_body(), LARGEST).collect().await;
            let Ok(body) = body else { return Ok(other("answers with something long".into())) };
            let body = body.to_bytes();
            let body = body.trim_ascii_end();
            let start = format!("{token}.");
            return Ok(match body.strip_prefix(start.as_bytes()) {
                Some(rest) if rest == self.thumbprint.as_bytes() => Answer::Ours,
                Some(_) => other("answers for another ACME account".into()),
                None => other("answers with something else".into()),
            });
        }
        Ok(Answer::Other(format!("redirects more than {REDIRECTS} times")))
    }
}

/// 32 characters of RFC 8555's token alphabet.
fn token() -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let random: [u8; 32] = rand::random();
    random.iter().map(|it| char::from(ALPHABET[usize::from(it & 63)])).collect()
}
