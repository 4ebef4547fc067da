//! Whether memory is short: what this process has, against what its cgroup allows.
//!
//! Read by a task of the control plane, never by a worker; without a limit there is nothing to watch.
//! A reading takes four small files and less than 100 µs.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::limit::Limits;

/// How often memory is looked at. In between clients cannot bring much more than the network carries.
const LOOK: Duration = Duration::from_millis(50);
/// From here on, in hundredths of the limit, memory is short.
const HIGH: u64 = 85;
/// From here down it is enough again.
const LOW: u64 = 80;
/// After so long whatever clients held up has ended, but for WebSockets and the like.
const ENDED: Duration = Duration::from_secs(180);
/// By how much, in hundredths of the limit, usage has to grow once clients are served nevertheless until it
/// is theirs again.
const GROWN: u64 = 5;

/// Notes in `limits`, for as long as the process lives, whether memory is short.
pub async fn watch(limits: Arc<Limits>) {
    let cgroup = Cgroup::own();
    let mut state = State::Enough;
    let mut interval = tokio::time::interval(LOOK);
    loop {
        let now = interval.tick().await;
        if state != State::Enough {
            give_back();
        }
        // The limit is read each time: a pod may be given more while it runs.
        let reading = cgroup.as_ref().and_then(Cgroup::read);
        let next = state.next(reading, now);
        if std::mem::replace(&mut state, next) == next {
            continue;
        }
        limits.set_short(matches!(next, State::Short { .. }));
        let Reading { used, limit } = reading.unwrap_or_default();
        match next {
            State::Short { .. } => {
                tracing::warn!(used, limit, "memory is short: new requests are answered 503");
            }
            State::Resigned { .. } => {
                tracing::warn!(
                    used,
                    limit,
                    "memory is short, but not for clients: they are served"
                );
            }
            State::Enough => tracing::info!(used, limit, "memory is enough again"),
        }
    }
}

/// Whether there is enough memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Enough,
    /// Clients have to give some back.
    Short {
        since: Instant,
    },
    /// There is too little, but they cannot be why: who is full for another reason must not refuse
    /// everybody for ever. `used` is how many bytes there were then.
    Resigned {
        used: u64,
    },
}

impl State {
    /// What comes next. The thresholds differ, so that it does not change with each request.
    fn next(self, reading: Option<Reading>, now: Instant) -> Self {
        let Some(Reading { used, limit }) = reading else { return Self::Enough };
        let is_above = |percent: u64| used.saturating_mul(100) > limit.saturating_mul(percent);
        let is_above_by = |before: u64| {
            used.saturating_sub(before).saturating_mul(100) > limit.saturating_mul(GROWN)
        };
        match self {
            Self::Enough if is_above(HIGH) => Self::Short { since: now },
            Self::Enough => Self::Enough,
            _ if !is_above(LOW) => Self::Enough,
            Self::Short { since } if now - since >= ENDED => Self::Resigned { used },
            Self::Resigned { used: before } if is_above_by(before) => Self::Short { since: now },
            other => other,
        }
    }
}

/// Has the allocator give back to the system what this thread freed. It looks through that by itself, but only
/// on the way of other work, which a thread that has become quiet has none of: once in so many allocations
/// that are not small, and, for what all threads freed, when a large piece is freed. Takes under 1 ms.
pub(crate) fn give_back() {
    const TIMES: usize = 10_000;
    const MIDDLING: usize = 2 << 10;
    /// More than the allocator keeps for the next; never written to, so it takes no memory.
    const LARGE: usize = 16 << 20;
    let take = |bytes| drop(std::hint::black_box(Vec::<u8>::with_capacity(bytes)));
    (0..TIMES).for_each(|_| take(MIDDLING));
    take(LARGE);
}

/// Memory in bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Reading {
    used: u64,
    limit: u64,
}

/// Where the kernel says what a group of processes may have and has.
#[derive(Debug)]
struct Cgroup {
    limit: PathBuf,
    usage: PathBuf,
    /// Holds how much of the usage is cached files, which the kernel takes back when it needs to.
    stat: PathBuf,
    cached: &'static [&'static str],
}

impl Cgroup {
    /// The nearest one of this process that has a limit, else the nearest that may get one.
    fn own() -> Option<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mut candidates = candidates(&own, Path::new("/sys/fs/cgroup"));
        let limited = candidates.iter().position(|it| it.limit().is_some());
        let nearest = limited.or_else(|| candidates.iter().position(|it| it.limit.exists()));
        nearest.map(|it| candidates.swap_remove(it))
    }

    fn v2(directory: &Path) -> Self {
        Self {
            limit: directory.join("memory.max"),
            usage: directory.join("memory.current"),
            stat: directory.join("memory.stat"),
            cached: &["inactive_file", "active_file"],
        }
    }

    fn v1(directory: &Path) -> Self {
        Self {
            limit: directory.join("memory.limit_in_bytes"),
            usage: directory.join("memory.usage_in_bytes"),
            stat: directory.join("memory.stat"),
            cached: &["total_inactive_file", "total_active_file"],
        }
    }

    /// `None` for none; cgroup v2 says `max`, v1 a number beyond all memory.
    fn limit(&self) -> Option<u64> {
        number(&self.limit).filter(|it| *it < 1 << 60)
    }

    /// `None` without a limit. What is used is what the group has without cached files, which includes
    /// the kernel's side of connections, or this process's resident memory where that is more.
    fn read(&self) -> Option<Reading> {
        let limit = self.limit()?;
        let stat = fs::read_to_string(&self.stat).unwrap_or_default();
        let cached: u64 = self.cached.iter().filter_map(|it| field(&stat, it)).sum();
        let charged = number(&self.usage).unwrap_or_default().saturating_sub(cached);
        Some(Reading { used: charged.max(resident().unwrap_or_default()), limit })
    }
}

/// Cgroups that may have a limit for the process whose `/proc/self/cgroup` is `own`, the nearest first. In
/// a container the path may be the host's, which is not there: what is mounted is its own group.
fn candidates(own: &str, mount: &Path) -> Vec<Cgroup> {
    let mut found = Vec::new();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (parts.next(), parts.next()) else { continue };
        let (root, cgroup): (_, fn(&Path) -> Cgroup) = match controllers {
            "" => (mount.to_owned(), Cgroup::v2),
            it if it.split(',').any(|it| it == "memory") => (mount.join("memory"), Cgroup::v1),
            _ => continue,
        };
        let above = Path::new(path.trim_start_matches('/')).ancestors();
        found.extend(above.map(|it| cgroup(&root.join(it))));
    }
    found
}

/// This process's resident memory in bytes, `VmRSS` of proc(5).
fn resident() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    Some(field(&status, "VmRSS:")? * 1024)
}

fn number(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse().ok()
}

/// The number after `name` at the beginning of a line.
fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some(name)).then(|| words.next()?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_and_enough_are_apart() {
        let now = Instant::now();
        let short = |seconds| State::Short { since: now - Duration::from_secs(seconds) };
        let resigned = |used| State::Resigned { used };
        for (before, used, expected) in [
            (State::Enough, 84, State::Enough),
            (State::Enough, 85, State::Enough),
            (State::Enough, 86, short(0)),
            (State::Enough, u64::MAX, short(0)),
            (short(1), 86, short(1)),
            (short(1), 81, short(1)),
            (short(1), 80, State::Enough),
            (short(1), 0, State::Enough),
            // Clients do not hold anything up for so long.
            (short(179), 86, short(179)),
            (short(180), 86, resigned(86)),
            (resigned(86), 91, resigned(86)),
            (resigned(86), 92, short(0)),
            (resigned(86), 81, resigned(86)),
            (resigned(86), 80, State::Enough),
        ] {
            let next = before.next(Some(Reading { used, limit: 100 }), now);
            assert_eq!(next, expected, "{before:?} {used} of 100");
        }
        for before in [State::Enough, short(1), resigned(86)] {
            assert_eq!(before.next(None, now), State::Enough, "{before:?} without a limit");
        }
    }

    #[test]
    fn the_nearest_group_with_a_limit_counts() {
        let root = tempfile::tempdir().expect("a directory");
        let write = |file: &str, text: &str| {
            let file = root.path().join(file);
            fs::create_dir_all(file.parent().expect("a parent")).expect("a directory");
            fs::write(file, text).expect("a file");
        };
        let reading = |own: &str| {
            let found = candidates(own, root.path());
            found.into_iter().find_map(|it| Some((it.limit()?, it.read()?.used)))
        };
        let high = 1 << 50;
        assert_eq!(reading("0::/pod/web\n"), None, "no files");
        write("memory.max", "max\n");
        assert_eq!(reading("0::/pod/web\n"), None, "no limit");
        write("pod/memory.max", "1000\n");
        write("pod/memory.current", &format!("{}\n", high + 30));
        write("pod/memory.stat", "anon 5\nactive_file 10\ninactive_file 20\n");
        write("pod/web/memory.max", "max\n");
        assert_eq!(reading("0::/pod/web\n"), Some((1000, high)), "version 2");
        write("memory/pod/memory.limit_in_bytes", "2000\n");
        write("memory/pod/memory.usage_in_bytes", &format!("{}\n", high + 3));
        write("memory/pod/memory.stat", "inactive_file 9\ntotal_inactive_file 3\n");
        assert_eq!(reading("4:cpu,memory:/pod\n"), Some((2000, high)), "version 1");
        write("memory/memory.limit_in_bytes", "9223372036854771712\n");
        assert_eq!(reading("4:memory:/gone\n"), None, "version 1 without a limit");
    }

    #[test]
    fn this_process_has_some_memory() {
        assert!(resident().is_some_and(|it| it > 1 << 20));
    }
}
