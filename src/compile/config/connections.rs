//! Keys about connections to clients and endpoints.

use std::time::Duration;

use super::{Key, key};
use crate::model::connections::Heads;
use crate::model::value::{duration, positive_bytes, positive_seconds};

const SECONDS: &str = "a whole number of seconds, at least 1";
const TIME: &str = "a time such as 10m or 1h";
const COUNT: &str = "a whole number, at least 1";
/// Most streams of one HTTP/2 connection, each of which may hold 128 KiB of a request and more of an answer.
const MOST_STREAMS: u32 = 1000;

pub(super) const KEYS: &[Key] = &[
    key("http2-max-concurrent-streams", "Most requests at once, at most 1000.", |value, it| {
        let streams = value.parse().ok().filter(|it| *it > 0).ok_or(COUNT)?;
        it.connections.streams = MOST_STREAMS.min(streams);
        (streams <= MOST_STREAMS).then_some(()).ok_or("at most 1000, which holds")
    }),
    key("keep-alive", "Seconds that a connection waits for a request.", |value, it| {
        let seconds: u32 = value.parse().map_err(|_| "a whole number of seconds")?;
        it.connections.keep_alive = Some(Duration::from_secs(seconds.into()));
        Ok(())
    }),
    key("keep-alive-requests", "After how many requests it ends.", |value, it| {
        it.connections.requests = Some(value.parse().ok().filter(|it| *it > 0).ok_or(COUNT)?);
        Ok(())
    }),
    key("client-header-timeout", "Seconds that a request's head may take.", |value, it| {
        it.connections.head = positive_seconds(value).ok_or(SECONDS)?;
        Ok(())
    }),
    key(
        "client-header-buffer-size",
        "Longest line of a request's head where `large-client-header-buffers` has shorter ones, at most 1m.",
        |value, it| {
            let size = positive_bytes(value).ok_or("a size such as 1k")?;
            it.connections.heads.first = size.min(Heads::MOST);
            (size <= Heads::MOST).then_some(()).ok_or("at most 1m, which holds")
        },
    ),
    key(
        "large-client-header-buffers",
        "Longest line and, times their number, longest head of a request, 1k to 1m (a target: 64k); `4 8k` unless set. \
         As much more of an answer may wait in memory for a client.",
        |value, it| {
            let (number, size) = buffers(value).ok_or("a number and a size such as 4 8k")?;
            let heads = &mut it.connections.heads;
            let whole = u64::from(number) * u64::from(size);
            if size < Heads::LEAST_SIZE || whole < Heads::LEAST.into() {
                (heads.number, heads.size) = (1, Heads::LEAST);
                return Err("at least 512 bytes each and 1k in all; 1 1k holds");
            }
            if whole > Heads::MOST.into() {
                heads.size = size.min(Heads::MOST);
                heads.number = Heads::MOST / heads.size;
                return Err("at most 1m in all, which holds");
            }
            (heads.number, heads.size) = (number, size);
            Ok(())
        },
    ),
    key("client-body-timeout", "Seconds between two pieces of a request's body.", |value, it| {
        it.connections.body = positive_seconds(value).ok_or(SECONDS)?;
        Ok(())
    }),
    key(
        "worker-shutdown-timeout",
        "How long requests under way may last at a shutdown, where `--drain-timeout` is not given.",
        |value, it| {
            let time = duration(value).or_else(|| positive_seconds(value));
            it.connections.drain = time.filter(|it| !it.is_zero()).ok_or(TIME)?;
            Ok(())
        },
    ),
    key(
        "upstream-keepalive-connections",
        "Idle connections to an endpoint; 0 for none.",
        |value, it| {
            it.connections.upstream.idle = value.parse().map_err(|_| "a whole number")?;
            Ok(())
        },
    ),
    key("upstream-keepalive-timeout", "Seconds that one is kept.", |value, it| {
        it.connections.upstream.timeout = positive_seconds(value).ok_or(SECONDS)?;
        Ok(())
    }),
    key("upstream-keepalive-requests", "After how many requests one ends.", |value, it| {
        let requests = value.parse().ok().filter(|it| *it > 0);
        it.connections.upstream.requests = requests.ok_or(COUNT)?;
        Ok(())
    }),
    key("upstream-keepalive-time", "How old one may get.", |value, it| {
        let time = duration(value).or_else(|| positive_seconds(value));
        it.connections.upstream.age = time.filter(|it| !it.is_zero()).ok_or(TIME)?;
        Ok(())
    }),
];

/// How many buffers, and of what size.
fn buffers(value: &str) -> Option<(u32, u32)> {
    let (number, size) = value.split_once(char::is_whitespace)?;
    Some((number.parse().ok().filter(|it| *it > 0)?, positive_bytes(size)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::connections::{Connections, Upstream};
    use crate::model::settings::Settings;

    fn read(key: &str, value: &str) -> (Settings, bool) {
        let mut settings = Settings::default();
        let key = KEYS.iter().find(|it| it.name == key).expect("a key");
        let read = key.read(value, &mut settings);
        (settings, read.is_ok())
    }

    #[test]
    fn keys_of_connections_are_read() {
        let usual = Connections::default;
        let upstream = |upstream| Connections { upstream, ..usual() };
        let up = Upstream::default;
        let heads = |first, number, size| {
            let heads = Heads { first, number, size };
            Connections { heads, ..usual() }
        };
        let seconds = Duration::from_secs;
        for (key, value, good, expected) in [
            ("keep-alive", "10", true, Connections { keep_alive: Some(seconds(10)), ..usual() }),
            ("keep-alive", "0", true, Connections { keep_alive: Some(seconds(0)), ..usual() }),
            ("keep-alive", "10s", false, usual()),
            ("keep-alive-requests", "5", true, Connections { requests: Some(5), ..usual() }),
            ("keep-alive-requests", "0", false, usual()),
            ("client-header-timeout", "60", true, Connections { head: seconds(60), ..usual() }),
            ("client-header-timeout", "0", false, usual()),
            ("client-body-timeout", "5", true, Connections { body: seconds(5), ..usual() }),
            ("client-body-timeout", "soon", false, usual()),
            ("http2-max-concurrent-streams", "128", true, Connections { streams: 128, ..usual() }),
            (
                "http2-max-concurrent-streams",
                "5000",
                false,
                Connections { streams: 1000, ..usual() },
            ),
            ("http2-max-concurrent-streams", "0", false, usual()),
            ("client-header-buffer-size", "16k", true, heads(16 << 10, 4, 8 << 10)),
            ("client-header-buffer-size", "2m", false, heads(1 << 20, 4, 8 << 10)),
            ("client-header-buffer-size", "0", false, usual()),
            ("client-header-buffer-size", "one", false, usual()),
            ("large-client-header-buffers", "8 16k", true, heads(1 << 10, 8, 16 << 10)),
            ("large-client-header-buffers", "1  1024", true, heads(1 << 10, 1, 1 << 10)),
            ("large-client-header-buffers", "4 1m", false, heads(1 << 10, 1, 1 << 20)),
            ("large-client-header-buffers", "9999999 3000m", false, heads(1 << 10, 1, 1 << 20)),
            ("large-client-header-buffers", "1000 8k", false, heads(1 << 10, 128, 8 << 10)),
            ("large-client-header-buffers", "4 128", false, heads(1 << 10, 1, 1 << 10)),
            ("large-client-header-buffers", "1024 1", false, heads(1 << 10, 1, 1 << 10)),
            ("large-client-header-buffers", "2 512", true, heads(1 << 10, 2, 512)),
            ("large-client-header-buffers", "2000000 1", false, heads(1 << 10, 1, 1 << 10)),
            ("large-client-header-buffers", "0 8k", false, usual()),
            ("large-client-header-buffers", "8k", false, usual()),
            ("large-client-header-buffers", "8k 4", false, usual()),
            ("worker-shutdown-timeout", "10s", true, Connections { drain: seconds(10), ..usual() }),
            ("worker-shutdown-timeout", "90", true, Connections { drain: seconds(90), ..usual() }),
            ("worker-shutdown-timeout", "0", false, usual()),
            ("worker-shutdown-timeout", "soon", false, usual()),
            ("upstream-keepalive-connections", "0", true, upstream(Upstream { idle: 0, ..up() })),
            ("upstream-keepalive-connections", "few", false, usual()),
            (
                "upstream-keepalive-timeout",
                "5",
                true,
                upstream(Upstream { timeout: seconds(5), ..up() }),
            ),
            ("upstream-keepalive-timeout", "5s", false, usual()),
            ("upstream-keepalive-requests", "7", true, upstream(Upstream { requests: 7, ..up() })),
            ("upstream-keepalive-requests", "0", false, usual()),
            (
                "upstream-keepalive-time",
                "10m",
                true,
                upstream(Upstream { age: seconds(600), ..up() }),
            ),
            ("upstream-keepalive-time", "", false, usual()),
        ] {
            let (settings, read) = read(key, value);
            assert_eq!((settings.connections, read), (expected, good), "{key}: {value}");
        }
    }
}
