//! The load tools, and what they say.

use std::process::Command;

use crate::Result;
use crate::process::LOAD_CORE;
use crate::site::HOST;

/// `wrk` on one thread, over HTTPS/1.1.
pub(crate) fn wrk(port: u16, seconds: u32, connections: u32, path: &str, more: &[&str]) -> Command {
    let mut command = Command::new("wrk");
    command.args(["-t1", &format!("-c{connections}"), &format!("-d{seconds}s")]);
    command.args(["-H", &format!("Host: {HOST}")]).args(more);
    command.arg(format!("https://127.0.0.1:{port}{path}"));
    command
}

/// How long a load lasts.
pub(crate) enum Length {
    Seconds(u32),
    /// On all connections together.
    Requests(u64),
}

/// `h2load` on one thread; HTTP/2 unless told otherwise.
pub(crate) fn h2load(port: u16, length: &Length, more: &[&str]) -> Command {
    let length = match length {
        Length::Seconds(it) => format!("-D{it}"),
        Length::Requests(it) => format!("-n{it}"),
    };
    let mut command = Command::new("h2load");
    command.args(["-t1", &length]).args(more);
    command.arg(format!("--connect-to=127.0.0.1:{port}"));
    command.arg(format!("https://{HOST}/"));
    command
}

/// How a run ended.
pub(crate) struct Outcome {
    /// Requests that were answered, whatever the answer.
    pub(crate) answered: f64,
    /// Answers that were no 2xx or 3xx.
    pub(crate) refused: f64,
    /// Connections that could not be made, or that broke, and requests that took too long.
    pub(crate) broken: f64,
}

/// Runs a load to its end, on the core of the load.
pub(crate) fn run(load: &Command) -> Result<Outcome> {
    run_on(LOAD_CORE, load)
}

/// Runs a load to its end, on some cores.
pub(crate) fn run_on(cores: &str, load: &Command) -> Result<Outcome> {
    let output = pinned(cores, load).output()?;
    outcome(&String::from_utf8_lossy(&output.stdout))
}

/// The same command, on some cores.
pub(crate) fn pinned(cores: &str, load: &Command) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", cores]).arg(load.get_program()).args(load.get_args());
    command
}

/// Reads what a load tool says.
pub(crate) fn outcome(text: &str) -> Result<Outcome> {
    let wrk = text.lines().find(|it| it.contains(" requests in "));
    let h2load = text.lines().find(|it| it.starts_with("requests:"));
    let found = match (wrk, h2load) {
        (Some(line), _) => of_wrk(text, line),
        (None, Some(line)) => of_h2load(text, line),
        (None, None) => None,
    };
    found.ok_or_else(|| format!("no figures in:\n{text}").into())
}

/// `1234 requests in 1.00s`; `Socket errors: connect 0, read 1, write 0, timeout 0` and
/// `Non-2xx or 3xx responses: 2` where there are any.
fn of_wrk(text: &str, line: &str) -> Option<Outcome> {
    let after = |mark: &str| text.lines().find_map(|it| it.trim().strip_prefix(mark));
    let broken = after("Socket errors:").unwrap_or_default().split(',');
    let broken = broken.filter_map(|it| it.split_whitespace().nth(1)?.parse::<f64>().ok());
    Some(Outcome {
        answered: line.split_whitespace().next()?.parse().ok()?,
        refused: after("Non-2xx or 3xx responses:")
            .map_or(Some(0.0), |it| it.trim().parse().ok())?,
        broken: broken.sum(),
    })
}

/// `requests: 9 total, 9 started, 9 done, 7 succeeded, 2 failed, 1 errored, 0 timeout` and
/// `status codes: 7 2xx, 0 3xx, 1 4xx, 0 5xx`.
fn of_h2load(text: &str, line: &str) -> Option<Outcome> {
    let before = |line: &str, mark: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let place = words.iter().position(|it| it.trim_end_matches(',') == mark)?;
        words.get(place.checked_sub(1)?)?.parse::<f64>().ok()
    };
    let codes = text.lines().find(|it| it.starts_with("status codes:"))?;
    Some(Outcome {
        answered: before(line, "succeeded")?,
        refused: before(codes, "4xx")? + before(codes, "5xx")?,
        broken: before(line, "errored")? + before(line, "timeout")?,
    })
}
