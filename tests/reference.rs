//! The reference in README.md is the tables of the source.
//!
//! `LOCKGATE_WRITE_REFERENCE=1 cargo test --test it reference` writes it anew.

use std::fmt::Write as _;
use std::path::PathBuf;

use lockgate::compile::annotation::{self, Annotation, Effect, Instead, Scope};
use lockgate::compile::config;

const BEGIN: &str = "<!-- What follows is written by a test from the tables of the source. -->\n";
const END: &str = "<!-- Here that ends. -->\n";

/// What Traefik 3.7's provider for ingress-nginx's annotations makes of those that it does not simply honour,
/// by its own documentation and source.
const TRAEFIK: &[(&str, &str)] = &[
    ("affinity-canary-behavior", "`sticky`"),
    ("affinity-mode", "`persistent`"),
    ("auth-always-set-cookie", "no"),
    ("auth-cache-duration", "no"),
    ("auth-cache-key", "no"),
    ("auth-keepalive", "no"),
    ("auth-keepalive-requests", "no"),
    ("auth-keepalive-share-vars", "no"),
    ("auth-keepalive-timeout", "no"),
    ("auth-proxy-set-headers", "no"),
    ("auth-request-redirect", "no"),
    ("auth-signin-redirect-param", "no"),
    ("auth-snippet", "in part, opt-in"),
    ("auth-tls-error-page", "no"),
    ("auth-tls-match-cn", "no"),
    ("auth-tls-secret", "refuses in the handshake, not with 400"),
    ("auth-tls-verify-depth", "no effect"),
    ("auth-url", "in part: it sees the rewritten path, other headers"),
    ("backend-protocol", "not FCGI, AUTO_HTTP"),
    ("configuration-snippet", "in part, opt-in"),
    ("connection-proxy-header", "no"),
    ("cors-allow-origin", "in part"),
    ("denylist-source-range", "no"),
    ("disable-proxy-intercept-errors", "no"),
    ("enable-cors", "in part"),
    ("enable-modsecurity", "no"),
    ("enable-opentelemetry", "no"),
    ("enable-owasp-core-rules", "no"),
    ("enable-rewrite-log", "no"),
    ("fastcgi-index", "no"),
    ("fastcgi-params-configmap", "no"),
    ("from-to-www-redirect", "not for wildcards"),
    ("http2-push-preload", "no"),
    ("limit-allowlist", "no"),
    ("limit-connections", "answers 429"),
    ("limit-rate", "no"),
    ("limit-rate-after", "no"),
    ("limit-rpm", "answers 429"),
    ("limit-rps", "answers 429"),
    ("load-balance", "ignored"),
    ("mirror-host", "no"),
    ("mirror-request-body", "no"),
    ("mirror-target", "no"),
    ("modsecurity-snippet", "no"),
    ("modsecurity-transaction-id", "no"),
    ("opentelemetry-operation-name", "no"),
    ("opentelemetry-trust-incoming-span", "no"),
    ("permanent-redirect-code", "3xx"),
    ("preserve-trailing-slash", "always kept"),
    ("proxy-buffers-number", "as a product"),
    ("proxy-busy-buffers-size", "no"),
    ("proxy-cookie-domain", "no"),
    ("proxy-cookie-path", "no"),
    ("proxy-http-version", "1.1"),
    ("proxy-next-upstream", "may ask the same server again"),
    ("proxy-redirect-from", "no"),
    ("proxy-redirect-to", "no"),
    ("proxy-request-buffering", "off by default"),
    ("proxy-ssl-ciphers", "no"),
    ("proxy-ssl-protocols", "no"),
    ("proxy-ssl-verify-depth", "no"),
    ("relative-redirects", "no"),
    ("rewrite-target", "yes, less exact for the other paths of the host"),
    ("satisfy", "no"),
    ("server-snippet", "in part, opt-in"),
    ("session-cookie-change-on-failure", "no"),
    ("session-cookie-conditional-samesite-none", "no"),
    ("ssl-ciphers", "no"),
    ("ssl-passthrough", "yes, other defaults"),
    ("ssl-prefer-server-ciphers", "no"),
    ("ssl-redirect", "yes, not where the entry point redirects"),
    ("stream-snippet", "no"),
    ("upstream-hash-by-subset", "no"),
    ("upstream-hash-by-subset-size", "no"),
    ("use-port-in-redirects", "no"),
];

/// Rows that are not ingress-nginx 1.15's own, about which nothing was looked up.
const OLDER: &[&str] = &[
    "add-base-url",
    "base-url-scheme",
    "enable-influxdb",
    "enable-opentracing",
    "global-rate-limit",
    "global-rate-limit-ignored-cidrs",
    "global-rate-limit-key",
    "global-rate-limit-window",
    "grpc-backend",
    "limit-whitelist",
    "opentracing-trust-incoming-span",
    "secure-backends",
    "session-cookie-hash",
    "whitelist-source-range",
];

fn traefik(name: &str) -> &'static str {
    let differing = TRAEFIK.iter().find(|(it, _)| *it == name).map(|(_, text)| *text);
    differing.unwrap_or(if OLDER.contains(&name) { "" } else { "yes" })
}

#[test]
fn whatever_is_said_of_traefik_is_about_a_row() {
    let names = TRAEFIK.iter().map(|(it, _)| it).chain(OLDER);
    for name in names {
        assert!(annotation::row(name).is_some(), "{name}");
    }
}

fn cell(text: &str) -> String {
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    text.replace('|', "\\|")
}

fn state(row: &Annotation) -> &'static str {
    match row.effect {
        Effect::Sets(_) => "yes",
        Effect::Guards(_) => "yes; what cannot be read: 503",
        Effect::Snippet(_) => "with `--translate-snippets`, in part; else 503",
        Effect::Moot => "nothing to do",
        Effect::Missing { instead: Instead::Serve, .. } => "no: told, and served without",
        Effect::Missing { instead: Instead::Refuse, .. } => "no: told, and 503",
    }
}

fn scope(row: &Annotation) -> &'static str {
    match row.scope {
        Scope::Path => "its paths",
        Scope::Host => "the host",
        Scope::Backend => "the Service's port",
    }
}

fn reference() -> String {
    let mut out = String::from(BEGIN);
    for chapter in annotation::TABLE {
        let _ = write!(
            out,
            "\n#### {}\n\n| annotation | default | holds for | honoured | Traefik 3.7 | meaning |\n|---|---|---|---|---|---|\n",
            chapter.title
        );
        for row in chapter.rows {
            let name = row.name;
            let default =
                if row.default.is_empty() { String::new() } else { format!("`{}`", row.default) };
            let _ = writeln!(
                out,
                "| <a id=\"annotation-{name}\"></a>`{name}` | {} | {} | {} | {} | {} |",
                cell(&default),
                scope(row),
                state(row),
                traefik(name),
                cell(row.help)
            );
        }
    }
    let _ = write!(out, "\n#### Keys of the ConfigMap\n\n| key | meaning |\n|---|---|\n");
    for key in config::keys() {
        let name = key.name;
        let _ = writeln!(
            out,
            "| <a id=\"key-{name}\"></a>`{name}` | {} |",
            cell(&key.help.replace(
                "Default of the annotation.",
                &format!("Default of [the annotation](#annotation-{name}).")
            ))
        );
    }
    let _ = writeln!(
        out,
        "\nKnown and without effect, because they tune nginx itself: {}.",
        config::without_effect().map(|it| format!("`{it}`")).collect::<Vec<_>>().join(", ")
    );
    let told: Vec<_> = config::not_built().collect();
    if !told.is_empty() {
        let told = told.iter().map(|it| format!("`{it}`")).collect::<Vec<_>>().join(", ");
        let _ = writeln!(
            out,
            "\nKnown and not built; a value that asks for something is told: {told}."
        );
    }
    out.push_str(END);
    out
}

#[test]
fn the_readme_shows_the_tables() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let readme = std::fs::read_to_string(&path).unwrap();
    let begin = readme.find(BEGIN).expect("the reference begins");
    let end = readme.find(END).expect("the reference ends") + END.len();
    let fresh = reference();
    if std::env::var_os("LOCKGATE_WRITE_REFERENCE").is_some() {
        let written = format!("{}{fresh}{}", &readme[..begin], &readme[end..]);
        std::fs::write(&path, written).unwrap();
        return;
    }
    let same = readme[begin..end] == fresh;
    assert!(same, "README.md is behind: run this test with LOCKGATE_WRITE_REFERENCE=1");
}
