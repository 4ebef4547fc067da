//! Connections to clients and endpoints: how long they live and wait, and how much they carry.

use std::time::Duration;

/// How long connections live and wait, and how much they carry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Connections {
    /// `keep-alive`: how long a connection may wait for its next request, 0 for not at all; `None` for 75 s
    /// over HTTP/1.1 and 180 s over HTTP/2.
    pub keep_alive: Option<Duration>,
    /// `keep-alive-requests`: after how many requests a connection ends; `None` for never, where
    /// ingress-nginx has 1000.
    pub requests: Option<u32>,
    /// `client-header-timeout`: longest head of an HTTP/1.1 request, from its first byte.
    pub head: Duration,
    /// `client-body-timeout`: longest pause in a request's body.
    pub body: Duration,
    /// `http2-max-concurrent-streams`
    pub streams: u32,
    /// How long a request's head may be.
    pub heads: Heads,
    /// `worker-shutdown-timeout`: how long what is under way may last once nothing new is accepted, where no
    /// flag says so.
    pub drain: Duration,
    /// To endpoints.
    pub upstream: Upstream,
}

/// How long the head of a request may be, in bytes; as nginx reads it, into one buffer at first and into
/// larger ones where that is too small.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Heads {
    /// `client-header-buffer-size`: of the first.
    pub first: u32,
    /// `large-client-header-buffers`: how many larger ones.
    pub number: u32,
    /// And of what size.
    pub size: u32,
}

impl Heads {
    /// Longest head that can be allowed: it is in memory as a whole.
    pub const MOST: u32 = 1 << 20;
    /// Shortest limit for one, in which a request of a browser fits.
    pub const LEAST: u32 = 1 << 10;
    /// Smallest of the larger buffers, as nginx has it.
    pub const LEAST_SIZE: u32 = 512;

    /// Longest line, with its end: each has to fit into one buffer.
    pub fn line(&self) -> u32 {
        self.size.max(self.first)
    }

    /// Longest head: what fits into all of them.
    pub fn whole(&self) -> u32 {
        let all = self.number.saturating_mul(self.size).saturating_add(self.first);
        all.min(Self::MOST)
    }
}

/// Idle connections to endpoints: `upstream-keepalive-…`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Upstream {
    /// Most that one worker keeps to one endpoint.
    pub idle: usize,
    /// How long one is kept.
    pub timeout: Duration,
    /// After how many requests one ends.
    pub requests: u32,
    /// How old one may get.
    pub age: Duration,
}

impl Default for Connections {
    fn default() -> Self {
        Self {
            keep_alive: None,
            requests: None,
            head: Duration::from_secs(10),
            body: Duration::from_secs(60),
            streams: 100,
            heads: Heads::default(),
            drain: Duration::from_secs(240),
            upstream: Upstream::default(),
        }
    }
}

impl Default for Heads {
    /// nginx's and ingress-nginx's.
    fn default() -> Self {
        Self { first: 1 << 10, number: 4, size: 8 << 10 }
    }
}

impl Default for Upstream {
    /// ingress-nginx keeps 320 idle ones to all endpoints; with HTTP/2 one client alone may have a hundred
    /// requests under way, and dropping what the next burst needs costs more than keeping it for a minute.
    fn default() -> Self {
        Self {
            idle: 1024,
            timeout: Duration::from_secs(60),
            requests: 10_000,
            age: Duration::from_secs(3600),
        }
    }
}
