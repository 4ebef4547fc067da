//! What the checks of a route come to when nobody else is asked: for `explain`.

use std::net::IpAddr;

use http::header::AUTHORIZATION;
use http::{Response, request};

use super::{Hearing, Opinion, basic, networks, refused};
use crate::model::guard::Guard;
use crate::model::host::Authority;
use crate::model::network::{NEAR, names_near};
use crate::proxy::View;
use crate::proxy::body::ReplyBody;
use crate::proxy::phrase;

/// What all checks come to.
pub(in crate::proxy) enum Foreseen {
    /// The request may pass.
    Passes,
    /// It may not, and gets this.
    Refused(Response<ReplyBody>),
    /// The external judge has the last word.
    Judged,
    /// It cannot be asked, and why.
    Unjudged(String),
}

/// Looks whether a request may pass, in the order of [`super::check`], and says in a sentence what each check
/// found. The external judge is not asked; `near` tells whether it may be [near](names_near).
pub(in crate::proxy) fn foresee(
    guard: &Guard,
    view: &View<'_>,
    head: &request::Parts,
    near: bool,
) -> (Vec<String>, Foreseen) {
    let mut told = Vec::new();
    let mut hearing = Hearing { any: guard.any, refusal: None };
    let client = view.peer.address.ip().to_canonical();
    let opinion = networks::opinion(guard, client);
    told.extend(of_networks(guard, client, &opinion));
    let mut over = hearing.is_over(opinion);
    if !over && let Some(basic) = &guard.basic {
        let opinion = basic::plainly(basic, &head.headers);
        let brought = head.headers.contains_key(AUTHORIZATION);
        let found = match (&opinion, brought) {
            (Opinion::Granted, _) => "it is right",
            (_, true) => "the one that the request brings is not right",
            (_, false) => "the request brings none",
        };
        told.push(format!("a password is asked for (auth-type basic): {found}"));
        over = hearing.is_over(opinion);
    }
    if !over && let Some(judge) = &guard.judge {
        let scheme = if judge.url.https { "https" } else { "http" };
        let [host, target] =
            [&judge.url.authority, &judge.url.target].map(|it| phrase::text(it, head, view));
        if !near
            && let Ok(Authority { host, .. }) = host.parse()
            && names_near(&host)
        {
            return (told, Foreseen::Unjudged(format!("auth-url: {host} {NEAR}")));
        }
        let method = judge.method.as_ref().map_or("GET", |it| it.as_str());
        told.push(format!(
            "{method} {scheme}://{host}{target} would be asked first (auth-url): 2xx lets the request \
             pass, 401 and 403 refuse it, anything else is 500; it is not asked now"
        ));
        if let Some(signin) = &judge.signin {
            let signin = phrase::text(signin, head, view);
            told.push(format!("in place of 401 the client is sent to {signin} (auth-signin)"));
        }
        return (told, Foreseen::Judged);
    }
    if guard.any && told.len() > 1 {
        told.push("one check that passes is enough (satisfy any)".to_owned());
    }
    let foreseen = hearing
        .refusal
        .map_or(Foreseen::Passes, |it| Foreseen::Refused(refused(it, guard, view, head)));
    (told, foreseen)
}

fn of_networks(guard: &Guard, client: IpAddr, opinion: &Opinion) -> Option<String> {
    let denied = guard.deny.as_ref().filter(|it| it.contains(client));
    match (denied, &guard.allow, opinion) {
        (Some(deny), ..) => {
            Some(format!("client {client} is in the networks that may not ask ({deny})"))
        }
        (None, Some(allow), Opinion::Granted) => {
            Some(format!("client {client} is in the networks that may ask ({allow})"))
        }
        (None, Some(allow), _) => {
            Some(format!("client {client} is in none of the networks that may ask ({allow})"))
        }
        (None, None, _) => guard
            .deny
            .as_ref()
            .map(|it| format!("client {client} is not among those who may not ask ({it})")),
    }
}
