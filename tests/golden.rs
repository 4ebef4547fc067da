//! Manifests in, the plan as text out: what `compile` makes of the Ingress API, one rule a file.
//!
//! A case is `cases/NAME.yaml`, and beside it `cases/NAME.txt`, which `UPDATE_EXPECT=1` writes. The
//! comments on top of the manifests say what is pinned, and may hold lines such as these:
//!
//! ```text
//! # flags: --issuer=acme --disable-catch-all     what differs from the defaults
//! # services: shop/web shop/api                  Services with port 80 and one endpoint each
//! # unreadable: Secret                           kinds that may not be listed
//! # ask: a.test/x                                shows the route of a request
//! # hello: a.test                                shows the certificate of a handshake
//! ```
//!
//! `${CERT a.test b.test}` and `${KEY a.test b.test}` stand for a self-signed pair, in base64;
//! `CN=a.test` makes one without alternative names. So that cases stay small, Ingresses without a
//! class are ours unless a case says `--watch-ingress-without-class=false`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use expect_test::expect_file;
use lockgate::compile::annotation;
use lockgate::compile::objects::{
    ConfigMap, Endpoint, Ingress, Objects, Path as RulePath, Port, Rule, Secret, Service,
    ServicePort, Slice, Tls,
};
use lockgate::compile::{IssuerKind, Policy, compile};
use lockgate::live::table::Match;
use lockgate::live::{Live, WayId};
use lockgate::model::answering::{Answers, Field, FieldValue, Fields, Replacement};
use lockgate::model::client_tls::{self, HostTls, Verify};
use lockgate::model::copies::Mirror;
use lockgate::model::cors::Origins;
use lockgate::model::guard::{Basic, Guard, Judge};
use lockgate::model::host::{Authority, HostPattern};
use lockgate::model::keypair::Keypair;
use lockgate::model::name::{Kind, ObjectName};
use lockgate::model::options::Options;
use lockgate::model::path::{PathPattern, canonical};
use lockgate::model::phrase::Phrase;
use lockgate::model::plan::{Backend, BackendId, Certificate, Host, Plan, Route, Target, Wanted};
use lockgate::model::problem::Problem;
use lockgate::model::settings::{Settings, Trust};
use lockgate::model::sharing::{Mode, Split};
use lockgate::model::stream::Stream;
use lockgate::model::texts::Texts;
use lockgate::model::trace::Spans;
use lockgate::model::upstream::Balance;
use lockgate::store::{Directory, Store};
use proptest::prelude::*;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};

/// The cases, read once: their pairs are the same wherever they are compared.
static CASES: LazyLock<Vec<Case>> = LazyLock::new(|| {
    let mut pairs = Pairs::default();
    names().into_iter().map(|name| Case::read(name, &mut pairs)).collect()
});

/// Every case gives the text beside it.
#[tokio::test]
async fn cases_come_out_as_written() {
    let mut failed = Vec::new();
    for case in &*CASES {
        let text = case.render(&case.load(&case.documents()).await);
        let expected = expect_file![cases().join(format!("{}.txt", case.name))];
        if catch_unwind(AssertUnwindSafe(|| expected.assert_eq(&text))).is_err() {
            failed.push(&*case.name);
        }
    }
    assert!(failed.is_empty(), "{} cases came out otherwise: {failed:?}", failed.len());
}

/// A text without manifests is a case that nobody runs.
#[test]
fn every_text_has_its_manifests() {
    for file in std::fs::read_dir(cases()).unwrap().flatten() {
        assert!(file.path().with_extension("yaml").exists(), "{}", file.path().display());
    }
}

/// What protects and is not built closes the paths of its Ingress, and nobody else's.
#[test]
fn every_security_annotation_without_an_implementation_refuses() {
    for (name, value) in [
        ("auth-snippet", "proxy_set_header a b;"),
        ("enable-modsecurity", "true"),
        ("enable-owasp-core-rules", "true"),
        ("modsecurity-transaction-id", "$request_id"),
        ("modsecurity-snippet", "SecRuleEngine On"),
        ("configuration-snippet", "deny all;"),
        ("server-snippet", "deny all;"),
        ("stream-snippet", "deny all;"),
    ] {
        let mut objects = Objects::default();
        let name = format!("nginx.ingress.kubernetes.io/{name}");
        add(&mut objects, "shop", "guarded", &[(&name, value)], "a.test", "/");
        add(&mut objects, "shop", "open", &[], "a.test", "/open");
        let (plan, problems) = compile(&objects, &policy());
        for route in plan.hosts.values().flat_map(|it| it.paths.values()) {
            let refused = matches!(route.target, Target::Refused(_));
            assert_eq!(refused, *route.ingress.name == *"guarded", "{name}: {value}: {route:?}");
        }
        let told = |it: &Problem| {
            ["NotSupported", "Snippet"].contains(&it.reason) && *it.object.name == *"guarded"
        };
        assert!(problems.iter().any(told), "{name}: {value}: {problems:?}");
    }
}

/// A protection for everything closes everything.
#[test]
fn every_security_setting_without_an_implementation_refuses() {
    for (key, value) in [
        ("enable-modsecurity", "true"),
        ("enable-owasp-modsecurity-crs", "true"),
        ("modsecurity-snippet", "SecRuleEngine On"),
    ] {
        let mut objects = Objects::default();
        add(&mut objects, "shop", "web", &[], "a.test", "/a");
        let name = ObjectName::new("lockgate", "settings");
        let data = BTreeMap::from([(key.into(), value.into())]);
        objects.config_maps.insert(name.clone(), Arc::new(ConfigMap { data }));
        let default_backend = Some(ObjectName::new("shop", "web"));
        let policy = Policy { config_map: Some(name), default_backend, ..policy() };
        let (plan, problems) = compile(&objects, &policy);
        let routes = plan.hosts.values().flat_map(|it| it.paths.values()).chain(&plan.fallback);
        for route in routes {
            assert!(matches!(route.target, Target::Refused(_)), "{key}: {route:?}");
        }
        assert!(problems.iter().any(|it| it.kind == Kind::ConfigMap), "{key}: {problems:?}");
    }
}

/// The annotations of ingress-nginx 1.15 and the two older names it still reads.
const KNOWN: &str = "
    affinity affinity-canary-behavior affinity-mode allowlist-source-range app-root
    auth-always-set-cookie auth-cache-duration auth-cache-key auth-keepalive
    auth-keepalive-requests auth-keepalive-share-vars auth-keepalive-timeout auth-method
    auth-proxy-set-headers auth-realm auth-request-redirect auth-response-headers auth-secret
    auth-secret-type auth-signin auth-signin-redirect-param auth-snippet auth-tls-error-page
    auth-tls-match-cn auth-tls-pass-certificate-to-upstream auth-tls-secret
    auth-tls-verify-client auth-tls-verify-depth auth-type auth-url backend-protocol canary
    canary-by-cookie canary-by-header canary-by-header-pattern canary-by-header-value
    canary-weight canary-weight-total client-body-buffer-size configuration-snippet
    connection-proxy-header cors-allow-credentials cors-allow-headers cors-allow-methods
    cors-allow-origin cors-expose-headers cors-max-age custom-headers custom-http-errors
    default-backend denylist-source-range disable-proxy-intercept-errors enable-access-log
    enable-cors enable-global-auth enable-modsecurity enable-opentelemetry
    enable-owasp-core-rules enable-rewrite-log fastcgi-index fastcgi-params-configmap
    force-ssl-redirect from-to-www-redirect http2-push-preload limit-allowlist
    limit-burst-multiplier limit-connections limit-rate limit-rate-after limit-rpm limit-rps
    limit-whitelist load-balance mirror-host mirror-request-body mirror-target
    modsecurity-snippet modsecurity-transaction-id opentelemetry-operation-name
    opentelemetry-trust-incoming-span permanent-redirect permanent-redirect-code
    preserve-trailing-slash proxy-body-size proxy-buffer-size proxy-buffering
    proxy-buffers-number proxy-busy-buffers-size proxy-connect-timeout proxy-cookie-domain
    proxy-cookie-path proxy-http-version proxy-max-temp-file-size proxy-next-upstream
    proxy-next-upstream-timeout proxy-next-upstream-tries proxy-read-timeout
    proxy-redirect-from proxy-redirect-to proxy-request-buffering proxy-send-timeout
    proxy-ssl-ciphers proxy-ssl-name proxy-ssl-protocols proxy-ssl-secret
    proxy-ssl-server-name proxy-ssl-verify proxy-ssl-verify-depth relative-redirects
    rewrite-target satisfy server-alias server-snippet service-upstream
    session-cookie-change-on-failure session-cookie-conditional-samesite-none
    session-cookie-domain session-cookie-expires session-cookie-max-age session-cookie-name
    session-cookie-path session-cookie-samesite session-cookie-secure ssl-ciphers
    ssl-passthrough ssl-prefer-server-ciphers ssl-redirect stream-snippet
    temporal-redirect temporal-redirect-code upstream-hash-by upstream-hash-by-subset
    upstream-hash-by-subset-size upstream-vhost use-port-in-redirects use-regex
    whitelist-source-range x-forwarded-prefix
";

/// One that is missing from the table would be taken for a typing mistake.
#[test]
fn every_annotation_of_ingress_nginx_has_a_row() {
    for name in KNOWN.split_whitespace() {
        assert!(annotation::row(name).is_some(), "{name}");
    }
}

/// Asking for what happens anyway, or tuning nginx itself, costs nobody anything.
#[test]
fn what_asks_for_nothing_is_neither_refused_nor_told() {
    for (name, value) in [
        ("auth-tls-verify-client", "off"),
        ("auth-tls-pass-certificate-to-upstream", "false"),
        ("satisfy", "all"),
        ("enable-modsecurity", "false"),
        ("enable-owasp-core-rules", "F"),
        ("use-regex", "0"),
        ("ssl-passthrough", "False"),
        ("backend-protocol", "http"),
        ("canary", "false"),
        ("enable-cors", "false"),
        ("enable-access-log", "true"),
        ("load-balance", "round_robin"),
        ("proxy-buffering", "off"),
        ("client-body-buffer-size", "8k"),
        ("enable-rewrite-log", "true"),
    ] {
        let mut objects = Objects::default();
        let name = format!("nginx.ingress.kubernetes.io/{name}");
        add(&mut objects, "shop", "web", &[(&name, value)], "a.test", "/");
        let (plan, problems) = compile(&objects, &policy());
        assert_eq!(problems, [], "{name}: {value}");
        let host = &plan.hosts[&HostPattern::Exact("a.test".into())];
        let root = &host.paths[&PathPattern::Prefix("/".into())];
        assert!(matches!(root.target, Target::Backend(_)), "{name}: {value}: {root:?}");
        assert_eq!(*root.options, Options::default(), "{name}: {value}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// However the objects of a case are spread over files, they come to the same.
    #[test]
    fn the_order_of_objects_does_not_matter((case, order) in shuffled()) {
        let case = &CASES[case];
        let documents = case.documents();
        let other: Vec<&str> = order.iter().map(|it| documents[*it]).collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let (first, second) = runtime
            .block_on(async { (case.load(&documents).await, case.load(&other).await) });
        let (first, second) = (compile(&first, &case.policy), compile(&second, &case.policy));
        prop_assert_eq!(first, second, "{}", &case.name);
    }

    /// Whatever people write, compiling ends, gives the same again, and keeps the plan's promises.
    #[test]
    fn anything_compiles_to_a_sound_plan(objects in objects(), policy in policies()) {
        let (plan, problems) = compile(&objects, &policy);
        prop_assert_eq!(&(plan.clone(), problems.clone()), &compile(&objects, &policy));
        for (pattern, host) in &plan.hosts {
            prop_assert!(objects.ingresses.contains_key(&host.owner));
            let root = PathPattern::Prefix("/".into());
            let rooted = *pattern == HostPattern::Any || host.paths.contains_key(&root);
            prop_assert!(rooted, "{}", pattern);
            for route in host.paths.values() {
                prop_assert!(plan.ours.contains(&route.ingress));
                if let Target::Backend(id) = &route.target {
                    prop_assert!(plan.backends.contains_key(id));
                    prop_assert_eq!(&id.service.namespace, &route.ingress.namespace);
                }
            }
        }
        for (secret, wanted) in &plan.wanted {
            prop_assert!(!wanted.names.is_empty());
            prop_assert!(wanted.ingresses.iter().all(|it| it.namespace == secret.namespace));
        }
        for problem in problems.iter().filter(|it| it.kind == Kind::Ingress) {
            prop_assert!(objects.ingresses.contains_key(&problem.object));
        }
        let live = live(plan);
        for path in ["/", "/a", "/a/", "/a/b/c", "//", "/%2F"] {
            answer(&live, &format!("a.test{path}"));
        }
    }

    /// A younger Ingress, whatever is in it, takes no path of a host from those before it.
    #[test]
    fn a_newcomer_takes_no_path(objects in objects(), policy in policies(), late in ingress()) {
        let (before, _) = compile(&objects, &policy);
        let mut more = objects;
        let late = Ingress { created: Some(1000), ..late };
        more.ingresses.insert(ObjectName::new("late", "web"), Arc::new(late));
        let (after, _) = compile(&more, &policy);
        for (pattern, host) in &before.hosts {
            let now = &after.hosts[pattern];
            prop_assert_eq!(&now.owner, &host.owner);
            for (path, route) in &host.paths {
                // What was added for the rest of the host is nobody's rule, and yields to one.
                let rest = matches!(route.target, Target::Fallback | Target::Refused(_))
                    || more.ingresses[&route.ingress].default_backend.is_some();
                let rest = rest && path.as_str() == "/";
                let same = now.paths[path].target == route.target;
                prop_assert!(same || rest, "{} {}", pattern, path);
            }
        }
    }
}

/// A case, and an order of its documents.
fn shuffled() -> impl Strategy<Value = (usize, Vec<usize>)> {
    (0..CASES.len()).prop_flat_map(|case| {
        let order: Vec<usize> = (0..CASES[case].documents().len()).collect();
        (Just(case), Just(order).prop_shuffle())
    })
}

const HOSTS: [&str; 8] = ["a.test", "A.TEST.", "b.a.test", "*.a.test", "*.b", "", "a..b", "*"];
const PATHS: [&str; 10] =
    ["/", "", "/a", "/a/", "/a/b", "/%61", "/.well-known/acme-challenge", "/..", "a", "/%"];
const VALUES: [&str; 10] = ["true", "false", "", "0", "8m", "60", "/", "99999999999", "$1", "\0"];

/// Annotations without our prefix that are read.
const OTHERS: [&str; 3] =
    ["kubernetes.io/tls-acme", "cert-manager.io/issuer", "kubernetes.io/ingress.class"];

fn text(known: &'static [&'static str]) -> impl Strategy<Value = Box<str>> {
    let known = prop::sample::select(known).prop_map(Into::into);
    prop_oneof![4 => known, 1 => any::<String>().prop_map(Into::into)]
}

fn annotation() -> impl Strategy<Value = (Box<str>, Box<str>)> {
    let rows: Vec<String> =
        annotation::rows().map(|it| format!("nginx.ingress.kubernetes.io/{}", it.name)).collect();
    let name = prop_oneof![
        2 => prop::sample::select(rows),
        2 => prop::sample::select(&OTHERS[..]).prop_map(str::to_owned),
        1 => any::<String>().prop_map(|it| format!("ingress.kubernetes.io/{it}")),
    ];
    (name.prop_map(Into::into), text(&VALUES))
}

fn backend() -> impl Strategy<Value = Option<ServicePort>> {
    let service = text(&["web", "api", "kube-lego-nginx"]);
    let port = text(&["80", "http", "8080", "0", "65536"]);
    let both = (service, port)
        .prop_map(|(service, port)| ServicePort { service: service.into(), port: port.into() });
    prop::option::of(both)
}

fn rule() -> impl Strategy<Value = Rule> {
    let path = (text(&PATHS), any::<bool>(), backend())
        .prop_map(|(path, exact, backend)| RulePath { path: path.into(), exact, backend });
    let paths = prop::option::of(prop::collection::vec(path, 0..4));
    (text(&HOSTS), paths).prop_map(|(host, paths)| Rule { host, paths: paths.map(Into::into) })
}

fn ingress() -> impl Strategy<Value = Ingress> {
    let tls = (prop::collection::vec(text(&HOSTS), 0..3), prop::option::of(text(&["tls", "x"])))
        .prop_map(|(hosts, secret)| Tls { hosts: hosts.into(), secret: secret.map(Into::into) });
    (
        prop::option::of(0..3_i64),
        prop::collection::vec((text(&["x"]), text(&VALUES)), 0..2),
        prop::collection::vec(annotation(), 0..3),
        prop::option::of(text(&["nginx", "other"])),
        backend(),
        prop::collection::vec(tls, 0..3),
        prop::collection::vec(rule(), 0..3),
    )
        .prop_map(|(created, mut annotations, known, class, default_backend, tls, rules)| {
            annotations.extend(known);
            Ingress {
                created,
                annotations: annotations.into_iter().collect(),
                class,
                default_backend,
                tls: tls.into(),
                rules: rules.into(),
                ..Ingress::default()
            }
        })
}

prop_compose! {
    fn objects()(
        ingresses in prop::collection::btree_map(
            (prop::sample::select(&["a", "a-b"][..]), "[a-c]"),
            ingress(),
            0..6,
        ),
        ports in prop::collection::vec(
            (text(&["http", ""]), any::<u16>(), text(&["8080", ""])),
            0..3,
        ),
        external in prop::option::of(text(&["localhost", "db.test.", "::1"])),
        numbers in prop::collection::vec((text(&["http", ""]), any::<u16>()), 0..3),
        endpoints in prop::collection::vec(
            (any::<IpAddr>(), any::<bool>(), any::<bool>()),
            0..4,
        ),
        settings in prop::collection::btree_map(
            text(&["ssl-redirect", "hsts"]),
            text(&VALUES),
            0..3,
        ),
        broken in any::<bool>(),
    ) -> Objects {
        let mut objects = Objects::default();
        for ((namespace, name), ingress) in ingresses {
            objects.ingresses.insert(ObjectName::new(namespace, name), Arc::new(ingress));
        }
        let ports = ports.into_iter().map(|(name, port, target)| Port { name, port, target, udp: false });
        let ports = ports.collect();
        let service = Service { ports, external_name: external, ..Service::default() };
        objects.services.insert(ObjectName::new("a", "web"), Arc::new(service));
        let endpoints = endpoints
            .into_iter()
            .map(|(address, ready, lingering)| Endpoint { address, ready, lingering });
        let slice = Slice { service: "web".into(), ports: Some(numbers.into()), endpoints: endpoints.collect(), ..Slice::default() };
        objects.slices.insert(ObjectName::new("a", "web-1"), Arc::new(slice));
        objects.config_maps.insert(
            ObjectName::new("a", "settings"),
            Arc::new(ConfigMap { data: settings }),
        );
        if broken {
            let keypair = Keypair::parse(None, None).map(Arc::new);
            let secret = Secret {
                keypair,
                authorities: None,
                revocations: None,
                annotations: Texts::default(),
                htpasswd: None,
                users: None,
                thumbprint: None,
            };
            objects.secrets.insert(ObjectName::new("a", "tls"), Arc::new(secret));
        }
        objects
    }
}

prop_compose! {
    fn policies()(
        issuer in prop::sample::select(
            &[IssuerKind::Acme, IssuerKind::Local, IssuerKind::None][..],
        ),
        strict_hosts in any::<bool>(),
        no_catch_all in any::<bool>(),
        configured in any::<bool>(),
    ) -> Policy {
        let name = |it: &str| configured.then(|| ObjectName::new("a", it));
        Policy {
            issuer,
            strict_hosts,
            no_catch_all,
            config_map: name("settings"),
            default_backend: name("web"),
            default_certificate: name("tls"),
            ..policy()
        }
    }
}

/// A case as it stands in its file.
struct Case {
    name: String,
    manifests: String,
    policy: Policy,
    unreadable: BTreeSet<Kind>,
    services: Vec<ObjectName>,
    /// `ask` or `hello`, and what is asked for, in the order of the file.
    questions: Vec<(String, String)>,
}

impl Case {
    fn read(name: String, pairs: &mut Pairs) -> Self {
        let text = std::fs::read_to_string(cases().join(format!("{name}.yaml"))).unwrap();
        let mut case = Self {
            name,
            manifests: pairs.fill(&text),
            policy: policy(),
            unreadable: BTreeSet::new(),
            services: Vec::new(),
            questions: Vec::new(),
        };
        for line in text.lines().map_while(|it| it.strip_prefix("# ")) {
            let Some((word, rest)) = line.split_once(": ") else { continue };
            match word {
                "flags" => rest.split(' ').for_each(|it| flag(&mut case.policy, it)),
                "services" => case.services.extend(rest.split(' ').map(|it| it.parse().unwrap())),
                "unreadable" => case.unreadable.extend(rest.split(' ').map(kind)),
                "ask" | "hello" => case.questions.push((word.to_owned(), rest.to_owned())),
                _ => {}
            }
        }
        case
    }

    fn documents(&self) -> Vec<&str> {
        self.manifests.split("---\n").collect()
    }

    /// The objects of documents, each in a file of its own, read in the order given.
    async fn load(&self, documents: &[&str]) -> Objects {
        let directory = tempfile::tempdir().unwrap();
        for (place, text) in documents.iter().enumerate() {
            std::fs::write(directory.path().join(format!("{place:03}.yaml")), text).unwrap();
        }
        let read = [directory.path().to_owned()];
        let store = Store::Directory(Directory::new(read, directory.path().join("issued")));
        let mut snapshots = store.snapshots();
        let first = snapshots.wait_for(Option::is_some).await.unwrap().clone();
        let mut objects = (*first.unwrap()).clone();
        assert_eq!(objects.problems, [], "the manifests of a case are sound");
        objects.unreadable.clone_from(&self.unreadable);
        for (place, name) in (1..).zip(&self.services) {
            objects.services.insert(name.clone(), Arc::new(service("http", 80, "8080")));
            objects.slices.insert(name.clone(), Arc::new(slice(&name.name, place)));
        }
        objects
    }

    fn render(&self, objects: &Objects) -> String {
        let (plan, problems) = compile(objects, &self.policy);
        let mut text = plan_text(&plan);
        let live = live(plan);
        for (word, question) in &self.questions {
            let answer = match word.as_str() {
                "ask" => answer(&live, question),
                _ => shown(&live, objects, question),
            };
            writeln!(text, "{word} {question}: {answer}").unwrap();
        }
        for Problem { kind, object, reason, text: told } in &problems {
            writeln!(text, "! {kind} {object}: {reason}: {told}").unwrap();
        }
        text
    }
}

/// Self-signed pairs, made once for each list of names.
#[derive(Default)]
struct Pairs(BTreeMap<String, (String, String)>);

impl Pairs {
    fn fill(&mut self, text: &str) -> String {
        let mut filled = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let (inside, after) = after.split_once('}').unwrap();
            let (half, names) = inside.split_once(' ').unwrap();
            let (certificate, key) = self.pair(names);
            filled.push_str(before);
            filled.push_str(&STANDARD.encode(if half == "CERT" { certificate } else { key }));
            rest = after;
        }
        filled + rest
    }

    fn pair(&mut self, names: &str) -> &(String, String) {
        self.0.entry(names.to_owned()).or_insert_with(|| {
            let key = KeyPair::generate().unwrap();
            let params = if let Some(name) = names.strip_prefix("CN=") {
                let mut params = CertificateParams::default();
                params.distinguished_name = DistinguishedName::new();
                params.distinguished_name.push(DnType::CommonName, name);
                params
            } else {
                let names: Vec<String> = names.split(' ').map(str::to_owned).collect();
                CertificateParams::new(names).unwrap()
            };
            (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
        })
    }
}

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cases")
}

fn names() -> BTreeSet<String> {
    let files = std::fs::read_dir(cases()).unwrap().flatten().map(|it| it.path());
    let yaml = files.filter(|it| it.extension().is_some_and(|it| it == "yaml"));
    yaml.map(|it| it.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

fn policy() -> Policy {
    Policy { watch_without_class: true, ..Policy::default() }
}

fn kind(name: &str) -> Kind {
    Kind::WATCHED.into_iter().find(|it| it.as_str() == name).unwrap()
}

fn flag(policy: &mut Policy, text: &str) {
    let (name, value) = text.split_once('=').unwrap_or((text, "true"));
    let on = value == "true";
    match name {
        "--ingress-class" => value.clone_into(&mut policy.ingress_class),
        "--controller-class" => value.clone_into(&mut policy.controller_class),
        "--ingress-class-by-name" => policy.class_by_name = on,
        "--watch-ingress-without-class" => policy.watch_without_class = on,
        "--annotations-prefix" => value.clone_into(&mut policy.prefix),
        "--legacy-annotations" => policy.legacy_annotations = on,
        "--configmap" => policy.config_map = Some(value.parse().unwrap()),
        "--tcp-services-configmap" => policy.tcp_services = Some(value.parse().unwrap()),
        "--udp-services-configmap" => policy.udp_services = Some(value.parse().unwrap()),
        "--default-backend-service" => policy.default_backend = Some(value.parse().unwrap()),
        "--default-ssl-certificate" => policy.default_certificate = Some(value.parse().unwrap()),
        "--disable-catch-all" => policy.no_catch_all = on,
        "--disable-svc-external-name" => policy.no_external_name = on,
        "--enable-ssl-passthrough" => policy.passthrough = on,
        "--host-ownership" => policy.strict_hosts = value == "namespace",
        "--adopt-cert-manager-annotations" => policy.adopt_cert_manager = on,
        "--issuer" => {
            policy.issuer = match value {
                "acme" => IssuerKind::Acme,
                "local" => IssuerKind::Local,
                _ => IssuerKind::None,
            }
        }
        "--manifests" => policy.near = true,
        _ => panic!("no flag {name}"),
    }
}

fn service(name: &str, port: u16, target: &str) -> Service {
    let port = Port { name: name.into(), port, target: target.into(), udp: false };
    Service { ports: [port].into(), ..Service::default() }
}

fn slice(service: &str, place: u8) -> Slice {
    let address = [10, 0, 0, place].into();
    Slice {
        service: service.into(),
        ports: Some([("http".into(), 8080)].into()),
        endpoints: [Endpoint { address, ready: true, lingering: false }].into(),
        ..Slice::default()
    }
}

/// Adds an Ingress with one path to `web`, annotated.
fn add(
    objects: &mut Objects,
    namespace: &str,
    name: &str,
    annotations: &[(&str, &str)],
    host: &str,
    path: &str,
) {
    let backend = Some(ServicePort { service: "web".into(), port: "80".into() });
    let path = RulePath { path: path.into(), exact: false, backend };
    let ingress = Ingress {
        annotations: annotations.iter().copied().collect(),
        rules: [Rule { host: host.into(), paths: Some([path].into()) }].into(),
        ..Ingress::default()
    };
    objects.ingresses.insert(ObjectName::new(namespace, name), Arc::new(ingress));
    let service = Arc::new(service("http", 80, "8080"));
    objects.services.insert(ObjectName::new(namespace, "web"), service);
}

fn live(plan: Plan) -> Live {
    let made = rcgen::generate_simple_self_signed(["fake.test".to_owned()]).unwrap();
    let (crt, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let fake = Keypair::parse(Some(crt.as_bytes()), Some(key.as_bytes())).unwrap();
    Live::next(Arc::new(plan), &Live::empty(fake.certified().unwrap()))
}

/// What a request for `host/path` leads to.
fn answer(live: &Live, question: &str) -> String {
    let (host, path) = question.split_at(question.find('/').unwrap());
    let host: Authority = host.parse().unwrap();
    let path = match canonical(path) {
        Ok(canonical) => canonical.path,
        Err(error) => return format!("400, {error}"),
    };
    let way = |id: WayId| {
        let route = &live.way(id).route;
        format!("{} {} of {} -> {}", route.host, route.path, route.ingress, target(&route.target))
    };
    let paths = live.table.host(&host.host);
    if let Some(to) = paths.and_then(|it| it.moved.as_ref()) {
        return format!("a redirect to {to}");
    }
    match paths.and_then(|it| it.find(&path)) {
        Some(Match::Exact(id) | Match::Prefix(id) | Match::Expression(id)) => way(id),
        Some(Match::Slash(_)) => "301 to the path with a slash".to_owned(),
        None => "the default backend".to_owned(),
    }
}

/// The Secret whose certificate a handshake for `name` shows.
fn shown(live: &Live, objects: &Objects, name: &str) -> String {
    let certified = live.keys.find(Some(name));
    let holds =
        |it: &Secret| it.keypair.as_ref().is_ok_and(|it| Some(&it.leaf) == certified.cert.first());
    match objects.secrets.iter().find(|(_, it)| holds(it)) {
        Some((secret, _)) => format!("Secret {secret}"),
        None => "the self-signed certificate".to_owned(),
    }
}

/// A plan for people, without what differs from run to run.
fn plan_text(plan: &Plan) -> String {
    let mut text = String::new();
    writeln!(text, "ours: {}", list(&plan.ours)).unwrap();
    settings_text(&mut text, &plan.settings);
    for (pattern, host) in &plan.hosts {
        write!(text, "host {pattern} of {}", host.owner).unwrap();
        text.push_str(if host.tls { ", tls" } else { "" });
        text.push_str(if host.acme { ", acme" } else { "" });
        text.push_str(&host.client_tls().map(client_tls_text).unwrap_or_default());
        text.push('\n');
        host_text(&mut text, host);
        for (pattern, route) in &host.paths {
            writeln!(text, "  {pattern} of {}", route_text(route)).unwrap();
        }
    }
    if let Some(route) = &plan.fallback {
        writeln!(text, "default backend{}", &route_text(route)).unwrap();
    }
    for (id, backend) in &plan.backends {
        writeln!(text, "backend {}: {}", backend_name(id), backend_text(backend)).unwrap();
    }
    for (door, stream) in &plan.streams {
        writeln!(text, "{door}: {}", stream_text(stream)).unwrap();
    }
    for (host, certificate) in &plan.certificates {
        writeln!(text, "certificate of {host}: {}", certificate_text(certificate)).unwrap();
    }
    if let Some(certificate) = &plan.default_certificate {
        writeln!(text, "default certificate: {}", certificate_text(certificate)).unwrap();
    }
    for (secret, wanted) in &plan.wanted {
        writeln!(text, "wanted {secret}: {}", wanted_text(wanted)).unwrap();
    }
    for (secret, declined) in &plan.declined {
        writeln!(text, "declined {secret}: {}: {}", declined.reason, list(&declined.names))
            .unwrap();
    }
    if let Some(thumbprint) = &plan.thumbprint {
        writeln!(text, "thumbprint {thumbprint}").unwrap();
    }
    for (what, names) in [("", &plan.unlisted), (" of ConfigMaps", &plan.unlisted_maps)] {
        if !names.is_empty() {
            writeln!(text, "to be read by name{what}: {}", list(names)).unwrap();
        }
    }
    text
}

/// What holds for a host as a whole.
fn host_text(text: &mut String, host: &Host) {
    for (alias, secure) in &host.aliases {
        let certificate = if *secure { ", with its certificate" } else { "" };
        writeln!(text, "  also {alias}{certificate}").unwrap();
    }
    if let Some(from) = &host.www {
        writeln!(text, "  redirected to from {from}").unwrap();
    }
    if let Some(Phrase(words)) = host.app_root.as_deref() {
        writeln!(text, "  begins at {words:?}").unwrap();
    }
    if let Some(locations) = &host.locations {
        writeln!(text, "  tries {}", list(locations.iter().map(|(_, it)| it))).unwrap();
    }
}

fn settings_text(text: &mut String, settings: &Settings) {
    let Settings { redirect_code, no_redirect, hsts, trust, fields, unlogged, .. } = settings;
    let usual = Settings::default();
    if *redirect_code != usual.redirect_code {
        writeln!(text, "redirects with {redirect_code}").unwrap();
    }
    if *no_redirect != usual.no_redirect {
        writeln!(text, "never redirects {}", no_redirect.join(", ")).unwrap();
    }
    if *hsts != usual.hsts {
        writeln!(text, "hsts {}", hsts.map_or("off".to_owned(), |it| it.to_string())).unwrap();
    }
    let named = |it: &Field| match &it.value {
        FieldValue::Fixed(value) => format!("{}: {}", it.name, value.to_str().unwrap()),
        FieldValue::Phrase(_) => format!("{}: a phrase", it.name),
    };
    let Fields { added, sent, hidden, original_uri, .. } = fields;
    for (what, fields) in [("answers", added), ("endpoints", sent)] {
        if !fields.is_empty() {
            writeln!(text, "{what} get {}", list(fields.iter().map(named))).unwrap();
        }
    }
    if !hidden.is_empty() {
        writeln!(text, "hides {}", list(hidden)).unwrap();
    }
    if *original_uri {
        writeln!(text, "sends the original URI").unwrap();
    }
    if *unlogged != usual.unlogged {
        writeln!(text, "no lines for {} targets", unlogged.targets.len()).unwrap();
    }
    if *trust != usual.trust {
        writeln!(text, "trusts {}", trust_text(trust)).unwrap();
    }
}

fn trust_text(trust: &Trust) -> String {
    let mut text = trust.proxies.to_string();
    if text.is_empty() {
        text.push_str("nobody");
    }
    if trust.proxy_protocol {
        write!(text, ", PROXY protocol within {:?}", trust.proxy_header_timeout).unwrap();
    }
    for (told, what) in [
        (trust.forwarded_headers, "forwarded headers"),
        (trust.full_forwarded_for, "the whole list"),
        (trust.real_ip, "the address"),
    ] {
        if told {
            write!(text, ", {what}").unwrap();
        }
    }
    if trust.forwarded_for != Trust::default().forwarded_for {
        let name = trust.forwarded_for.as_ref().map_or("no header", |it| it.as_str());
        write!(text, ", by {name}").unwrap();
    }
    text
}

fn route_text(route: &Route) -> String {
    let Route { ingress, options, .. } = route;
    let mut text = format!("{ingress} -> {}", target(&route.target));
    if route.to_https {
        text.push_str(", to https");
    }
    if let Some(rewrite) = &route.rewrite {
        write!(text, ", rewritten to {}", rewrite.target.text).unwrap();
    }
    let usual = Options::default();
    if options.port_in_redirects {
        text.push_str(", with the port");
    }
    if options.body_limit != usual.body_limit {
        let limit = options.body_limit.map_or("any".to_owned(), |it| it.to_string());
        write!(text, ", bodies of {limit} bytes").unwrap();
    }
    for (name, own, usual) in [
        ("connect", options.connect_timeout, usual.connect_timeout),
        ("read", options.read_timeout, usual.read_timeout),
        ("send", options.send_timeout, usual.send_timeout),
    ] {
        if own != usual {
            write!(text, ", {name} within {own:?}").unwrap();
        }
    }
    if let Some(guard) = &route.guard {
        guard_text(&mut text, guard);
    }
    if let Some(answers) = &route.answers {
        text.push_str(&answers_text(answers));
    }
    if let Some(Mirror { host, body, address: (name, port), .. }) = route.mirror.as_deref() {
        write!(text, ", copies to {name}:{port} for {host}").unwrap();
        text.push_str(if *body { "" } else { " without bodies" });
    }
    if options.copies.as_ref().is_some_and(|it| it.unlogged) {
        text.push_str(", unlogged");
    }
    if let Some(Spans { on, distrust, name }) = options.spans.as_deref() {
        text.push_str(if *on { ", with spans" } else { ", without spans" });
        text.push_str(if *distrust { " of its own traces" } else { "" });
        if let Some(name) = name {
            write!(text, " named {:?}", name.0).unwrap();
        }
    }
    text
}

fn answers_text(answers: &Answers) -> String {
    let mut text = String::new();
    if let Some(cors) = &answers.cors {
        match &cors.origins {
            Origins::Any => text.push_str(", open to every origin"),
            Origins::Listed(origins) => {
                write!(text, ", open to {} origins", origins.len()).unwrap();
            }
        }
    }
    for (name, value) in &answers.headers {
        write!(text, ", {name}: {}", value.to_str().unwrap()).unwrap();
    }
    if let Some(default) = &answers.default {
        write!(text, ", by default {}", target(&default.target)).unwrap();
    }
    if let Some(id) = &answers.stands_in_for {
        write!(text, " in place of {}", backend_name(id)).unwrap();
    }
    if let Some(errors) = &answers.errors {
        let errors = (300..600).filter(|it| errors.cover(*it));
        write!(text, ", errors {}", list(errors)).unwrap();
        text.push_str(if answers.leaves_errors { " of ours" } else { "" });
    }
    for (what, replacement) in [
        ("domains", &answers.cookie_domain),
        ("paths", &answers.cookie_path),
        ("redirects", &answers.redirect),
    ] {
        if let Some(Replacement { from, to }) = replacement {
            write!(text, ", {what} {from} -> {to}").unwrap();
        }
    }
    if let Some(connection) = &answers.connection {
        write!(text, ", connection {}", connection.to_str().unwrap()).unwrap();
    }
    text
}

fn guard_text(text: &mut String, guard: &Guard) {
    text.push_str(if guard.any { ", any of" } else { ", all of" });
    for (what, networks) in [("not from", &guard.deny), ("from", &guard.allow)] {
        if let Some(networks) = networks {
            write!(text, " [{what} {networks}]").unwrap();
        }
    }
    if let Some(Basic { challenge, users }) = &guard.basic {
        write!(text, " [{challenge:?} {users:?}]").unwrap();
    }
    if let Some(judge) = &guard.judge {
        let Judge { url, signin, headers, cache, always_set_cookie, .. } = &**judge;
        write!(text, " [judge {:?}{:?}", url.authority.0, url.target.0).unwrap();
        if let Some(signin) = signin {
            write!(text, ", signin {:?}", signin.0).unwrap();
        }
        if !headers.is_empty() {
            write!(text, ", told {headers:?}").unwrap();
        }
        text.push_str(if *always_set_cookie { ", cookies always" } else { "" });
        text.push_str(if cache.is_some() { ", remembered" } else { "" });
        text.push(']');
    }
}

fn client_tls_text(tls: &HostTls) -> String {
    match tls {
        HostTls::Denied => ", 403 to all".to_owned(),
        HostTls::Through => ", TLS is handed on".to_owned(),
        HostTls::Asks(client_tls::Guard { demand, subjects, .. }) => {
            let verify = demand.as_ref().map_or(Verify::Off, |it| it.verify);
            format!(", client certificates {verify:?} with {} subjects", subjects.len())
        }
    }
}

fn target(target: &Target) -> String {
    match target {
        Target::Backend(id) => backend_name(id),
        Target::Fallback => "the default backend".to_owned(),
        Target::Nothing => "404".to_owned(),
        Target::Refused(why) => format!("503, {why}"),
    }
}

fn backend_name(id: &BackendId) -> String {
    format!("{}:{}", id.service, id.port)
}

fn backend_text(backend: &Backend) -> String {
    let mut text = match &backend.external {
        Some((name, port)) => format!("{name}:{port} by its name"),
        None if backend.addresses.is_empty() => "nobody".to_owned(),
        None => list(&backend.addresses),
    };
    match &backend.balance {
        Balance::RoundRobin => {}
        Balance::Ewma => text.push_str(", the quicker of two"),
        Balance::Hash(_) => text.push_str(", by hash"),
        Balance::Subset(_, size) => write!(text, ", by hash to {size}").unwrap(),
    }
    if let Some(affinity) = &backend.affinity {
        let mode = if affinity.mode == Mode::Persistent { "for good" } else { "in balance" };
        write!(text, ", kept {mode} by cookie {}", affinity.cookie.name()).unwrap();
    }
    if let Some(canary) = &backend.canary {
        let Split { header, value, pattern, cookie, weight, .. } = &canary.split;
        let name = backend_name(&canary.backend);
        write!(text, ", {weight} of {} to {name}", canary.split.out_of()).unwrap();
        if let Some(header) = header {
            write!(text, ", by header {header}").unwrap();
        }
        if let Some(value) = value {
            write!(text, " of {value}").unwrap();
        }
        if let Some(pattern) = pattern {
            write!(text, " like {pattern:?}").unwrap();
        }
        if let Some(cookie) = cookie {
            write!(text, ", by cookie {cookie}").unwrap();
        }
    }
    text
}

fn stream_text(Stream { id, backend, from_proxy, to_proxy }: &Stream) -> String {
    let mut text = format!("{}: {}", backend_name(id), backend_text(backend));
    text.push_str(if *from_proxy { ", PROXY in" } else { "" });
    text.push_str(if *to_proxy { ", PROXY out" } else { "" });
    text
}

fn certificate_text(Certificate { secret, keypair, .. }: &Certificate) -> String {
    match (secret, keypair) {
        (Some(secret), Some(pair)) => format!("Secret {secret} for {}", list(&pair.names)),
        (Some(secret), None) => format!("the default, for want of Secret {secret}"),
        (None, _) => "the default".to_owned(),
    }
}

fn wanted_text(wanted: &Wanted) -> String {
    let Wanted { names, ingresses, exists, held, issuer, issued_at, self_check, reuse_key, .. } =
        wanted;
    let mut text = format!("{}; asked for by {}", list(names), list(ingresses));
    match held {
        Some(pair) => write!(text, "; holds {}", list(&pair.names)).unwrap(),
        None if *exists => text.push_str("; holds nothing of use"),
        None => text.push_str("; is not there"),
    }
    if let Some(issuer) = issuer {
        write!(text, "; from {issuer}").unwrap();
    }
    if let Some(at) = issued_at {
        write!(text, "; stored at {at}").unwrap();
    }
    if !self_check {
        text.push_str("; not looked at before");
    }
    if *reuse_key {
        text.push_str("; keeps its key");
    }
    text
}

fn list<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|it| it.to_string()).collect();
    items.join(", ")
}
