//! The PROXY protocol: how a load balancer that passes bytes on says whose they are.
//!
//! Versions 1 and 2 of HAProxy's `doc/proxy-protocol.txt`, to which the sections here refer. A pure
//! reader of what has come so far, and a writer of version 1; who must send a header, and how soon, is decided where connections
//! are accepted.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Longest header of version 1 with its line end (section 2.1).
const LONGEST_V1: usize = 107;
/// Longest header of version 2, as in nginx: room for every kind of extension together, where the
/// format would allow 64 KiB of a stranger's memory.
const LONGEST_V2: usize = 4096;
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length.
const FIXED: usize = 16;

/// A header that is complete.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Header {
    /// Its bytes; what follows them is the connection's own.
    pub(super) length: usize,
    /// Whose connection it is; `None` for the sender's own, as in its health checks, and for what did not
    /// come by TCP.
    pub(super) ends: Option<Ends>,
}

/// The two ends of the connection that the sender accepted.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Ends {
    pub(super) source: SocketAddr,
    pub(super) destination: SocketAddr,
}

/// What has come begins no header.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no PROXY header")]
pub(super) struct Broken;

/// Reads the header at the front of `bytes`; `None` while more of them must come, of which there will be
/// 4096 at most.
pub(super) fn read(bytes: &[u8]) -> Result<Option<Header>, Broken> {
    match bytes.first() {
        None => Ok(None),
        Some(b'P') => read_v1(bytes),
        Some(_) => read_v2(bytes),
    }
}

/// The header of version 1 for a connection between these ends.
pub(super) fn written(ends: &Ends) -> String {
    let [from, to] = [ends.source, ends.destination].map(|it| (it.ip().to_canonical(), it.port()));
    match (from, to) {
        ((IpAddr::V4(source), from), (IpAddr::V4(destination), to)) => {
            format!("PROXY TCP4 {source} {destination} {from} {to}\r\n")
        }
        ((source, from), (destination, to)) => {
            let [source, destination] = [source, destination].map(|it| match it {
                IpAddr::V4(it) => it.to_ipv6_mapped(),
                IpAddr::V6(it) => it,
            });
            format!("PROXY TCP6 {source} {destination} {from} {to}\r\n")
        }
    }
}

/// Section 2.1: one line of text.
fn read_v1(bytes: &[u8]) -> Result<Option<Header>, Broken> {
    const START: &[u8] = b"PROXY ";
    if !agrees(bytes, START) {
        return Err(Broken);
    }
    let line = &bytes[..bytes.len().min(LONGEST_V1)];
    let end = match line.iter().position(|it| matches!(it, b'\r' | b'\n')) {
        None if line.len() < LONGEST_V1 => return Ok(None),
        Some(end) if line[end] == b'\r' && end + 1 < LONGEST_V1 => end,
        _ => return Err(Broken),
    };
    match line.get(end + 1) {
        None => return Ok(None),
        Some(b'\n') => {}
        Some(_) => return Err(Broken),
    }
    let said = line.get(START.len()..end).ok_or(Broken)?;
    Ok(Some(Header { length: end + 2, ends: ends_v1(said)? }))
}

fn ends_v1(said: &[u8]) -> Result<Option<Ends>, Broken> {
    // What follows is for people.
    if said == b"UNKNOWN" || said.starts_with(b"UNKNOWN ") {
        return Ok(None);
    }
    let mut words = std::str::from_utf8(said).map_err(|_| Broken)?.split(' ');
    let mut word = || words.next().ok_or(Broken);
    let address: fn(&str) -> Option<IpAddr> = match word()? {
        "TCP4" => |it| Some(it.parse::<Ipv4Addr>().ok()?.into()),
        "TCP6" => |it| Some(it.parse::<Ipv6Addr>().ok()?.into()),
        _ => return Err(Broken),
    };
    let source = address(word()?).ok_or(Broken)?;
    let destination = address(word()?).ok_or(Broken)?;
    let source = SocketAddr::new(source.to_canonical(), port(word()?)?);
    let destination = SocketAddr::new(destination.to_canonical(), port(word()?)?);
    if words.next().is_some() {
        return Err(Broken);
    }
    Ok(Some(Ends { source, destination }))
}

/// A port the one way it is written: digits, no zero before them.
fn port(text: &str) -> Result<u16, Broken> {
    let port: u16 = text.parse().map_err(|_| Broken)?;
    let canonical =
        text.bytes().all(|it| it.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    canonical.then_some(port).ok_or(Broken)
}

/// Section 2.2: a fixed part that says how long the rest is.
fn read_v2(bytes: &[u8]) -> Result<Option<Header>, Broken> {
    if !agrees(bytes, SIGNATURE) {
        return Err(Broken);
    }
    let proxied = match bytes.get(12) {
        None => return Ok(None),
        Some(0x20) => false,
        Some(0x21) => true,
        Some(_) => return Err(Broken),
    };
    let Some(&[family, high, low]) = bytes.get(13..FIXED) else { return Ok(None) };
    let length = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if length > LONGEST_V2 {
        return Err(Broken);
    }
    let Some(body) = bytes.get(FIXED..length) else { return Ok(None) };
    let ends = if proxied { ends_v2(family, body)? } else { None };
    Ok(Some(Header { length, ends }))
}

fn ends_v2(family: u8, body: &[u8]) -> Result<Option<Ends>, Broken> {
    const UNSPECIFIED: u8 = 0x00;
    let addresses = match family {
        // What follows means nothing.
        UNSPECIFIED => return Ok(None),
        0x11 | 0x12 => 12,
        0x21 | 0x22 => 36,
        0x31 | 0x32 => 216,
        _ => return Err(Broken),
    };
    let (addresses, extensions) = body.split_at_checked(addresses).ok_or(Broken)?;
    check_extensions(extensions)?;
    let mut rest = addresses;
    let mut ends = |address: fn(&mut &[u8]) -> Option<IpAddr>| {
        let (source, destination) = (address(&mut rest)?, address(&mut rest)?);
        let source = SocketAddr::new(source.to_canonical(), u16::from_be_bytes(take(&mut rest)?));
        let destination =
            SocketAddr::new(destination.to_canonical(), u16::from_be_bytes(take(&mut rest)?));
        Some(Ends { source, destination })
    };
    match family {
        0x11 => ends(|rest| Some(take::<4>(rest)?.into())).ok_or(Broken).map(Some),
        0x21 => ends(|rest| Some(take::<16>(rest)?.into())).ok_or(Broken).map(Some),
        // Datagrams and UNIX sockets are somebody's, but of no address that means anything to us.
        _ => Ok(None),
    }
}

/// Section 2.2.1: a type, a length, and as many bytes, up to the end. Nothing they say is used.
fn check_extensions(mut rest: &[u8]) -> Result<(), Broken> {
    while !rest.is_empty() {
        let [_, high, low] = take(&mut rest).ok_or(Broken)?;
        let length = usize::from(u16::from_be_bytes([high, low]));
        rest = rest.get(length..).ok_or(Broken)?;
    }
    Ok(())
}

fn take<const COUNT: usize>(rest: &mut &[u8]) -> Option<[u8; COUNT]> {
    let (first, others) = rest.split_first_chunk()?;
    *rest = others;
    Some(*first)
}

/// Whether `bytes` may become, or are, something that starts with `start`.
fn agrees(bytes: &[u8], start: &[u8]) -> bool {
    bytes.iter().zip(start).all(|(one, other)| one == other)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).expect("a length").to_be_bytes();
        [SIGNATURE, &[command, family], &length, body].concat()
    }

    fn ends(source: &str, destination: &str) -> Ends {
        let address = |it: &str| it.parse().expect("an address");
        Ends { source: address(source), destination: address(destination) }
    }

    const V4: &[u8] = &[192, 0, 2, 1, 198, 51, 100, 7, 0xdc, 0x04, 0x01, 0xbb];

    fn v6() -> Vec<u8> {
        let mut body = [0; 36];
        (body[0], body[1], body[15], body[31]) = (0x20, 0x01, 1, 2);
        body[32..].copy_from_slice(&[0xdc, 0x04, 0, 80]);
        body.to_vec()
    }

    /// Headers as they should be, and what they say.
    fn valid() -> Vec<(Vec<u8>, Option<Ends>)> {
        let four = Some(ends("192.0.2.1:56324", "198.51.100.7:443"));
        let longest = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let longest_v1 = format!("PROXY TCP6 {longest} {longest} 65535 65535\r\n");
        let all = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535";
        let unknown = format!("PROXY UNKNOWN {}\r\n", "x".repeat(LONGEST_V1 - 16));
        let extensions = [V4, &[0x04, 0, 2, 0, 0], &[0xea, 0, 0], &[0x02, 0, 1, b'a']].concat();
        let mapped = [&[0; 10][..], &[0xff, 0xff, 192, 0, 2, 1]].concat();
        let mapped = [&mapped[..], &mapped, &[0, 1, 0, 2]].concat();
        let longest_v2 = {
            let rest = LONGEST_V2 - FIXED - V4.len() - 3;
            let length = u16::try_from(rest).expect("a length").to_be_bytes();
            [V4, &[0xe0], &length, &vec![0; rest]].concat()
        };
        vec![
            (b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n".into(), four),
            (
                b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n".into(),
                Some(ends("0.0.0.0:0", "255.255.255.255:65535")),
            ),
            (
                b"PROXY TCP6 2001:db8::1 ::2 1 2\r\n".into(),
                Some(ends("[2001:db8::1]:1", "[::2]:2")),
            ),
            (
                b"PROXY TCP6 ::ffff:192.0.2.1 ::2 1 2\r\n".into(),
                Some(ends("192.0.2.1:1", "[::2]:2")),
            ),
            (longest_v1.into(), Some(ends(all, all))),
            (b"PROXY UNKNOWN\r\n".into(), None),
            (b"PROXY UNKNOWN ff:: \xff 1\r\n".into(), None),
            (unknown.into(), None),
            (v2(0x21, 0x11, V4), four),
            (v2(0x21, 0x11, &extensions), four),
            (v2(0x21, 0x11, &longest_v2), four),
            (v2(0x21, 0x21, &v6()), Some(ends("[2001::1]:56324", "[::2]:80"))),
            (v2(0x21, 0x21, &mapped), Some(ends("192.0.2.1:1", "192.0.2.1:2"))),
            // A health check of the sender's own, whatever is behind it.
            (v2(0x20, 0x00, b""), None),
            (v2(0x20, 0x11, V4), None),
            (v2(0x20, 0xff, b"x"), None),
            // Nothing known, datagrams, UNIX sockets.
            (v2(0x21, 0x00, b""), None),
            (v2(0x21, 0x00, b"x"), None),
            (v2(0x21, 0x12, V4), None),
            (v2(0x21, 0x22, &v6()), None),
            (v2(0x21, 0x31, &[b'/'; 216]), None),
            (v2(0x21, 0x32, &[b'/'; 216]), None),
        ]
    }

    #[test]
    fn a_header_says_whose_connection_it_is() {
        for (header, ends) in valid() {
            let expected = Ok(Some(Header { length: header.len(), ends }));
            assert_eq!(read(&header), expected, "{}", header.escape_ascii());
            let more = [&header[..], b"GET / HTTP/1.1\r\n"].concat();
            assert_eq!(read(&more), expected, "{}", more.escape_ascii());
        }
    }

    #[test]
    fn what_is_written_is_version_1() {
        for (source, destination, expected) in [
            ("192.0.2.1:5", "198.51.100.7:9", "PROXY TCP4 192.0.2.1 198.51.100.7 5 9\r\n"),
            ("[::ffff:192.0.2.1]:5", "198.51.100.7:9", "PROXY TCP4 192.0.2.1 198.51.100.7 5 9\r\n"),
            ("[2001:db8::1]:5", "[::1]:9", "PROXY TCP6 2001:db8::1 ::1 5 9\r\n"),
            ("[2001:db8::1]:5", "192.0.2.1:9", "PROXY TCP6 2001:db8::1 ::ffff:192.0.2.1 5 9\r\n"),
        ] {
            let header = written(&ends(source, destination));
            assert_eq!(header, expected);
            let read = read(header.as_bytes()).expect("a header").expect("a whole one");
            assert_eq!(read.length, header.len(), "{header}");
            assert!(read.ends.is_some(), "{header}");
        }
    }

    #[test]
    fn the_front_of_a_header_asks_for_more() {
        for (header, _) in valid() {
            for end in 0..header.len() {
                let front = &header[..end];
                assert_eq!(read(front), Ok(None), "{}", front.escape_ascii());
            }
        }
    }

    #[test]
    fn what_is_not_exactly_a_header_is_broken() {
        let long = |count| format!("PROXY UNKNOWN {}", "x".repeat(count)).into_bytes();
        let large = [SIGNATURE, &[0x21, 0x11], &4081u16.to_be_bytes()].concat();
        let overrun = [V4, &[0x04, 0, 3, 0, 0]].concat();
        let cut = [V4, &[0x04, 0]].concat();
        let cases: [&[u8]; _] = [
            b"G",
            b"POST",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x16\x03\x01",
            b"\r\n\r\n\r",
            b"proxy ",
            b"PROXY\r\n",
            b"PROXY \r\n",
            b"PROXY TCP4\r\n",
            b"PROXY UDP4 192.0.2.1 192.0.2.2 1 2\r\n",
            b"PROXY tcp4 192.0.2.1 192.0.2.2 1 2\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 3\r\n",
            b"PROXY TCP4  192.0.2.1 192.0.2.2 1 2\r\n",
            b"PROXY TCP4\t192.0.2.1 192.0.2.2 1 2\r\n",
            b"PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n",
            b"PROXY TCP4 192.0.2 192.0.2.2 1 2\r\n",
            b"PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n",
            b"PROXY TCP4 ::1 ::2 1 2\r\n",
            b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n",
            b"PROXY TCP6 fe80::1%1 ::2 1 2\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 -2\r\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n",
            b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\r",
            b"PROXY TCP4 192.0.2.1\r\n192.0.2.2 1 2\r\n",
            b"PROXY UNKNOWNS\r\n",
            b"PROXY UNKNOWN x\ny\r\n",
            &long(LONGEST_V1 - 14),
            &[&long(LONGEST_V1 - 15)[..], b"\r\n"].concat(),
            &v2(0x11, 0x11, V4),
            &v2(0x22, 0x11, V4),
            &v2(0x21, 0x10, V4),
            &v2(0x21, 0x13, V4),
            &v2(0x21, 0x41, V4),
            &v2(0x21, 0x11, &V4[1..]),
            &v2(0x21, 0x12, &V4[1..]),
            &v2(0x21, 0x21, V4),
            &v2(0x21, 0x31, V4),
            &v2(0x21, 0x11, &overrun),
            &v2(0x21, 0x11, &cut),
            &large,
        ];
        for case in cases {
            assert_eq!(read(case), Err(Broken), "{}", case.escape_ascii());
        }
    }

    /// Bytes that begin like a header more often than by chance.
    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        const FRONTS: [&[u8]; 4] = [b"", b"PROXY TCP4 ", SIGNATURE, b"PROXY UNKNOWN"];
        let front = prop::sample::select(&FRONTS[..]);
        let rest = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            "[0-9a-fTCP:. \r\n]{0,120}".prop_map(String::into_bytes),
            (0x20..0x22u8, any::<u8>(), 0..600u16, prop::collection::vec(any::<u8>(), 0..600))
                .prop_map(|(command, family, length, body)| {
                    [&[command, family][..], &length.to_be_bytes(), &body].concat()
                }),
        ];
        (front, rest).prop_map(|(front, rest)| [front, &rest[..]].concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// What was decided of the front of the bytes is not decided otherwise with more of them, and
        /// nobody waits for more of them than are ever to come.
        #[test]
        fn more_bytes_change_no_decision(bytes in bytes(), cut in any::<prop::sample::Index>()) {
            let whole = read(&bytes);
            let front = read(&bytes[..cut.index(bytes.len() + 1)]);
            if front != Ok(None) {
                prop_assert_eq!(front, whole);
            }
            if let Ok(Some(header)) = whole {
                prop_assert!(header.length <= bytes.len());
            }
            prop_assert!(whole != Ok(None) || bytes.len() < LONGEST_V2);
        }

        /// Addresses and ports come out as they went in, in either version, and every front asks for more.
        #[test]
        fn both_versions_say_the_same(
            source in any::<(std::net::Ipv6Addr, u16)>(),
            destination in any::<(std::net::Ipv6Addr, u16)>(),
        ) {
            let text =
                format!("PROXY TCP6 {} {} {} {}\r\n", source.0, destination.0, source.1, destination.1);
            let body = [
                &source.0.octets()[..],
                &destination.0.octets(),
                &source.1.to_be_bytes(),
                &destination.1.to_be_bytes(),
            ];
            let canonical =
                |it: (Ipv6Addr, u16)| SocketAddr::new(IpAddr::V6(it.0).to_canonical(), it.1);
            let ends = Some(Ends { source: canonical(source), destination: canonical(destination) });
            for header in [text.into_bytes(), v2(0x21, 0x21, &body.concat())] {
                prop_assert_eq!(read(&header), Ok(Some(Header { length: header.len(), ends })));
                for end in 0..header.len() {
                    prop_assert_eq!(read(&header[..end]), Ok(None));
                }
            }
        }
    }
}
