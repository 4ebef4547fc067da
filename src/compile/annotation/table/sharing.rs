//! Canaries and affinity: who of several gets a request.

use http::HeaderName;

use super::{Annotation, moot, sets};
use super::{TRUTH, count};
use crate::model::options::Options;
use crate::model::pattern::Pattern;
use crate::model::sharing::{HeaderPattern, Mode, SameSite, Sharing, Split};
use crate::model::value::boolean;

const COOKIE_NAME: &str = "a cookie's name of letters, digits, hyphens and the like";
const SECONDS: &str = "a whole number of seconds";
const SHARE: &str = "a whole number";

pub(super) const ROWS: &[Annotation] = &[
    sets("canary", "false",
        "The Ingress has no paths of its own: for each of its paths another Ingress of its namespace has, too, \
         its Service takes a share of whatever goes to that one's Service and port, by any host and path.",
        |value, options| switch(value, options, |it, on| it.canary = on),
    ).of_backend(),
    sets("canary-by-header", "",
        "Header that decides before all else: `always` for the canary, `never` against it.",
        |value, options| {
            let name: HeaderName = value.parse().map_err(|_| "the name of a header")?;
            split(options).header = Some(name);
            Ok(())
        },
    ).of_backend(),
    sets("canary-by-header-value", "",
        "The one value of that header that decides for the canary; `always` and `never` mean nothing then.",
        |value, options| {
            split(options).value = Some(value.into());
            Ok(())
        },
    ).of_backend(),
    sets("canary-by-header-pattern", "",
        "Regular expression, without look-around, for such values; not looked at beside \
         `canary-by-header-value`.",
        |value, options| {
            let pattern = Pattern::parse(value, false);
            let read = pattern.is_ok();
            let pattern = pattern.map_or(HeaderPattern::Unreadable, HeaderPattern::Read);
            split(options).pattern = Some(pattern);
            read.then_some(()).ok_or(
                "a regular expression without look-around; requests with that header stay with the main \
                 Service",
            )
        },
    ).of_backend(),
    sets("canary-by-cookie", "",
        "Cookie that decides next: `always` for the canary, `never` against it.",
        |value, options| {
            split(options).cookie = Some(cookie_name(value)?);
            Ok(())
        },
    ).of_backend(),
    sets("canary-weight", "0",
        "How many of `canary-weight-total` requests the canary takes by chance, of those that nothing else \
         decides.",
        |value, options| {
            let weight = count(value).ok_or(SHARE)?;
            split(options).weight = weight;
            Ok(())
        },
    ).of_backend(),
    sets("canary-weight-total", "100",
        "Out of how many; less than 100 counts as 100.",
        |value, options| {
            let total = count(value).ok_or(SHARE)?;
            split(options).total = total;
            Ok(())
        },
    ).of_backend(),
    sets("affinity", "",
        "`cookie`: a cookie keeps a client on one endpoint.",
        |value, options| {
            if value != "cookie" {
                return Err("cookie");
            }
            sharing(options).affinity = true;
            Ok(())
        },
    ).of_backend(),
    sets("affinity-mode", "balanced",
        "`balanced`: new endpoints take over some of the clients; `persistent`: a client stays while its \
         endpoint is there.",
        |value, options| {
            sharing(options).mode = Some(match value {
                "balanced" => Mode::Balanced,
                "persistent" => Mode::Persistent,
                _ => return Err("balanced or persistent"),
            });
            Ok(())
        },
    ).of_backend(),
    sets("affinity-canary-behavior", "sticky",
        "Of a canary. `sticky`: the main Service's affinity holds for it, too, before weights; `legacy`: it \
         keeps nobody.",
        |value, options| {
            sharing(options).legacy = match value {
                "sticky" => false,
                "legacy" => true,
                _ => return Err("sticky or legacy"),
            };
            Ok(())
        },
    ).of_backend(),
    sets("session-cookie-name", "INGRESSCOOKIE", "Name of the cookie.", |value, options| {
        sharing(options).cookie.name = Some(cookie_name(value)?);
        Ok(())
    }).of_backend(),
    sets("session-cookie-path", "the path of the rule", "Its `Path`.", |value, options| {
        let fine = value.starts_with('/') && value.bytes().all(|it| it.is_ascii_graphic() && it != b';');
        sharing(options).cookie.path = Some(fine.then(|| value.into()).ok_or("a path")?);
        Ok(())
    }).of_backend(),
    sets("session-cookie-domain", "", "Its `Domain`.", |value, options| {
        let letter = |it: u8| it.is_ascii_alphanumeric() || matches!(it, b'-' | b'.' | b'_');
        let fine = value.bytes().all(letter);
        sharing(options).cookie.domain = Some(fine.then(|| value.into()).ok_or("a domain")?);
        Ok(())
    }).of_backend(),
    sets("session-cookie-samesite", "",
        "Its `SameSite`: `None`, `Lax` or `Strict`.",
        |value, options| {
            let same_site = SameSite::parse(value).ok_or("None, Lax or Strict")?;
            sharing(options).cookie.same_site = Some(same_site);
            Ok(())
        },
    ).of_backend(),
    sets("session-cookie-conditional-samesite-none", "false",
        "Leave `SameSite=None` out for browsers that choke on it.",
        |value, options| switch(value, options, |it, on| it.cookie.conditional = on),
    ).of_backend(),
    sets("session-cookie-secure", "as the connection",
        "`true`: its `Secure` is always there, not only over TLS.",
        |value, options| switch(value, options, |it, on| it.cookie.secure = on),
    ).of_backend(),
    sets("session-cookie-expires", "", "Its `Expires`, in seconds from now.", |value, options| {
        sharing(options).cookie.expires = Some(value.parse().map_err(|_| SECONDS)?);
        Ok(())
    }).of_backend(),
    sets("session-cookie-max-age", "", "Its `Max-Age`, in seconds.", |value, options| {
        sharing(options).cookie.max_age = Some(value.parse().map_err(|_| SECONDS)?);
        Ok(())
    }).of_backend(),
    sets("session-cookie-change-on-failure", "false",
        "When its endpoint fails, a client is moved to another one; else it gets the failure.",
        |value, options| switch(value, options, |it, on| it.cookie.change_on_failure = on),
    ).of_backend(),
    moot("session-cookie-hash", "", "Removed from ingress-nginx."),
];

fn sharing(options: &mut Options) -> &mut Sharing {
    options.sharing.get_or_insert_default()
}

fn split(options: &mut Options) -> &mut Split {
    &mut sharing(options).split
}

/// Reads true or false; what is off anyway needs no room.
pub(super) fn switch(
    value: &str,
    options: &mut Options,
    set: fn(&mut Sharing, bool),
) -> Result<(), &'static str> {
    let on = boolean(value).ok_or(TRUTH)?;
    if on || options.sharing.is_some() {
        set(sharing(options), on);
    }
    Ok(())
}

/// RFC 6265 section 4.1.1: a token.
fn cookie_name(value: &str) -> Result<Box<str>, &'static str> {
    let letter = |it: u8| it.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&it);
    value.bytes().all(letter).then(|| value.into()).ok_or(COOKIE_NAME)
}
