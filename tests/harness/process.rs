//! Real programs under test: where they are, how they start, and that they always end.
//!
//! A [`Process`] is killed when it is dropped, and by the kernel when the test binary itself is
//! killed, so that no test leaves anything running.  Nothing here sleeps for a fixed time:
//! [`eventually`] is the one way to wait.

use std::{
    collections::hash_map::RandomState,
    env,
    ffi::OsStr,
    fmt::Display,
    fs::{self, File},
    hash::BuildHasher,
    net::TcpListener,
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixListener},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{LazyLock, Mutex, MutexGuard, PoisonError, mpsc},
    thread,
    time::Duration,
};

use tempfile::TempDir;

/// Longest wait for what takes a moment, on a machine that compiles at the same time.
pub const SOON: Duration = Duration::from_secs(60);

/// Between two looks of [`eventually`].
const POLL: Duration = Duration::from_millis(30);

/// Below the ephemeral range, so that no outgoing connection can take a port before its owner.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// The program a variable names; `tests/components` sets them all.
///
/// # Panics
///
/// If the variable is not set, which fails the test with a line that says what to do.
pub fn component(variable: &str) -> PathBuf {
    env::var_os(variable).map_or_else(
        || panic!("{variable} is not set: run eval \"$(tests/components)\" and see what it says"),
        PathBuf::from,
    )
}

/// A loopback port nobody listens on, handed out once.
///
/// A name in the abstract socket namespace stands for each port while this process lives, so other
/// test binaries choose others.
///
/// # Panics
///
/// If every port is taken.
pub fn free_port() -> u16 {
    static CLAIMS: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());
    let claim = |port: u16| {
        let name = SocketAddr::from_abstract_name(format!("lockgate-test-port-{port}"));
        UnixListener::bind_addr(&name.expect("the name is short")).ok()
    };
    for _ in 0..10_000 {
        let random = RandomState::new().hash_one(()) % u64::from(PORTS.end - PORTS.start);
        let port = PORTS.start + u16::try_from(random).expect("it is within the range");
        let Some(claimed) = claim(port) else { continue };
        if TcpListener::bind(("0.0.0.0", port)).is_ok() {
            lock(&CLAIMS).push(claimed);
            return port;
        }
    }
    panic!("no free port between {} and {}", PORTS.start, PORTS.end)
}

/// What a look at the world found: there yet, or not, and why not.
pub trait Sight {
    /// What [`eventually`] returns.
    type Found;

    /// What was found, or what to tell a person when time is up.
    fn found(self) -> Result<Self::Found, String>;
}

impl Sight for bool {
    type Found = ();

    fn found(self) -> Result<(), String> {
        self.then_some(()).ok_or_else(String::new)
    }
}

impl<T> Sight for Option<T> {
    type Found = T;

    fn found(self) -> Result<T, String> {
        self.ok_or_else(String::new)
    }
}

impl<T, E: Display> Sight for Result<T, E> {
    type Found = T;

    fn found(self) -> Result<T, String> {
        self.map_err(|error| format!("; last: {error}"))
    }
}

/// Looks again and again until there is something to see: `true`, `Some` or `Ok`.
///
/// # Panics
///
/// If `limit` passes first; the message names `what` was waited for and the last error seen.
pub async fn eventually<S: Sight>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> S,
) -> S::Found {
    let mut last = String::new();
    let watching = async {
        loop {
            match look().await.found() {
                Ok(found) => return found,
                Err(why) => last = why,
            }
            tokio::time::sleep(POLL).await;
        }
    };
    let found = tokio::time::timeout(limit, watching).await;
    found.unwrap_or_else(|_| panic!("{what}: not within {limit:?}{last}"))
}

/// A command whose process dies together with this one.
///
/// Give it arguments and environment, then hand it to [`Process::spawn`].
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// A running program; it is killed when dropped.
pub struct Process {
    name: String,
    pid: u32,
    child: Mutex<Child>,
    /// Holds the log.
    dir: TempDir,
}

impl Process {
    /// Starts what [`command`] made, with stdout and stderr going to a log file of its own.
    ///
    /// # Panics
    ///
    /// If it cannot be started.
    pub fn spawn(mut command: Command) -> Self {
        let program = command.get_args().nth(3).expect("`command` makes the command");
        let name = Path::new(program).file_name().unwrap_or(program).display().to_string();
        let dir = tempfile::tempdir().expect("a temp dir can be made");
        let log = File::create(dir.path().join("log")).expect("the log can be made");
        let twin = log.try_clone().expect("the log can be shared");
        command.stdin(Stdio::null()).stdout(log).stderr(twin);
        let child = spawn_for_good(command);
        Self { name, pid: child.id(), child: Mutex::new(child), dir }
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// All it has written so far, stdout and stderr together.
    pub fn log(&self) -> String {
        let log = fs::read(self.dir.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&log).into_owned()
    }

    /// Sends a signal: `TERM`, `STOP`, `CONT`, `KILL`, `HUP` and so on.
    ///
    /// # Panics
    ///
    /// If the process is gone already.
    pub fn signal(&self, name: &str) {
        assert_eq!(self.exit_code(), None, "{} has ended already:\n{}", self.name, self.log());
        let status = Command::new("kill").args(["-s", name, &self.pid.to_string()]).status();
        assert!(status.is_ok_and(|it| it.success()), "kill -s {name} failed");
    }

    /// Kills it, unless it has ended already; it is gone when this returns.
    pub fn kill(&self) {
        let mut child = lock(&self.child);
        // Neither can fail in a way that matters: either it has ended already or it ends now.
        let _ = child.kill();
        let _ = child.wait();
    }

    /// The exit code if it has ended; 128 and the signal's number if a signal ended it.
    ///
    /// # Panics
    ///
    /// If the system will not say, which it always does for a child.
    pub fn exit_code(&self) -> Option<i32> {
        let status = lock(&self.child).try_wait().expect("a child can be waited for");
        status.map(code)
    }

    /// Waits for it to end by itself and gives the exit code, as [`Self::exit_code`].
    ///
    /// # Panics
    ///
    /// If it still runs after `limit`.
    pub async fn wait(&self, limit: Duration) -> i32 {
        eventually(&format!("end of {}", self.name), limit, async || self.exit_code()).await
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        // What libfaketime shares among a process and its children outlives one that is killed.
        for shared in ["faketime_shm_", "sem.faketime_sem_"] {
            let _ = std::fs::remove_file(format!("/dev/shm/{shared}{}", self.pid));
        }
        if thread::panicking() {
            let log = self.log();
            let tail = log.lines().rev().take(40).collect::<Vec<_>>();
            eprintln!("--- the end of what {} said:", self.name);
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status.code().or_else(|| status.signal().map(|it| 128 + it)).unwrap_or(-1)
}

/// Starts a process from a thread that lives as long as this process.
///
/// The kernel sends the death signal when the *thread* that started the child ends, and both test
/// threads and the runtime's end early.
fn spawn_for_good(command: Command) -> Child {
    type Order = (Command, mpsc::Sender<std::io::Result<Child>>);
    static SPAWNER: LazyLock<mpsc::Sender<Order>> = LazyLock::new(|| {
        let (orders, queue) = mpsc::channel::<Order>();
        thread::spawn(move || {
            for (mut command, reply) in queue {
                let _ = reply.send(command.spawn());
            }
        });
        orders
    });
    let (reply, answer) = mpsc::channel();
    SPAWNER.send((command, reply)).expect("the spawner lives for ever");
    let child = answer.recv().expect("the spawner answers");
    child.expect("setpriv (util-linux) can be started")
}

/// The content of a mutex, even after a test that held it has failed.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
