//! Access: who may ask.

use http::HeaderName;

use super::{Annotation, TRUTH, guards, moot, sets};
use crate::model::access::{Access, AuthUrl, CacheTimes, External, auth_method, header_names};
use crate::model::guard::Basic;
use crate::model::network::Networks;
use crate::model::options::Options;
use crate::model::phrase::Phrase;
use crate::model::value::boolean;

pub(in crate::compile) const NETWORKS: &str =
    "a list of addresses and networks such as 10.0.0.0/8,192.0.2.1";
pub(in crate::compile) const URL: &str =
    "a URL with scheme and host, and of nginx's variables the known ones";
pub(in crate::compile) const METHOD: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS or TRACE";
pub(in crate::compile) const TEXT: &str = "a text with none but the known variables of nginx";
pub(in crate::compile) const PARAMETER: &str = "a parameter's name";
pub(in crate::compile) const HEADERS: &str =
    "a list of header names between commas, none of which frames or routes a request";
pub(in crate::compile) const TIMES: &str = "statuses and a time, such as 200 202 401 5m";

pub(super) const ROWS: &[Annotation] = &[
    guards(
        "allowlist-source-range",
        "",
        "Addresses and networks that may pass; nobody else does (403).",
        |value, options| {
            access(options).allow = Some(networks(value)?);
            Ok(())
        },
    ),
    guards(
        "whitelist-source-range",
        "",
        "Older name of `allowlist-source-range`, which wins.",
        |value, options| {
            access(options).allow_older = Some(networks(value)?);
            Ok(())
        },
    ),
    guards(
        "denylist-source-range",
        "",
        "Addresses and networks that may not pass (403); looked at first.",
        |value, options| {
            access(options).deny = Some(networks(value)?);
            Ok(())
        },
    ),
    guards(
        "satisfy",
        "all",
        "`all` or `any`: how many of networks, password and judge must let pass.",
        |value, options| {
            let any = match value {
                "all" => false,
                "any" => true,
                _ => return Err("all or any"),
            };
            if any || options.access.is_some() {
                access(options).any = any;
            }
            Ok(())
        },
    ),
    guards(
        "auth-type",
        "",
        "`basic`: ask for a password (RFC 7617). `digest` is refused.",
        |value, options| {
            access(options).basic = value == "basic";
            if value == "basic" { Ok(()) } else { Err("basic, the only kind that is built") }
        },
    ),
    guards(
        "auth-secret",
        "",
        "The Secret with the passwords, `name` or `namespace/name`: bcrypt (best), `$5$`, `$6$`, `$apr1$`, `$1$`, \
         `{SSHA}`, `{SHA}`, DES (13 characters; eight of a password count), `{PLAIN}`.",
        |value, options| {
            access(options).secret = Some(value.into());
            Ok(())
        },
    ),
    guards(
        "auth-secret-type",
        "auth-file",
        "`auth-file`: entry `auth` is an htpasswd file; `auth-map`: each entry is a user.",
        |value, options| {
            access(options).map = Some(match value {
                "auth-file" => false,
                "auth-map" => true,
                _ => return Err("auth-file or auth-map"),
            });
            Ok(())
        },
    ),
    guards("auth-realm", "", "Text of the password prompt.", |value, options| {
        Basic::challenge(value).ok_or("a text of one line")?;
        access(options).realm = Some(value.into());
        Ok(())
    }),
    guards(
        "auth-url",
        "",
        "URL of a judge that is asked whether a request may pass. In a cluster none is asked at a loopback or \
         link-local address: 500.",
        |value, options| {
            judge(options).url = Some(AuthUrl::parse(value).ok_or(URL)?);
            Ok(())
        },
    ),
    guards(
        "auth-signin",
        "",
        "URL to send those to whom nobody knows (401), with the way back.",
        |value, options| {
            judge(options).signin = Some(signin(value)?);
            Ok(())
        },
    ),
    sets(
        "auth-signin-redirect-param",
        "rd",
        "Name of the parameter with the way back.",
        |value, options| {
            judge(options).signin_param = Some(parameter(value)?);
            Ok(())
        },
    ),
    guards(
        "auth-response-headers",
        "",
        "Header fields of the judge's answer that endpoints get, in place of the client's.",
        |value, options| {
            judge(options).response_headers = headers(value)?;
            Ok(())
        },
    ),
    guards("auth-method", "GET", "Method with which the judge is asked.", |value, options| {
        judge(options).method = Some(auth_method(value).ok_or(METHOD)?);
        Ok(())
    }),
    sets(
        "auth-request-redirect",
        "$request_uri",
        "Value of the judge's X-Auth-Request-Redirect.",
        |value, options| {
            judge(options).request_redirect = Some(phrase(value)?);
            Ok(())
        },
    ),
    guards(
        "auth-proxy-set-headers",
        "",
        "ConfigMap with more header fields for the judge, `name` or `namespace/name`.",
        |value, options| {
            judge(options).set_headers = Some(value.into());
            Ok(())
        },
    ),
    sets(
        "auth-always-set-cookie",
        "false",
        "Pass the judge's cookies on with errors, too.",
        |value, options| {
            judge(options).always_set_cookie = Some(boolean(value).ok_or(TRUTH)?);
            Ok(())
        },
    ),
    sets(
        "auth-cache-key",
        "",
        "Remember the judge's answers by this text, for each host and path.",
        |value, options| {
            judge(options).cache_key = Some(phrase(value)?);
            Ok(())
        },
    ),
    guards(
        "auth-cache-duration",
        "200 202 401 5m",
        "For how long they are remembered, by status.",
        |value, options| {
            judge(options).cache_times = Some(CacheTimes::parse(value).ok_or(TIMES)?);
            Ok(())
        },
    ),
    moot("auth-keepalive", "0", "Connections to the judge are always kept, up to a minute."),
    moot("auth-keepalive-requests", "1000", "They have no such end."),
    moot("auth-keepalive-timeout", "60", "It is 60 seconds."),
    moot("auth-keepalive-share-vars", "false", "There are no variables to share."),
    sets(
        "enable-global-auth",
        "true",
        "`false`: the ConfigMap's `global-auth-url` does not hold here.",
        |value, options| {
            let no_global = !boolean(value).ok_or(TRUTH)?;
            if no_global || options.access.is_some() {
                access(options).no_global = no_global;
            }
            Ok(())
        },
    ),
];

fn access(options: &mut Options) -> &mut Access {
    options.access.get_or_insert_default()
}

fn judge(options: &mut Options) -> &mut External {
    &mut access(options).judge
}

/// A list that names nobody says nothing.
pub(in crate::compile) fn networks(value: &str) -> Result<Networks, &'static str> {
    value.parse().ok().filter(|it| *it != Networks::default()).ok_or(NETWORKS)
}

pub(in crate::compile) fn phrase(value: &str) -> Result<Phrase, &'static str> {
    Phrase::parse(value).map_err(|_| TEXT)
}

pub(in crate::compile) fn signin(value: &str) -> Result<Box<str>, &'static str> {
    let whole = value.bytes().all(|it| it.is_ascii_graphic()) && Phrase::parse(value).is_ok();
    if whole { Ok(value.into()) } else { Err(URL) }
}

pub(in crate::compile) fn parameter(value: &str) -> Result<Box<str>, &'static str> {
    let plain = |it: u8| it.is_ascii_alphanumeric() || b"-_.~".contains(&it);
    if value.bytes().all(plain) { Ok(value.into()) } else { Err(PARAMETER) }
}

pub(in crate::compile) fn headers(value: &str) -> Result<Vec<HeaderName>, &'static str> {
    header_names(value).ok_or(HEADERS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compile::Policy;
    use crate::compile::annotation::{Effect, read};
    use crate::compile::objects::Ingress;

    #[test]
    fn every_row_has_its_default_its_effect_and_its_bad_value() {
        for (name, good, bad) in [
            ("allowlist-source-range", "10.0.0.0/8, ::1", "10.0.0.0/8 ::1"),
            ("whitelist-source-range", "10.0.0.0/8", ","),
            ("denylist-source-range", "192.0.2.1", "192.0.2.256"),
            ("satisfy", "any", "one"),
            ("auth-type", "basic", "digest"),
            ("auth-secret", "passwords", ""),
            ("auth-secret-type", "auth-map", "map"),
            ("auth-realm", "Staff", "a\nb"),
            ("auth-url", "http://auth.test/a?b=$arg_c", "//auth.test/"),
            ("auth-signin", "https://$host/start?rd=$escaped_request_uri", "https://$nope/"),
            ("auth-signin-redirect-param", "back", "b&c"),
            ("auth-response-headers", "X-User, X-Mail", "Connection"),
            ("auth-method", "HEAD", "FETCH"),
            ("auth-request-redirect", "https://$host$request_uri", "$nope"),
            ("auth-proxy-set-headers", "demo/headers", ""),
            ("auth-always-set-cookie", "true", "yes"),
            ("auth-cache-key", "$remote_user$http_authorization", "$nope"),
            ("auth-cache-duration", "200 1h, 401 5s", "1 hour"),
            ("enable-global-auth", "false", "off"),
        ] {
            let row = crate::compile::annotation::row(name).expect("a row");
            let read = |value: &str| {
                let name = format!("nginx.ingress.kubernetes.io/{name}");
                let ingress = Ingress { annotations: [(name, value)].into(), ..Ingress::default() };
                read(&ingress, &Policy::default(), &Options::default())
            };
            let set = read(good);
            assert_eq!((set.refusal, set.problems), (None, vec![]), "{name}: {good}");
            assert_ne!(set.options, Options::default(), "{name}: {good}");
            let unset = read(row.default);
            assert_eq!((unset.refusal, unset.problems), (None, vec![]), "{name}: the default");
            let wrong = read(bad);
            let guards = matches!(row.effect, Effect::Guards(_)) && !bad.is_empty();
            assert_eq!(wrong.refusal.is_some(), guards, "{name}: {bad}");
            assert_eq!(wrong.problems.len(), usize::from(!bad.is_empty()), "{name}: {bad}");
            assert!(
                wrong.options.access.is_none_or(|it| *it == Access::default() || guards),
                "{name}: {bad}"
            );
        }
    }
}
