//! Connections that wait for their next request.

use crate::harness::backend::Backend;
use crate::harness::client::Client;
use crate::harness::lockgate::{
    Authority, Lockgate, backend, ingress_class, ingress_tls, tls_secret,
};
use crate::harness::process::{SOON, eventually};

/// What one needs then at most, in bytes. It was a seventh more while each kept what only requests need.
const LITTLE: u64 = 21 << 10;

/// They hold little more than their socket and TLS after a while, and are served as before when it comes.
#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_rest_and_wake() {
    /// More than what each of the workers waits for before it gives memory back.
    const MANY: u64 = 1500;
    let web = Backend::start("web").await;
    let authority = Authority::new();
    let objects = [
        ingress_class(),
        ingress_tls("web", "a.test", &[("/", "Prefix", "web", 80)], &[], "web-tls"),
        tls_secret("web-tls", &authority.issue(&["a.test"])),
        backend("web", 80, &[web.addr()]),
    ];
    let lockgate = Lockgate::with_manifests(objects.concat()).start().await;
    lockgate.ready().await;
    let before = lockgate.memory();
    let secure = Client::new().ca(authority.pem()).connect_to(lockgate.https);
    let plain = lockgate.client();
    let mut open = Vec::new();
    for (client, url, many) in
        [(&secure, "https://a.test/", MANY), (&plain, "http://a.test/", MANY / 100)]
    {
        for _ in 0..many {
            let mut connection = client.connect(url).await.unwrap();
            assert!(connection.get("/").await.unwrap().status < 400);
            open.push(connection);
        }
    }
    let small = async || {
        eventually("little memory", SOON, async || {
            let each = lockgate.memory().saturating_sub(before) / MANY;
            (each < LITTLE).then_some(()).ok_or_else(|| format!("{each} bytes each"))
        })
        .await;
    };
    small().await;
    // Each goes on where it was, more than once.
    for _ in 0..2 {
        for connection in &mut open {
            assert!(connection.get("/").await.unwrap().status < 400);
        }
    }
    // Who leaves while they rest is noticed, and they hold up no end.
    small().await;
    open.truncate(100);
    eventually("connections that were closed", SOON, async || {
        let name = "nginx_ingress_controller_nginx_process_connections";
        lockgate.metric(name, &[]).await < 150.0
    })
    .await;
    lockgate.signal("TERM");
    assert_eq!(lockgate.wait(SOON).await, 0);
}
