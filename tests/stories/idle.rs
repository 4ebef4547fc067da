//! Connections that wait for their next request.

use crate::harness::backend::Backend;
use crate::harness::client::Client;
use crate::harness::lockgate::{
    Authority, Lockgate, backend, ingress_class, ingress_tls, tls_secret,
};
use crate::harness::process::{SOON, eventually};

/// After a while they rest, holding little more than a socket and TLS, and are served as before when it comes.
#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_rest_and_wake() {
    const MANY: usize = 50;
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
    let secure = Client::new().ca(authority.pem()).connect_to(lockgate.https);
    let plain = lockgate.client();
    let mut open = Vec::new();
    for (client, url, many) in
        [(&secure, "https://a.test/", MANY), (&plain, "http://a.test/", MANY)]
    {
        for _ in 0..many {
            let mut connection = client.connect(url).await.unwrap();
            assert!(connection.get("/").await.unwrap().status < 400);
            open.push(connection);
        }
    }
    let resting = async |expected: usize| {
        eventually("connections at rest", SOON, async || {
            let resting = lockgate.metric("lockgate_connections_resting", &[]).await;
            let all = resting.to_string() == expected.to_string();
            all.then_some(()).ok_or(resting.to_string())
        })
        .await;
    };
    resting(open.len()).await;
    // Each goes on where it was, more than once.
    for _ in 0..2 {
        for connection in &mut open {
            assert!(connection.get("/").await.unwrap().status < 400);
        }
    }
    // Who leaves while they rest is noticed, and they hold up no end.
    resting(open.len()).await;
    open.truncate(10);
    resting(open.len()).await;
    lockgate.signal("TERM");
    assert_eq!(lockgate.wait(SOON).await, 0);
}
