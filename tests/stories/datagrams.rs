//! UDP ports that are handed on as they are: `--udp-services-configmap`.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::UdpSocket;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::harness::lockgate::{Lockgate, Start, backend, config_map};
use crate::harness::process::{SOON, eventually, free_port};

/// An endpoint that gives each datagram back, with its name before it, as often as told.
struct Echo {
    addr: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Echo {
    async fn start(name: &'static str, times: usize) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let addr = socket.local_addr().unwrap();
        let task = tokio::spawn(async move {
            let mut buffer = vec![0; 65_535];
            while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                let mut answer = format!("{name}:").into_bytes();
                answer.extend_from_slice(&buffer[..length]);
                for _ in 0..times {
                    let _ = socket.send_to(&answer, from).await;
                }
            }
        });
        Self { addr, task }
    }
}

fn at(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// A client with one address.
struct Client(UdpSocket);

impl Client {
    async fn of(port: u16) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(at(port)).await.unwrap();
        Self(socket)
    }

    /// The next datagram that comes.
    async fn hears(&self) -> Result<String, String> {
        self.hears_within(SOON).await
    }

    async fn hears_within(&self, limit: Duration) -> Result<String, String> {
        let mut buffer = vec![0; 65_535];
        match timeout(limit, self.0.recv(&mut buffer)).await {
            Ok(Ok(length)) => Ok(String::from_utf8_lossy(&buffer[..length]).into_owned()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("nothing".to_owned()),
        }
    }

    async fn asks(&self, text: &str) -> Result<String, String> {
        self.0.send(text.as_bytes()).await.map_err(|error| error.to_string())?;
        self.hears().await
    }

    /// The same, where no answer is one, too.
    async fn tries(&self, text: &str) -> Result<String, String> {
        self.0.send(text.as_bytes()).await.map_err(|error| error.to_string())?;
        self.hears_within(Duration::from_secs(2)).await
    }
}

/// Waits until a new client is answered like this.
async fn answers(port: u16, expected: &str) {
    eventually(&format!("{expected} at {port}"), SOON, async || {
        let found = Client::of(port).await.tries("x").await;
        if found.as_deref() == Ok(expected) { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

fn serving(objects: String) -> Start {
    let args = ["--udp-services-configmap=demo/udp", "--configmap=demo/settings"];
    Lockgate::with_manifests(objects).args(args)
}

fn udp(entries: &[(u16, &str)]) -> String {
    let entries: Vec<_> = entries.iter().map(|(port, to)| (port.to_string(), *to)).collect();
    let entries: Vec<_> = entries.iter().map(|(port, to)| (port.as_str(), *to)).collect();
    config_map("udp", &entries)
}

/// A Service of UDP.
fn datagrams(name: &str, addrs: &[SocketAddr]) -> String {
    backend(name, 53, addrs).replace("protocol: TCP", "protocol: UDP")
}

async fn flows(lockgate: &Lockgate) -> f64 {
    lockgate.metric("nginx_ingress_controller_nginx_process_connections", &["active"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_go_to_an_endpoint_and_answers_to_who_asked() {
    let dns = Echo::start("dns", 1).await;
    let [port, nobody] = [free_port(), free_port()];
    let map = udp(&[(port, "demo/dns:53"), (nobody, "demo/nobody:p53")]);
    let objects = map + &datagrams("dns", &[dns.addr]) + &datagrams("nobody", &[]);
    let lockgate = serving(objects + &config_map("settings", &[])).start().await;
    lockgate.no_problem().await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(Client::of(port).await);
    }
    for round in 0..3 {
        for (place, client) in clients.iter().enumerate() {
            let text = format!("{round} of {place}");
            assert_eq!(client.asks(&text).await, Ok(format!("dns:{text}")));
        }
    }
    // The largest that loopback carries with the name before it; an empty one is one, too.
    let long = "x".repeat(60_000);
    assert_eq!(clients[0].asks(&long).await.map(|it| it.len()), Ok(60_004));
    assert_eq!(clients[0].asks("").await.as_deref(), Ok("dns:"));
    // Each has had its answer: no flow is left.
    eventually("no flow", SOON, async || flows(&lockgate).await < 1.0).await;
    assert!(Client::of(nobody).await.tries("x").await.is_err());
    let dropped = lockgate.metric("lockgate_connections_dropped_total", &["stream"]).await;
    assert!(dropped >= 1.0, "{}", lockgate.metrics().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flow_has_as_many_answers_as_are_to_come() {
    let (twice, silent) = (Echo::start("twice", 2).await, Echo::start("silent", 0).await);
    let [two, none] = [free_port(), free_port()];
    let map = udp(&[(two, "demo/twice:53"), (none, "demo/silent:53")]);
    let objects = map + &datagrams("twice", &[twice.addr]) + &datagrams("silent", &[silent.addr]);
    let settings = [("proxy-stream-responses", "2"), ("proxy-stream-timeout", "5s")];
    let lockgate = serving(objects + &config_map("settings", &settings)).start().await;
    let client = Client::of(two).await;
    for text in ["a", "b"] {
        let expected = Ok(format!("twice:{text}"));
        assert_eq!(client.asks(text).await, expected);
        assert_eq!(client.hears().await, expected);
    }
    // One of which nothing comes ends when it was idle for too long.
    eventually("no flow", SOON, async || flows(&lockgate).await < 1.0).await;
    let client = Client::of(none).await;
    client.0.send(b"x").await.unwrap();
    eventually("a flow", SOON, async || flows(&lockgate).await >= 1.0).await;
    eventually("its end", SOON, async || flows(&lockgate).await < 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_come_and_go_and_flows_follow_the_service() {
    let (one, two) = (Echo::start("one", 1).await, Echo::start("two", 1).await);
    let [kept, coming] = [free_port(), free_port()];
    let objects = |entries: &[(u16, &str)], dns: SocketAddr| {
        // With one answer more to come than there is, flows stay.
        let settings = config_map("settings", &[("proxy-stream-responses", "2")]);
        udp(entries) + &datagrams("dns", &[dns]) + &settings
    };
    let lockgate = serving(objects(&[(kept, "demo/dns:53")], one.addr)).start().await;
    let client = Client::of(kept).await;
    assert_eq!(client.asks("a").await.as_deref(), Ok("one:a"));
    assert!(Client::of(coming).await.tries("x").await.is_err());
    lockgate.edit(objects(&[(kept, "demo/dns:53"), (coming, "demo/dns:53")], one.addr));
    answers(coming, "one:x").await;
    assert_eq!(client.asks("b").await.as_deref(), Ok("one:b"));
    // The endpoint is another.
    lockgate.edit(objects(&[(kept, "demo/dns:53"), (coming, "demo/dns:53")], two.addr));
    answers(coming, "two:x").await;
    assert_eq!(client.asks("c").await.as_deref(), Ok("two:c"));
    lockgate.edit(objects(&[(kept, "demo/dns:53")], two.addr));
    eventually("the port is closed", SOON, async || {
        Client::of(coming).await.tries("x").await.is_err_and(|it| it.contains("refused"))
    })
    .await;
    assert_eq!(client.asks("d").await.as_deref(), Ok("two:d"));
    lockgate.no_problem().await;
    lockgate.signal("TERM");
    assert_eq!(lockgate.wait(SOON).await, 0);
}
