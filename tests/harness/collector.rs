//! A collector of traces: real gRPC, in Python.

use std::net::SocketAddr;

use serde_json::Value;

use super::grpc::python;
use super::process::{Process, SOON, eventually};

/// What takes spans; see `collector.py`.
pub struct Collector(Process);

impl Collector {
    /// Serves on `addr`, which must be free.
    pub async fn start_on(addr: SocketAddr) -> Self {
        let mut command = python("collector.py");
        command.arg(addr.to_string());
        let process = Process::spawn(command);
        eventually("a collector", SOON, async || {
            assert_eq!(process.exit_code(), None, "{}", process.log());
            process.log().contains("serving")
        })
        .await;
        Self(process)
    }

    /// All spans that came so far.
    pub fn spans(&self) -> Vec<Value> {
        let log = self.0.log();
        // The last line may not be whole.
        let whole = log.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole.lines().filter_map(|it| serde_json::from_str(it).ok()).collect()
    }

    /// Waits for the span with this id.
    pub async fn span(&self, id: &str) -> Value {
        eventually(&format!("span {id}"), SOON, async || {
            self.spans().into_iter().find(|it| it["span"] == id)
        })
        .await
    }

    /// The program itself.
    pub fn process(&self) -> &Process {
        &self.0
    }
}
