//! Every annotation with a value that can be read and one that cannot: what comes of each, and that the
//! default that the reference names is what holds where nothing is written.
//!
//! A row of the table without its examples here fails a test.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::Method;
use lockgate::compile::annotation::{self, Effect, Verdict};
use lockgate::compile::objects::{
    Endpoint, Ingress, Objects, Path, Port, Rule, Service, ServicePort, Slice,
};
use lockgate::compile::{Policy, compile};
use lockgate::model::access::CacheTimes;
use lockgate::model::client_tls::Verify;
use lockgate::model::name::ObjectName;
use lockgate::model::options::Options;
use lockgate::model::phrase::Phrase;
use lockgate::model::plan::{Route, Target};
use lockgate::model::problem::Problem;
use lockgate::model::rate::Rates;
use lockgate::model::sharing::{HeaderPattern, Mode, SessionCookie, Split};

use Verdict::{Differs, Refused, Works};

/// A value that can be read, one that cannot, and what comes of that: `Differs` where the default holds,
/// `Refused` where the paths answer 503, `Works` where any value will do or nobody needs it.
///
/// Without the first it is not built: the second asks for it.
type Example = (&'static str, &'static str, &'static str, Verdict);

const REDIRECTS: &[Example] = &[
    ("ssl-redirect", "false", "maybe", Differs),
    ("force-ssl-redirect", "true", "2", Differs),
    ("use-port-in-redirects", "true", "on", Differs),
    ("preserve-trailing-slash", "true", "on", Differs),
    ("app-root", "/app", "https://a.test/", Differs),
    ("permanent-redirect", "https://a.test$request_uri", "a.test", Differs),
    ("permanent-redirect-code", "308", "309", Differs),
    ("temporal-redirect", "/a", "/$nope", Differs),
    ("temporal-redirect-code", "307", "308", Differs),
    ("from-to-www-redirect", "true", "yes", Differs),
    ("relative-redirects", "true", "yes", Differs),
];

const PATHS: &[Example] = &[
    ("use-regex", "true", "yes", Refused),
    ("rewrite-target", "/$1", "/a b", Refused),
    ("x-forwarded-prefix", "/api", "/a b", Differs),
    ("server-alias", "b.test, ~^c", "~(", Differs),
    ("upstream-vhost", "b.test", "b test", Differs),
];

const ACCESS: &[Example] = &[
    ("allowlist-source-range", "10.0.0.0/8,192.0.2.1", "10.0.0.0/33", Refused),
    ("whitelist-source-range", "10.0.0.0/8", ",", Refused),
    ("denylist-source-range", "2001:db8::/32", "all", Refused),
    ("satisfy", "any", "some", Refused),
    ("auth-type", "basic", "digest", Refused),
    ("auth-secret", "users", "a b", Works),
    ("auth-secret-type", "auth-map", "file", Refused),
    ("auth-realm", "The shop", "a\nb", Refused),
    ("auth-url", "https://auth.test/ask?for=$host", "http://au..th/", Refused),
    ("auth-signin", "https://auth.test/start?rd=$escaped_request_uri", "https://a b/", Refused),
    ("auth-signin-redirect-param", "orig", "a b", Differs),
    ("auth-response-headers", "X-User, X-Email", "a b", Refused),
    ("auth-method", "POST", "BREW", Refused),
    ("auth-request-redirect", "https://$host$request_uri", "$nope", Differs),
    ("auth-proxy-set-headers", "shop/fields", "a b", Works),
    ("auth-always-set-cookie", "true", "yes", Differs),
    ("auth-cache-key", "$remote_addr", "$nope", Differs),
    ("auth-cache-duration", "200 1m, 401 5s", "200 often", Refused),
    ("auth-keepalive", "10", "ten", Works),
    ("auth-keepalive-requests", "10", "ten", Works),
    ("auth-keepalive-timeout", "10", "ten", Works),
    ("auth-keepalive-share-vars", "true", "yes", Works),
    ("enable-global-auth", "false", "no", Differs),
];

const CLIENT_TLS: &[Example] = &[
    ("auth-tls-secret", "shop/ca", "a/b/c", Refused),
    ("auth-tls-verify-client", "optional_no_ca", "yes", Refused),
    ("auth-tls-verify-depth", "2", "-1", Refused),
    ("auth-tls-error-page", "https://a.test/why", "later", Differs),
    ("auth-tls-pass-certificate-to-upstream", "true", "perhaps", Differs),
    ("auth-tls-match-cn", "CN=(a|b)", "O=Acme", Refused),
    ("ssl-passthrough", "true", "perhaps", Refused),
    ("ssl-ciphers", "", "HIGH", Differs),
    ("ssl-prefer-server-ciphers", "false", "maybe", Works),
];

const ENDPOINTS: &[Example] = &[
    ("backend-protocol", "grpcs", "FCGI", Refused),
    ("secure-backends", "true", "yes", Refused),
    ("grpc-backend", "true", "yes", Refused),
    ("service-upstream", "true", "yes", Differs),
    ("load-balance", "ewma", "random", Differs),
    ("upstream-hash-by", "$request_uri", "$nope", Differs),
    ("upstream-hash-by-subset", "true", "yes", Differs),
    ("upstream-hash-by-subset-size", "2", "0", Differs),
    ("proxy-next-upstream", "error http_502 non_idempotent", "sometimes", Differs),
    ("proxy-next-upstream-tries", "0", "many", Differs),
    ("proxy-next-upstream-timeout", "10", "5s", Differs),
    ("proxy-ssl-secret", "shop/ca", "a b", Works),
    ("proxy-ssl-verify", "on", "true", Refused),
    ("proxy-ssl-name", "in.test", "a b", Refused),
    ("proxy-ssl-server-name", "on", "true", Differs),
    ("proxy-ssl-protocols", "TLSv1.3", "SSLv3", Refused),
    ("proxy-ssl-verify-depth", "1", "2", Differs),
    ("proxy-ssl-ciphers", "", "HIGH", Differs),
    ("proxy-http-version", "1.1", "1.0", Differs),
    ("connection-proxy-header", "close", "upgrade", Differs),
    ("fastcgi-index", "", "index.php", Differs),
    ("fastcgi-params-configmap", "", "shop/params", Differs),
];

const SHARING: &[Example] = &[
    ("canary", "true", "yes", Differs),
    ("canary-by-header", "X-Canary", "a b", Differs),
    ("canary-by-header-value", "v2", "any text", Works),
    ("canary-by-header-pattern", "^v[23]$", "(?!a)", Differs),
    ("canary-by-cookie", "canary", "a b", Differs),
    ("canary-weight", "10", "half", Differs),
    ("canary-weight-total", "1000", "all", Differs),
    ("affinity", "cookie", "header", Differs),
    ("affinity-mode", "persistent", "sticky", Differs),
    ("affinity-canary-behavior", "legacy", "none", Differs),
    ("session-cookie-name", "route", "a b", Differs),
    ("session-cookie-path", "/app", "app", Differs),
    ("session-cookie-domain", "a.test", "a b", Differs),
    ("session-cookie-samesite", "Lax", "Sometimes", Differs),
    ("session-cookie-conditional-samesite-none", "true", "yes", Differs),
    ("session-cookie-secure", "true", "maybe", Differs),
    ("session-cookie-expires", "3600", "soon", Differs),
    ("session-cookie-max-age", "3600", "soon", Differs),
    ("session-cookie-change-on-failure", "true", "yes", Differs),
    ("session-cookie-hash", "sha1", "any text", Works),
];

const BODIES: &[Example] = &[
    ("proxy-body-size", "0", "15r", Differs),
    ("client-body-buffer-size", "1m", "15r", Works),
    ("proxy-connect-timeout", "10", "50k", Differs),
    ("proxy-read-timeout", "600", "60s", Differs),
    ("proxy-send-timeout", "600", "0", Differs),
    ("proxy-request-buffering", "off", "false", Differs),
    ("proxy-buffering", "on", "true", Differs),
    ("proxy-buffers-number", "8", "-4", Differs),
    ("proxy-buffer-size", "16k", "large", Differs),
    ("proxy-busy-buffers-size", "16k", "large", Works),
    ("proxy-max-temp-file-size", "0", "large", Works),
];

const ANSWERS: &[Example] = &[
    ("enable-cors", "true", "yes", Differs),
    ("cors-allow-origin", "https://*.a.test:8443, capacitor://localhost", "a.test", Works),
    ("cors-allow-methods", "GET, POST", "GET;POST", Differs),
    ("cors-allow-headers", "X-One, X_Two", "X-One: 1", Differs),
    ("cors-expose-headers", "*", "X-One: 1", Differs),
    ("cors-allow-credentials", "false", "no", Differs),
    ("cors-max-age", "600", "10m", Differs),
    ("custom-headers", "shop/fields", "a b", Works),
    ("custom-http-errors", "404,503", "404,200", Differs),
    ("disable-proxy-intercept-errors", "true", "yes", Differs),
    ("default-backend", "web", "nobody", Works),
    ("proxy-cookie-domain", "in.test out.test", "in.test", Differs),
    ("proxy-cookie-path", "/app/ /", "~^/a /b", Differs),
    ("proxy-redirect-from", "http://in.test/", "http://$host/", Differs),
    ("proxy-redirect-to", "https://a.test/", "https://$host/", Differs),
    ("http2-push-preload", "true", "yes", Works),
];

const LIMITS: &[Example] = &[
    ("limit-rps", "5", "many", Refused),
    ("limit-rpm", "300", "5.5", Refused),
    ("limit-connections", "10", "ten", Refused),
    ("limit-burst-multiplier", "3", "-1", Differs),
    ("limit-allowlist", "10.0.0.0/8", "10.0.0.0/33", Refused),
    ("limit-whitelist", "10.0.0.0/8", "all", Refused),
    ("limit-rate", "100", "fast", Differs),
    ("limit-rate-after", "100", "late", Differs),
];

const COPIES: &[Example] = &[
    ("mirror-target", "https://test.test$request_uri", "test.test", Differs),
    ("mirror-request-body", "off", "false", Differs),
    ("mirror-host", "test.test", "a b", Differs),
    ("enable-access-log", "false", "off", Differs),
    ("enable-rewrite-log", "true", "on", Works),
    ("enable-opentelemetry", "true", "on", Differs),
    ("opentelemetry-operation-name", "$request_method $host", "$nope", Differs),
    ("opentelemetry-trust-incoming-span", "false", "maybe", Differs),
];

const REFUSED: &[Example] = &[
    ("configuration-snippet", "more_set_headers \"X-One: 1\";", "proxy_pass http://a;", Refused),
    ("server-snippet", "location /internal { deny all; }", "root /etc;", Refused),
    ("auth-snippet", "proxy_set_header X-One 1;", "deny all;", Refused),
    ("stream-snippet", "", "deny all;", Refused),
    ("modsecurity-snippet", "", "SecRuleEngine On", Refused),
    ("modsecurity-transaction-id", "", "$request_id", Refused),
    ("enable-modsecurity", "false", "true", Refused),
    ("enable-owasp-core-rules", "false", "true", Refused),
    ("global-rate-limit", "", "100", Differs),
    ("global-rate-limit-window", "", "1m", Differs),
    ("global-rate-limit-key", "", "$remote_addr", Differs),
    ("global-rate-limit-ignored-cidrs", "", "10.0.0.0/8", Differs),
    ("add-base-url", "", "true", Differs),
    ("base-url-scheme", "", "https", Differs),
    ("enable-opentracing", "true", "yes", Works),
    ("opentracing-trust-incoming-span", "true", "yes", Works),
    ("enable-influxdb", "true", "yes", Works),
];

/// Those that can be read whatever they say, and are found bad when what they name is looked up.
const LOOKED_UP: &[(&str, Verdict)] = &[
    // It says nothing by itself: somebody meant to be asked for a password.
    ("auth-secret", Refused),
    ("custom-headers", Refused),
    ("default-backend", Differs),
];

/// An annotation, those without which it means nothing, and what comes of a bad value then.
type Together = (&'static str, &'static [(&'static str, &'static str)], Verdict);

const TOGETHER: &[Together] = &[
    ("auth-secret", &[("auth-type", "basic")], Refused),
    ("auth-proxy-set-headers", &[("auth-url", "http://192.0.2.1/")], Refused),
    ("proxy-ssl-secret", &[("backend-protocol", "HTTPS")], Refused),
    ("cors-allow-origin", &[("enable-cors", "true")], Differs),
];

/// Defaults that are words, because no value says it.
const WORDS: [&str; 2] = ["session-cookie-path", "session-cookie-secure"];

fn examples() -> impl Iterator<Item = &'static Example> {
    [
        REDIRECTS, PATHS, ACCESS, CLIENT_TLS, ENDPOINTS, SHARING, BODIES, ANSWERS, LIMITS, COPIES,
        REFUSED,
    ]
    .into_iter()
    .flatten()
}

fn policy() -> Policy {
    Policy { watch_without_class: true, translate_snippets: true, ..Policy::default() }
}

fn ingress(annotations: &[(&str, &str)]) -> Ingress {
    let backend = Some(ServicePort { service: "web".into(), port: "80".into() });
    let path = Path { path: "/".into(), exact: false, backend };
    Ingress {
        annotations: annotations
            .iter()
            .map(|(name, value)| (format!("nginx.ingress.kubernetes.io/{name}"), *value))
            .collect(),
        rules: [Rule { host: "a.test".into(), paths: Some([path].into()) }].into(),
        ..Ingress::default()
    }
}

fn judged(name: &str, value: &str) -> (Verdict, String) {
    let ingress = ingress(&[(name, value)]);
    let judged = annotation::judge(&ingress, &policy(), &Options::default());
    let [judged] = &judged[..] else { panic!("{name}: {judged:?}") };
    (judged.verdict, judged.text.clone())
}

/// The only route of an Ingress with these annotations, where it has one, and what was told.
fn compiled(annotations: &[(&str, &str)]) -> (Option<Route>, Vec<Problem>) {
    let mut objects = Objects::default();
    let name = |name| ObjectName::new("shop", name);
    objects.ingresses.insert(name("web"), Arc::new(ingress(annotations)));
    let port = Port { name: "http".into(), port: 80, target: "8080".into(), udp: false };
    let service = Service { ports: [port].into(), ..Service::default() };
    objects.services.insert(name("web"), Arc::new(service));
    let endpoint = Endpoint { address: [10, 0, 0, 1].into(), ready: true, lingering: false };
    let slice = Slice {
        service: "web".into(),
        ports: Some([("http".into(), 8080)].into()),
        endpoints: [endpoint].into(),
        ..Slice::default()
    };
    objects.slices.insert(name("web-1"), Arc::new(slice));
    let (plan, problems) = compile(&objects, &policy());
    let host = plan.hosts.values().find(|it| !it.paths.is_empty());
    let route = host.and_then(|it| it.paths.values().next()).cloned();
    (route.map(|it| Route::clone(&it)), problems)
}

/// A new row needs its line here.
#[test]
fn every_row_has_its_examples() {
    let rows: BTreeSet<&str> = annotation::rows().map(|it| it.name).collect();
    let shown: BTreeSet<&str> = examples().map(|it| it.0).collect();
    assert_eq!(rows, shown);
    assert_eq!(shown.len(), examples().count(), "one of them is there twice");
}

/// What can be read works, and says nothing; of what cannot the owner is told what it should have been.
#[test]
fn a_value_is_judged_as_the_row_says() {
    for (name, good, bad, expected) in examples() {
        let (verdict, text) = judged(name, good);
        assert_eq!((verdict, &*text), (Works, ""), "{name}: {good}");
        let (verdict, text) = judged(name, bad);
        assert_eq!(verdict, *expected, "{name}: {bad}: {text}");
        assert_eq!(text.contains(name), *expected != Works, "{name}: {bad}: {text}");
        let closed = text.contains("answer 503");
        assert_eq!(closed, *expected == Refused, "{name}: {bad}: {text}");
    }
}

/// An annotation that is there without a value is not there.
#[test]
fn an_empty_value_is_none() {
    for row in annotation::rows() {
        for value in ["", " \n"] {
            assert_eq!(judged(row.name, value), (Works, String::new()), "{}", row.name);
        }
    }
}

/// The plan holds what was judged: 503 where it says so, and else the Service, as if it were not there.
#[test]
fn a_bad_value_closes_or_changes_nothing() {
    let (plain, problems) = compiled(&[]);
    assert!(problems.is_empty(), "{problems:?}");
    let plain = plain.expect("a route");
    let mut wrong = Vec::new();
    for (name, _, bad, verdict) in examples() {
        let found = LOOKED_UP.iter().find(|it| it.0 == *name);
        let expected = found.map_or(*verdict, |it| it.1);
        let (route, problems) = compiled(&[(name, bad)]);
        let route = route.unwrap_or_else(|| panic!("{name}: {bad}: no route"));
        let refused = matches!(route.target, Target::Refused(_));
        let told = problems.iter().any(|it| it.text.contains(name));
        let unchanged = settled(&route.options) == *plain.options && route.target == plain.target;
        let right = match expected {
            Refused => refused && told,
            Differs => !refused && told && (found.is_some() || unchanged),
            Works => !refused && problems.iter().all(|it| it.reason != "BadAnnotation"),
        };
        if !right {
            wrong.push(format!("{name}: {bad}: not {expected}: {:?}: {problems:?}", route.target));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What names something that is not there is as bad as what cannot be read.
#[test]
fn a_bad_name_is_told_where_it_matters() {
    for (name, with, expected) in TOGETHER {
        let (_, _, bad, _) = examples().find(|it| it.0 == *name).expect("an example");
        let annotations = [&[(*name, *bad)], *with].concat();
        let (route, problems) = compiled(&annotations);
        let refused = route.is_some_and(|it| matches!(it.target, Target::Refused(_)));
        assert_eq!(refused, *expected == Refused, "{name}: {bad}: {problems:?}");
        let told = problems.iter().any(|it| it.text.contains(bad));
        assert!(told, "{name}: {bad}: {problems:?}");
    }
}

/// The default that the reference shows is what holds without the annotation.
#[test]
fn the_default_that_is_written_is_the_default() {
    for row in annotation::rows() {
        if row.default.is_empty() || WORDS.contains(&row.name) {
            continue;
        }
        assert_eq!(judged(row.name, row.default), (Works, String::new()), "{}", row.name);
        if let Effect::Sets(read) | Effect::Guards(read) = row.effect {
            let mut options = Options::default();
            read(row.default, &mut options).unwrap_or_else(|it| panic!("{}: {it}", row.name));
            assert_eq!(settled(&options), Options::default(), "{}", row.name);
        }
    }
}

/// The same where what is written and what holds anyway are not told apart.
fn settled(options: &Options) -> Options {
    let mut options = options.clone();
    if let Some(routing) = &mut options.routing {
        routing.permanent_code.take_if(|it| *it == 301);
        routing.temporal_code.take_if(|it| *it == 302);
    }
    if let Some(access) = &mut options.access {
        access.map.take_if(|it| !*it);
        let judge = &mut access.judge;
        judge.signin_param.take_if(|it| **it == *"rd");
        // Where it is written a judge is told a little more.
        judge.method.take_if(|it| *it == Method::GET);
        let redirect = Phrase::parse("$request_uri").ok();
        judge.request_redirect.take_if(|it| Some(&*it) == redirect.as_ref());
        judge.always_set_cookie.take_if(|it| !*it);
        judge.cache_times.take_if(|it| *it == CacheTimes::default());
    }
    if let Some(tls) = &mut options.client_tls {
        tls.verify.take_if(|it| *it == Verify::On);
        tls.depth.take_if(|it| *it == 1);
    }
    if let Some(sharing) = &mut options.sharing {
        if sharing.split.out_of() == Split::LEAST_TOTAL {
            sharing.split.total = 0;
        }
        // Where it cannot be read it is kept as that: nobody is led to the canary by it.
        sharing.split.pattern.take_if(|it| *it == HeaderPattern::Unreadable);
        sharing.mode.take_if(|it| *it == Mode::default());
        sharing.subset_size.take_if(|it| *it == 3);
        sharing.cookie.name.take_if(|it| **it == *SessionCookie::NAME);
    }
    if let Some(rates) = &mut options.rates {
        rates.multiplier.take_if(|it| *it == Rates::BURST);
    }
    without_nothing(&mut options.proxy_ssl);
    without_nothing(&mut options.routing);
    without_nothing(&mut options.access);
    without_nothing(&mut options.answering);
    without_nothing(&mut options.sharing);
    without_nothing(&mut options.client_tls);
    without_nothing(&mut options.rates);
    without_nothing(&mut options.copies);
    without_nothing(&mut options.snippets);
    options
}

fn without_nothing<T: Default + PartialEq>(group: &mut Option<Box<T>>) {
    group.take_if(|it| **it == T::default());
}
