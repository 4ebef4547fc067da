//! Groups of processes with a limit, where this machine lets us make them.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

/// A control group; removed when dropped, which its processes must have ended before.
pub struct Cgroup(PathBuf);

impl Cgroup {
    /// One whose processes share `bytes` of memory; `None` where it cannot be had.
    pub fn memory(bytes: u64) -> Option<Self> {
        Self::with(&[
            ("memory", "memory.limit_in_bytes", bytes.to_string()),
            ("", "memory.max", bytes.to_string()),
        ])
    }

    /// One whose processes share `percent` of a core; `None` where it cannot be had.
    pub fn cpu(percent: u32) -> Option<Self> {
        // In microseconds of a tenth of a second.
        let quota = percent * 1000;
        Self::with(&[
            ("cpu", "cpu.cfs_quota_us", quota.to_string()),
            ("", "cpu.max", format!("{quota} 100000")),
        ])
    }

    /// A line of shell that puts what follows into the group.
    pub fn enter(&self) -> String {
        format!("echo $$ >{}/cgroup.procs", self.0.display())
    }

    fn with(limits: &[(&str, &str, String)]) -> Option<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!("lockgate-test-{}-{number}", std::process::id());
        for (controller, file, limit) in limits {
            let path = PathBuf::from("/sys/fs/cgroup").join(controller).join(&name);
            if std::fs::create_dir(&path).is_err() {
                continue;
            }
            let group = Self(path);
            if std::fs::write(group.0.join(file), limit).is_ok() {
                return Some(group);
            }
        }
        None
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _left = std::fs::remove_dir(&self.0);
    }
}
