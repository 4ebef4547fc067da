//! Who may ask: networks, passwords and an external judge, in nginx's order.
//!
//! With `satisfy: all` the first that refuses decides; with `any` the first that lets pass, and when nobody
//! does, 401 goes before 403.

mod basic;
mod external;
mod foresee;
mod networks;

use http::header::{AUTHORIZATION, WWW_AUTHENTICATE};
use http::{HeaderValue, Response, StatusCode, request};

use super::body::ReplyBody;
use super::phrase;
use super::reply::{self, Failure};
use super::{View, Visit};
use crate::model::guard::Guard;

pub(super) use basic::user;
pub(super) use foresee::{Foreseen, foresee};
pub(super) use networks::{is_blocked, may_ask};

/// What one check says of a request.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Opinion {
    /// Nothing.
    Silent,
    /// It may pass.
    Granted,
    Refused(Refusal),
}

/// Why a request may not pass.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Refusal {
    /// 401 or 403.
    status: StatusCode,
    /// What a client could answer with (RFC 9110 section 11.6.1).
    challenges: Vec<HeaderValue>,
}

impl Refusal {
    fn forbidden() -> Self {
        Self { status: StatusCode::FORBIDDEN, challenges: Vec::new() }
    }

    fn unauthorized(challenges: Vec<HeaderValue>) -> Self {
        Self { status: StatusCode::UNAUTHORIZED, challenges }
    }
}

/// What all checks come to.
struct Hearing {
    any: bool,
    refusal: Option<Refusal>,
}

impl Hearing {
    /// Takes note of an opinion; says whether the others need not be asked.
    fn is_over(&mut self, opinion: Opinion) -> bool {
        match opinion {
            Opinion::Silent => false,
            Opinion::Granted => {
                if self.any {
                    self.refusal = None;
                }
                self.any
            }
            Opinion::Refused(it) => {
                match &mut self.refusal {
                    Some(held) if held.status == StatusCode::UNAUTHORIZED => {
                        held.challenges.extend(it.challenges);
                    }
                    held => *held = Some(it),
                }
                !self.any
            }
        }
    }
}

/// Looks whether a request may pass; the answer where it may not. What endpoints must not see of it is gone
/// from its head then, and what they are to see is noted.
pub(super) async fn check(
    guard: &Guard,
    visit: &Visit<'_>,
    head: &mut request::Parts,
) -> Result<Option<Response<ReplyBody>>, Failure> {
    let mut hearing = Hearing { any: guard.any, refusal: None };
    let mut over = hearing.is_over(networks::opinion(guard, visit.peer.address.ip()));
    if !over && let Some(basic) = &guard.basic {
        over = hearing.is_over(basic::opinion(basic, visit, &head.headers).await?);
    }
    if let Some(judge) = &guard.judge {
        // Whether it is asked or not: what only it may say, no client says.
        external::withhold(judge, visit);
        if !over {
            hearing.is_over(external::opinion(judge, visit, head).await?);
        }
    }
    if let Some(refusal) = hearing.refusal {
        return Ok(Some(refused(refusal, guard, &visit.view(), head)));
    }
    if guard.basic.is_some() {
        // The password is ours to know.
        head.headers.remove(AUTHORIZATION);
    }
    Ok(None)
}

fn refused(
    refusal: Refusal,
    guard: &Guard,
    view: &View<'_>,
    head: &request::Parts,
) -> Response<ReplyBody> {
    let signin = guard.judge.as_ref().and_then(|it| it.signin.as_ref());
    // With what a client could answer, too: nginx leaves it in.
    let mut reply = match signin {
        Some(signin) if refusal.status == StatusCode::UNAUTHORIZED => {
            reply::redirect(StatusCode::FOUND, &phrase::text(signin, head, view))
        }
        _ => reply::page(refusal.status, ""),
    };
    for challenge in refusal.challenges {
        reply.headers_mut().append(WWW_AUTHENTICATE, challenge);
    }
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_must_agree_or_any_will_do() {
        let challenge = HeaderValue::from_static("Basic realm=\"\"");
        let forbidden = || Opinion::Refused(Refusal::forbidden());
        let unknown = || Opinion::Refused(Refusal::unauthorized(vec![challenge.clone()]));
        let (granted, silent) = (|| Opinion::Granted, || Opinion::Silent);
        for (case, any, opinions, expected) in [
            ("nobody asks", false, vec![silent(), silent()], None),
            ("all agree", false, vec![granted(), granted()], None),
            ("the first refuses", false, vec![forbidden(), granted()], Some(403)),
            ("the last refuses", false, vec![granted(), unknown()], Some(401)),
            ("silence is no refusal", false, vec![silent(), granted()], None),
            ("any: the first grants", true, vec![granted(), unknown()], None),
            ("any: the last grants", true, vec![forbidden(), unknown(), granted()], None),
            ("any: nobody does", true, vec![forbidden(), unknown()], Some(401)),
            ("any: nobody does, 401 first", true, vec![unknown(), forbidden()], Some(401)),
            ("any: 403 alone", true, vec![forbidden(), silent()], Some(403)),
            ("any: silence refuses nobody", true, vec![silent(), silent()], None),
        ] {
            let mut hearing = Hearing { any, refusal: None };
            let _ = opinions.into_iter().any(|it| hearing.is_over(it));
            let status = hearing.refusal.map(|it| it.status.as_u16());
            assert_eq!(status, expected, "{case}");
        }
    }
}
