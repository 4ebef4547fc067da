//! The ConfigMap of `--configmap`: settings for everything at once, read by one table.
//!
//! Keys, values and defaults are ingress-nginx's. As with annotations, a key that protects something
//! and is not built makes every path answer 503 rather than be open.

mod access;
mod answering;
mod base;
mod client_tls;
mod connections;
mod copies;
mod last;
mod rate;
mod routing;
mod streams;
mod trace;

use super::Policy;
use super::annotation::{self, Instead, Judged, Verdict};
use super::objects::{ConfigMap, Objects};
use crate::model::name::Kind;
use crate::model::problem::Problem;
use crate::model::settings::Settings;
use crate::model::value::boolean;

pub use answering::maps_named_by;
pub use last::LastSeen;

/// One key: its name, what it is for, and what is done with it.
pub struct Key {
    /// As in the ConfigMap's `data`.
    pub name: &'static str,
    /// Value and meaning, for people.
    pub help: &'static str,
    read: Read,
}

/// How a value is read; the error says what it should have been, and the default holds.
enum Read {
    /// As that of the annotation of the same name, for which it is the default.
    Default,
    /// Into the settings.
    Setting(fn(&str, &mut Settings) -> Result<(), &'static str>),
}

/// Keys that are honoured, by chapters. A key that builds on another stands after it.
pub const KEYS: &[&[Key]] = &[
    base::KEYS,
    routing::KEYS,
    access::KEYS,
    client_tls::KEYS,
    connections::KEYS,
    answering::KEYS,
    rate::KEYS,
    copies::KEYS,
    streams::KEYS,
    trace::KEYS,
];

/// The key of a name.
pub fn honoured(name: &str) -> Option<&'static Key> {
    keys().find(|it| it.name == name)
}

/// All of them, in the order in which they are read.
pub fn keys() -> impl Iterator<Item = &'static Key> {
    KEYS.iter().flat_map(|it| it.iter())
}

/// Keys that protect something and are not built: any value but these makes every path answer 503.
const PROTECTING: &[(&str, &[&str])] = &[
    ("enable-modsecurity", &["false"]),
    ("enable-owasp-modsecurity-crs", &["false"]),
    ("modsecurity-snippet", &[""]),
];

/// Keys that are known and not built, each with the value that asks for nothing.
const MISSING: &[(&str, &str)] = &[
    ("ssl-ecdh-curve", "auto"),
    ("ssl-dh-param", ""),
    ("ssl-session-ticket-key", ""),
    ("ssl-early-data", "false"),
    ("enable-ocsp", "false"),
    ("access-log-params", ""),
    ("log-format-escape-none", "false"),
    ("allow-snippet-annotations", "false"),
    ("proxy-ssl-location-only", "false"),
    ("main-snippet", ""),
    ("http-snippet", ""),
    ("server-snippet", ""),
    ("location-snippet", ""),
    ("stream-snippet", ""),
    ("bind-address", ""),
    ("ignore-invalid-headers", "true"),
    ("custom-http-errors-default-backend", ""),
];

/// Keys that tune nginx itself: nothing is lost without them. `*` stands for any ending.
const MOOT: &[&str] = &[
    // Guards text that becomes nginx configuration; here none does.
    "annotation-value-word-blocklist",
    "annotations-risk-level",
    "client-body-buffer-size",
    "datadog-*",
    "debug-connections",
    "default-type",
    "disable-ipv6*",
    "enable-aio-write",
    "enable-multi-accept",
    "error-log-*",
    // nginx's way of reading two sources needs a field in between; ours does not.
    "forwarded-for-proxy-protocol-header",
    "geoip*",
    "grpc-buffer-size-kb",
    "gzip-disable",
    "http2-max-*",
    "jaeger-*",
    "log-format-stream",
    "lua-shared-dicts",
    "map-hash-bucket-size",
    "max-worker-*",
    "modsecurity-*",
    "nginx-status-ipv*",
    // A file of nginx's module, which is written from the keys.
    "opentelemetry-config",
    "opentracing-*",
    "plugins",
    "proxy-busy-buffers-size",
    "proxy-headers-hash-*",
    "proxy-http-version",
    "proxy-max-temp-file-size",
    "reuse-port",
    "server-name-hash-*",
    "ssl-buffer-size",
    "ssl-session-cache-size",
    "stream-access-log-path",
    "strict-validate-path-type",
    "syslog-*",
    "use-geoip*",
    "variables-hash-*",
    "worker-*",
    "zipkin-*",
];

const fn key(
    name: &'static str,
    help: &'static str,
    read: fn(&str, &mut Settings) -> Result<(), &'static str>,
) -> Key {
    Key { name, help, read: Read::Setting(read) }
}

const fn default_of(name: &'static str) -> Key {
    Key { name, help: "Default of the annotation.", read: Read::Default }
}

impl Key {
    fn read(&self, value: &str, settings: &mut Settings) -> Result<(), &'static str> {
        match self.read {
            Read::Default => annotation::set(self.name, value, &mut settings.options),
            Read::Setting(read) => read(value, settings),
        }
    }
}

/// Keys that tune nginx itself; `*` stands for any ending.
pub fn without_effect() -> impl Iterator<Item = &'static str> {
    MOOT.iter().copied()
}

/// Keys that are known and not built.
pub fn not_built() -> impl Iterator<Item = &'static str> {
    PROTECTING.iter().map(|it| it.0).chain(MISSING.iter().map(|it| it.0))
}

/// Whether a name is a key of the ConfigMap, honoured or not.
pub(super) fn is_known(name: &str) -> bool {
    honoured(name).is_some()
        || PROTECTING.iter().any(|(it, _)| *it == name)
        || MISSING.iter().any(|(it, _)| *it == name)
        || is_moot(name)
}

fn is_moot(name: &str) -> bool {
    MOOT.iter().any(|it| match it.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => *it == name,
    })
}

/// Reads the ConfigMap; without one, ingress-nginx's defaults. One that may not be read could protect
/// anything: every path answers 503.
pub(super) fn settings(
    objects: &Objects,
    policy: &Policy,
    problems: &mut Vec<Problem>,
) -> Settings {
    let mut settings = Settings::default();
    let Some(name) = &policy.config_map else { return settings };
    let mut report = |reason, text| {
        problems.push(Problem { kind: Kind::ConfigMap, object: name.clone(), reason, text });
    };
    let Some(map) = objects.config_maps.get(name) else {
        if objects.unreadable.contains(&Kind::ConfigMap) {
            let text = "--configmap names it, but it may not be read: every path answers 503";
            settings.refusal = Some(text.to_owned());
            report("ConfigMap", text.to_owned());
            return settings;
        }
        report("ConfigMap", "--configmap names it, but it is not there: defaults hold".to_owned());
        return settings;
    };
    if objects.settings_gone {
        let text = "--configmap names it, but it is gone: what it said last holds until it is back \
                    (an empty one has the defaults)";
        report("ConfigMap", text.to_owned());
    }
    // In the table's order, so that a key which builds on another finds it read.
    for key in keys() {
        let Some(value) = map.data.get(key.name) else { continue };
        if let Err(wanted) = key.read(value.trim(), &mut settings) {
            report("BadSetting", format!("{}: {value:?} is not {wanted}", key.name));
        }
    }
    if let Some(text) = settings.options.buffers.shortened() {
        report("BadSetting", text);
    }
    if let Some(text) = trace::without_collector(&settings) {
        report("BadSetting", text);
    }
    for (name, value) in &map.data {
        match instead(name, value.trim()) {
            None => {}
            Some(Instead::Refuse) => {
                let text = format!("{name} is not supported yet: every path answers 503");
                settings.refusal.get_or_insert_with(|| text.clone());
                report("NotSupported", text);
            }
            Some(_) if is_known(name) => {
                report("NotSupported", format!("{name} is not supported yet: served without it"));
            }
            Some(_) => {
                report("UnknownSetting", format!("{name} is not known and has no effect"));
            }
        }
    }
    settings
}

/// Judges each key of a ConfigMap.
pub fn judge(map: &ConfigMap) -> Vec<Judged<'_>> {
    let mut settings = Settings::default();
    // In the order in which they are read, those that are not honoured last.
    let place = |name: &str| keys().position(|it| it.name == name).unwrap_or(usize::MAX);
    let mut data: Vec<(&str, &str)> = map.data.iter().map(|(k, v)| (&**k, &**v)).collect();
    data.sort_by_key(|(name, _)| place(name));
    let judged = data.into_iter().map(|(name, value)| {
        let (verdict, text) = match honoured(name) {
            Some(key) => match key.read(value.trim(), &mut settings) {
                Ok(()) => (Verdict::Works, String::new()),
                Err(wanted) => (Verdict::Differs, format!("{value:?} is not {wanted}")),
            },
            None => match instead(name, value.trim()) {
                None => (Verdict::Works, String::new()),
                Some(Instead::Refuse) => {
                    (Verdict::Refused, "is not supported yet: every path answers 503".to_owned())
                }
                Some(_) if is_known(name) => {
                    (Verdict::Differs, "is not supported yet: served without it".to_owned())
                }
                Some(_) => (Verdict::Differs, "is not known and has no effect".to_owned()),
            },
        };
        Judged { name, value, verdict, text }
    });
    judged.collect()
}

fn instead(name: &str, value: &str) -> Option<Instead> {
    if honoured(name).is_some() {
        return None;
    }
    if let Some((_, inert)) = PROTECTING.iter().find(|(it, _)| *it == name) {
        return (!inert.contains(&value)).then_some(Instead::Refuse);
    }
    if let Some((_, inert)) = MISSING.iter().find(|(it, _)| *it == name) {
        return (*inert != value).then_some(Instead::Serve);
    }
    (!is_moot(name)).then_some(Instead::Serve)
}

fn truth(value: &str) -> Result<bool, &'static str> {
    boolean(value).ok_or("true or false")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use http::HeaderName;

    use super::*;
    use crate::compile::annotation::Effect;
    use crate::compile::objects::ConfigMap;
    use crate::model::name::ObjectName;
    use crate::model::network::Networks;
    use crate::model::options::Options;
    use crate::model::settings::Coding;
    use crate::model::settings::{Compression, Trust};

    fn read(data: &[(&str, &str)]) -> (Settings, Vec<Problem>) {
        let name = ObjectName::new("lockgate", "lockgate");
        let policy = Policy { config_map: Some(name.clone()), ..Policy::default() };
        let mut objects = Objects::default();
        let data = data.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect();
        objects.config_maps.insert(name, Arc::new(ConfigMap { data }));
        let mut problems = Vec::new();
        (settings(&objects, &policy, &mut problems), problems)
    }

    #[test]
    fn keys_change_the_defaults_of_annotations() {
        let (settings, problems) =
            read(&[("proxy-body-size", "0"), ("ssl-redirect", "false"), ("hsts", "false")]);
        assert_eq!(problems, []);
        assert_eq!(
            settings.options,
            Options { body_limit: None, ssl_redirect: false, ..Options::default() }
        );
        assert_eq!(settings.hsts, None);
    }

    #[test]
    fn redirects_are_relative_and_keep_a_slash_by_the_keys() {
        let (settings, problems) =
            read(&[("relative-redirects", "true"), ("preserve-trailing-slash", "true")]);
        assert_eq!(problems, []);
        let routing = settings.options.routing.expect("something is set");
        assert!(routing.relative && routing.keep_slash);
    }

    #[test]
    fn every_default_is_one_of_an_annotation_that_is_built() {
        for key in keys().filter(|it| matches!(it.read, Read::Default)) {
            let row = annotation::row(key.name);
            assert!(matches!(row.map(|it| it.effect), Some(Effect::Sets(_))), "{}", key.name);
        }
    }

    #[test]
    fn proxies_are_trusted_as_the_keys_say() {
        let (settings, problems) = read(&[
            ("use-proxy-protocol", "true"),
            ("proxy-protocol-header-timeout", "1.5s"),
            ("use-forwarded-headers", "true"),
            ("enable-real-ip", "true"),
            ("forwarded-for-header", "CF-Connecting-IP"),
            ("compute-full-forwarded-for", "true"),
            ("proxy-real-ip-cidr", "10.0.0.0/8, 192.0.2.1"),
            ("forwarded-for-proxy-protocol-header", "X-Between"),
        ]);
        assert_eq!(problems, []);
        let expected = Trust {
            proxies: "10.0.0.0/8,192.0.2.1/32".parse().expect("a list"),
            proxy_protocol: true,
            proxy_header_timeout: Duration::from_millis(1500),
            forwarded_headers: true,
            real_ip: true,
            forwarded_for: Some(HeaderName::from_static("cf-connecting-ip")),
            full_forwarded_for: true,
        };
        assert_eq!(settings.trust, expected);
    }

    #[test]
    fn what_cannot_be_read_is_not_trusted() {
        let usual = Trust::default();
        for (key, value, expected) in [
            ("use-proxy-protocol", "on", usual.clone()),
            ("use-forwarded-headers", "yes", usual.clone()),
            ("enable-real-ip", "", usual.clone()),
            ("proxy-protocol-header-timeout", "0s", usual.clone()),
            ("proxy-protocol-header-timeout", "soon", usual.clone()),
            ("forwarded-for-header", "X Real", Trust { forwarded_for: None, ..usual.clone() }),
            (
                "proxy-real-ip-cidr",
                "10.0.0.0/8,all",
                Trust { proxies: Networks::default(), ..usual },
            ),
        ] {
            let (settings, problems) = read(&[(key, value)]);
            assert_eq!(settings.trust, expected, "{key}: {value}");
            let reasons: Vec<_> = problems.iter().map(|it| it.reason).collect();
            assert_eq!(reasons, ["BadSetting"], "{key}: {value}");
        }
    }

    #[test]
    fn a_coding_is_set_whole_or_off() {
        let (settings, problems) = read(&[
            ("brotli-level", "11"),
            ("enable-brotli", "true"),
            ("gzip-level", "9"),
            ("gzip-min-length", "0"),
        ]);
        assert_eq!(problems, []);
        let brotli = Some(Coding { level: 11, ..Coding::brotli() });
        assert_eq!(settings.compression, Compression { gzip: None, brotli });

        let (settings, problems) = read(&[
            ("use-gzip", "true"),
            ("gzip-level", "0"),
            ("gzip-min-length", "1k"),
            ("gzip-types", "json"),
            ("brotli-level", "12"),
            ("gzip-disable", "msie6"),
            ("gzip-window", "15"),
        ]);
        let gzip = Some(Coding::gzip());
        assert_eq!(settings.compression, Compression { gzip, brotli: None });
        let reasons: Vec<_> = problems.iter().map(|it| it.reason).collect();
        assert_eq!(reasons, [["BadSetting"; 4].as_slice(), &["UnknownSetting"]].concat());
    }

    #[test]
    fn reading_ahead_beyond_its_bound_is_told_where_it_is_on() {
        let much = [("proxy-buffers-number", "64"), ("proxy-buffer-size", "32k")];
        let (settings, problems) = read(&much);
        assert_eq!((settings.options.buffers.bytes(), problems.len()), (1 << 20, 0));
        let (settings, problems) = read(&[&much[..], &[("proxy-buffering", "on")]].concat());
        assert!(settings.options.buffers.on);
        assert_eq!(problems.iter().map(|it| it.reason).collect::<Vec<_>>(), ["BadSetting"]);
        let bad = [
            ("proxy-buffering", "true"),
            ("proxy-buffers-number", "0"),
            ("proxy-buffer-size", "0"),
        ];
        let (settings, problems) = read(&bad);
        assert_eq!((settings.options, problems.len()), (Options::default(), 3));
    }

    #[test]
    fn what_protects_and_is_not_built_refuses_everything() {
        let (settings, problems) = read(&[("enable-modsecurity", "true")]);
        assert!(settings.refusal.is_some());
        assert_eq!(problems.len(), 1);
        let (settings, problems) = read(&[("enable-modsecurity", "false")]);
        assert_eq!((settings.refusal, problems), (None, vec![]));
    }

    #[test]
    fn what_protects_and_cannot_be_read_refuses_everything() {
        for (name, value) in [
            ("whitelist-source-range", "10.0.0.0/33"),
            ("denylist-source-range", "all"),
            ("block-cidrs", "10.0.0/8"),
            ("block-user-agents", "~*["),
            ("block-referers", "~(?=a)"),
            ("global-auth-url", "auth.test"),
            ("global-auth-method", "get"),
            ("global-auth-signin", "/$nope"),
            ("global-auth-response-headers", "Host"),
            ("global-auth-cache-duration", "long"),
        ] {
            let (settings, problems) = read(&[(name, value)]);
            assert!(settings.refusal.is_some(), "{name}: {value}");
            assert_eq!(problems.len(), 1, "{name}: {value}");
            let (settings, problems) = read(&[(name, "")]);
            assert_eq!((settings, problems), (Settings::default(), vec![]), "{name}");
        }
    }

    #[test]
    fn who_may_ask_is_set_for_all() {
        let (settings, problems) = read(&[
            ("whitelist-source-range", "10.0.0.0/8"),
            ("no-auth-locations", "/health, /open"),
            ("allow-cross-namespace-resources", "true"),
            ("block-user-agents", "~*bot"),
            ("global-auth-url", "http://auth.test/"),
        ]);
        assert_eq!((problems, settings.refusal), (vec![], None));
        assert_eq!(settings.access.open, ["/health", "/open"]);
        assert!(settings.access.cross_namespace && settings.access.blocked.is_some());
        assert!(settings.access.judge.url.is_some());
        let access = settings.options.access.expect("a list");
        assert_eq!(access.allow_older.map(|it| it.to_string()).as_deref(), Some("10.0.0.0/8"));
    }

    #[test]
    fn bad_and_unknown_keys_are_told() {
        let (settings, problems) = read(&[
            ("http-redirect-code", "200"),
            ("worker-processes", "4"),
            ("no-such-key", "1"),
            ("log-format-escape-none", "true"),
        ]);
        assert_eq!(settings, Settings::default());
        let reasons: Vec<_> = problems.iter().map(|it| it.reason).collect();
        assert_eq!(reasons, ["BadSetting", "NotSupported", "UnknownSetting"]);
    }
}
