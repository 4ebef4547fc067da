//! TLS towards clients: client certificates, and TLS that is handed on.

use super::super::Instead;
use super::{Annotation, missing, moot};
use super::{is_false, is_off, never};

pub(super) const ROWS: &[Annotation] = &[
    missing(
        "auth-tls-secret",
        "",
        "The Secret with the CA of client certificates.",
        never,
        Instead::Refuse,
    )
    .of_host(),
    missing(
        "auth-tls-verify-client",
        "on",
        "Whether a client certificate is asked for.",
        is_off,
        Instead::Refuse,
    )
    .of_host(),
    missing(
        "auth-tls-verify-depth",
        "1",
        "Longest chain of a client certificate.",
        never,
        Instead::Refuse,
    )
    .of_host(),
    missing("auth-tls-error-page", "", "URL for clients without one.", never, Instead::Refuse)
        .of_host(),
    missing(
        "auth-tls-pass-certificate-to-upstream",
        "false",
        "Send the client certificate on.",
        is_false,
        Instead::Refuse,
    )
    .of_host(),
    missing("auth-tls-match-cn", "", "What its subject must look like.", never, Instead::Refuse)
        .of_host(),
    missing(
        "ssl-passthrough",
        "false",
        "Hand TLS to the backend as it is.",
        is_false,
        Instead::Refuse,
    )
    .of_host(),
    missing("ssl-ciphers", "", "Ciphers of the host.", never, Instead::Serve).of_host(),
    moot("ssl-prefer-server-ciphers", "true", "rustls chooses.").of_host(),
];
