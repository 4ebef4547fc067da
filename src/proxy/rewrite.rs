//! Rewrites: what an endpoint is asked for in place of what the client asked for.

use http::header::HOST;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, request};

use super::View;
use super::body::ReplyBody;
use super::canonical::Refused;
use super::phrase;
use super::reply::{self, Failure};
use crate::model::host::Authority;
use crate::model::path;

const X_FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// Rewrites the target as the route says, or redirects to what becomes of it.
///
/// What is rewritten is the canonical path, and what becomes of it is made canonical again. That path had no
/// dot segment; where one comes about, as `/in/../admin` of `/api../admin`, it would lead out of the target
/// and is refused, as is what readers would disagree on.
pub(super) fn apply(
    view: &View<'_>,
    head: &request::Parts,
) -> Result<Option<Response<ReplyBody>>, Failure> {
    let Some(rewrite) = &view.way.route.rewrite else { return Ok(None) };
    let groups = match &rewrite.pattern {
        None => None,
        Some(pattern) => match pattern.captures(view.asked.path(&head.uri)) {
            Some(groups) => Some(groups),
            None => return Ok(None),
        },
    };
    let fill = |it: &_| phrase::text(it, head, view);
    let (path, query) = rewrite.target.fill(groups.as_ref(), head.uri.query(), &fill);
    let query = query.map(|it| format!("?{it}")).unwrap_or_default();
    if rewrite.target.is_url {
        let location = format!("{path}{query}");
        return Ok(Some(reply::redirect(StatusCode::FOUND, &location)));
    }
    let rooted = if path.starts_with('/') { path } else { format!("/{path}") };
    let canonical = match path::canonical(&rooted) {
        Ok(it) if !it.resolved => it,
        _ => return refuse("what the path is rewritten to is not a path"),
    };
    match PathAndQuery::try_from(format!("{}{query}", canonical.path)) {
        Ok(target) => drop(view.asked.rewritten.set(target.into())),
        Err(_) => return refuse("what the target is rewritten to is not one"),
    }
    Ok(None)
}

/// The host that endpoints are to see, where it is not the client's.
pub(super) fn host(view: &View<'_>, head: &request::Parts) -> Result<Option<HeaderValue>, Failure> {
    let routing = view.way.route.options.routing.as_ref();
    let Some(phrase) = routing.and_then(|it| it.upstream_host.as_ref()) else { return Ok(None) };
    let text = phrase::text(phrase, head, view);
    let authority = text.parse::<Authority>().ok();
    match authority.and_then(|it| HeaderValue::try_from(it.to_string()).ok()) {
        Some(host) => Ok(Some(host)),
        None => refuse("what is asked for makes no host"),
    }
}

/// Names the host and the prefix that endpoints are to see.
pub(super) fn name(headers: &mut HeaderMap, host: Option<HeaderValue>, view: &View<'_>) {
    if let Some(host) = host {
        headers.insert(HOST, host);
    }
    let route = &view.way.route;
    if let (Some(_), Some(routing)) = (&route.rewrite, &route.options.routing)
        && let Some(prefix) = &routing.prefix
    {
        headers.insert(X_FORWARDED_PREFIX, prefix.clone());
    }
}

fn refuse<T>(why: &'static str) -> Result<T, Failure> {
    Err(Failure::Refused(Refused { status: StatusCode::BAD_REQUEST, why }))
}
