//! The access log's line of a request.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use http::{HeaderValue, Version};
use tokio::time::Instant;

use super::access::user;
use super::observe::Record;
use crate::model::template::{Piece, Template, Variable};

impl Record {
    /// Writes the line of a request that is over at `now`.
    pub(super) fn write(&self, line: &mut String, template: &Template, now: Instant) {
        for piece in &template.pieces {
            match piece {
                Piece::Text(text) => line.push_str(text),
                Piece::Header(place) => {
                    let value = self.headers.get(*place).and_then(Option::as_ref);
                    put(line, value.map(HeaderValue::as_bytes), template.json);
                }
                Piece::Variable(variable) => self.put(line, *variable, template.json, now),
            }
        }
        line.push('\n');
    }

    fn put(&self, line: &mut String, variable: Variable, json: bool, now: Instant) {
        let way = self.trace.way.get().map(|it| self.trace.seen.live.way(it));
        let route = way.map(|it| &it.route);
        let balancer = way.and_then(|it| it.balancer.as_ref());
        let text = |line: &mut String, text: Option<&str>| put(line, text.map(str::as_bytes), json);
        match variable {
            Variable::Args => text(line, self.uri.query()),
            Variable::BodyBytesSent | Variable::BytesSent => number(line, Some(self.sent())),
            Variable::Host => {
                let named = self.uri.authority().map(http::uri::Authority::as_str);
                match named {
                    Some(_) => text(line, named),
                    None => put(line, self.host.as_ref().map(HeaderValue::as_bytes), json),
                }
            }
            Variable::IngressName => text(line, route.map(|it| &*it.ingress.name)),
            Variable::Method => text(line, Some(self.method.as_str())),
            Variable::Namespace => text(line, route.map(|it| &*it.ingress.namespace)),
            Variable::Path => text(line, Some(self.uri.path())),
            Variable::Protocol => text(line, Some(protocol(self.version))),
            // Nothing between the brackets where no canary took it.
            Variable::ProxyAlternative => {
                let canary = way.and_then(|it| it.canary.as_ref());
                let canary = canary.filter(|_| self.trace.canary.get());
                text(line, Some(canary.map_or("", |it| &it.name)));
            }
            Variable::ProxyUpstreamName => text(line, Some(balancer.map_or("", |it| &it.name))),
            Variable::RemoteAddr => ip(line, self.peer().address.ip().to_canonical()),
            Variable::RemotePort => {
                number(line, Some(self.peer().address.port()).filter(|it| *it > 0));
            }
            Variable::RemoteUser => {
                let user = self.authorization.as_ref().and_then(user);
                text(line, user.as_deref());
            }
            Variable::Request => {
                text(line, Some(self.method.as_str()));
                line.push(' ');
                text(line, Some(self.uri.path_and_query().map_or("", |it| it.as_str())));
                line.push(' ');
                line.push_str(protocol(self.version));
            }
            Variable::RequestId => put(line, self.id.as_ref().map(HeaderValue::as_bytes), json),
            Variable::RequestLength => number(line, Some(self.received())),
            Variable::RequestTime => seconds(line, Some(now - self.began)),
            Variable::RequestUri => {
                text(line, self.uri.path_and_query().map(http::uri::PathAndQuery::as_str));
            }
            Variable::Scheme => text(line, Some(self.peer().scheme())),
            Variable::ServerPort => number(line, Some(self.peer().port)),
            Variable::ServiceName => text(line, balancer.map(|it| &*it.id.service.name)),
            Variable::ServicePort => text(line, balancer.map(|it| &*it.id.port)),
            Variable::Status => line.push_str(self.status.as_str()),
            Variable::TimeIso8601 => line.push_str(&self.link.worker.clock().iso8601),
            Variable::TimeLocal => line.push_str(&self.link.worker.clock().local),
            Variable::Msec => line.push_str(&self.link.worker.clock().seconds),
            Variable::UpstreamAddr => socket(line, self.trace.address.get()),
            Variable::UpstreamResponseLength => {
                number(line, self.trace.status.get().map(|_| self.sent()));
            }
            Variable::UpstreamResponseTime => seconds(line, self.upstream_time()),
            Variable::UpstreamStatus => number(line, self.trace.status.get().map(|it| it.as_u16())),
        }
    }
}

fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

/// A number, `-` for none. Here and below `core::fmt` would take most of a line's time.
fn number(line: &mut String, value: Option<impl itoa::Integer>) {
    match value {
        Some(value) => line.push_str(itoa::Buffer::new().format(value)),
        None => line.push('-'),
    }
}

/// Seconds with milliseconds, `-` for none.
fn seconds(line: &mut String, time: Option<Duration>) {
    let Some(time) = time else { return line.push('-') };
    let millis = (time.as_micros() + 500) / 1000;
    number(line, Some(millis / 1000));
    // The leading digit only keeps the zeros behind it.
    let mut digits = itoa::Buffer::new();
    line.push('.');
    line.push_str(&digits.format(1000 + millis % 1000)[1..]);
}

/// Address and port, `-` for none.
fn socket(line: &mut String, address: Option<SocketAddr>) {
    match address {
        Some(SocketAddr::V4(address)) => {
            ip(line, IpAddr::V4(*address.ip()));
            line.push(':');
            number(line, Some(address.port()));
        }
        Some(SocketAddr::V6(address)) => drop(write!(line, "{address}")),
        None => line.push('-'),
    }
}

fn ip(line: &mut String, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            let [first, rest @ ..] = address.octets();
            number(line, Some(first));
            for octet in rest {
                line.push('.');
                number(line, Some(octet));
            }
        }
        IpAddr::V6(address) => drop(write!(line, "{address}")),
    }
}

/// Longest value that is written, in bytes.
const LONGEST: usize = 4096;

/// A value from outside: nothing in it can end the line, the quotes or the JSON string around it, or
/// speak to a terminal.
fn put(line: &mut String, value: Option<&[u8]>, json: bool) {
    let Some(value) = value else { return line.push('-') };
    let value = &value[..value.len().min(LONGEST)];
    let is_plain = |it: &u8| matches!(it, b' '..=b'~') && !matches!(it, b'"' | b'\\');
    // Without a way out of the loop several bytes are looked at in one instruction.
    if value.iter().fold(true, |all, it| all & is_plain(it)) {
        // Plain ASCII is the rule; it is UTF-8 as it stands.
        line.push_str(std::str::from_utf8(value).unwrap_or_default());
        return;
    }
    for chunk in value.utf8_chunks() {
        for it in chunk.valid().chars() {
            match it {
                '"' | '\\' if json => {
                    line.push('\\');
                    line.push(it);
                }
                '"' | '\\' => drop(write!(line, "\\x{:02X}", u32::from(it))),
                it if is_unsafe(it) && json => drop(write!(line, "\\u{:04x}", u32::from(it))),
                it if is_unsafe(it) => {
                    let mut bytes = [0; 4];
                    for byte in it.encode_utf8(&mut bytes).bytes() {
                        let _ = write!(line, "\\x{byte:02X}");
                    }
                }
                it => line.push(it),
            }
        }
        for byte in chunk.invalid() {
            if json {
                line.push('\u{fffd}');
            } else {
                let _ = write!(line, "\\x{byte:02X}");
            }
        }
    }
}

/// Control characters of both sets, line separators, and marks that turn the direction of text.
fn is_unsafe(it: char) -> bool {
    it.is_control() || matches!(it, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_can_leave_its_place() {
        for (value, json, expected) in [
            (&b"plain"[..], false, "plain"),
            (b"a\"b\\c", false, "a\\x22b\\x5Cc"),
            (b"a\"b\\c", true, "a\\\"b\\\\c"),
            (b"\x1b[31m", false, "\\x1B[31m"),
            (b"\x7f", true, "\\u007f"),
            ("caf\u{e9}\u{202e}".as_bytes(), true, "caf\u{e9}\\u202e"),
            (b"\xff", false, "\\xFF"),
        ] {
            let mut line = String::new();
            put(&mut line, Some(value), json);
            assert_eq!(line, expected);
        }
    }

    #[test]
    fn numbers_have_nginxs_shapes() {
        let written = |write: &dyn Fn(&mut String)| {
            let mut line = String::new();
            write(&mut line);
            line
        };
        for (micros, expected) in [
            (0, "0.000"),
            (499, "0.000"),
            (1500, "0.002"),
            (999_999, "1.000"),
            (61_020_000, "61.020"),
        ] {
            let time = Some(Duration::from_micros(micros));
            assert_eq!(written(&|line| seconds(line, time)), expected, "{micros}");
        }
        for address in ["10.0.200.7:80", "[2001:db8::1]:443"] {
            let parsed = address.parse::<SocketAddr>().expect("an address");
            assert_eq!(written(&|line| socket(line, Some(parsed))), address);
            assert_eq!(written(&|line| ip(line, parsed.ip())), parsed.ip().to_string());
        }
    }
}
