//! Programs that run meanwhile: on which core, what they take, and that they end.

use std::fs::{self, File};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Result, client};

/// Where proxies run.
pub(crate) const PROXY_CORE: &str = "0";
/// Where everything else runs.
pub(crate) const LOAD_CORE: &str = "1";
/// For what is not pinned.
pub(crate) const ALL_CORES: &str = "0,1";

/// Longest wait for a program to serve or to end.
const PATIENCE: Duration = Duration::from_secs(120);

/// A program that ends with us.
pub(crate) struct Process(Child);

impl Process {
    /// Starts a command, words between spaces, with what it says in a file.
    pub(crate) fn start(cores: &str, workers: usize, log: &Path, command: &str) -> Result<Self> {
        let words: Vec<&str> = command.split_whitespace().collect();
        let program = words.first().ok_or("there is no command")?;
        if !Command::new("which").arg(program).stdout(Stdio::null()).status()?.success() {
            return Err(format!("{program} is not installed").into());
        }
        let home = log.parent().ok_or("the log is in no directory")?;
        let log = File::create(log)?;
        // Told to end by the kernel, too, should this process be killed.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--", "taskset", "-c", cores])
            .args(words)
            .env("GOMAXPROCS", workers.to_string())
            // Caddy keeps its last configuration at home.
            .env("HOME", home)
            .env_remove("XDG_CONFIG_HOME")
            .env_remove("XDG_DATA_HOME")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok(Self(child))
    }

    /// Waits until it, or whoever, listens.
    pub(crate) fn listens(&mut self, port: u16) -> Result<()> {
        eventually(
            &format!("port {port} does not answer"),
            Duration::from_millis(10),
            || match self.0.try_wait()? {
                Some(status) => Err(format!("it ended with {status}").into()),
                None => Ok(TcpStream::connect(("127.0.0.1", port)).is_ok()),
            },
        )
    }

    pub(crate) fn signal(&self, name: &str) -> Result<()> {
        let status = Command::new("kill").args(["-s", name, &self.0.id().to_string()]).status()?;
        if status.success() { Ok(()) } else { Err(format!("cannot send {name}").into()) }
    }

    /// CPU seconds of it and its children that live, to 10 ms.
    pub(crate) fn cpu_seconds(&self) -> Result<f64> {
        let mut seconds = 0.0;
        for pid in self.family()? {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
            let fields: Vec<&str> =
                stat.rsplit(')').next().unwrap_or_default().split(' ').collect();
            let ticks = fields[12].parse::<f64>()? + fields[13].parse::<f64>()?;
            seconds += ticks / 100.0;
        }
        Ok(seconds)
    }

    /// Resident memory of it and its children, in KiB.
    pub(crate) fn resident(&self) -> Result<f64> {
        self.status("VmRSS:")
    }

    /// The most memory that was resident, in KiB.
    pub(crate) fn peak(&self) -> Result<f64> {
        self.status("VmHWM:")
    }

    /// Its children; those of nginx and HAProxy change with each reload.
    pub(crate) fn children(&self) -> Result<Vec<u32>> {
        let pid = self.0.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
        Ok(children.split_whitespace().map(str::parse).collect::<std::result::Result<_, _>>()?)
    }

    fn family(&self) -> Result<Vec<u32>> {
        let mut family = self.children()?;
        family.push(self.0.id());
        Ok(family)
    }

    fn status(&self, entry: &str) -> Result<f64> {
        let mut sum = 0.0;
        for pid in self.family()? {
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            let line = status.lines().find_map(|it| it.strip_prefix(entry));
            let number = line.and_then(|it| it.split_whitespace().next());
            sum += number.ok_or_else(|| format!("no {entry} of {pid}"))?.parse::<f64>()?;
        }
        Ok(sum)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that can be caught, so that those with workers end them; it may have ended by itself.
        let family = self.family().unwrap_or_default();
        let _ = self.signal("TERM");
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        for pid in family {
            let _ = Command::new("kill").args(["-s", "KILL", &pid.to_string()]).status();
        }
        let _ = self.0.wait();
    }
}

/// A port of loopback that nobody listens on.
pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Waits until Lockgate serves its first plan.
pub(crate) fn ready(admin: u16) -> Result<()> {
    eventually("lockgate is not ready", Duration::from_millis(5), || {
        let asked = TcpStream::connect(("127.0.0.1", admin))
            .map_err(Into::into)
            .and_then(|mut stream| client::ask(&mut stream, "localhost", "/readyz"));
        Ok(asked.is_ok_and(|status| status == 200))
    })
}

/// Looks again and again, with a pause between.
pub(crate) fn eventually(
    otherwise: &str,
    pause: Duration,
    mut look: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !look()? {
        if Instant::now() > deadline {
            return Err(otherwise.into());
        }
        std::thread::sleep(pause);
    }
    Ok(())
}
