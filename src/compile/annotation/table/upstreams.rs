//! Endpoints: how endpoints are chosen and spoken to.

use super::super::Instead;
use super::sharing::switch as switch_sharing;
use super::{Annotation, guards, missing, sets};
use super::{NUMBER, ON_OR_OFF, SECONDS, TRUTH, is_one_one, never};
use crate::model::answering::connection;
use crate::model::phrase::Phrase;
use crate::model::upstream::{Protocol, RetryOn, TlsVersions};
use crate::model::value::{boolean, positive_seconds, switch};
use rustls::pki_types::ServerName;

pub(super) const ROWS: &[Annotation] = &[
    guards("backend-protocol", "HTTP",
        "What endpoints speak: `HTTP`, `HTTPS`, `GRPC`, `GRPCS` or `AUTO_HTTP`.",
        |value, options| {
            let wanted = "HTTP, HTTPS, GRPC, GRPCS or AUTO_HTTP";
            options.protocol = Protocol::parse(value).ok_or(wanted)?;
            Ok(())
        },
    ),
    guards("secure-backends", "false", "Older name of `backend-protocol: HTTPS`.", |value, options| {
        if boolean(value).ok_or(TRUTH)? && options.protocol == Protocol::Http {
            options.protocol = Protocol::Https;
        }
        Ok(())
    }),
    guards("grpc-backend", "false", "Older name of `backend-protocol: GRPC`.", |value, options| {
        if boolean(value).ok_or(TRUTH)? && options.protocol == Protocol::Http {
            options.protocol = Protocol::Grpc;
        }
        Ok(())
    }),
    sets("service-upstream", "false",
        "Send to the Service's cluster IP and port rather than to endpoints, for a service mesh to choose.",
        |value, options| switch_sharing(value, options, |it, on| it.service_upstream = on),
    ).of_backend(),
    sets("load-balance", "round_robin",
        "How the next endpoint is chosen: `round_robin` or `ewma`.",
        |value, options| {
            options.ewma = match value {
                "round_robin" => false,
                "ewma" => true,
                _ => return Err("round_robin or ewma"),
            };
            Ok(())
        },
    ).of_backend(),
    sets("upstream-hash-by", "",
        "Choose the endpoint by this text with nginx's variables, such as `$request_uri`: the same text, \
         the same endpoint.",
        |value, options| {
            let phrase =
                Phrase::parse(value).map_err(|_| "a text with variables that are known")?;
            options.hash_by = Some(Box::new(phrase));
            Ok(())
        },
    ).of_backend(),
    sets("upstream-hash-by-subset", "false",
        "The same text leads to the same few endpoints, of which chance takes one.",
        |value, options| switch_sharing(value, options, |it, on| it.subset = on),
    ).of_backend(),
    sets("upstream-hash-by-subset-size", "3",
        "How many they are.",
        |value, options| {
            let size = value.parse().ok().filter(|it| *it > 0).ok_or(NUMBER)?;
            options.sharing.get_or_insert_default().subset_size = Some(size);
            Ok(())
        },
    ).of_backend(),
    sets("proxy-next-upstream", "error timeout",
        "When another endpoint is asked: `error`, `timeout`, `invalid_header`, `http_500`, `http_502`, \
         `http_503`, `http_504`, `http_403`, `http_404`, `http_429`, `non_idempotent`, or `off`.",
        |value, options| {
            let non_idempotent = options.retry.on.non_idempotent;
            options.retry.on = RetryOn::parse(value).ok_or("a list of nginx's conditions")?;
            options.retry.on.non_idempotent |= non_idempotent;
            Ok(())
        },
    ),
    sets("proxy-next-upstream-tries", "3",
        "Most endpoints that are asked; `0` for all.",
        |value, options| {
            let tries: u32 = value.parse().map_err(|_| "a whole number")?;
            options.retry.tries = (tries > 0).then_some(tries);
            Ok(())
        },
    ),
    sets("proxy-next-upstream-timeout", "0",
        "For how many seconds another one may still be asked; `0` for ever.",
        |value, options| {
            options.retry.timeout = match value {
                "0" => None,
                some => Some(positive_seconds(some).ok_or(SECONDS)?),
            };
            Ok(())
        },
    ),
    guards("proxy-ssl-secret", "",
        "The Secret of the same namespace with `ca.crt` for endpoints' certificates, and `tls.crt` and \
         `tls.key` to show them.",
        |value, options| {
            options.proxy_ssl.get_or_insert_default().secret = Some(value.into());
            Ok(())
        },
    ).of_host(),
    guards("proxy-ssl-verify", "off",
        "`on` or `off`: check endpoints' certificates against that CA.",
        |value, options| {
            let verify = switch(value).ok_or(ON_OR_OFF)?;
            options.proxy_ssl.get_or_insert_default().verify = verify;
            Ok(())
        },
    ).of_host(),
    guards("proxy-ssl-name", "",
        "The name in endpoints' certificates; `SERVICE.NAMESPACE.svc` where it is not given.",
        |value, options| {
            let name = ServerName::try_from(value).map_err(|_| "a host or an address")?;
            options.proxy_ssl.get_or_insert_default().name = Some(name.to_owned());
            Ok(())
        },
    ).of_host(),
    sets("proxy-ssl-server-name", "off",
        "`on` or `off`: send that name to endpoints in the handshake.",
        |value, options| {
            let server_name = switch(value).ok_or(ON_OR_OFF)?;
            options.proxy_ssl.get_or_insert_default().server_name = server_name;
            Ok(())
        },
    ).of_host(),
    guards("proxy-ssl-protocols", "",
        "TLS versions towards endpoints, of `TLSv1.2` and `TLSv1.3`; both where it is not given.",
        |value, options| {
            let versions = TlsVersions::parse(value).ok_or("a list with TLSv1.2 or TLSv1.3")?;
            options.proxy_ssl.get_or_insert_default().versions = versions;
            Ok(())
        },
    ).of_host(),
    missing("proxy-ssl-verify-depth", "1",
        "Longest chain of the backend's certificate.",
        |it| it == "1",
        Instead::Serve,
    ).of_host(),
    missing("proxy-ssl-ciphers", "", "Ciphers towards the backend.", never, Instead::Serve).of_host(),
    missing("proxy-http-version", "1.1", "HTTP version towards the backend.", is_one_one, Instead::Serve),
    sets("connection-proxy-header", "",
        "`close` or `keep-alive`: what endpoints are told in `Connection`, but for WebSockets.",
        |value, options| {
            let connection = connection(value).ok_or("close or keep-alive")?;
            options.answering.get_or_insert_default().connection = Some(connection);
            Ok(())
        },
    ),
    missing("fastcgi-index", "", "File for FastCGI.", never, Instead::Serve),
    missing("fastcgi-params-configmap", "", "Parameters for FastCGI.", never, Instead::Serve),
];
