//! The rows: first what is built, then what is not, strictest first, then what needs no building.

use rustls::pki_types::ServerName;

use super::{Annotation, Effect, Instead};
use crate::model::options::Options;
use crate::model::phrase::Phrase;
use crate::model::upstream::{Protocol, RetryOn, TlsVersions};
use crate::model::value::{boolean, bytes, positive_bytes, positive_seconds, switch};

const TRUTH: &str = "true or false";
const SECONDS: &str = "a whole number of seconds, at least 1";
const ON_OR_OFF: &str = "on or off";
const NUMBER: &str = "a whole number, at least 1";
const BUFFER: &str = "a size such as 4k or 16k";

/// Every annotation of ingress-nginx 1.15, and some that older manifests still hold.
pub const TABLE: &[Annotation] = &[
    sets(
        "ssl-redirect",
        "`true` or `false`: send plain HTTP to HTTPS where the host has a `tls` entry.",
        |value, options| {
            options.ssl_redirect = boolean(value).ok_or(TRUTH)?;
            Ok(())
        },
    ),
    sets(
        "force-ssl-redirect",
        "`true` or `false`: send plain HTTP to HTTPS even where the host has no `tls` entry.",
        |value, options| {
            options.force_ssl_redirect = boolean(value).ok_or(TRUTH)?;
            Ok(())
        },
    ),
    sets(
        "use-port-in-redirects",
        "`true` or `false`: keep our HTTPS port in redirects.",
        |value, options| {
            options.port_in_redirects = boolean(value).ok_or(TRUTH)?;
            Ok(())
        },
    ),
    sets(
        "proxy-body-size",
        "Largest request body, as `8m`; `0` lifts the limit.",
        |value, options| {
            let size = bytes(value).ok_or("a size such as 512k or 8m")?;
            options.body_limit = (size > 0).then_some(size);
            Ok(())
        },
    ),
    sets(
        "proxy-connect-timeout",
        "Seconds to wait for a connection to an endpoint.",
        |value, options| {
            options.connect_timeout = positive_seconds(value).ok_or(SECONDS)?;
            Ok(())
        },
    ),
    sets("proxy-read-timeout", "Seconds between two reads from an endpoint.", |value, options| {
        options.read_timeout = positive_seconds(value).ok_or(SECONDS)?;
        Ok(())
    }),
    sets("proxy-send-timeout", "Seconds between two writes to an endpoint.", |value, options| {
        options.send_timeout = positive_seconds(value).ok_or(SECONDS)?;
        Ok(())
    }),
    sets(
        "proxy-request-buffering",
        "`on` or `off`: take a body of up to 64 KiB whole before an endpoint is asked.",
        |value, options| {
            options.request_buffering = switch(value).ok_or(ON_OR_OFF)?;
            Ok(())
        },
    ),
    sets(
        "proxy-next-upstream",
        "When another endpoint is asked: `error`, `timeout`, `invalid_header`, `http_500`, `http_502`, \
         `http_503`, `http_504`, `http_403`, `http_404`, `http_429`, `non_idempotent`, or `off`.",
        |value, options| {
            let non_idempotent = options.retry.on.non_idempotent;
            options.retry.on = RetryOn::parse(value).ok_or("a list of nginx's conditions")?;
            options.retry.on.non_idempotent |= non_idempotent;
            Ok(())
        },
    ),
    sets(
        "proxy-next-upstream-tries",
        "Most endpoints that are asked; `0` for all.",
        |value, options| {
            let tries: u32 = value.parse().map_err(|_| "a whole number")?;
            options.retry.tries = (tries > 0).then_some(tries);
            Ok(())
        },
    ),
    sets(
        "proxy-next-upstream-timeout",
        "For how many seconds another one may still be asked; `0` for ever.",
        |value, options| {
            options.retry.timeout = match value {
                "0" => None,
                some => Some(positive_seconds(some).ok_or(SECONDS)?),
            };
            Ok(())
        },
    ),
    guards(
        "backend-protocol",
        "What endpoints speak: `HTTP`, `HTTPS`, `GRPC`, `GRPCS` or `AUTO_HTTP`.",
        |value, options| {
            let wanted = "HTTP, HTTPS, GRPC, GRPCS or AUTO_HTTP";
            options.protocol = Protocol::parse(value).ok_or(wanted)?;
            Ok(())
        },
    ),
    guards("secure-backends", "Older name of `backend-protocol: HTTPS`.", |value, options| {
        if boolean(value).ok_or(TRUTH)? && options.protocol == Protocol::Http {
            options.protocol = Protocol::Https;
        }
        Ok(())
    }),
    guards("grpc-backend", "Older name of `backend-protocol: GRPC`.", |value, options| {
        if boolean(value).ok_or(TRUTH)? && options.protocol == Protocol::Http {
            options.protocol = Protocol::Grpc;
        }
        Ok(())
    }),
    guards(
        "proxy-ssl-secret",
        "The Secret of the same namespace with `ca.crt` for endpoints' certificates, and `tls.crt` and \
         `tls.key` to show them.",
        |value, options| {
            options.proxy_ssl.get_or_insert_default().secret = Some(value.into());
            Ok(())
        },
    ),
    guards(
        "proxy-ssl-verify",
        "`on` or `off`: check endpoints' certificates against that CA.",
        |value, options| {
            let verify = switch(value).ok_or(ON_OR_OFF)?;
            options.proxy_ssl.get_or_insert_default().verify = verify;
            Ok(())
        },
    ),
    guards(
        "proxy-ssl-name",
        "The name in endpoints' certificates; `SERVICE.NAMESPACE.svc` where it is not given.",
        |value, options| {
            let name = ServerName::try_from(value).map_err(|_| "a host or an address")?;
            options.proxy_ssl.get_or_insert_default().name = Some(name.to_owned());
            Ok(())
        },
    ),
    sets(
        "proxy-ssl-server-name",
        "`on` or `off`: send that name to endpoints in the handshake.",
        |value, options| {
            let server_name = switch(value).ok_or(ON_OR_OFF)?;
            options.proxy_ssl.get_or_insert_default().server_name = server_name;
            Ok(())
        },
    ),
    guards(
        "proxy-ssl-protocols",
        "TLS versions towards endpoints, of `TLSv1.2` and `TLSv1.3`; both where it is not given.",
        |value, options| {
            let versions = TlsVersions::parse(value).ok_or("a list with TLSv1.2 or TLSv1.3")?;
            options.proxy_ssl.get_or_insert_default().versions = versions;
            Ok(())
        },
    ),
    sets(
        "load-balance",
        "How the next endpoint is chosen: `round_robin` or `ewma`.",
        |value, options| {
            options.ewma = match value {
                "round_robin" => false,
                "ewma" => true,
                _ => return Err("round_robin or ewma"),
            };
            Ok(())
        },
    ),
    sets(
        "upstream-hash-by",
        "Choose the endpoint by this text with nginx's variables, such as `$request_uri`: the same text, \
         the same endpoint.",
        |value, options| {
            let phrase =
                Phrase::parse(value).map_err(|_| "a text with variables that are known")?;
            options.hash_by = Some(Box::new(phrase));
            Ok(())
        },
    ),
    sets(
        "proxy-buffering",
        "`on` or `off`: read answers ahead of the client.",
        |value, options| {
            options.buffers.on = switch(value).ok_or(ON_OR_OFF)?;
            Ok(())
        },
    ),
    sets(
        "proxy-buffers-number",
        "How far: this many times `proxy-buffer-size`, 16k to 1m in all.",
        |value, options| {
            options.buffers.number = value.parse().ok().filter(|it| *it > 0).ok_or(NUMBER)?;
            Ok(())
        },
    ),
    sets("proxy-buffer-size", "See `proxy-buffers-number`.", |value, options| {
        options.buffers.size = positive_bytes(value).ok_or(BUFFER)?;
        Ok(())
    }),
    missing("auth-type", "`basic` or `digest`: ask for a password.", never, Instead::Refuse),
    missing("auth-secret", "The Secret with the passwords.", never, Instead::Refuse),
    missing(
        "auth-secret-type",
        "`auth-file` or `auth-map`: how that Secret is laid out.",
        never,
        Instead::Refuse,
    ),
    missing("auth-realm", "Text of the password prompt.", never, Instead::Refuse),
    missing("auth-url", "URL that is asked whether a request may pass.", never, Instead::Refuse),
    missing("auth-signin", "URL to send those to who may not.", never, Instead::Refuse),
    missing(
        "auth-signin-redirect-param",
        "Name of the parameter that brings them back.",
        never,
        Instead::Refuse,
    ),
    missing(
        "auth-response-headers",
        "Headers of that answer the backend gets.",
        never,
        Instead::Refuse,
    ),
    missing("auth-method", "Method of that question.", never, Instead::Refuse),
    missing(
        "auth-request-redirect",
        "Value of its X-Auth-Request-Redirect.",
        never,
        Instead::Refuse,
    ),
    missing(
        "auth-proxy-set-headers",
        "ConfigMap of headers for that question.",
        never,
        Instead::Refuse,
    ),
    missing(
        "auth-always-set-cookie",
        "Pass its cookies on with errors too.",
        never,
        Instead::Refuse,
    ),
    missing("auth-cache-key", "Cache its answers under this key.", never, Instead::Refuse),
    missing("auth-cache-duration", "How long they are cached.", never, Instead::Refuse),
    missing("auth-snippet", "nginx configuration.", never, Instead::Refuse),
    missing(
        "auth-tls-secret",
        "The Secret with the CA of client certificates.",
        never,
        Instead::Refuse,
    ),
    missing(
        "auth-tls-verify-depth",
        "Longest chain of a client certificate.",
        never,
        Instead::Refuse,
    ),
    missing("auth-tls-error-page", "URL for clients without one.", never, Instead::Refuse),
    missing("auth-tls-match-cn", "What its subject must look like.", never, Instead::Refuse),
    missing("allowlist-source-range", "Addresses that may pass.", never, Instead::Refuse),
    missing(
        "whitelist-source-range",
        "Older name of `allowlist-source-range`.",
        never,
        Instead::Refuse,
    ),
    missing("denylist-source-range", "Addresses that may not pass.", never, Instead::Refuse),
    missing("modsecurity-snippet", "ModSecurity configuration.", never, Instead::Refuse),
    missing("modsecurity-transaction-id", "ModSecurity's id of a request.", never, Instead::Refuse),
    missing("configuration-snippet", "nginx configuration.", never, Instead::Refuse),
    missing("server-snippet", "nginx configuration.", never, Instead::Refuse),
    missing("stream-snippet", "nginx configuration.", never, Instead::Refuse),
    missing(
        "rewrite-target",
        "Path the backend sees; makes every path of the host a regular expression.",
        never,
        Instead::Refuse,
    ),
    missing(
        "auth-tls-verify-client",
        "Whether a client certificate is asked for.",
        is_off,
        Instead::Refuse,
    ),
    missing(
        "auth-tls-pass-certificate-to-upstream",
        "Send the client certificate on.",
        is_false,
        Instead::Refuse,
    ),
    missing(
        "satisfy",
        "`all` or `any`: how many of the checks must pass.",
        is_all,
        Instead::Refuse,
    ),
    missing("enable-modsecurity", "Web application firewall.", is_false, Instead::Refuse),
    missing("enable-owasp-core-rules", "Its rule set.", is_false, Instead::Refuse),
    missing("use-regex", "Paths are regular expressions.", is_false, Instead::Refuse),
    missing("ssl-passthrough", "Hand TLS to the backend as it is.", is_false, Instead::Refuse),
    missing(
        "canary",
        "This Ingress takes a share of another one's requests.",
        is_false,
        Instead::Skip,
    ),
    missing(
        "preserve-trailing-slash",
        "Keep a trailing slash in redirects to HTTPS.",
        is_false,
        Instead::Serve,
    ),
    missing(
        "from-to-www-redirect",
        "Redirect between `www.` and the bare host.",
        is_false,
        Instead::Serve,
    ),
    missing("relative-redirects", "Redirects without scheme and host.", is_false, Instead::Serve),
    missing("service-upstream", "Send to the Service's cluster IP.", is_false, Instead::Serve),
    missing("enable-cors", "Answer browsers' cross-origin questions.", is_false, Instead::Serve),
    missing(
        "session-cookie-conditional-samesite-none",
        "Leave out SameSite=None for browsers that choke on it.",
        is_false,
        Instead::Serve,
    ),
    missing("session-cookie-secure", "`Secure` on the affinity cookie.", is_false, Instead::Serve),
    missing(
        "session-cookie-change-on-failure",
        "New endpoint, new cookie.",
        is_false,
        Instead::Serve,
    ),
    missing("upstream-hash-by-subset", "Hash to a subset of endpoints.", is_false, Instead::Serve),
    missing(
        "disable-proxy-intercept-errors",
        "Leave error answers alone.",
        is_false,
        Instead::Serve,
    ),
    missing("enable-opentelemetry", "Traces.", is_false, Instead::Serve),
    missing(
        "enable-access-log",
        "`false`: no access log for this Ingress.",
        is_true,
        Instead::Serve,
    ),
    missing("app-root", "Where `/` of the host is redirected to.", never, Instead::Serve),
    missing("x-forwarded-prefix", "Value of that header with rewrites.", never, Instead::Serve),
    missing("permanent-redirect", "Redirect instead of serving.", never, Instead::Serve),
    missing("permanent-redirect-code", "Its status.", never, Instead::Serve),
    missing("temporal-redirect", "Redirect instead of serving, for now.", never, Instead::Serve),
    missing("temporal-redirect-code", "Its status.", never, Instead::Serve),
    missing("server-alias", "More names of the host.", never, Instead::Serve),
    missing(
        "proxy-ssl-verify-depth",
        "Longest chain of the backend's certificate.",
        never,
        Instead::Serve,
    ),
    missing("proxy-ssl-ciphers", "Ciphers towards the backend.", never, Instead::Serve),
    missing("ssl-ciphers", "Ciphers of the host.", never, Instead::Serve),
    missing("affinity", "`cookie`: keep a client on one endpoint.", never, Instead::Serve),
    missing("affinity-mode", "What keeps it there.", never, Instead::Serve),
    missing("affinity-canary-behavior", "Whether canaries count.", never, Instead::Serve),
    missing("session-cookie-name", "Name of that cookie.", never, Instead::Serve),
    missing("session-cookie-path", "Its path.", never, Instead::Serve),
    missing("session-cookie-domain", "Its domain.", never, Instead::Serve),
    missing("session-cookie-samesite", "Its SameSite.", never, Instead::Serve),
    missing("session-cookie-expires", "Its end.", never, Instead::Serve),
    missing("session-cookie-max-age", "Its age.", never, Instead::Serve),
    missing("upstream-hash-by-subset-size", "Size of that subset.", never, Instead::Serve),
    missing("upstream-vhost", "The Host the backend sees.", never, Instead::Serve),
    missing("default-backend", "Service that answers when this one cannot.", never, Instead::Serve),
    missing(
        "custom-http-errors",
        "Answers that the default backend replaces.",
        never,
        Instead::Serve,
    ),
    missing("custom-headers", "ConfigMap of response headers.", never, Instead::Serve),
    missing("cors-allow-origin", "Origins that may.", never, Instead::Serve),
    missing("cors-allow-methods", "Methods they may use.", never, Instead::Serve),
    missing("cors-allow-headers", "Headers they may send.", never, Instead::Serve),
    missing("cors-expose-headers", "Headers they may see.", never, Instead::Serve),
    missing("cors-allow-credentials", "Whether with cookies.", never, Instead::Serve),
    missing("cors-max-age", "How long that holds.", never, Instead::Serve),
    missing("limit-rps", "Requests a second and client.", never, Instead::Serve),
    missing("limit-rpm", "Requests a minute and client.", never, Instead::Serve),
    missing("limit-connections", "Connections a client.", never, Instead::Serve),
    missing("limit-burst-multiplier", "How many may come at once.", never, Instead::Serve),
    missing("limit-allowlist", "Clients without limits.", never, Instead::Serve),
    missing("limit-whitelist", "Older name of `limit-allowlist`.", never, Instead::Serve),
    missing("limit-rate", "Bandwidth of an answer.", never, Instead::Serve),
    missing("limit-rate-after", "From which byte on.", never, Instead::Serve),
    missing("proxy-cookie-domain", "Rewrite the domain of cookies.", never, Instead::Serve),
    missing("proxy-cookie-path", "Rewrite the path of cookies.", never, Instead::Serve),
    missing("proxy-redirect-to", "Rewrite Location.", never, Instead::Serve),
    missing(
        "connection-proxy-header",
        "Value of Connection towards the backend.",
        never,
        Instead::Serve,
    ),
    missing("mirror-target", "Where copies of requests go.", never, Instead::Serve),
    missing("mirror-host", "Their Host.", never, Instead::Serve),
    missing("opentelemetry-operation-name", "Name of its spans.", never, Instead::Serve),
    missing("fastcgi-index", "File for FastCGI.", never, Instead::Serve),
    missing("fastcgi-params-configmap", "Parameters for FastCGI.", never, Instead::Serve),
    missing("canary-by-header", "Header that chooses the canary.", never, Instead::Serve),
    missing("canary-by-header-value", "Its value.", never, Instead::Serve),
    missing("canary-by-header-pattern", "Pattern of its value.", never, Instead::Serve),
    missing("canary-by-cookie", "Cookie that chooses it.", never, Instead::Serve),
    missing("canary-weight", "Its share.", never, Instead::Serve),
    missing("canary-weight-total", "Out of how many.", never, Instead::Serve),
    missing("global-rate-limit", "Removed from ingress-nginx.", never, Instead::Serve),
    missing("global-rate-limit-window", "Removed from ingress-nginx.", never, Instead::Serve),
    missing("global-rate-limit-key", "Removed from ingress-nginx.", never, Instead::Serve),
    missing(
        "global-rate-limit-ignored-cidrs",
        "Removed from ingress-nginx.",
        never,
        Instead::Serve,
    ),
    missing("add-base-url", "Removed from ingress-nginx.", never, Instead::Serve),
    missing("base-url-scheme", "Removed from ingress-nginx.", never, Instead::Serve),
    missing("proxy-redirect-from", "Rewrite Location.", is_off, Instead::Serve),
    missing("proxy-http-version", "HTTP version towards the backend.", is_one_one, Instead::Serve),
    moot("ssl-prefer-server-ciphers", "rustls chooses."),
    moot("auth-keepalive", "nginx's connections to the auth host."),
    moot("auth-keepalive-requests", "nginx's connections to the auth host."),
    moot("auth-keepalive-timeout", "nginx's connections to the auth host."),
    moot("auth-keepalive-share-vars", "nginx's connections to the auth host."),
    moot("enable-global-auth", "No global auth is built; the ConfigMap's key refuses."),
    moot("client-body-buffer-size", "Bodies are streamed."),
    moot("proxy-busy-buffers-size", "What is read goes on to the client at once."),
    moot("proxy-max-temp-file-size", "Nothing is written to disk."),
    moot("mirror-request-body", "Has a meaning only with mirror-target."),
    moot("enable-rewrite-log", "nginx's log."),
    moot("opentelemetry-trust-incoming-span", "Trace headers pass untouched."),
    moot("http2-push-preload", "Browsers dropped HTTP/2 push."),
    moot("session-cookie-hash", "Removed from ingress-nginx."),
    moot("enable-opentracing", "Removed from ingress-nginx."),
    moot("opentracing-trust-incoming-span", "Removed from ingress-nginx."),
    moot("enable-influxdb", "Removed from ingress-nginx."),
];

type Reader = fn(&str, &mut Options) -> Result<(), &'static str>;

const fn sets(name: &'static str, help: &'static str, read: Reader) -> Annotation {
    Annotation { name, help, effect: Effect::Sets(read) }
}

const fn guards(name: &'static str, help: &'static str, read: Reader) -> Annotation {
    Annotation { name, help, effect: Effect::Guards(read) }
}

const fn missing(
    name: &'static str,
    help: &'static str,
    inert: fn(&str) -> bool,
    instead: Instead,
) -> Annotation {
    Annotation { name, help, effect: Effect::Missing { inert, instead } }
}

const fn moot(name: &'static str, help: &'static str) -> Annotation {
    Annotation { name, help, effect: Effect::Moot }
}

fn never(_: &str) -> bool {
    false
}

fn is_true(value: &str) -> bool {
    boolean(value) == Some(true)
}

fn is_false(value: &str) -> bool {
    boolean(value) == Some(false)
}

fn is_off(value: &str) -> bool {
    value == "off"
}

fn is_all(value: &str) -> bool {
    value == "all"
}

fn is_one_one(value: &str) -> bool {
    value == "1.1"
}
