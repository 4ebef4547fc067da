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
    use std::sync::Arc;

    use super::*;
    use crate::model::host::HostPattern;
    use crate::model::keypair::Keypair;
    use crate::model::name::ObjectName;
    use crate::model::path::PathPattern;
    use crate::model::plan::{Host, Plan, Route, Target};

    /// As it is answered to anybody who asks for it: our hosts, and those that nobody here knows.
    #[test]
    fn r_tok_1_a_challenge_is_answered_for_whoever_may_have_it() {
        let made = rcgen::generate_simple_self_signed(["x".to_owned()]).expect("a certificate");
        let (crt, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let pair = Keypair::parse(Some(crt.as_bytes()), Some(key.as_bytes())).expect("a pair");
        let path = PathPattern::Prefix("/".into());
        let host = |acme| {
            let (name, options) = (ObjectName::default(), Arc::default());
            let route = Route::new(name, &HostPattern::Any, "/", Target::Nothing, options);
            let paths = [(path.clone(), Arc::new(route))].into();
            Host { acme, paths, ..Host::new(ObjectName::default()) }
        };
        let hosts = [("ours.test", true), ("theirs.test", false)];
        let hosts = hosts.map(|(it, acme)| (it.parse().expect("a host"), host(acme)));
        let plan = |thumbprint| Plan { hosts: hosts.clone().into(), thumbprint, ..Plan::default() };
        let live = |thumbprint| {
            let empty = Live::empty(pair.certified().expect("a key"));
            Live::next(Arc::new(plan(thumbprint)), &empty)
        };
        let (with, without) = (live(Some("thumb".into())), live(None));
        let good = format!("{PREFIX}abcdefghijklmnop");
        let (get, other) = (Method::GET, format!("{PREFIX}abc"));
        for (method, host, path, expected) in [
            (&get, "ours.test", &good, true),
            (&Method::HEAD, "ours.test", &good, true),
            (&get, "nobody.test", &good, true),
            (&get, "192.0.2.1", &good, true),
            (&get, "theirs.test", &good, false),
            (&Method::POST, "ours.test", &good, false),
            (&Method::OPTIONS, "ours.test", &good, false),
            (&get, "ours.test", &other, false),
            (&get, "ours.test", &format!("{good}/"), false),
            (&get, "ours.test", &format!("/x{good}"), false),
        ] {
            assert!(answer(&without, method, host, path).is_none(), "without an account");
            let reply = answer(&with, method, host, path);
            assert_eq!(reply.is_some(), expected, "{method} {host} {path}");
            let Some(reply) = reply else { continue };
            assert_eq!(reply.status(), 200);
            for (name, value) in [
                ("content-type", "application/octet-stream"),
                ("x-content-type-options", "nosniff"),
                ("cache-control", "no-store"),
            ] {
                assert_eq!(reply.headers()[name], value, "{name}");
            }
        }
    }

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
    fn r_tok_1_a_token_is_base64url_of_a_sane_length() {
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
