//! Paths and rewrites: the same requests to nginx, configured as ingress-nginx would, and to the product;
//! what differs is written down here, with its reason.

use std::cell::Cell;
use std::net::SocketAddr;

use crate::harness::backend::Backend;
use crate::harness::lockgate::{Lockgate, backend, ingress, ingress_class};
use crate::harness::nginx::Nginx;
use crate::harness::raw::exchange;

/// What came of a request: its status, and the Service and its target, or the place it leads to.
async fn told(addr: SocketAddr, host: &str, target: &str) -> String {
    let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let reply = exchange(addr, request).await;
    let status = reply.status.unwrap_or_default();
    if let [location] = reply.headers("location")[..] {
        return format!("{status} {location}");
    }
    let echo: serde_json::Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    match (echo["backend"].as_str(), echo["target"].as_str()) {
        (Some(service), Some(target)) => format!("{status} {service} {target}"),
        _ => status.to_string(),
    }
}

/// Paths of plain hosts, and of hosts of expressions with and without rewrites.
#[tokio::test(flavor = "multi_thread")]
async fn paths_and_rewrites_are_those_of_nginx() {
    let [web, api] = [Backend::start("web").await, Backend::start("api").await];
    let nginx = Nginx::with_servers(&servers(), web.addr(), api.addr()).await;
    let lockgate = Lockgate::with_manifests(objects(web.addr(), api.addr())).start().await;
    let mut wrong = Vec::new();
    for (host, targets) in CASES {
        for target in *targets {
            let ours = told(lockgate.http, host, target).await;
            let theirs = told(nginx.addr, host, target).await;
            let known = DIFFERENT.iter().find(|it| (it.0, it.1) == (*host, *target));
            if known.map_or(&*theirs, |it| it.2) != ours || (known.is_some() && ours == theirs) {
                wrong.push(format!("{host} {target}: {ours}, nginx {theirs}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The servers that ingress-nginx would make of [`objects`].
fn servers() -> Vec<(&'static str, String)> {
    let pass = |service: &str| format!("{{ proxy_pass http://{service}; }}");
    let rewrite = |path: &str, target: &str| {
        format!("{{ rewrite \"(?i){path}\" {target} break; proxy_pass http://api; }}")
    };
    let rest = "{ return 404; }";
    vec![
        // `Prefix /`, `/a`, `/b/` and `Exact /a/x`.
        (
            "plain.test",
            format!(
                "location / {0} location /a/ {1} location = /a {1} location /b/ {1} location = /a/x {0}",
                pass("web"),
                pass("api"),
            ),
        ),
        (
            "rewrite.test",
            format!(
                "location ~* \"^/api(/|$)(.*)\" {0} location ~* \"^/old\" {1} location ~* \"^/url/(.*)\" {2} \
                 location ~* \"^/Web/\" {3} location ~* \"^/Web\" {3} location ~* \"^/\" {rest}",
                rewrite("/api(/|$)(.*)", "/$2"),
                rewrite("/old", "/new"),
                rewrite("/url/(.*)", "http://x.test/$1"),
                pass("web"),
            ),
        ),
        (
            "regex.test",
            format!(
                "location ~* \"^/id/[a-z0-9]+/x$\" {0} location ~* \"^/id/[0-9]+\" {1} \
                 location ~* \"^/[\\w.-]+@v[0-9]{{2}}\" {1} location ~* \"^/v1.0\" {1} \
                 location ~* \"^/p|/q\" {1} location ~* \"^/\" {0}",
                pass("web"),
                pass("api"),
            ),
        ),
        (
            "tail.test",
            format!(
                "location ~* \"^/t(.*)\" {} location ~* \"^/\" {rest}",
                rewrite("/t(.*)", "/in/$1")
            ),
        ),
        (
            "query.test",
            format!(
                "location ~* \"^/q/(.*)\" {} location ~* \"^/\" {rest}",
                rewrite("/q/(.*)", "/s?id=$1")
            ),
        ),
        ("to.test", "location / { return 301 http://x.test$request_uri; }".to_owned()),
        ("path.test", "location / { return 302 /new; }".to_owned()),
        (
            "root.test",
            format!(
                "if ($uri = /) {{ return 302 $scheme://$http_host/app; }} location / {}",
                pass("web")
            ),
        ),
    ]
}

fn objects(web: SocketAddr, api: SocketAddr) -> String {
    let number = Cell::new(100);
    let on = |host: &str, paths: &[(&str, &str, &str)], annotations: &[(&str, &str)]| {
        // Of two that are as old the later in the alphabet counts as older.
        number.set(number.get() - 1);
        let name = format!("i{}", number.get());
        let paths: Vec<_> = paths.iter().map(|(path, kind, to)| (*path, *kind, *to, 80)).collect();
        ingress(&name, host, &paths, annotations)
    };
    [
        ingress_class(),
        backend("web", 80, &[web]),
        backend("api", 80, &[api]),
        on(
            "plain.test",
            &[
                ("/", "Prefix", "web"),
                ("/a", "Prefix", "api"),
                ("/b/", "Prefix", "api"),
                ("/a/x", "Exact", "web"),
            ],
            &[],
        ),
        on("rewrite.test", &[("/Web", "Prefix", "web")], &[]),
        on("rewrite.test", &[("/api(/|$)(.*)", "Prefix", "api")], &[("rewrite-target", "/$2")]),
        on("rewrite.test", &[("/old", "Prefix", "api")], &[("rewrite-target", "/new")]),
        on(
            "rewrite.test",
            &[("/url/(.*)", "Prefix", "api")],
            &[("rewrite-target", "http://x.test/$1")],
        ),
        on(
            "regex.test",
            &[
                ("/id/[0-9]+", "Prefix", "api"),
                ("/id/[a-z0-9]+/x$", "Prefix", "web"),
                ("/[\\w.-]+@v[0-9]{2}", "Prefix", "api"),
                ("/v1.0", "Exact", "api"),
                ("/p|/q", "Prefix", "api"),
                ("/", "Prefix", "web"),
            ],
            &[("use-regex", "true")],
        ),
        on("tail.test", &[("/t(.*)", "Prefix", "api")], &[("rewrite-target", "/in/$1")]),
        on("query.test", &[("/q/(.*)", "Prefix", "api")], &[("rewrite-target", "/s?id=$1")]),
        on(
            "to.test",
            &[("/", "Prefix", "web")],
            &[("permanent-redirect", "http://x.test$request_uri")],
        ),
        on("path.test", &[("/", "Prefix", "web")], &[("temporal-redirect", "/new")]),
        on("root.test", &[("/", "Prefix", "web")], &[("app-root", "/app")]),
    ]
    .concat()
}

/// Hosts, and what they are asked for.
const CASES: &[(&str, &[&str])] = &[
    (
        "plain.test",
        &[
            "/",
            "/a",
            "/a/",
            "/A",
            "/ab",
            "/a/x",
            "/a/x/",
            "/a/xy",
            "/b",
            "/b?q",
            "/b/",
            "/b/c",
            "/a//b",
            "//a",
            "/%61",
            "/x/../a",
            "/x/%2e%2E/a/",
            "/./b/",
            "/a%20b",
            "/a/?x=/../y",
            "/a/b%3fc",
            "/..",
            "/../a",
            "/x/.",
            "/a;x",
            "/a+b",
            "/a%2Bb",
        ],
    ),
    (
        "rewrite.test",
        &[
            "/api",
            "/api/",
            "/api?x",
            "/API/b",
            "/apis",
            "/api/a/b/?c=d&e",
            "/api/a%20b",
            "/api/%41",
            "/api/x/../y",
            "/api/caf%C3%A9",
            "/api//b",
            "/api/%3F",
            "/api/%25",
            "/api/%2Fx",
            "/x/../api/y",
            "/old",
            "/older/x",
            "/old?x=1",
            "/url/a/b",
            "/url/a?b=c",
            "/web/x",
            "/website",
            "/WEB",
            "/",
            "/other",
        ],
    ),
    (
        "regex.test",
        &[
            "/id/1",
            "/id/1a",
            "/ID/1/x",
            "/id/1/x/",
            "/id/abc/x",
            "/id/",
            "/a-b.c@v12",
            "/a-b.c@v1",
            "/v1.0",
            "/v1x0/y",
            "/p",
            "/x/q",
            "/x/y",
        ],
    ),
    ("tail.test", &["/t", "/tx", "/t/x", "/T/x?y", "/t%20x", "/tx/y/", "/t../x"]),
    ("query.test", &["/q/1", "/q/1?x=2", "/q/a%20b", "/q/a%26b?c", "/q/"]),
    ("to.test", &["/", "/x/?y=1", "/%41"]),
    ("path.test", &["/", "/x?y"]),
    ("root.test", &["/", "/x", "//", "/?x"]),
];

/// Host, target, our answer, and why nginx's is another one.
const DIFFERENT: &[(&str, &str, &str, &str)] = &[
    ("plain.test", "/x/../a", "200 api /a", RESOLVED),
    ("plain.test", "/x/%2e%2E/a/", "200 api /a/", RESOLVED),
    ("plain.test", "/./b/", "200 api /b/", RESOLVED),
    ("plain.test", "/x/.", "200 web /x/", RESOLVED),
    ("plain.test", "/..", "200 web /", ROOT),
    ("plain.test", "/../a", "200 api /a", ROOT),
    ("tail.test", "/t../x", "400", ESCAPE),
    ("rewrite.test", "/api/%2Fx", "200 api /%2Fx", SLASH),
    ("tail.test", "/t/x", "200 api /in/x", MERGED),
    ("tail.test", "/T/x?y", "200 api /in/x?y", MERGED),
];

const RESOLVED: &str = "where a dot segment was resolved the endpoint gets what was decided on";
const ROOT: &str = "above the root is the root (RFC 3986 section 5.2.4)";
const ESCAPE: &str = "nobody leads out of the target of a rewrite";
const SLASH: &str = "an escaped slash is data";
const MERGED: &str = "what a path is rewritten to is made canonical, too";
