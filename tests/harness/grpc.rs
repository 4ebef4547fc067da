//! Real gRPC: servers and clients of `grpcio`, in Python.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::endpoint::Authority;
use super::lockgate::Pair;
use super::process::{Process, SOON, command, component, eventually, free_port};

/// A gRPC server of the service `test.Echo`; see `grpc_server.py`.
pub struct GrpcServer {
    pub addr: SocketAddr,
    secure: bool,
    process: Process,
    files: TempDir,
}

impl GrpcServer {
    /// Serves without TLS.
    pub async fn start() -> Self {
        Self::start_on(SocketAddr::from(([127, 0, 0, 1], free_port())), None).await
    }

    /// Serves over TLS.
    pub async fn secure(pair: &Pair) -> Self {
        Self::start_on(SocketAddr::from(([127, 0, 0, 1], free_port())), Some(pair)).await
    }

    /// Serves on `addr`, which must be free.
    pub async fn start_on(addr: SocketAddr, pair: Option<&Pair>) -> Self {
        let files = tempfile::tempdir().unwrap();
        let mut command = python("grpc_server.py");
        command.arg(addr.to_string());
        if let Some(pair) = pair {
            for (name, text) in [("key", &pair.key), ("certificate", &pair.certificate)] {
                let path = files.path().join(name);
                std::fs::write(&path, text).unwrap();
                command.arg(path);
            }
        }
        let process = Process::spawn(command);
        eventually("a gRPC server", SOON, async || {
            assert_eq!(process.exit_code(), None, "{}", process.log());
            process.log().contains("serving")
        })
        .await;
        Self { addr, secure: pair.is_some(), process, files }
    }

    /// The program itself.
    pub fn process(&self) -> &Process {
        &self.process
    }
}

/// Who calls the proxy, and whom it can ask past it.
pub struct GrpcClient {
    what: Value,
    files: TempDir,
}

impl GrpcClient {
    /// Calls `name` at `to`; over TLS when the authority of its certificate is given.
    pub fn new(to: SocketAddr, name: &str, authority: Option<&Authority>) -> Self {
        let mut client = Self {
            what: json!({"to": to.to_string(), "name": name, "servers": []}),
            files: tempfile::tempdir().unwrap(),
        };
        if let Some(authority) = authority {
            client.what["ca"] = client.file("ca", &authority.pem());
        }
        client
    }

    /// The servers behind the proxy; over TLS they have certificates for `name` from this authority.
    #[must_use]
    pub fn servers(mut self, servers: &[&GrpcServer], name: &str, authority: &Authority) -> Self {
        self.what["servers"] = servers.iter().map(|it| it.addr.to_string()).collect();
        if servers.iter().any(|it| it.secure) {
            self.what["server_ca"] = self.file("server_ca", &authority.pem());
            self.what["server_name"] = name.into();
        }
        self
    }

    /// Begins scenarios of `grpc_client.py`, named between commas.
    pub fn begin(mut self, scenarios: &str) -> GrpcRun {
        self.what["until"] = Value::Null;
        let until = self.files.path().join("until");
        if scenarios == "survives" {
            self.what["until"] = until.display().to_string().into();
        } else {
            self.what.as_object_mut().unwrap().remove("until");
        }
        let mut command = python("grpc_client.py");
        command.arg(scenarios).arg(self.what.to_string());
        GrpcRun { process: Process::spawn(command), until, _files: self.files }
    }

    fn file(&self, name: &str, text: &str) -> Value {
        let path = self.files.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string().into()
    }
}

/// Scenarios under way.
pub struct GrpcRun {
    process: Process,
    until: PathBuf,
    _files: TempDir,
}

impl GrpcRun {
    /// Waits until it has said this.
    pub async fn says(&self, text: &str) {
        eventually(text, SOON, async || {
            assert_eq!(self.process.exit_code(), None, "{}", self.process.log());
            self.process.log().contains(text)
        })
        .await;
    }

    /// Tells it to come to its end.
    pub fn finish(&self) {
        std::fs::write(&self.until, "").unwrap();
    }

    /// Waits until all went well; gives what it said.
    ///
    /// # Panics
    ///
    /// If something did not.
    pub async fn succeeds(&self) -> String {
        let code = self.process.wait(Duration::from_secs(600)).await;
        assert_eq!(code, 0, "{}", self.process.log());
        self.process.log()
    }
}

/// A program of this directory, with `grpcio`.
pub(super) fn python(script: &str) -> Command {
    let mut command = command("python3");
    command.arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/harness").join(script));
    command.env("PYTHONPATH", component("LOCKGATE_GRPCIO"));
    command.env("PYTHONDONTWRITEBYTECODE", "1").env("PYTHONUNBUFFERED", "1");
    command.env_remove("http_proxy").env_remove("https_proxy").env("no_proxy", "*");
    command
}
