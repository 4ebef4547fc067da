//! Answers: what clients get back.

use super::{Annotation, moot, sets};
use super::{TRUTH, guards};
use crate::model::answering::{Answering, Replacement, Statuses, is_plain};
use crate::model::cors;
use crate::model::options::Options;
use crate::model::value::boolean;

const NAMES: &str = "a list of header fields' names";
const REPLACEMENT: &str = "off, or two words without variables and regular expressions";

fn answering(options: &mut Options) -> &mut Answering {
    options.answering.get_or_insert_default()
}

pub(super) const ROWS: &[Annotation] = &[
    sets(
        "enable-cors",
        "false",
        "Answer browsers' questions whether pages of other origins may use answers, in place of the endpoint.",
        |value, options| {
            if boolean(value).ok_or(TRUTH)? || options.answering.is_some() {
                let on = boolean(value) == Some(true);
                answering(options).cors.on = on;
            }
            Ok(())
        },
    ),
    sets(
        "cors-allow-origin",
        "*",
        "Whose pages: `*`, or a list of origins such as `https://a.example.org`, `https://*.example.org` for all \
         with one more label.",
        |value, options| {
            answering(options).cors.read_origins(value);
            Ok(())
        },
    ),
    sets(
        "cors-allow-methods",
        "GET, PUT, POST, DELETE, PATCH, OPTIONS",
        "Methods that they may use.",
        |value, options| {
            let methods = cors::methods(value).ok_or("a list of methods")?;
            answering(options).cors.methods = methods;
            Ok(())
        },
    ),
    sets(
        "cors-allow-headers",
        "DNT,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,Content-Type,Range,Authorization",
        "Header fields that they may send.",
        |value, options| {
            let names = cors::names(value).ok_or(NAMES)?;
            answering(options).cors.headers = names;
            Ok(())
        },
    ),
    sets(
        "cors-expose-headers",
        "",
        "Header fields that they may see, or `*`.",
        |value, options| {
            let names = cors::names_or_all(value).ok_or("a list of header fields' names, or *")?;
            answering(options).cors.expose = Some(names);
            Ok(())
        },
    ),
    sets("cors-allow-credentials", "true", "Whether they may with cookies.", |value, options| {
        let credentials = boolean(value).ok_or(TRUTH)?;
        answering(options).cors.credentials = credentials;
        Ok(())
    }),
    sets(
        "cors-max-age",
        "1728000",
        "For how many seconds browsers need not ask again.",
        |value, options| {
            let seconds: i32 = value.parse().map_err(|_| "a whole number of seconds")?;
            answering(options).cors.max_age = seconds.into();
            Ok(())
        },
    ),
    guards(
        "custom-headers",
        "",
        "The ConfigMap of the same namespace with header fields for answers, each of which the ConfigMap key \
         `global-allowed-response-headers` lists.",
        |value, options| {
            answering(options).custom_headers = Some(value.into());
            Ok(())
        },
    ),
    sets(
        "custom-http-errors",
        "",
        "Statuses such as `404,503` for which the default backend answers, which is told in `X-Code` and the like.",
        |value, options| {
            let statuses = Statuses::parse(value).ok_or("a list of statuses from 300 to 599")?;
            answering(options).errors = Some(statuses);
            Ok(())
        },
    ),
    sets(
        "disable-proxy-intercept-errors",
        "false",
        "`true`: the default backend answers for our own errors only, not for those of endpoints.",
        |value, options| {
            if boolean(value).ok_or(TRUTH)? || options.answering.is_some() {
                answering(options).leaves_errors = boolean(value) == Some(true);
            }
            Ok(())
        },
    ),
    sets(
        "default-backend",
        "",
        "The Service of the same namespace that answers, at its first port, while this one has no endpoints, \
         and for `custom-http-errors`.",
        |value, options| {
            answering(options).default_backend = Some(value.into());
            Ok(())
        },
    ),
    sets(
        "proxy-cookie-domain",
        "off",
        "`FROM TO`: the domain of the endpoint's cookies, where it is the first.",
        |value, options| {
            let replacement = Replacement::parse(value).ok_or(REPLACEMENT)?;
            if replacement.is_some() || options.answering.is_some() {
                answering(options).cookie_domain = replacement;
            }
            Ok(())
        },
    ),
    sets(
        "proxy-cookie-path",
        "off",
        "`FROM TO`: the path of the endpoint's cookies, where it begins with the first.",
        |value, options| {
            let replacement = Replacement::parse(value).ok_or(REPLACEMENT)?;
            if replacement.is_some() || options.answering.is_some() {
                answering(options).cookie_path = replacement;
            }
            Ok(())
        },
    ),
    sets(
        "proxy-redirect-from",
        "off",
        "What the endpoint's `Location` and `Refresh` begin with where they are rewritten; `off` and `default` \
         leave them alone.",
        |value, options| {
            let from = match value {
                "off" | "default" => None,
                from if is_plain(from) => Some(from.into()),
                _ => return Err("off, default or the beginning of a URL, without variables"),
            };
            if from.is_some() || options.answering.is_some() {
                answering(options).redirect_from = from;
            }
            Ok(())
        },
    ),
    sets("proxy-redirect-to", "off", "What stands there instead.", |value, options| {
        let to = match value {
            "off" | "default" => None,
            to if is_plain(to) => Some(to.into()),
            _ => return Err("the beginning of a URL, without variables"),
        };
        if to.is_some() || options.answering.is_some() {
            answering(options).redirect_to = to;
        }
        Ok(())
    }),
    moot("http2-push-preload", "false", "Browsers dropped HTTP/2 push."),
];
