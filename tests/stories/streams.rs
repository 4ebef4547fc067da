//! TCP ports that are handed on as they are: `--tcp-services-configmap`.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::harness::cluster::Cluster;
use crate::harness::lockgate::{Lockgate, Start, backend, config_map, ingress_class, service};
use crate::harness::process::{SOON, eventually, free_port};

/// An endpoint that gives back what it gets, with its name before each piece, and says when that ends.
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
    async fn start(name: &'static str) -> Self {
        Self::on(name, "127.0.0.1:0").await
    }

    async fn on(name: &'static str, at: &str) -> Self {
        let listener = TcpListener::bind(at).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream, name));
            }
        });
        Self { addr, task }
    }
}

async fn answer(mut stream: TcpStream, name: &str) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return stream.write_all(format!("{name}.").as_bytes()).await;
        }
        let mut piece = format!("{name}:").into_bytes();
        piece.extend_from_slice(&buffer[..read]);
        stream.write_all(&piece).await?;
    }
}

fn at(port: u16) -> SocketAddr {
    ([127, 0, 0, 1], port).into()
}

/// What comes back for `bytes` until the endpoint has ended, too; `None` where nobody takes the connection.
async fn exchange(port: u16, bytes: &[u8]) -> Option<String> {
    let mut stream = TcpStream::connect(at(port)).await.ok()?;
    let talk = async {
        stream.write_all(bytes).await?;
        stream.shutdown().await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = timeout(SOON, talk).await.expect("an end").ok()?;
    Some(String::from_utf8_lossy(&answer).into_owned())
}

/// Waits until connections to a port are answered like this.
async fn answers(port: u16, bytes: &[u8], expected: Option<&str>) {
    eventually(&format!("{expected:?} at {port}"), SOON, async || {
        let found = exchange(port, bytes).await;
        if found.as_deref() == expected { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

/// A connection on which pieces go to and fro.
struct Talk(TcpStream);

impl Talk {
    async fn to(port: u16) -> Self {
        Self(TcpStream::connect(at(port)).await.unwrap())
    }

    async fn says(&mut self, text: &str, expected: &str) {
        self.0.write_all(text.as_bytes()).await.unwrap();
        let mut found = vec![0; expected.len()];
        let read = timeout(SOON, self.0.read_exact(&mut found)).await.expect("an answer");
        read.unwrap_or_else(|error| panic!("{expected}: {error}"));
        assert_eq!(String::from_utf8_lossy(&found), expected);
    }
}

fn serving(objects: String) -> Start {
    Lockgate::with_manifests(objects).args(["--tcp-services-configmap=demo/tcp"])
}

/// The ConfigMap with these entries.
fn tcp(entries: &[(u16, &str)]) -> String {
    let entries: Vec<_> = entries.iter().map(|(port, to)| (port.to_string(), *to)).collect();
    let entries: Vec<_> = entries.iter().map(|(port, to)| (port.as_str(), *to)).collect();
    config_map("tcp", &entries)
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_go_both_ways_and_each_way_ends_by_itself() {
    let db = Echo::start("db").await;
    let [by_number, by_name] = [free_port(), free_port()];
    let map = tcp(&[(by_number, "demo/db:5432"), (by_name, "demo/db:p5432")]);
    let lockgate = serving(map + &backend("db", 5432, &[db.addr])).start().await;
    lockgate.no_problem().await;
    for port in [by_number, by_name] {
        assert_eq!(exchange(port, b"hello").await.as_deref(), Some("db:hellodb."));
        // The endpoint speaks on after the client has said all.
        assert_eq!(exchange(port, b"").await.as_deref(), Some("db."));
    }
    let mut talk = Talk::to(by_number).await;
    for _ in 0..3 {
        talk.says("once", "db:once").await;
    }
    let open = async || {
        lockgate.metric("nginx_ingress_controller_nginx_process_connections", &["active"]).await
    };
    eventually("it is counted", SOON, async || open().await >= 1.0).await;
    // A megabyte, of which nothing is lost.
    let long = vec![b'x'; 1 << 20];
    let found = exchange(by_name, &long).await.expect("an answer");
    assert_eq!(found.matches('x').count(), long.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_take_turns_and_one_that_refuses_is_passed_over() {
    let (one, two) = (Echo::start("one").await, Echo::on("two", "127.0.0.2:0").await);
    let [all, first, nobody] = [free_port(), free_port(), free_port()];
    let gone = at(free_port());
    let map = tcp(&[(all, "demo/all:80"), (first, "demo/first:80"), (nobody, "demo/nobody:80")]);
    let objects = [
        map,
        backend("all", 80, &[one.addr, two.addr]),
        backend("first", 80, &[gone, one.addr]),
        backend("nobody", 80, &[]),
    ];
    let objects = objects.concat();
    let lockgate = serving(objects.clone()).args(["--configmap=demo/settings"]).start().await;
    let mut names = Vec::new();
    for _ in 0..8 {
        names.push(exchange(all, b"").await.expect("an answer"));
        assert_eq!(exchange(first, b"x").await.as_deref(), Some("one:xone."));
    }
    for name in ["one.", "two."] {
        assert_eq!(names.iter().filter(|it| *it == name).count(), 4, "{names:?}");
    }
    // Without endpoints the connection is closed.
    assert!(exchange(nobody, b"x").await.is_none_or(|it| it.is_empty()));
    let dropped = lockgate.metric("lockgate_connections_dropped_total", &["stream"]).await;
    assert!(dropped > 0.0, "{}", lockgate.metrics().await);
    // Where none but the first is to be tried, half of the connections fail.
    let settings = config_map("settings", &[("proxy-stream-next-upstream", "false")]);
    lockgate.edit(objects + &settings);
    eventually("no other is tried", SOON, async || {
        let found = exchange(first, b"").await;
        found.is_none_or(|it| it.is_empty())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn proxy_headers_come_in_and_go_out() {
    let db = Echo::start("db").await;
    let [from, to, both] = [free_port(), free_port(), free_port()];
    let map = tcp(&[
        (from, "demo/db:5432:PROXY"),
        (to, "demo/db:5432::PROXY"),
        (both, "demo/db:5432:PROXY:PROXY"),
    ]);
    let objects = map + &backend("db", 5432, &[db.addr]);
    let lockgate = serving(objects.clone()).args(["--configmap=demo/settings"]).start().await;
    let header = "PROXY TCP4 192.0.2.7 198.51.100.1 4711 5432\r\n";
    let with = format!("{header}hello");
    assert_eq!(exchange(from, with.as_bytes()).await.as_deref(), Some("db:hellodb."));
    // Pieces may come to the endpoint apart.
    let heard = |text: Option<String>| text.unwrap_or_default().replace("db:", "");
    let heard_at_both = heard(exchange(both, with.as_bytes()).await);
    assert_eq!(heard_at_both, format!("{with}db."));
    let mut stream = TcpStream::connect(at(to)).await.unwrap();
    let own = stream.local_addr().unwrap();
    stream.shutdown().await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let said = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {to}\r\ndb.", own.port());
    assert_eq!(heard(Some(text)), said);
    // Without a header nobody is heard.
    for bytes in [&b"hello, this is no PROXY header\r\n"[..], b"PROXY TCP4 x\r\n"] {
        for port in [from, both] {
            let found = exchange(port, bytes).await;
            assert!(found.as_ref().is_none_or(String::is_empty), "{found:?}");
        }
    }
    let dropped = lockgate.metric("lockgate_connections_dropped_total", &["proxy_header"]).await;
    assert!(dropped >= 4.0, "{}", lockgate.metrics().await);
    // Whom nobody trusts has to send a header, and is not believed.
    let settings = config_map("settings", &[("proxy-real-ip-cidr", "203.0.113.0/24")]);
    lockgate.edit(objects.clone() + &settings);
    eventually("it is not believed", SOON, async || {
        let text = heard(exchange(both, with.as_bytes()).await);
        let own = text.starts_with("PROXY TCP4 127.0.0.1 127.0.0.1 ") && text.ends_with("hellodb.");
        if own { Ok(()) } else { Err(text) }
    })
    .await;
    // Whom the settings block is cut off, by the address that the header names.
    lockgate.edit(objects + &config_map("settings", &[("block-cidrs", "192.0.2.0/24")]));
    eventually("it is blocked", SOON, async || {
        exchange(from, with.as_bytes()).await.is_none_or(|it| it.is_empty())
    })
    .await;
    assert_eq!(heard(exchange(to, b"x").await).matches("127.0.0.1").count(), 2);
}

/// Entries come and go without a restart; connections of others, and of the entry itself, go on.
#[tokio::test(flavor = "multi_thread")]
async fn entries_come_and_go_while_connections_live() {
    let (one, two) = (Echo::start("one").await, Echo::start("two").await);
    let [kept, coming] = [free_port(), free_port()];
    let objects = |entries: &[(u16, &str)], of_one| {
        tcp(entries) + &backend("one", 80, &[of_one]) + &backend("two", 80, &[two.addr])
    };
    let lockgate = serving(objects(&[(kept, "demo/one:80")], one.addr)).start().await;
    let mut first = Talk::to(kept).await;
    first.says("a", "one:a").await;
    assert!(exchange(coming, b"").await.is_none(), "nobody listens there yet");

    lockgate.edit(objects(&[(kept, "demo/one:80"), (coming, "demo/two:80")], one.addr));
    answers(coming, b"x", Some("two:xtwo.")).await;
    let mut second = Talk::to(coming).await;
    second.says("b", "two:b").await;
    first.says("c", "one:c").await;

    // The next connection goes where the Service is now.
    lockgate.edit(objects(&[(kept, "demo/one:80"), (coming, "demo/two:80")], two.addr));
    answers(kept, b"x", Some("two:xtwo.")).await;
    first.says("d", "one:d").await;
    lockgate.edit(objects(&[(kept, "demo/one:80"), (coming, "demo/one:80")], one.addr));
    answers(coming, b"x", Some("one:xone.")).await;

    lockgate.edit(objects(&[(kept, "demo/one:80")], one.addr));
    eventually("the port is closed", SOON, async || TcpStream::connect(at(coming)).await.is_err())
        .await;
    second.says("e", "two:e").await;
    first.says("f", "one:f").await;
    lockgate.no_problem().await;

    // And again, at the port that was closed.
    lockgate.edit(objects(&[(coming, "demo/two:80")], one.addr));
    answers(coming, b"", Some("two.")).await;
    first.says("g", "one:g").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_entry_is_told_and_harms_no_other() {
    let db = Echo::start("db").await;
    let [good, bad, lost, taken] = [free_port(), free_port(), free_port(), free_port()];
    let squatter = std::net::TcpListener::bind(at(taken)).unwrap();
    let objects = |own: u16| {
        tcp(&[
            (good, "demo/db:5432"),
            (bad, "db:5432"),
            (lost, "demo/nowhere:5432"),
            (taken, "demo/db:5432"),
            (own, "demo/db:5432"),
        ]) + &backend("db", 5432, &[db.addr])
    };
    let lockgate = serving(objects(0)).start().await;
    lockgate.edit(objects(lockgate.https.port()));
    answers(good, b"x", Some("db:xdb.")).await;
    let told = eventually("four problems", SOON, async || {
        let all = lockgate.admin_json("/api/problems").await;
        let problems = all["problems"].as_array().cloned().unwrap_or_default();
        let whole = problems.len() == 4 && all.to_string().contains("itself");
        if whole { Ok(problems) } else { Err(all.to_string()) }
    })
    .await;
    for (reason, parts) in [
        ("BadStream", [bad.to_string(), "not opened".to_owned()]),
        ("BadStream", [lockgate.https.port().to_string(), "itself listens there".to_owned()]),
        ("Backend", [lost.to_string(), "demo/nowhere is not there".to_owned()]),
        ("PortTaken", [taken.to_string(), "until it can be".to_owned()]),
    ] {
        let found = told.iter().any(|it| {
            let text = it["text"].as_str().unwrap_or_default();
            it["reason"] == reason && parts.iter().all(|part| text.contains(part))
        });
        assert!(found, "{reason} {parts:?}: {told:#?}");
    }
    assert!(TcpStream::connect(at(bad)).await.is_err());
    assert!(exchange(lost, b"x").await.is_none_or(|it| it.is_empty()));
    assert_eq!(lockgate.tls_client().get("https://a.test/").await.unwrap().status, 404);
    // It is opened as soon as it can be.
    drop(squatter);
    answers(taken, b"x", Some("db:xdb.")).await;
    eventually("it is no problem any more", SOON, async || {
        let all = lockgate.admin_json("/api/problems").await;
        all["problems"].as_array().is_some_and(|it| it.len() == 3)
    })
    .await;
    // The Service comes.
    lockgate.write("more.yaml", backend("nowhere", 5432, &[db.addr]));
    answers(lost, b"x", Some("db:xdb.")).await;
}

/// What is open stays open while the process leaves, and ends when it does; nothing new is taken.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_lasts_until_the_end() {
    let db = Echo::start("db").await;
    let port = free_port();
    let objects = tcp(&[(port, "demo/db:5432")]) + &backend("db", 5432, &[db.addr]);
    let args = ["--shutdown-grace-period=0", "--drain-timeout=10s"];
    let lockgate = serving(objects).args(args).start().await;
    let mut talk = Talk::to(port).await;
    talk.says("a", "db:a").await;
    lockgate.signal("TERM");
    eventually("nothing new is taken", SOON, async || TcpStream::connect(at(port)).await.is_err())
        .await;
    talk.says("b", "db:b").await;
    let mut rest = Vec::new();
    let ended = timeout(SOON * 2, talk.0.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "it is cut at the end");
    assert_eq!(lockgate.wait(SOON).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_timeouts_hold() {
    let db = Echo::start("db").await;
    let port = free_port();
    let objects = tcp(&[(port, "demo/db:5432")]) + &backend("db", 5432, &[db.addr]);
    let settings = config_map("settings", &[("proxy-stream-timeout", "5s")]);
    let args = ["--configmap=demo/settings", "--max-connections-per-address=2"];
    let lockgate = serving(objects + &settings).args(args).start().await;
    let (mut one, mut two) = (Talk::to(port).await, Talk::to(port).await);
    one.says("a", "db:a").await;
    two.says("a", "db:a").await;
    assert!(exchange(port, b"x").await.is_none_or(|it| it.is_empty()), "a third one");
    let dropped = lockgate.metric("lockgate_connections_dropped_total", &["\"address\""]).await;
    assert!(dropped >= 1.0, "{}", lockgate.metrics().await);
    // Who says nothing for too long is cut off, and leaves room.
    let mut byte = [0];
    assert_eq!(timeout(SOON, one.0.read(&mut byte)).await.expect("an end").unwrap_or(0), 0);
    answers(port, b"x", Some("db:xdb.")).await;
}

/// In a cluster, with the rights that are shipped.
#[tokio::test(flavor = "multi_thread")]
async fn a_config_map_in_a_cluster_is_followed() {
    const MAPS: &str = "/api/v1/namespaces/lockgate/configmaps";
    /// What is read by its name is read again every 30 s, watched or not.
    const WATCHED: Duration = Duration::from_secs(15);
    let cluster = Cluster::installed().await;
    // The API server takes no loopback address for an endpoint.
    let outside = crate::harness::backend::Backend::outside("address").await.addr().ip();
    let (one, two) = (
        Echo::on("one", &format!("{outside}:0")).await,
        Echo::on("two", &format!("{outside}:0")).await,
    );
    cluster.apply(&backend("one", 80, &[one.addr])).await;
    let [first, second] = [free_port(), free_port()];
    let map = json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": { "name": "tcp-services" },
        "data": { first.to_string(): "demo/one:80" },
    });
    cluster.post_json(MAPS, &map).await;
    let start = cluster.lockgate("lockgate").await;
    let lockgate = start.args(["--tcp-services-configmap=lockgate/tcp-services"]).start().await;
    answers(first, b"x", Some("one:xone.")).await;
    lockgate.no_problem().await;
    let mut talk = Talk::to(first).await;
    talk.says("a", "one:a").await;

    // An entry comes, and its Service after it.
    let path = format!("{MAPS}/tcp-services");
    let data = json!({ "data": { second.to_string(): "demo/two:80" } });
    cluster.patch_json(&path, &data).await;
    let text = lockgate.problem("Backend").await;
    assert!(text.contains("demo/two is not there"), "{text}");
    eventually("an Event on the ConfigMap", SOON, async || {
        let args = ["get", "events", "--namespace=lockgate", "--output=json"];
        let events = cluster.kubectl(&args).await?;
        if events.contains("demo/two is not there") { Ok(()) } else { Err(events) }
    })
    .await;
    cluster.apply(&service("two", 80)).await;
    cluster.apply(&backend("two", 80, &[two.addr])).await;
    answers(second, b"x", Some("two:xtwo.")).await;
    // And goes, long before it would be looked at again.
    cluster.patch_json(&path, &json!({ "data": { second.to_string(): null } })).await;
    eventually("the port is closed", WATCHED, async || {
        TcpStream::connect(at(second)).await.is_err()
    })
    .await;
    talk.says("b", "one:b").await;
    cluster.delete(&["configmap", "tcp-services", "--namespace=lockgate"]).await;
    eventually("all are closed", SOON, async || TcpStream::connect(at(first)).await.is_err()).await;
    talk.says("c", "one:c").await;
    assert!(!lockgate.stderr().contains("forbidden"), "{}", lockgate.stderr());
}

/// The class is there, so that it is ready: what is served by HTTP is none of this file's business.
#[tokio::test(flavor = "multi_thread")]
async fn check_tells_bad_entries() {
    let map = tcp(&[(5432, "demo/db:5432"), (5433, "db:5432"), (443, "demo/db:5432")]);
    let objects = [ingress_class(), map, backend("db", 5432, &["192.0.2.1:1".parse().unwrap()])];
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("objects.yaml"), objects.concat()).unwrap();
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_lockgate"));
    crate::harness::lockgate::without_settings(&mut command);
    command.args(["check", "--tcp-services-configmap=demo/tcp", "-f"]).arg(directory.path());
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{text}");
    for part in ["ConfigMap demo/tcp: refused", "443: Lockgate itself listens there", "5433: "] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("5432: demo/db"), "{text}");
}
