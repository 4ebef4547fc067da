//! Where a name points: by the system's resolver, or by asking one DNS server.
//!
//! A cluster often has a DNS of its own for names that the world knows too, and then the CA sees other
//! addresses than we do; a server that speaks for the world can be named instead. Only what is needed:
//! A, AAAA and CAA records, over UDP, over TCP where the answer is too long for that.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

const A: u16 = 1;
const AAAA: u16 = 28;
const CAA: u16 = 257;
/// How long one question waits for its answer, and how often it is asked.
const WAIT: Duration = Duration::from_secs(2);
const TRIES: u32 = 2;
/// Most records of one answer that are kept.
const MOST: usize = 64;

/// Who is asked.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Resolver {
    /// The system's, hosts file included.
    #[default]
    System,
    /// This server alone.
    Server(SocketAddr),
}

/// Why nobody says where a name points.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unresolved {
    /// The name's own servers fail, or its signatures are wrong.
    #[error("DNS fails for this name (SERVFAIL)")]
    Failing,
    /// The resolver does not answer, or nothing that can be read.
    #[error("{0}")]
    Silent(String),
}

/// A CAA record: RFC 8659 section 4.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Caa {
    /// `issue`, `issuewild` or another.
    pub tag: String,
    /// Who may issue, and how.
    pub value: String,
}

impl Resolver {
    /// The addresses of a name, IPv4 first; none for a name that has none.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, Unresolved> {
        if let Ok(address) = host.parse() {
            return Ok(vec![address]);
        }
        let mut addresses = match self {
            Self::System => system(host).await?,
            Self::Server(server) => {
                let (four, six) = tokio::join!(ask(*server, host, A), ask(*server, host, AAAA));
                let mut found: Vec<IpAddr> = four?.iter().filter_map(address).collect();
                // Some servers know no AAAA and fail on it.
                found.extend(six.iter().flatten().filter_map(address));
                found
            }
        };
        addresses.sort_by_key(IpAddr::is_ipv6);
        addresses.dedup();
        Ok(addresses)
    }

    /// The CAA records that hold for a name, and the name they stand at: its own, or those of the
    /// nearest name above it (RFC 8659 section 3). The system's resolver cannot be asked for them, so
    /// then `/etc/resolv.conf` names the server.
    pub async fn caa(&self, host: &str) -> Result<Option<(String, Vec<Caa>)>, Unresolved> {
        let server = match self {
            Self::Server(server) => *server,
            Self::System => system_server().await?,
        };
        let mut name = host.trim_end_matches('.');
        loop {
            let found: Vec<Caa> = ask(server, name, CAA).await?.iter().filter_map(caa).collect();
            if !found.is_empty() {
                return Ok(Some((name.to_owned(), found)));
            }
            match name.split_once('.') {
                Some((_, above)) if !above.is_empty() => name = above,
                _ => return Ok(None),
            }
        }
    }
}

async fn system(host: &str) -> Result<Vec<IpAddr>, Unresolved> {
    match tokio::net::lookup_host((host, 0)).await {
        Ok(found) => Ok(found.map(|it| it.ip()).take(MOST).collect()),
        Err(error) => {
            let text = error.to_string();
            // getaddrinfo's EAI_AGAIN, as glibc and musl put it; the rest say that there is no such name.
            let later = ["Temporary failure", "Try again", "System error"];
            if later.iter().any(|it| text.contains(it)) {
                return Err(Unresolved::Silent(text));
            }
            Ok(Vec::new())
        }
    }
}

/// The first server of `/etc/resolv.conf`.
async fn system_server() -> Result<SocketAddr, Unresolved> {
    let unknown = || Unresolved::Silent("/etc/resolv.conf names no server".to_owned());
    let text = tokio::fs::read_to_string("/etc/resolv.conf").await.map_err(|_| unknown())?;
    let mut servers = text.lines().filter_map(|it| it.trim().strip_prefix("nameserver"));
    let server = servers.find_map(|it| it.trim().parse::<IpAddr>().ok());
    Ok(SocketAddr::new(server.ok_or_else(unknown)?, 53))
}

/// One record of an answer.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Record {
    kind: u16,
    data: Vec<u8>,
}

fn address(record: &Record) -> Option<IpAddr> {
    let data = &*record.data;
    match record.kind {
        A => <[u8; 4]>::try_from(data).ok().map(|it| Ipv4Addr::from(it).into()),
        AAAA => <[u8; 16]>::try_from(data).ok().map(|it| Ipv6Addr::from(it).into()),
        _ => None,
    }
}

fn caa(record: &Record) -> Option<Caa> {
    if record.kind != CAA {
        return None;
    }
    let (length, rest) = record.data.get(1..)?.split_first()?;
    let (tag, value) = rest.split_at_checked(usize::from(*length))?;
    let text = |it: &[u8]| String::from_utf8_lossy(it).into_owned();
    Some(Caa { tag: text(tag).to_ascii_lowercase(), value: text(value) })
}

/// Asks one server for one kind of record; aliases are followed by the server, which recurses.
async fn ask(server: SocketAddr, name: &str, kind: u16) -> Result<Vec<Record>, Unresolved> {
    let id: u16 = rand::random();
    let Some(question) = question(id, name, kind) else { return Ok(Vec::new()) };
    let silent = |it: std::io::Error| Unresolved::Silent(format!("{server}: {it}"));
    for _ in 0..TRIES {
        let Ok(answer) = timeout(WAIT, over_udp(server, &question)).await else { continue };
        let answer = answer.map_err(silent)?;
        let parsed = match parse(&answer, &question) {
            // Too long for a datagram.
            Some(it) if it.truncated => {
                let Ok(answer) = timeout(WAIT, over_tcp(server, &question)).await else { continue };
                parse(&answer.map_err(silent)?, &question)
            }
            other => other,
        };
        return match parsed {
            Some(Parsed { code: 0 | 3, records, .. }) => Ok(records),
            Some(Parsed { code: 2, .. }) => Err(Unresolved::Failing),
            Some(Parsed { code, .. }) => {
                Err(Unresolved::Silent(format!("{server} answers with code {code}")))
            }
            None => Err(Unresolved::Silent(format!("{server} answers what cannot be read"))),
        };
    }
    Err(Unresolved::Silent(format!("{server} does not answer")))
}

async fn over_udp(server: SocketAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(question).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        // Only the answer to this question counts.
        if buffer.get(..2) == question.get(..2) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn over_tcp(server: SocketAddr, question: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(question.len()).map_err(std::io::Error::other)?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(question).await?;
    let length = stream.read_u16().await?;
    let mut answer = vec![0; usize::from(length)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}

/// RFC 1035 section 4.1; `None` for what is no name.
fn question(id: u16, name: &str, kind: u16) -> Option<Vec<u8>> {
    let mut message = Vec::with_capacity(name.len() + 18);
    message.extend(id.to_be_bytes());
    // Recursion desired; one question.
    message.extend([1, 0, 0, 1, 0, 0, 0, 0, 0, 0]);
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|it| (1..64).contains(it))?;
        message.push(length);
        message.extend(label.as_bytes());
    }
    message.push(0);
    message.extend(kind.to_be_bytes());
    message.extend(1_u16.to_be_bytes());
    (message.len() <= 12 + 255 + 4).then_some(message)
}

struct Parsed {
    code: u8,
    truncated: bool,
    records: Vec<Record>,
}

/// Reads the answer to `question`; `None` for anything else.
fn parse(message: &[u8], question: &[u8]) -> Option<Parsed> {
    let short = |at: usize| message.get(at..at + 2).map(|it| u16::from_be_bytes([it[0], it[1]]));
    let flags = short(2)?;
    if message.get(..2) != question.get(..2) || flags & 0x8000 == 0 {
        return None;
    }
    let mut at = 12;
    for _ in 0..short(4)? {
        at = after_name(message, at)? + 4;
    }
    let mut records = Vec::new();
    for _ in 0..usize::from(short(6)?).min(MOST) {
        at = after_name(message, at)?;
        let (kind, length) = (short(at)?, usize::from(short(at + 8)?));
        let data = message.get(at + 10..at + 10 + length)?.to_vec();
        records.push(Record { kind, data });
        at += 10 + length;
    }
    let code = u8::try_from(flags & 15).ok()?;
    Some(Parsed { code, truncated: flags & 0x0200 != 0, records })
}

/// Where a name ends: after its last label, or after a pointer to the rest of it.
fn after_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            pointer if pointer >= 0xc0 => return Some(at + 2),
            length => at += usize::from(length) + 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers each question with `code` and these records.
    async fn server(code: u8, records: Vec<Record>) -> SocketAddr {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a port");
        let address = socket.local_addr().expect("an address");
        tokio::spawn(async move {
            let mut buffer = [0; 512];
            while let Ok((length, peer)) = socket.recv_from(&mut buffer).await {
                let mut answer = buffer[..length].to_vec();
                let kind = u16::from_be_bytes([answer[length - 4], answer[length - 3]]);
                answer[2..4].copy_from_slice(&[0x81, 0x80 | code]);
                let of_kind: Vec<_> = records.iter().filter(|it| it.kind == kind).collect();
                answer[7] = u8::try_from(of_kind.len()).expect("few");
                for Record { kind, data } in of_kind {
                    answer.extend([0xc0, 12]);
                    answer.extend(kind.to_be_bytes());
                    answer.extend([0, 1, 0, 0, 0, 60]);
                    answer.extend(u16::try_from(data.len()).expect("short").to_be_bytes());
                    answer.extend(data);
                }
                let _ = socket.send_to(&answer, peer).await;
            }
        });
        address
    }

    #[tokio::test]
    async fn a_server_says_where_a_name_points() {
        let six: Ipv6Addr = "2001:db8::1".parse().expect("an address");
        let records = vec![
            Record { kind: A, data: vec![192, 0, 2, 1] },
            Record { kind: AAAA, data: six.octets().to_vec() },
            Record { kind: CAA, data: b"\0\x05issueca.test; accounturi=x".to_vec() },
        ];
        let resolver = Resolver::Server(server(0, records).await);
        let expected: [IpAddr; 2] = [Ipv4Addr::new(192, 0, 2, 1).into(), six.into()];
        assert_eq!(resolver.addresses("a.test").await.as_deref(), Ok(&expected[..]));
        let (name, found) = resolver.caa("www.a.test").await.expect("an answer").expect("some");
        assert_eq!(name, "www.a.test");
        assert_eq!(found, [Caa { tag: "issue".into(), value: "ca.test; accounturi=x".into() }]);

        for (code, expected) in [(3, Ok(Vec::new())), (2, Err(Unresolved::Failing))] {
            let resolver = Resolver::Server(server(code, Vec::new()).await);
            assert_eq!(resolver.addresses("a.test").await, expected, "{code}");
        }
        let refused = Resolver::Server(server(5, Vec::new()).await).addresses("a.test").await;
        assert!(matches!(refused, Err(Unresolved::Silent(_))), "{refused:?}");
    }

    #[test]
    fn what_a_server_says_is_never_trusted_to_be_well_formed() {
        let question = question(7, "a.test", A).expect("a question");
        let mut whole = question.clone();
        whole[2] = 0x81;
        whole[7] = 1;
        whole.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 1]);
        assert_eq!(parse(&whole, &question).map(|it| it.records.len()), Some(1));
        for length in 0..whole.len() {
            assert!(parse(&whole[..length], &question).is_none(), "{length}");
        }
        // Nobody asked this.
        assert!(parse(&whole, &super::question(8, "a.test", A).expect("one")).is_none());
        for name in ["", "a..b", &"a".repeat(64), &"a.".repeat(200)] {
            assert!(super::question(7, name, A).is_none(), "{name}");
        }
    }
}
