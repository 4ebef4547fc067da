//! Keys about who may ask.
//!
//! One that cannot be read protects nobody as it was meant to: every path answers 503.

use super::{Key, key, truth};
use crate::compile::annotation::access::{
    METHOD, NETWORKS, TIMES, URL, headers, networks, parameter, phrase, signin,
};
use crate::model::access::{Access, AuthUrl, Blocked, CacheTimes, Texts, auth_method};
use crate::model::settings::Settings;
use crate::model::value::entries_of;

const TEXTS: &str =
    "a list of texts, or of regular expressions behind ~ or ~*, without look-around";

pub(super) const KEYS: &[Key] = &[
    key("whitelist-source-range", "Default of `allowlist-source-range`.", |value, it| {
        guard("whitelist-source-range", value, it, |value, it| {
            access(it).allow_older = Some(networks(value)?);
            Ok(())
        })
    }),
    key("denylist-source-range", "Default of the annotation.", |value, it| {
        guard("denylist-source-range", value, it, |value, it| {
            access(it).deny = Some(networks(value)?);
            Ok(())
        })
    }),
    key("block-cidrs", "Addresses and networks that get 403 for everything.", |value, it| {
        guard("block-cidrs", value, it, |value, it| {
            blocked(it).networks = value.parse().map_err(|_| NETWORKS)?;
            Ok(())
        })
    }),
    key(
        "block-user-agents",
        "Values of User-Agent that get 403 for everything; `~*` before a regular expression.",
        |value, it| {
            guard("block-user-agents", value, it, |value, it| {
                blocked(it).agents = Texts::parse(value).ok_or(TEXTS)?;
                Ok(())
            })
        },
    ),
    key("block-referers", "Values of Referer, likewise.", |value, it| {
        guard("block-referers", value, it, |value, it| {
            blocked(it).referers = Texts::parse(value).ok_or(TEXTS)?;
            Ok(())
        })
    }),
    key(
        "no-auth-locations",
        "Beginnings of Ingress paths where no password and no judge is asked for.",
        |value, it| {
            let paths = entries_of(value);
            it.access.open = paths.map(str::to_owned).collect();
            Ok(())
        },
    ),
    key(
        "allow-cross-namespace-resources",
        "Let Ingresses use Secrets and ConfigMaps of other namespaces.",
        |value, it| {
            it.access.cross_namespace = truth(value)?;
            Ok(())
        },
    ),
    key(
        "global-auth-url",
        "A judge for all Ingresses that have none; in a cluster at no loopback or link-local address.",
        |value, it| {
            guard("global-auth-url", value, it, |value, it| {
                it.access.judge.url = Some(AuthUrl::parse(value).ok_or(URL)?);
                Ok(())
            })
        },
    ),
    key("global-auth-method", "Method with which it is asked.", |value, it| {
        guard("global-auth-method", value, it, |value, it| {
            it.access.judge.method = Some(auth_method(value).ok_or(METHOD)?);
            Ok(())
        })
    }),
    key("global-auth-signin", "URL to send those to whom it does not know.", |value, it| {
        guard("global-auth-signin", value, it, |value, it| {
            it.access.judge.signin = Some(signin(value)?);
            Ok(())
        })
    }),
    key(
        "global-auth-signin-redirect-param",
        "Name of the parameter with the way back; `rd`.",
        |value, it| {
            let named = Some(value).filter(|it| !it.is_empty()).map(parameter).transpose()?;
            it.access.judge.signin_param = named;
            Ok(())
        },
    ),
    key("global-auth-response-headers", "Fields of its answer that endpoints get.", |value, it| {
        guard("global-auth-response-headers", value, it, |value, it| {
            it.access.judge.response_headers = headers(value)?;
            Ok(())
        })
    }),
    key("global-auth-request-redirect", "Its X-Auth-Request-Redirect.", |value, it| {
        it.access.judge.request_redirect =
            Some(value).filter(|it| !it.is_empty()).map(phrase).transpose()?;
        Ok(())
    }),
    key("global-auth-cache-key", "Remember its answers by this text.", |value, it| {
        it.access.judge.cache_key =
            Some(value).filter(|it| !it.is_empty()).map(phrase).transpose()?;
        Ok(())
    }),
    key("global-auth-cache-duration", "For how long, by status.", |value, it| {
        guard("global-auth-cache-duration", value, it, |value, it| {
            it.access.judge.cache_times = Some(CacheTimes::parse(value).ok_or(TIMES)?);
            Ok(())
        })
    }),
    key(
        "global-auth-always-set-cookie",
        "Pass a judge's cookies on with errors, too: its own, and by default that of annotations.",
        |value, it| {
            it.access.judge.always_set_cookie = Some(truth(value)?);
            Ok(())
        },
    ),
];

type Reader = fn(&str, &mut Settings) -> Result<(), &'static str>;

/// Reads what protects: nothing is served where it cannot be read. Empty is not set.
fn guard(
    name: &str,
    value: &str,
    settings: &mut Settings,
    read: Reader,
) -> Result<(), &'static str> {
    if value.is_empty() {
        return Ok(());
    }
    read(value, settings).inspect_err(|_| {
        let text = format!("{name} of the ConfigMap cannot be read: every path answers 503");
        settings.refusal.get_or_insert(text);
    })
}

fn access(settings: &mut Settings) -> &mut Access {
    settings.options.access.get_or_insert_default()
}

fn blocked(settings: &mut Settings) -> &mut Blocked {
    settings.access.blocked.get_or_insert_default()
}
