//! Cross-origin questions, default backends for errors, and redirects before refusals: the same requests to
//! nginx, configured as ingress-nginx would, and to the product.
//!
//! What differs is written down, with its reason; networks, passwords and judges are compared in `access`,
//! paths and rewrites in `nginx_paths`, limits in `limits`.

use std::fmt::Write as _;
use std::net::SocketAddr;

use serde_json::Value;

use crate::harness::backend::Backend;
use crate::harness::lockgate::{Lockgate, backend, ingress, ingress_class, secret};
use crate::harness::nginx::Nginx;
use crate::harness::raw::{RawReply, exchange};

/// Method, target and further lines of a request, perhaps with its body.
type Asked = (&'static str, &'static str, &'static str);

/// What answers say that is compared.
const FIELDS: [&str; 9] = [
    "location",
    "www-authenticate",
    "content-type",
    "access-control-allow-origin",
    "access-control-allow-credentials",
    "access-control-allow-methods",
    "access-control-allow-headers",
    "access-control-expose-headers",
    "access-control-max-age",
];

/// What Services are told that is compared.
const TOLD: [&str; 9] = [
    "host",
    "authorization",
    "x-code",
    "x-format",
    "x-original-uri",
    "x-namespace",
    "x-ingress-name",
    "x-service-name",
    "x-service-port",
];

/// Status, fields, and the Service that answered with what it was told.
fn told(reply: &RawReply) -> String {
    let mut text = reply.status.unwrap_or_default().to_string();
    for name in FIELDS {
        for value in reply.headers(name) {
            // Of a page of our own the charset is said, too.
            write!(text, "; {name}: {}", value.trim_end_matches("; charset=utf-8")).unwrap();
        }
    }
    let echo: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let (Some(service), Some(target)) = (echo["backend"].as_str(), echo["target"].as_str()) else {
        return text;
    };
    write!(text, " | {service} {} {target}", echo["method"].as_str().unwrap_or_default()).unwrap();
    write!(text, "; body of {}", echo["body_bytes"]).unwrap();
    for field in echo["headers"].as_array().into_iter().flatten() {
        let [Some(name), Some(value)] = [&field[0], &field[1]].map(Value::as_str) else { continue };
        if TOLD.contains(&name) {
            write!(text, "; {name}: {value}").unwrap();
        }
    }
    text
}

async fn ask(addr: SocketAddr, host: &str, (method, target, lines): Asked) -> String {
    let end = if lines.contains("\r\n\r\n") { "" } else { "\r\n" };
    let request =
        format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n{lines}{end}");
    let reply = exchange(addr, request).await;
    // Fields are told in the order in which they were sent.
    let text = told(&reply);
    let (answer, echo) = text.split_once(" | ").unwrap_or((&text, ""));
    let mut fields: Vec<&str> = echo.split("; ").collect();
    fields[1..].sort_unstable();
    format!("{answer} | {}", fields.join("; "))
}

/// Name and value of an annotation.
type Said = (&'static str, &'static str);

const BY_PASSWORD: [Said; 3] =
    [("auth-type", "basic"), ("auth-secret", "passwords"), ("auth-realm", "Staff")];
const BY_LIST: Said = ("allowlist-source-range", "192.0.2.1");
const LIST: &str = "allow 192.0.2.1; deny all;";
const CORS: Said = ("enable-cors", "true");
const PASS: &str = "proxy_pass http://web;";

fn guarded(more: &[Said]) -> Vec<Said> {
    [&BY_PASSWORD[..], more].concat()
}

/// Each host with its locations, as ingress-nginx's template has them for its annotations.
fn hosts(passwords: &str) -> Vec<(&'static str, String, Vec<Said>)> {
    let password = format!(
        "auth_basic \"Staff\"; auth_basic_user_file {passwords}; \
         proxy_set_header Host $http_host; proxy_set_header Authorization \"\";"
    );
    let for_all = format!(
        "set $cors true; {}",
        cors("*", "add_header Access-Control-Allow-Credentials true always; ")
    );
    let listed = format!(
        "set $cors ''; \
         if ($http_origin ~* ((https://a\\.test)|(https://[A-Za-z0-9\\-]+\\.b\\.test:8443))$) {{ set $cors true; }} {}",
        cors("$http_origin", "add_header Access-Control-Expose-Headers \"X-Two\" always; ")
    );
    let own = ("default-backend", "api");
    let to = ("permanent-redirect", "http://x.test$request_uri");
    let moved = "return 301 http://x.test$request_uri;";
    vec![
        ("any", format!("location / {{ {for_all} {PASS} }}"), vec![CORS]),
        (
            "listed",
            format!("location / {{ {listed} {PASS} }}"),
            vec![
                CORS,
                ("cors-allow-origin", "https://a.test, https://*.b.test:8443"),
                ("cors-allow-credentials", "false"),
                ("cors-expose-headers", "X-Two"),
            ],
        ),
        (
            "cors-password",
            format!("location / {{ {for_all} {password} {PASS} }}"),
            guarded(&[CORS]),
        ),
        ("cors-list", format!("location / {{ {for_all} {LIST} {PASS} }}"), vec![CORS, BY_LIST]),
        ("cors-redirect", format!("location / {{ {for_all} {moved} }}"), vec![CORS, to]),
        (
            "redirect",
            format!("location / {{ {LIST} {password} {moved} }}"),
            guarded(&[BY_LIST, to]),
        ),
        (
            "rewrite",
            format!(
                "location ~* \"^/old/(.*)\" {{ {LIST} {password} \
                 rewrite \"(?i)/old/(.*)\" https://x.test/$1 break; {PASS} }} \
                 location ~* \"^/\" {{ rewrite \"(?i)/\" https://x.test/$1 break; return 404; }}"
            ),
            guarded(&[BY_LIST, ("rewrite-target", "https://x.test/$1")]),
        ),
        (
            "errors",
            errors("errors", &[404, 500, 503], PASS),
            vec![("custom-http-errors", "404,500,503"), own],
        ),
        (
            "errors-password",
            errors("errors-password", &[401, 404], &format!("{password} {PASS}")),
            guarded(&[("custom-http-errors", "401,404"), own]),
        ),
        (
            "errors-list",
            errors("errors-list", &[403], &format!("{LIST} {PASS}")),
            vec![("custom-http-errors", "403"), own, BY_LIST],
        ),
        (
            "size",
            format!("client_max_body_size 9; location / {{ {password} {PASS} }}"),
            guarded(&[("proxy-body-size", "9")]),
        ),
    ]
}

/// What is said to an origin and more; a preflight is answered.
fn cors(origin: &str, more: &str) -> String {
    let fields = format!(
        "add_header Access-Control-Allow-Origin {origin} always; {more}\
         add_header Access-Control-Allow-Methods \"GET, PUT, POST, DELETE, PATCH, OPTIONS\" always; \
         add_header Access-Control-Allow-Headers \"DNT,Keep-Alive,User-Agent,X-Requested-With,\
         If-Modified-Since,Cache-Control,Content-Type,Range,Authorization\" always; \
         add_header Access-Control-Max-Age 1728000 always;"
    );
    format!(
        "if ($request_method = OPTIONS) {{ set $cors ${{cors}}options; }} \
         if ($cors = true) {{ {fields} }} \
         if ($cors = trueoptions) {{ {fields} \
         add_header Content-Type \"text/plain charset=UTF-8\"; return 204; }}"
    )
}

/// A location whose errors of these statuses are the default backend's to answer.
fn errors(host: &str, statuses: &[u16], location: &str) -> String {
    let pages = statuses.iter().map(|it| format!("error_page {it} = @e{it}; "));
    let named = statuses.iter().map(|status| {
        format!(
            "location @e{status} {{ internal; proxy_intercept_errors off; proxy_set_header Host $http_host; \
             proxy_set_header X-Code {status}; proxy_set_header X-Format $http_accept; \
             proxy_set_header X-Original-URI $request_uri; proxy_set_header X-Namespace demo; \
             proxy_set_header X-Ingress-Name {host}; proxy_set_header X-Service-Name web; \
             proxy_set_header X-Service-Port 80; rewrite (.*) / break; proxy_pass http://api; }} "
        )
    });
    format!(
        "{} location / {{ proxy_intercept_errors on; {} {location} }}",
        named.collect::<String>(),
        pages.collect::<String>()
    )
}

const ANN: &str = "Authorization: Basic YW5uOnNlY3JldA==\r\n";
const WRONG: &str = "Authorization: Basic YW5uOndyb25n\r\n";
const A: &str = "Origin: https://a.test\r\n";

/// Hosts, and what they are asked.
const CASES: &[(&str, &[Asked])] = &[
    (
        "any",
        &[
            ("GET", "/x?y", ""),
            ("GET", "/x?y", A),
            ("POST", "/x", "Origin: null\r\nContent-Length: 0\r\n"),
            ("OPTIONS", "/x", ""),
            ("OPTIONS", "/x", "Origin: https://a.test\r\nAccess-Control-Request-Method: PUT\r\n"),
            ("GET", "/status/404", A),
            ("GET", "/status/502", A),
        ],
    ),
    (
        "listed",
        &[
            ("GET", "/", ""),
            ("GET", "/", A),
            ("OPTIONS", "/", A),
            ("OPTIONS", "/", ""),
            ("GET", "/", "Origin: https://A.test\r\n"),
            ("GET", "/", "Origin: http://a.test\r\n"),
            ("GET", "/", "Origin: https://a.test:8443\r\n"),
            ("GET", "/", "Origin: https://a.test.evil.test\r\n"),
            ("GET", "/", "Origin: https://x.b.test:8443\r\n"),
            ("GET", "/", "Origin: https://x-1.b.test:8443\r\n"),
            ("GET", "/", "Origin: https://b.test:8443\r\n"),
            ("GET", "/", "Origin: https://y.x.b.test:8443\r\n"),
            ("GET", "/", "Origin: https://x.b.test\r\n"),
            ("OPTIONS", "/", "Origin: https://other.test\r\n"),
            ("GET", "/", "Origin: xhttps://a.test\r\n"),
            ("GET", "/status/500", A),
        ],
    ),
    (
        "cors-password",
        &[
            ("OPTIONS", "/", A),
            ("GET", "/", A),
            ("GET", "/", WRONG),
            ("GET", "/", ANN),
            ("HEAD", "/", A),
        ],
    ),
    ("cors-list", &[("OPTIONS", "/", A), ("GET", "/", A)]),
    ("cors-redirect", &[("OPTIONS", "/", A), ("GET", "/x?y", A), ("GET", "/x?y", "")]),
    (
        "redirect",
        &[
            ("GET", "/x/?y=1", ""),
            ("GET", "/x", ANN),
            ("POST", "/x", "Content-Length: 0\r\n"),
            ("OPTIONS", "/x", A),
        ],
    ),
    ("rewrite", &[("GET", "/old/a?b", ""), ("GET", "/OLD/a", ANN), ("GET", "/new", "")]),
    (
        "errors",
        &[
            ("GET", "/", ""),
            ("GET", "/x/status/404?y=1", "Accept: text/html\r\nX-Code: 200\r\n"),
            ("GET", "/status/500", ""),
            ("DELETE", "/status/503", ""),
            ("POST", "/status/404", "Content-Length: 0\r\n"),
            ("GET", "/status/403", ""),
            ("GET", "/status/502", "Accept: application/json\r\n"),
            ("POST", "/", "Content-Length: 5\r\n\r\nhello"),
            ("POST", "/status/404", "Content-Length: 5\r\n\r\nhello"),
        ],
    ),
    (
        "errors-password",
        &[
            ("GET", "/x?y", "Accept: text/html\r\n"),
            ("GET", "/x", WRONG),
            ("GET", "/x", ANN),
            ("GET", "/status/404", ANN),
        ],
    ),
    ("errors-list", &[("GET", "/x", ""), ("OPTIONS", "/", A)]),
    (
        "size",
        &[
            (
                "POST",
                "/",
                "Authorization: Basic YW5uOnNlY3JldA==\r\nContent-Length: 10\r\n\r\n0123456789",
            ),
            (
                "POST",
                "/",
                "Authorization: Basic YW5uOnNlY3JldA==\r\nContent-Length: 9\r\n\r\n012345678",
            ),
            ("POST", "/", "Content-Length: 9\r\n\r\n012345678"),
            ("POST", "/", "Content-Length: 10\r\n\r\n0123456789"),
        ],
    ),
];

/// Host and place among its cases, what begins our answer, and why nginx's is another one.
const DIFFERENT: &[(&str, usize, &str, &str)] = &[
    ("listed", 14, "200; content-type: application/json |", "an origin is compared whole"),
    (
        "errors",
        8,
        "200; content-type: application/json | api POST /; body of 0;",
        "nothing is kept of a body, which is streamed, for a second reader",
    ),
    (
        "errors-password",
        1,
        "200; www-authenticate: Basic realm=\"Staff\"; content-type: application/json | api GET /; body of 0;",
        "a password is for nobody else",
    ),
    (
        "errors-password",
        3,
        "200; content-type: application/json | api GET /; body of 0;",
        "a password is for nobody else",
    ),
    ("size", 3, "401;", "who may not ask is told nothing else"),
];

/// Every answer is nginx's, and what Services are told, too.
#[tokio::test(flavor = "multi_thread")]
async fn answers_are_those_of_nginx() {
    let [web, api] = [Backend::start("web").await, Backend::start("api").await];
    let files = tempfile::tempdir().unwrap();
    let passwords = files.path().join("passwords");
    std::fs::write(&passwords, "ann:{PLAIN}secret\n").unwrap();
    let hosts = hosts(&passwords.display().to_string());
    let servers: Vec<_> = hosts.iter().map(|it| (it.0, it.1.clone())).collect();
    let nginx = Nginx::with_servers(&servers, web.addr(), api.addr()).await;
    let mut objects = ingress_class()
        + &backend("web", 80, &[web.addr()])
        + &backend("api", 80, &[api.addr()])
        + &secret("passwords", &[("auth", "ann:{PLAIN}secret")]);
    for (host, _, annotations) in &hosts {
        let path = if *host == "rewrite" { "/old/(.*)" } else { "/" };
        let paths = [(path, "ImplementationSpecific", "web", 80)];
        objects += &ingress(host, host, &paths, annotations);
    }
    let lockgate = Lockgate::with_manifests(objects).start().await;
    lockgate.no_problem().await;
    let mut wrong = Vec::new();
    for (host, cases) in CASES {
        for (place, asked) in cases.iter().enumerate() {
            let ours = ask(lockgate.http, host, *asked).await;
            let theirs = ask(nginx.addr, host, *asked).await;
            let known = DIFFERENT.iter().find(|it| (it.0, it.1) == (*host, place));
            let right = match known {
                None => ours == theirs,
                Some((_, _, expected, _)) => ours.starts_with(expected) && ours != theirs,
            };
            if !right {
                wrong.push(format!("{host} {place} {asked:?}:\n  ours  {ours}\n  nginx {theirs}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
