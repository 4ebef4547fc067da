//! TLS towards clients: client certificates, and TLS that is handed on.

use super::super::Instead;
use super::{Annotation, guards, missing, moot, sets};
use super::{TRUTH, never};
use crate::model::client_tls::{ClientTls, Subject, Verify};
use crate::model::options::Options;
use crate::model::value::boolean;

pub(super) const ROWS: &[Annotation] = &[
    guards("auth-tls-secret", "",
        "The Secret, as `namespace/name`, with `ca.crt` for client certificates and perhaps `ca.crl`. \
         Without a good certificate the answer is 400; without the Secret, 403.",
        |value, options| {
            let tls = client_tls(options);
            tls.unread |= value.matches('/').count() > 1 || value.contains(char::is_whitespace);
            tls.secret = Some(value.into());
            read(tls, "a Secret as namespace/name")
        },
    ).of_host(),
    guards("auth-tls-verify-client", "on",
        "`on`, `off`, `optional`: without one, too, or `optional_no_ca`: whoever issued it. What was found \
         goes to endpoints in `ssl-client-verify`, `ssl-client-subject-dn` and `ssl-client-issuer-dn`.",
        |value, options| {
            let verify = Verify::parse(value);
            if verify == Some(Verify::Off) && options.client_tls.is_none() {
                // Without a Secret, which comes before, there is nothing to switch off.
                return Ok(());
            }
            let tls = client_tls(options);
            tls.verify = verify;
            tls.unread |= tls.verify.is_none();
            read(tls, "on, off, optional or optional_no_ca")
        },
    ).of_host(),
    guards("auth-tls-verify-depth", "1",
        "Most certificates between a client's and an authority's, at most 100.",
        |value, options| {
            let tls = client_tls(options);
            tls.depth = value.parse().ok().filter(|it| *it <= 100);
            tls.unread |= tls.depth.is_none();
            read(tls, "a whole number, at most 100")
        },
    ).of_host(),
    sets("auth-tls-error-page", "",
        "URL for clients without a good certificate: 302 instead of 400.",
        |value, options| {
            let known = ["http://", "https://", "/"].iter().any(|it| value.starts_with(it));
            if !known || http::HeaderValue::from_str(value).is_err() || value.contains('$') {
                return Err("a URL without variables");
            }
            client_tls(options).error_page = Some(value.into());
            Ok(())
        },
    ).of_host(),
    sets("auth-tls-pass-certificate-to-upstream", "false",
        "Send the client's certificate on, in `ssl-client-cert`: PEM, percent-encoded.",
        |value, options| {
            if boolean(value).ok_or(TRUTH)? {
                client_tls(options).pass_certificate = true;
            }
            Ok(())
        },
    ).of_host(),
    guards("auth-tls-match-cn", "",
        "`CN=` and a regular expression that must be found in the certificate's subject; else 403.",
        |value, options| {
            let tls = client_tls(options);
            tls.subject = Subject::parse(value);
            tls.unread |= tls.subject.is_none();
            read(tls, "CN= and a regular expression without look-around")
        },
    ).of_host(),
    guards("ssl-passthrough", "false",
        "Hand TLS of the host on to the endpoints of its path `/` as it is; needs \
         `--enable-ssl-passthrough`.",
        |value, options| {
            if boolean(value).ok_or(TRUTH)? {
                client_tls(options).passthrough = true;
            }
            Ok(())
        },
    ).of_host(),
    missing("ssl-ciphers", "", "Ciphers of the host; rustls has good ones only.", never, Instead::Serve)
        .of_host(),
    moot("ssl-prefer-server-ciphers", "true", "rustls chooses.").of_host(),
];

fn client_tls(options: &mut Options) -> &mut ClientTls {
    options.client_tls.get_or_insert_default()
}

/// The error when something could not be read; that stays noted, because others on the host take these
/// words over.
fn read(tls: &ClientTls, wanted: &'static str) -> Result<(), &'static str> {
    if tls.unread { Err(wanted) } else { Ok(()) }
}
