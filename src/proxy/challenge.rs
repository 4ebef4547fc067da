//! HTTP-01 challenges, answered without knowing which were asked for.
//!
//! The answer to any challenge is `token.thumbprint` (RFC 8555 section 8.3), and the thumbprint of the
//! account's key is the same for all, so every replica can answer every challenge. Only who holds the
//! account's private key can make use of that. The token's alphabet is checked, as the RFC demands of
//! those who copy it.

use http::{Method, Response};

use super::body::ReplyBody;
use super::reply;
use crate::live::Live;
use crate::live::table::Match;

const PREFIX: &str = "/.well-known/acme-challenge/";

/// Whether a path is that of one challenge, and a rule's own: somebody's solver answers it.
pub(super) fn is_solvers(path: &str, rule: &str) -> bool {
    path == rule && path.strip_prefix(PREFIX).is_some_and(|it| !it.is_empty())
}

/// Answers a challenge, unless the host is known and asks for no certificate of ours, or a rule names
/// this one token, as cert-manager's solvers do.
pub(super) fn answer(
    live: &Live,
    method: &Method,
    host: &str,
    path: &str,
) -> Option<Response<ReplyBody>> {
    let token = path.strip_prefix(PREFIX)?;
    if !matches!(*method, Method::GET | Method::HEAD) || !is_token(token) {
        return None;
    }
    let thumbprint = live.plan.thumbprint.as_deref()?;
    if let Some(paths) = live.table.named(host)
        && (!paths.acme || matches!(paths.find(path), Some(Match::Exact(_))))
    {
        return None;
    }
    Some(reply::key_authorization(format!("{token}.{thumbprint}")))
}

fn is_token(text: &str) -> bool {
    (16..=128).contains(&text.len())
        && text.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'_' || it == b'-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_solver_has_the_path_of_one_challenge() {
        for (path, rule, expected) in [
            ("/.well-known/acme-challenge/token", "/.well-known/acme-challenge/token", true),
            ("/.well-known/acme-challenge/token/x", "/.well-known/acme-challenge/token", false),
            ("/.well-known/acme-challenge/token", "/.well-known/acme-challenge/", false),
            ("/.well-known/acme-challenge/token", "/", false),
            ("/.well-known/acme-challenge/", "/.well-known/acme-challenge/", false),
            ("/.well-known/acme-challenge", "/.well-known/acme-challenge", false),
            ("/token", "/token", false),
        ] {
            assert_eq!(is_solvers(path, rule), expected, "{path} by {rule}");
        }
    }

    #[test]
    fn a_token_is_base64url_of_a_sane_length() {
        for (text, expected) in [
            ("abcdefghijklmnop", true),
            ("abcdefghijklmno", false),
            ("abcdefghijklmn_-", true),
            ("abcdefghijklmn.x", false),
            ("abcdefghijklmn<x", false),
            ("abcdefgh/ijklmnop", false),
        ] {
            assert_eq!(is_token(text), expected, "{text}");
        }
        assert!(!is_token(&"a".repeat(129)));
    }
}
