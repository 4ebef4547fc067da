//! Whether memory is short: what this process has, against what its cgroup allows.
//!
//! Read by a task of the control plane, never by a worker; without a limit there is nothing to watch.
//! A reading takes three small files and some tens of microseconds.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::limit::Limits;

/// How often memory is looked at. In between clients cannot bring much more than the network carries.
const LOOK: Duration = Duration::from_millis(100);
/// From here on, in hundredths of the limit, memory is short.
const HIGH: u64 = 85;
/// From here down it is enough again.
const LOW: u64 = 80;

/// Notes in `limits`, for as long as the process lives, whether memory is short.
pub async fn watch(limits: Arc<Limits>) {
    let cgroup = Cgroup::own();
    let mut short = false;
    let mut interval = tokio::time::interval(LOOK);
    loop {
        interval.tick().await;
        // The limit is read each time: a pod may be given more while it runs.
        let reading = cgroup.as_ref().and_then(Cgroup::read);
        let before = short;
        short = is_short(before, reading);
        if before == short {
            continue;
        }
        limits.set_short(short);
        let Reading { used, limit } = reading.unwrap_or_default();
        if short {
            tracing::warn!(used, limit, "memory is short: new requests are answered 503");
        } else {
            tracing::info!(used, limit, "memory is enough again");
        }
    }
}

/// Memory in bytes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Reading {
    used: u64,
    limit: u64,
}

/// Whether memory is short, given whether it was: the two thresholds differ, so that it does not change
/// with each request.
fn is_short(before: bool, reading: Option<Reading>) -> bool {
    let Some(Reading { used, limit }) = reading else { return false };
    let percent = if before { LOW } else { HIGH };
    used.saturating_mul(100) > limit.saturating_mul(percent)
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
        for (before, used, limit, expected) in [
            (false, 84, 100, false),
            (false, 85, 100, false),
            (false, 86, 100, true),
            (true, 86, 100, true),
            (true, 81, 100, true),
            (true, 80, 100, false),
            (true, 0, 100, false),
            (false, u64::MAX, 100, true),
        ] {
            let reading = Some(Reading { used, limit });
            assert_eq!(is_short(before, reading), expected, "{before} {used} of {limit}");
        }
        assert!(!is_short(true, None) && !is_short(false, None), "without a limit");
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
