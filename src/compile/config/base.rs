//! Keys of what every request goes through.

use super::{Key, default_of, key, truth};
use crate::model::settings::{Coding, Hsts, MediaTypes};
use crate::model::template::Template;
use crate::model::value::{duration, entries_of, positive_seconds};

const LENGTH: &str = "a whole number of bytes";
const TYPES: &str = "media types such as text/css with spaces between them, or *";

pub(super) const KEYS: &[Key] = &[
    default_of("ssl-redirect"),
    default_of("force-ssl-redirect"),
    default_of("use-port-in-redirects"),
    default_of("proxy-body-size"),
    default_of("proxy-connect-timeout"),
    default_of("proxy-read-timeout"),
    default_of("proxy-send-timeout"),
    default_of("proxy-request-buffering"),
    default_of("proxy-next-upstream"),
    key("retry-non-idempotent", "Ask another endpoint for POST, too.", |value, it| {
        it.options.retry.on.non_idempotent |= truth(value)?;
        Ok(())
    }),
    default_of("proxy-next-upstream-tries"),
    default_of("proxy-next-upstream-timeout"),
    default_of("load-balance"),
    default_of("service-upstream"),
    default_of("proxy-buffering"),
    default_of("proxy-buffers-number"),
    default_of("proxy-buffer-size"),
    key("use-gzip", "Compress answers with gzip.", |value, it| {
        it.compression.gzip = truth(value)?.then(Coding::gzip);
        Ok(())
    }),
    key("gzip-level", "How hard it tries: 1 to 9.", |value, it| {
        let level = value.parse().ok().filter(|it| (1..=9).contains(it));
        let level = level.ok_or("a number from 1 to 9")?;
        it.compression.gzip.iter_mut().for_each(|it| it.level = level);
        Ok(())
    }),
    key("gzip-min-length", "Bytes below which it leaves answers alone.", |value, it| {
        let length = value.parse().map_err(|_| LENGTH)?;
        it.compression.gzip.iter_mut().for_each(|it| it.min_length = length);
        Ok(())
    }),
    key("gzip-types", "Media types that it compresses, or `*`.", |value, it| {
        let types = MediaTypes::parse(value).ok_or(TYPES)?;
        it.compression.gzip.iter_mut().for_each(|it| it.types = types.clone());
        Ok(())
    }),
    key("enable-brotli", "Compress answers with brotli.", |value, it| {
        it.compression.brotli = truth(value)?.then(Coding::brotli);
        Ok(())
    }),
    key("brotli-level", "How hard it tries: 0 to 11.", |value, it| {
        let level = value.parse().ok().filter(|it| (0..=11).contains(it));
        let level = level.ok_or("a number from 0 to 11")?;
        it.compression.brotli.iter_mut().for_each(|it| it.level = level);
        Ok(())
    }),
    key("brotli-min-length", "Bytes below which it leaves answers alone.", |value, it| {
        let length = value.parse().map_err(|_| LENGTH)?;
        it.compression.brotli.iter_mut().for_each(|it| it.min_length = length);
        Ok(())
    }),
    key("brotli-types", "Media types that it compresses, or `*`.", |value, it| {
        let types = MediaTypes::parse(value).ok_or(TYPES)?;
        it.compression.brotli.iter_mut().for_each(|it| it.types = types.clone());
        Ok(())
    }),
    key("http-redirect-code", "Status of redirects to HTTPS.", |value, it| {
        it.redirect_code = match value {
            "301" => 301,
            "302" => 302,
            "307" => 307,
            "308" => 308,
            _ => return Err("301, 302, 307 or 308"),
        };
        Ok(())
    }),
    key("no-tls-redirect-locations", "Ingress paths that are not redirected.", |value, it| {
        let paths = entries_of(value);
        it.no_redirect = paths.map(str::to_owned).collect();
        Ok(())
    }),
    key("hsts", "Send Strict-Transport-Security on HTTPS.", |value, it| {
        it.hsts = truth(value)?.then(|| it.hsts.unwrap_or_default());
        Ok(())
    }),
    key("hsts-max-age", "Its max-age in seconds.", |value, it| {
        let age = value.parse().map_err(|_| "a whole number of seconds")?;
        it.hsts = it.hsts.map(|hsts| Hsts { max_age: age, ..hsts });
        Ok(())
    }),
    key("hsts-include-subdomains", "Its includeSubDomains.", |value, it| {
        let include_subdomains = truth(value)?;
        it.hsts = it.hsts.map(|hsts| Hsts { include_subdomains, ..hsts });
        Ok(())
    }),
    key("hsts-preload", "Its preload.", |value, it| {
        let preload = truth(value)?;
        it.hsts = it.hsts.map(|hsts| Hsts { preload, ..hsts });
        Ok(())
    }),
    key("enable-underscores-in-headers", "Pass headers with an underscore.", |value, it| {
        it.underscores = truth(value)?;
        Ok(())
    }),
    key("generate-request-id", "Give requests an X-Request-ID.", |value, it| {
        it.request_id = truth(value)?;
        Ok(())
    }),
    key("server-tokens", "Leave the backend's Server header in answers.", |value, it| {
        it.server_header = truth(value)?;
        Ok(())
    }),
    key("use-proxy-protocol", "Connections of trusted proxies begin with it.", |value, it| {
        it.trust.proxy_protocol = truth(value)?;
        Ok(())
    }),
    key("proxy-protocol-header-timeout", "How long its header may take.", |value, it| {
        let time = duration(value).or_else(|| positive_seconds(value));
        let time = time.filter(|it| !it.is_zero()).ok_or("a time such as 5s")?;
        it.trust.proxy_header_timeout = time;
        Ok(())
    }),
    key("use-forwarded-headers", "Believe X-Forwarded-* of trusted proxies.", |value, it| {
        it.trust.forwarded_headers = truth(value)?;
        Ok(())
    }),
    key("enable-real-ip", "Believe trusted proxies in who asks.", |value, it| {
        it.trust.real_ip = truth(value)?;
        Ok(())
    }),
    key("forwarded-for-header", "Header in which proxies say who asks.", |value, it| {
        it.trust.forwarded_for = value.parse().ok();
        let named = it.trust.forwarded_for.is_some();
        named.then_some(()).ok_or("the name of a header; none is read")
    }),
    key("compute-full-forwarded-for", "Add to X-Forwarded-For, keep its rest.", |value, it| {
        it.trust.full_forwarded_for = truth(value)?;
        Ok(())
    }),
    key("proxy-real-ip-cidr", "Addresses and networks of trusted proxies.", |value, it| {
        let proxies = value.parse();
        let read = proxies.is_ok();
        it.trust.proxies = proxies.unwrap_or_default();
        read.then_some(()).ok_or("a list such as 10.0.0.0/8,192.0.2.1; nobody is trusted")
    }),
    key("log-format-upstream", "The access log's line, with nginx's variables.", |value, it| {
        let json = it.log.as_ref().is_some_and(|log| log.json);
        let (template, unknown) = Template::parse(value, json);
        it.log = it.log.as_ref().map(|_| template);
        if unknown.is_empty() {
            Ok(())
        } else {
            Err("free of variables that are not known (they show as -)")
        }
    }),
    key("log-format-escape-json", "Escape the line's values for JSON.", |value, it| {
        let json = truth(value)?;
        if let Some(log) = &mut it.log {
            log.json = json;
        }
        Ok(())
    }),
    key("disable-access-log", "No access log at all.", |value, it| {
        if truth(value)? {
            it.log = None;
        }
        Ok(())
    }),
];
