//! A long time under everything at once: what it needs after minutes of it is what it needed at first.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{interval, sleep, timeout};

use crate::harness::backend::Backend;
use crate::harness::client::{Call, Client};
use crate::harness::load::Load;
use crate::harness::lockgate::{
    Authority, Lockgate, backend, ingress, ingress_class, ingress_tls, tls_secret,
};
use crate::harness::process::{SOON, eventually};
use crate::harness::raw::{Raw, WebSocket};

/// How long all of it goes on.
const LENGTH: Duration = Duration::from_mins(10);

/// Until pools and caches have the size that the load gives them; nothing is judged before.
const WARM_UP: Duration = Duration::from_mins(1);

/// Between two looks, and between two edits of the routes.
const TICK: Duration = Duration::from_secs(1);

/// Between two acts of one actor.
const PAUSE: Duration = Duration::from_millis(10);

/// After the load: unused connections to endpoints are kept for a minute.
const COOL_DOWN: Duration = Duration::from_mins(2);

/// Reasons of failure kept for each actor.
const REASONS: usize = 3;

/// What is looked at in each tick.
#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    memory: f64,
    descriptors: f64,
    connections: f64,
}

impl Sample {
    async fn take(lockgate: &Lockgate) -> Self {
        let connections =
            lockgate.metric("nginx_ingress_controller_nginx_process_connections", &[]);
        #[expect(clippy::cast_precision_loss, reason = "no program has that many")]
        let (memory, descriptors) = (lockgate.memory() as f64, lockgate.descriptors() as f64);
        Self { memory, descriptors, connections: connections.await }
    }

    /// The middle one of each figure.
    fn median(samples: &[Self]) -> Self {
        let middle = |figure: fn(&Self) -> f64| {
            let mut figures: Vec<_> = samples.iter().map(figure).collect();
            figures.sort_by(f64::total_cmp);
            figures[figures.len() / 2]
        };
        Self {
            memory: middle(|it| it.memory),
            descriptors: middle(|it| it.descriptors),
            connections: middle(|it| it.connections),
        }
    }
}

/// Actors that each do one thing over and over.
struct Cast {
    stop: Arc<AtomicBool>,
    actors: JoinSet<Deeds>,
}

/// What one of them did.
struct Deeds {
    name: &'static str,
    count: usize,
    failed: usize,
    reasons: Vec<String>,
}

impl Cast {
    fn new() -> Self {
        Self { stop: Arc::default(), actors: JoinSet::new() }
    }

    /// One more, whose act is told how many there were before.
    fn add<A>(&mut self, name: &'static str, act: impl Fn(usize) -> A + Send + 'static)
    where
        A: Future<Output = Result<(), String>> + Send + 'static,
    {
        let stop = Arc::clone(&self.stop);
        self.actors.spawn(async move {
            let mut deeds = Deeds { name, count: 0, failed: 0, reasons: Vec::new() };
            while !stop.load(Ordering::Relaxed) {
                if let Err(reason) = act(deeds.count).await {
                    deeds.failed += 1;
                    if deeds.reasons.len() < REASONS {
                        deeds.reasons.push(reason);
                    }
                }
                deeds.count += 1;
                sleep(PAUSE).await;
            }
            deeds
        });
    }

    async fn stop(self) -> Vec<Deeds> {
        self.stop.store(true, Ordering::Relaxed);
        self.actors.join_all().await
    }
}

/// What each edit makes of the objects: other endpoints, other hosts, at times another certificate;
/// `a.test` is always there.
struct Edits {
    authority: Authority,
    secret: String,
    backends: [Backend; 2],
}

impl Edits {
    async fn new() -> Self {
        let backends = tokio::join!(Backend::start("one"), Backend::start("two")).into();
        Self { authority: Authority::new(), secret: String::new(), backends }
    }

    fn objects(&mut self, edit: usize) -> String {
        if edit.is_multiple_of(10) {
            self.secret = tls_secret("tls", &self.authority.issue(&["a.test"]));
        }
        let [one, two] = self.backends.each_ref().map(Backend::addr);
        let addrs = match edit % 3 {
            0 => vec![one, two],
            1 => vec![one],
            _ => vec![two],
        };
        let options = [
            ("nginx.ingress.kubernetes.io/proxy-body-size", "0"),
            ("nginx.ingress.kubernetes.io/ssl-redirect", "false"),
        ];
        let root = [("/", "Prefix", "web", 80)];
        let more =
            (0..edit % 7).map(|it| ingress(&format!("m{it}"), &format!("m{it}.test"), &root, &[]));
        let objects = [
            ingress_class(),
            ingress_tls("one", "a.test", &root, &options, "tls"),
            self.secret.clone(),
            backend("web", 80, &addrs),
            more.collect(),
        ];
        objects.concat()
    }
}

/// A client that leaves in the middle of something, in another way each time.
async fn leave(http: SocketAddr, https: SocketAddr, turn: usize) {
    let head = |line: &str, more: &str| format!("{line} HTTP/1.1\r\nHost: a.test\r\n{more}\r\n");
    match turn % 6 {
        // While it reads an answer that does not end.
        0 => {
            let mut raw = Raw::plain(http).await;
            raw.send(head("GET /sleepy-body", "")).await;
            raw.bytes(64).await;
        }
        // While it sends a body.
        1 => {
            let mut raw = Raw::plain(http).await;
            raw.send(head("POST /", "Content-Length: 1000000\r\n")).await;
            raw.send(vec![b'x'; 100_000]).await;
        }
        // Before there is an answer.
        2 => Raw::plain(http).await.send(head("GET /slow/300", "")).await,
        // In the middle of a head.
        3 => Raw::plain(http).await.send("GET / HTTP/1.1\r\nHost: a.te").await,
        // In the middle of a handshake.
        4 => {
            let mut tcp = TcpStream::connect(https).await.unwrap();
            let _refused = tcp.write_all(b"\x16\x03\x01\x02\x00\x01").await;
        }
        // With a stream of HTTP/2 under way.
        _ => {
            let client = Client::new().insecure().connect_to(https).http2();
            let mut connection = client.connect("https://a.test/").await.unwrap();
            let _cut = timeout(PAUSE * 5, connection.get("/sleepy-body")).await;
        }
    }
}

/// Ten minutes of mixed load, and an edit each second: memory, descriptors and connections stay flat,
/// nothing fails, and in the end everything that was opened is closed.
#[tokio::test(flavor = "multi_thread")]
async fn long_a_mixed_soak_stays_flat() {
    let mut edits = Edits::new().await;
    let lockgate = Lockgate::with_manifests(edits.objects(0)).start().await;
    let baseline = lockgate.descriptors();
    let (plain, tls) = (lockgate.client(), lockgate.tls_client());

    let mut loads = Vec::new();
    for (client, url, connections) in [
        (&plain, "http://a.test/", 3),
        (&tls, "https://a.test/bytes/20000", 2),
        (&tls.clone().http2(), "https://a.test/", 2),
    ] {
        loads.push(Load::start(client, url, connections).await);
    }
    let mut cast = Cast::new();
    for (name, client, url) in [
        ("new connections", plain.clone(), "http://a.test/"),
        ("new connections with TLS", tls.clone(), "https://a.test/"),
        ("new connections with HTTP/2", tls.clone().http2(), "https://a.test/"),
    ] {
        cast.add(name, move |_| {
            let client = client.clone();
            async move { expect(&client, Call::get(url), 0).await }
        });
    }
    for (name, client, url) in [
        ("uploads", plain, "http://a.test/"),
        ("uploads with HTTP/2", tls.clone().http2(), "https://a.test/"),
    ] {
        cast.add(name, move |turn| {
            let client = client.clone();
            let size = (turn % 5) << 18;
            async move { expect(&client, Call::post(url, vec![b'x'; size]), size).await }
        });
    }
    let (http, https) = (lockgate.http, lockgate.https);
    cast.add("WebSockets", move |turn| async move {
        let raw = match turn % 2 {
            0 => Raw::plain(http).await,
            _ => Raw::tls(https, "a.test", &[]).await.map_err(|error| error.to_string())?,
        };
        let mut socket = WebSocket::open(raw, "a.test").await;
        for text in ["one", "two", "three"] {
            if !socket.echoes(text).await {
                return Err(format!("{text:?} did not come back"));
            }
        }
        Ok(())
    });
    cast.add("clients that leave", move |turn| async move {
        leave(http, https, turn).await;
        Ok(())
    });

    let (mut samples, mut ticks) = (Vec::new(), interval(TICK));
    let count = usize::try_from(LENGTH.as_secs() / TICK.as_secs()).unwrap();
    for edit in 0..count {
        ticks.tick().await;
        lockgate.edit(edits.objects(edit));
        samples.push(Sample::take(&lockgate).await);
    }
    for load in loads {
        load.stop().await.assert_clean();
    }
    for deeds in cast.stop().await {
        let Deeds { name, count: done, failed, reasons } = deeds;
        assert!(failed == 0 && done > count, "{name}: {failed} of {done} failed: {reasons:?}");
    }

    let judged = &samples[count * usize::try_from(WARM_UP.as_secs()).unwrap() / count..];
    let thirds: Vec<_> = judged.chunks(judged.len().div_ceil(3)).collect();
    let (first, last) = (Sample::median(thirds[0]), Sample::median(thirds[2]));
    for (name, before, after, slack) in [
        ("bytes of memory", first.memory, last.memory, f64::from(8 << 20)),
        ("descriptors", first.descriptors, last.descriptors, 16.0),
        ("connections", first.connections, last.connections, 16.0),
    ] {
        eprintln!("{name}: {before} in the first third, {after} in the last");
        assert!(before > 0.0 && after <= before * 1.1 + slack, "{name}: {before}, later {after}");
    }
    eventually("descriptors as before", COOL_DOWN, async || {
        let now = lockgate.descriptors();
        if now <= baseline { Ok(()) } else { Err(format!("{now}, before {baseline}")) }
    })
    .await;
    lockgate.no_problem_within(SOON).await;
}

/// A request that must be answered with `200` by a backend that got `size` bytes.
async fn expect(client: &Client, call: Call, size: usize) -> Result<(), String> {
    let reply = client.request(call).await.map_err(|error| error.to_string())?;
    let got = reply.json()["body_bytes"].as_u64();
    if reply.status == 200 && got == Some(size as u64) {
        return Ok(());
    }
    Err(format!("{} after {got:?} of {size} bytes", reply.status))
}
