//! Steady load on kept-alive connections, and what became of each request.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::client::{Client, Connection, Reply};

/// How many reasons a report keeps.
const REASONS: usize = 10;

/// Between two requests of a connection, so that load leaves some of the machine to the others.
const PAUSE: Duration = Duration::from_millis(1);

/// Load under way; dropping it ends it without a report.
pub struct Load {
    stop: Arc<AtomicBool>,
    tasks: JoinSet<LoadReport>,
}

/// What became of the requests.
#[derive(Clone, Debug, Default)]
pub struct LoadReport {
    /// Requests answered as expected.
    pub ok: u64,
    /// The first reasons of failure.
    pub failed: Vec<String>,
    /// Requests without a whole response, or with another status than expected.
    pub failed_count: u64,
    /// Expected answers by the backend that gave them, or by their text when it is not a
    /// backend's.
    pub by_body: BTreeMap<String, u64>,
    /// Times the server rightly ended a connection between two requests.
    pub reconnects: u64,
}

impl Load {
    /// Asks for `url` over `connections` connections at once, expecting `200`.
    ///
    /// Returns once every connection had its first answer, or its first failure.
    pub async fn start(client: &Client, url: &str, connections: usize) -> Self {
        Self::expecting(200, client, url, connections).await
    }

    /// The same, expecting `status`.
    pub async fn expecting(status: u16, client: &Client, url: &str, connections: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (first, mut firsts) = mpsc::channel(connections.max(1));
        let mut tasks = JoinSet::new();
        for _ in 0..connections {
            let (client, url, stop) = (client.clone(), url.to_owned(), Arc::clone(&stop));
            let mut worker = Worker { client, url, status, report: LoadReport::default() };
            let first = first.clone();
            tasks.spawn(async move {
                let mut connection = worker.round(None).await;
                let _started = first.send(()).await;
                while !stop.load(Ordering::Relaxed) {
                    sleep(PAUSE).await;
                    connection = worker.round(connection).await;
                }
                worker.report
            });
        }
        for _ in 0..connections {
            firsts.recv().await;
        }
        Self { stop, tasks }
    }

    /// Lets requests under way finish, and reports.
    pub async fn stop(self) -> LoadReport {
        self.stop.store(true, Ordering::Relaxed);
        let mut report = LoadReport::default();
        for part in self.tasks.join_all().await {
            report.add(part);
        }
        report
    }
}

impl LoadReport {
    /// Fails the test, with the reasons, unless every request was answered as expected.
    #[track_caller]
    pub fn assert_clean(&self) {
        assert!(self.ok > 0 && self.failed_count == 0, "{self:?}");
    }

    fn fail(&mut self, reason: String) {
        self.failed_count += 1;
        if self.failed.len() < REASONS {
            self.failed.push(reason);
        }
    }

    fn add(&mut self, other: Self) {
        self.ok += other.ok;
        self.failed_count += other.failed_count;
        self.reconnects += other.reconnects;
        self.failed.extend(other.failed);
        self.failed.truncate(REASONS);
        for (body, count) in other.by_body {
            *self.by_body.entry(body).or_default() += count;
        }
    }
}

/// One connection's share of the load.
struct Worker {
    client: Client,
    url: String,
    status: u16,
    report: LoadReport,
}

impl Worker {
    /// One request; gives the connection back when the next request may use it.
    async fn round(&mut self, connection: Option<Connection>) -> Option<Connection> {
        let mut connection = match connection {
            Some(connection) => connection,
            None => match self.client.connect(&self.url).await {
                Ok(connection) => connection,
                Err(error) => {
                    self.report.fail(format!("connect: {error}"));
                    return None;
                }
            },
        };
        match connection.get(&self.url).await {
            Ok(reply) => {
                self.count(&reply);
                if reply.closes() {
                    self.report.reconnects += 1;
                    return None;
                }
                Some(connection)
            }
            // Over HTTP/2, GOAWAY is what `Connection: close` is to HTTP/1.1.
            Err(error) if connection.is_http2() && error.unprocessed() => {
                self.report.reconnects += 1;
                None
            }
            Err(error) => {
                self.report.fail(error.to_string());
                None
            }
        }
    }

    fn count(&mut self, reply: &Reply) {
        if reply.status != self.status {
            let start: String = reply.text().chars().take(80).collect();
            self.report.fail(format!("status {}: {start}", reply.status));
            return;
        }
        self.report.ok += 1;
        let body = reply.backend().unwrap_or_else(|| reply.text());
        *self.report.by_body.entry(body).or_default() += 1;
    }
}

mod checks {
    use super::*;
    use crate::harness::backend::{Answer, Backend, RawBackend};
    use crate::harness::process::eventually;

    #[tokio::test(flavor = "multi_thread")]
    async fn failures_and_orderly_ends_are_told_apart() {
        let backend = Backend::start("steady").await;
        let client = Client::new().connect_to(backend.addr());
        let load = Load::start(&client, "http://a.test/", 3).await;
        let enough = Duration::from_secs(10);
        eventually("some load", enough, async || backend.requests() > 20).await;
        let report = load.stop().await;
        report.assert_clean();
        assert_eq!(report.by_body.keys().collect::<Vec<_>>(), ["steady"]);
        assert_eq!((report.by_body["steady"], backend.connections()), (report.ok, 3));

        let answer = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok";
        let backend = RawBackend::answering(Answer::close(answer)).await;
        let client = client.connect_to(backend.addr());
        let report = Load::start(&client, "http://a.test/", 1).await.stop().await;
        report.assert_clean();
        assert_eq!((report.by_body["ok"], report.reconnects), (report.ok, report.ok));

        let backend = RawBackend::answering(Answer::close(answer.replace("close", "keep"))).await;
        let load = Load::start(&client.connect_to(backend.addr()), "http://a.test/", 1).await;
        eventually("a second request", enough, async || backend.connections() > 1).await;
        assert!(load.stop().await.failed_count > 0);
    }
}
