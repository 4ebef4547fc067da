//! Passwords by RFC 7617.
//!
//! Checking one may take a core for seconds, so that is done beside the worker, a few at a time; one that
//! was right is not checked again for a minute, nor while it is used. Whoever gives up does not end the check
//! that was begun.

use std::time::Instant;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue};

use super::{Opinion, Refusal};
use crate::live::auth_cache::{Asker, Verdicts};
use crate::model::guard::Basic;
use crate::model::htpasswd::Hash;
use crate::proxy::Visit;
use crate::proxy::reply::Failure;

/// Whether a request brings the password of somebody who has one.
pub(super) async fn opinion(
    basic: &Basic,
    visit: &Visit<'_>,
    headers: &HeaderMap,
) -> Result<Opinion, Failure> {
    if let Some((name, password)) = credentials(headers)
        && let Some(hash) = basic.users.find(&name)
        && is_right(hash, password, asker(visit), &visit.live.verdicts).await?
    {
        return Ok(Opinion::Granted);
    }
    Ok(Opinion::Refused(Refusal::unauthorized(vec![basic.challenge.clone()])))
}

/// The same by looking at the password alone, which may take seconds.
pub(super) fn plainly(basic: &Basic, headers: &HeaderMap) -> Opinion {
    let right = |(name, password): (String, Vec<u8>)| {
        basic.users.find(&name).is_some_and(|it| it.is_of(&password))
    };
    if credentials(headers).is_some_and(right) {
        return Opinion::Granted;
    }
    Opinion::Refused(Refusal::unauthorized(vec![basic.challenge.clone()]))
}

fn asker<'a>(visit: &Visit<'a>) -> Asker<'a> {
    Asker { ingress: &visit.way.route.ingress, client: visit.peer.address.ip() }
}

async fn is_right(
    hash: &Hash,
    password: Vec<u8>,
    asker: Asker<'_>,
    verdicts: &Verdicts,
) -> Result<bool, Failure> {
    if hash.is_quick() {
        return Ok(hash.is_of(&password));
    }
    let tag = verdicts.tag(&hash.identity(), &password);
    if verdicts.knows(tag, Instant::now()) {
        return Ok(true);
    }
    let _alone = verdicts.alone(tag).await.ok_or(Failure::Overloaded)?;
    // Somebody with the same password may have been first.
    if verdicts.knows(tag, Instant::now()) {
        return Ok(true);
    }
    let turn = verdicts.turn(asker).await.ok_or(Failure::Overloaded)?;
    let hash = hash.clone();
    let checked = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        hash.is_of(&password)
    });
    let right = checked.await.unwrap_or(false);
    if right {
        verdicts.remember(tag, Instant::now());
    }
    Ok(right)
}

/// Name and password, where the request brings them, once.
fn credentials(headers: &HeaderMap) -> Option<(String, Vec<u8>)> {
    let mut fields = headers.get_all(AUTHORIZATION).iter();
    let (only, None) = (fields.next()?, fields.next()) else { return None };
    let decoded = decoded(only)?;
    let colon = decoded.iter().position(|it| *it == b':')?;
    let name = String::from_utf8(decoded[..colon].to_vec()).ok()?;
    Some((name, decoded[colon + 1..].to_vec()))
}

fn decoded(field: &HeaderValue) -> Option<Vec<u8>> {
    let (scheme, rest) = field.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    BASE64_STANDARD.decode(rest.trim()).ok()
}

/// The name in a `Basic` authorization; the password is dropped unread.
pub(in crate::proxy) fn user(field: &HeaderValue) -> Option<String> {
    let decoded = decoded(field)?;
    let name = decoded.split(|it| *it == b':').next()?;
    (!name.is_empty()).then(|| String::from_utf8_lossy(name).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::name::ObjectName;

    #[test]
    fn only_the_name_of_a_user_is_read() {
        let basic = HeaderValue::from_static("Basic YWxpY2U6c2VjcmV0");
        assert_eq!(user(&basic).as_deref(), Some("alice"));
        assert_eq!(user(&HeaderValue::from_static("Bearer x")), None);
    }

    #[test]
    fn credentials_come_once_and_whole() {
        let found =
            |name: &str, password: &str| Some((name.to_owned(), password.as_bytes().to_vec()));
        for (fields, expected) in [
            (&[][..], None),
            (&["Basic YWxpY2U6c2VjcmV0"][..], found("alice", "secret")),
            (&["basic  YWxpY2U6c2VjcmV0 "], found("alice", "secret")),
            (&["Basic YWxpY2U6YTpi"], found("alice", "a:b")),
            (&["Basic YWxpY2U6"], found("alice", "")),
            (&["Basic YWxpY2U="], None),
            (&["Basic !"], None),
            (&["Bearer YWxpY2U6c2VjcmV0"], None),
            (&["Basic YWxpY2U6c2VjcmV0", "Basic YWxpY2U6c2VjcmV0"], None),
        ] {
            let mut headers = HeaderMap::new();
            for it in fields {
                headers.append(AUTHORIZATION, HeaderValue::from_static(it));
            }
            assert_eq!(credentials(&headers), expected, "{fields:?}");
        }
    }

    #[tokio::test]
    async fn a_password_that_was_right_is_not_checked_again() {
        let verdicts = Verdicts::default();
        let ingress = ObjectName::new("shop", "web");
        let asker = Asker { ingress: &ingress, client: [192, 0, 2, 1].into() };
        let hash = Hash::parse("$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a");
        let hash = hash.expect("a hash");
        for (password, expected) in [("secret", true), ("wrong", false), ("secret", true)] {
            let found = is_right(&hash, password.into(), asker, &verdicts).await;
            assert_eq!(found.ok(), Some(expected), "{password}");
            let tag = verdicts.tag(&hash.identity(), password.as_bytes());
            let known = verdicts.knows(tag, Instant::now());
            assert_eq!(known, expected, "{password}");
        }
    }
}
