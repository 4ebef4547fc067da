//! How long the head of a request may be, beside nginx where that can be had.

use std::fmt::Write as _;

use crate::harness::backend::Backend;
use crate::harness::lockgate::{
    Lockgate, backend, config_map, ingress_class, ingress_tls, pair, tls_secret,
};
use crate::harness::nginx::Nginx;
use crate::harness::raw::{Raw, RawH2, exchange};

async fn serve(web: &Backend, settings: &[(&str, &str)]) -> Lockgate {
    let annotations = [("ssl-redirect", "false")];
    let objects = [
        ingress_class(),
        ingress_tls("a", "a.test", &[("/", "Prefix", "web", 80)], &annotations, "tls"),
        tls_secret("tls", &pair(&["a.test"])),
        backend("web", 80, &[web.addr()]),
        config_map("settings", settings),
    ];
    let lockgate = Lockgate::with_manifests(objects.concat());
    lockgate.args(["--configmap=demo/settings"]).start().await
}

/// A request whose first line is so long with its end, and fields that are.
fn request(line: usize, fields: &[usize]) -> String {
    let target = "a".repeat(line - "GET / HTTP/1.1\r\n".len());
    let mut head = format!("GET /{target} HTTP/1.1\r\nHost: a.test\r\n");
    for (number, length) in fields.iter().enumerate() {
        let value = "b".repeat(length - "X-1: \r\n".len());
        write!(head, "X-{number}: {value}\r\n").unwrap();
    }
    head + "\r\n"
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_as_long_as_nginx_allows() {
    const K: usize = 1 << 10;
    let web = Backend::start("web").await;
    for (first, large, cases) in [
        (
            "",
            "",
            &[
                (100, &[][..], 200),
                (8 * K, &[], 200),
                (8 * K + 1, &[], 414),
                (20 * K, &[], 414),
                (100, &[8 * K], 200),
                (100, &[8 * K + 1], 400),
                (100, &[8000; 4], 200),
                (100, &[8000; 5], 400),
                (8 * K + 1, &[8 * K + 1], 414),
            ][..],
        ),
        (
            "",
            "2 16k",
            &[
                (16 * K, &[], 200),
                (16 * K + 1, &[], 414),
                (100, &[16_000; 2], 200),
                (100, &[16_000; 3], 400),
            ],
        ),
        (
            "4k",
            "4 1k",
            &[
                (3 * K, &[], 200),
                (3 * K, &[1000; 4], 200),
                (4 * K + 1, &[], 414),
                (100, &[4 * K + 1], 400),
            ],
        ),
        ("1k", "64 4k", &[(100, &[4000; 60], 200), (100, &[4 * K + 1], 400)]),
    ] {
        let settings =
            [("client-header-buffer-size", first), ("large-client-header-buffers", large)];
        let settings: Vec<_> = settings.into_iter().filter(|it| !it.1.is_empty()).collect();
        let lockgate = serve(&web, &settings).await;
        lockgate.no_problem().await;
        let nginx = Nginx::start(|addr| {
            let first = if first.is_empty() { "1k" } else { first };
            let large = if large.is_empty() { "4 8k" } else { large };
            format!(
                "client_header_buffer_size {first}; large_client_header_buffers {large};\n\
                 server {{ listen {addr}; location / {{ return 200 ok; }} }}"
            )
        })
        .await;
        for (line, fields, expected) in cases {
            let case = format!("{first:?} {large:?}: {line}, {fields:?}");
            let bytes = request(*line, fields);
            let reply = exchange(lockgate.http, &bytes).await;
            assert_eq!(reply.status, Some(*expected), "{case}: {reply:?}");
            assert_eq!(reply.closed, *expected != 200, "{case}: {reply:?}");
            assert_eq!(exchange(nginx.addr, &bytes).await.status, Some(*expected), "nginx, {case}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_http_2_are_no_longer() {
    let web = Backend::start("web").await;
    let lockgate = serve(&web, &[("large-client-header-buffers", "2 2k")]).await;
    let [short, long] = [1500, 3000].map(|it| "x".repeat(it));
    let path = format!("/{long}");
    for (case, path, fields, expected) in [
        ("short ones", "/", &[&short, &short][..], Some(200)),
        ("a long path", &path, &[], Some(414)),
        ("a long field", "/", &[&long], Some(400)),
        ("many", "/", &[&short, &short, &short, &short], Some(400)),
    ] {
        let raw = Raw::tls(lockgate.https, "a.test", &["h2"]).await.unwrap();
        let mut h2 = RawH2::start(raw).await;
        let mut head = vec![
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", "a.test"),
            (":path", path),
        ];
        let names = ["x-one", "x-two", "x-three", "x-four"];
        head.extend(names.iter().zip(fields).map(|(name, value)| (*name, value.as_str())));
        let reply = h2.request(1, &head).await;
        assert_eq!(reply.status, expected, "{case}: {reply:?}");
    }
}

/// What would let a request take too much memory, or no browser in, is told and bounded.
#[tokio::test(flavor = "multi_thread")]
async fn limits_have_limits() {
    let web = Backend::start("web").await;
    for (large, fits, much) in
        [("4 2m", &[150_000_usize, 150_000][..], &[1_100_000_usize][..]), ("1 10", &[500], &[2000])]
    {
        let lockgate = serve(&web, &[("large-client-header-buffers", large)]).await;
        let told = lockgate.problem("BadSetting").await;
        assert!(told.contains("holds"), "{told}");
        let reply = exchange(lockgate.http, request(100, fits)).await;
        assert_eq!(reply.status, Some(200), "{large}");
        let reply = exchange(lockgate.http, request(100, much)).await;
        assert!(reply.status.is_none_or(|it| [400, 431].contains(&it)), "{large}: {reply:?}");
        assert!(reply.closed, "{large}: {reply:?}");
    }
}
