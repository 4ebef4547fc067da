//! An external judge (nginx's `auth_request`): asked with the head of each request, its status decides.
//!
//! 2xx lets pass; 401 and 403 are the client's answer; whatever else, or nothing, is 500. The body of
//! neither side is of interest.

use std::convert::Infallible;
use std::fmt::Display;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::header::{
    CACHE_CONTROL, CONTENT_LENGTH, EXPIRES, HOST, HeaderName, SET_COOKIE, VARY, WWW_AUTHENTICATE,
};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, StatusCode, Version, request};
use http_body_util::BodyExt;
use rustls::pki_types::ServerName;
use tokio::time::{Instant, timeout};

use super::{Opinion, Refusal};
use crate::live::auth_cache::{Judged, Tag};
use crate::live::transport::Transport;
use crate::model::guard::Judge;
use crate::model::host::Authority;
use crate::model::network::{NEAR, names_near};
use crate::proxy::Visit;
use crate::proxy::body::ReplyBody;
use crate::proxy::canonical::Asked;
use crate::proxy::client_tls;
use crate::proxy::headers;
use crate::proxy::observe::Extra;
use crate::proxy::phrase;
use crate::proxy::pool::{Destination, Lease, Sender};
use crate::proxy::reply::Failure;
use crate::proxy::upload::{Progress, RequestBody};
use crate::proxy::wire::AnswerHead;

/// Longest wait for a connection (ingress-nginx's `proxy-connect-timeout`).
const CONNECT: Duration = Duration::from_secs(5);
/// Longest wait for an answer, whatever it takes to get it (nginx's `proxy_read_timeout`).
const ANSWER: Duration = Duration::from_secs(60);
/// Most addresses of a judge that are tried.
const MOST_TRIES: usize = 3;
/// How much of an answer's body is thrown away, in bytes, and for how long, so that its connection can be
/// used again.
const LARGEST: usize = 64 << 10;
const DRAINED: Duration = Duration::from_secs(2);
/// Largest answer that is remembered, in bytes of its fields.
const MOST_REMEMBERED: usize = 4 << 10;

const X_AUTH_REQUEST_REDIRECT: HeaderName = HeaderName::from_static("x-auth-request-redirect");
const X_ORIGINAL_METHOD: HeaderName = HeaderName::from_static("x-original-method");
const X_ORIGINAL_URI: HeaderName = HeaderName::from_static("x-original-uri");
const X_ORIGINAL_URL: HeaderName = HeaderName::from_static("x-original-url");
const X_SENT_FROM: HeaderName = HeaderName::from_static("x-sent-from");

/// Keeps from endpoints what a client says in fields that only the judge may fill.
pub(super) fn withhold(judge: &Judge, visit: &Visit<'_>) {
    let mut onward = visit.trace.onward.borrow_mut();
    onward.extend(judge.response_headers.iter().map(|it| (it.clone(), None)));
}

/// What the judge says of a request, now or, where it may be remembered, lately.
pub(super) async fn opinion(
    judge: &Arc<Judge>,
    visit: &Visit<'_>,
    head: &request::Parts,
) -> Result<Opinion, Failure> {
    let tag =
        judge.cache.as_ref().map(|it| tag(&phrase::text(&it.key, head, &visit.view()), visit));
    let memory = &visit.live.verdicts.judged;
    let now = std::time::Instant::now();
    if let Some(known) = tag.and_then(|it| memory.find(&it, now))
        && known.judge == *judge
    {
        return consider(&known, visit);
    }
    let question = Question::new(judge, visit, head)?;
    let asked = timeout(ANSWER, question.ask(visit)).await;
    let answer = asked.unwrap_or_else(|_| Err(unjudged(visit, &"it did not answer in time")))?;
    let judged = Arc::new(judged(judge, &answer));
    let time = judge.cache.as_ref().and_then(|it| it.times.of(judged.status));
    if let (Some(tag), Some(time)) = (tag, time)
        && let Some(time) = remembered(&answer, time)
        && let Some(until) = now.checked_add(time)
    {
        memory.put(tag, until, judged.clone());
    }
    consider(&judged, visit)
}

/// What an answer is remembered by: as with ingress-nginx each host and path has its own.
fn tag(key: &str, visit: &Visit<'_>) -> Tag {
    let route = &visit.way.route;
    let name = &route.ingress;
    let parts = [&*name.namespace, &*name.name, &*route.host, &*route.path, key];
    visit.live.verdicts.judged.tag(&parts.map(str::as_bytes))
}

/// Makes an opinion of what the judge said, and notes what endpoint and client are to hear of it.
fn consider(judged: &Judged, visit: &Visit<'_>) -> Result<Opinion, Failure> {
    let cookies = judged.cookies.iter().cloned();
    let extra = if judged.judge.always_set_cookie { Extra::Add } else { Extra::AddToSuccess };
    visit.trace.extras.borrow_mut().extend(cookies.map(|it| extra(SET_COOKIE, it)));
    match judged.status {
        200..300 => {
            let granted = judged.granted.iter().cloned();
            let mut onward = visit.trace.onward.borrow_mut();
            onward.extend(granted.map(|(name, value)| (name, Some(value))));
            Ok(Opinion::Granted)
        }
        401 => Ok(Opinion::Refused(Refusal::unauthorized(judged.challenges.clone()))),
        403 => Ok(Opinion::Refused(Refusal::forbidden())),
        status => {
            let why = format_args!("its status {status} is neither yes nor no");
            Err(unjudged(visit, &why))
        }
    }
}

fn judged(judge: &Arc<Judge>, answer: &AnswerHead) -> Judged {
    let fields = &answer.headers;
    let all = |name: &HeaderName| fields.get_all(name).iter().cloned().collect::<Vec<_>>();
    let granted = judge.response_headers.iter();
    Judged {
        judge: judge.clone(),
        status: answer.status.as_u16(),
        granted: granted
            .flat_map(|name| all(name).into_iter().map(move |it| (name.clone(), it)))
            .collect(),
        challenges: all(&WWW_AUTHENTICATE),
        cookies: all(&SET_COOKIE),
    }
}

/// For how long an answer is remembered, at most for `time`: not at all where it says so, sets a cookie, or
/// is for certain requests only (nginx's `proxy_cache`; of `Vary` and `Expires` that looks further into what
/// they say).
fn remembered(answer: &AnswerHead, time: Duration) -> Option<Duration> {
    let fields = &answer.headers;
    let size: usize = fields.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if [SET_COOKIE, VARY, EXPIRES].iter().any(|it| fields.contains_key(it))
        || size > MOST_REMEMBERED
    {
        return None;
    }
    let mut time = time;
    for word in
        fields.get_all(CACHE_CONTROL).iter().flat_map(|it| it.as_bytes().split(|it| *it == b','))
    {
        let word = word.trim_ascii().to_ascii_lowercase();
        let seconds = word.strip_prefix(b"max-age=").or_else(|| word.strip_prefix(b"s-maxage="));
        match (&*word, seconds) {
            (b"no-cache" | b"no-store" | b"private", _) => return None,
            (_, Some(seconds)) => {
                let seconds = std::str::from_utf8(seconds).ok()?.parse().ok()?;
                time = Duration::from_secs(seconds);
            }
            _ => {}
        }
    }
    Some(time).filter(|it| !it.is_zero())
}

/// What a judge is asked.
struct Question {
    authority: Authority,
    https: bool,
    head: request::Parts,
}

impl Question {
    fn new(judge: &Judge, visit: &Visit<'_>, head: &request::Parts) -> Result<Self, Failure> {
        let view = visit.view();
        let text = |it| phrase::text(it, head, &view);
        let unfit = |what: &'static str| unjudged(visit, &what);
        let authority: Authority = text(&judge.url.authority)
            .parse()
            .map_err(|_| unfit("what its host comes to is no host"))?;
        let target: PathAndQuery = text(&judge.url.target)
            .parse()
            .map_err(|_| unfit("what its path comes to is no path"))?;
        let (mut asked, ()) = Request::new(()).into_parts();
        asked.method = judge.method.clone().unwrap_or(Method::GET);
        asked.uri = target.into();
        asked.version = Version::HTTP_11;
        asked.headers = head.headers.clone();
        // As towards endpoints: a circle is noticed, and nobody is vouched for but by us.
        let Visit { asked: canonical, vouched, settings, peer, .. } = visit;
        headers::to_upstream(&mut asked.headers, canonical, head.version, vouched, settings)
            .map_err(|headers::Loops| unfit("asking it leads back here"))?;
        for name in headers::FOR_ENDPOINTS {
            asked.headers.remove(name);
        }
        client_tls::vouch(&mut asked.headers, visit);
        // It is to decide on what an endpoint would get: without dot segments.
        let target = canonical.target(&head.uri);
        let url = original_url(canonical, peer.scheme(), target.as_str());
        let (host, redirect) = (authority.to_string(), text(&judge.request_redirect));
        let mut told = vec![
            (HOST, &*host),
            (X_ORIGINAL_URL, &url),
            (X_ORIGINAL_METHOD, method(&head.method).as_str()),
            (X_SENT_FROM, "nginx-ingress-controller"),
            (X_AUTH_REQUEST_REDIRECT, &redirect),
        ];
        if judge.method.is_some() {
            told.extend([(X_ORIGINAL_URI, target.as_str()), (headers::X_SCHEME, peer.scheme())]);
        }
        let own: Vec<_> = judge.headers.iter().map(|(name, it)| (name.clone(), text(it))).collect();
        told.extend(own.iter().map(|(name, it)| (name.clone(), it.as_str())));
        for (name, value) in told {
            if value.is_empty() {
                // As with nginx: what is empty is not sent.
                asked.headers.remove(name);
            } else {
                let value = HeaderValue::from_bytes(value.as_bytes());
                asked.headers.insert(
                    name,
                    value.map_err(|_| unfit("what it is to be told fits no header field"))?,
                );
            }
        }
        asked.headers.remove(CONTENT_LENGTH);
        Ok(Self { authority, https: judge.url.https, head: asked })
    }

    /// Asks at one address after the other until one answers.
    async fn ask(&self, visit: &Visit<'_>) -> Result<AnswerHead, Failure> {
        let worker = &visit.link.worker;
        let host = self.authority.host.trim_matches(['[', ']']);
        let port = self.authority.port.unwrap_or(if self.https { 443 } else { 80 });
        let near = visit.live.plan.near;
        if !near && names_near(host) {
            return Err(unjudged(visit, &format_args!("{host} {NEAR}")));
        }
        let addresses: Rc<[SocketAddr]> = match host.parse::<IpAddr>() {
            Ok(ip) => [SocketAddr::new(ip, port)].into(),
            Err(_) => worker.resolver.resolve(host, port, near).await,
        };
        let name = ServerName::try_from(host.to_owned()).map_err(|_| Failure::Unjudged)?;
        let transport = visit.live.verdicts.transport(self.https.then_some(name));
        let first = usize::try_from(worker.random()).unwrap_or_default();
        let turns = (0..addresses.len().min(MOST_TRIES)).map(|it| first.wrapping_add(it));
        for turn in turns {
            let address = addresses[turn % addresses.len()];
            if let Some(answer) = self.ask_at(address, &transport, visit).await {
                return Ok(answer);
            }
        }
        if addresses.is_empty() {
            return Err(unjudged(visit, &format_args!("{host} has no address that may be asked")));
        }
        Err(unjudged(visit, &format_args!("nobody answers at {}", self.authority)))
    }

    /// Asks at one address; a connection that was idle and turns out to be closed is made anew.
    async fn ask_at(
        &self,
        address: SocketAddr,
        transport: &Transport,
        visit: &Visit<'_>,
    ) -> Option<AnswerHead> {
        let pool = &visit.link.worker.pool;
        let destination = Destination { address, transport: transport.id };
        let mut pooled = pool.take(destination, false);
        loop {
            let fresh = pooled.is_none();
            let sender = match pooled.take() {
                Some(sender) => sender,
                None => pool.open(destination, transport, CONNECT).await.ok()?,
            };
            let Sender::H1(mut line) = sender else { return None };
            let progress = Progress::held(Instant::now(), None, &visit.link.meter);
            let body = RequestBody::new(progress.clone());
            line.begin(&self.head, body);
            match poll_fn(|cx| line.poll_head(cx)).await {
                Ok(answer) => {
                    return Some(without_body(
                        answer,
                        Lease::new(Sender::H1(line), None, progress),
                    ));
                }
                Err(_) if !fresh => {}
                Err(error) => {
                    tracing::debug!(%address, %error, "the judge's answer broke off");
                    return None;
                }
            }
        }
    }
}

/// Tells why there is no judgement: to whom it may concern now and then, to who looks closely each time.
fn unjudged(visit: &Visit<'_>, why: &dyn Display) -> Failure {
    let ingress = &visit.way.route.ingress;
    if visit.live.verdicts.may_tell(std::time::Instant::now()) {
        tracing::warn!(%ingress, %why, "a request cannot be judged by its auth-url, and is answered 500");
    } else {
        tracing::debug!(%ingress, %why, "a request cannot be judged by its auth-url");
    }
    Failure::Unjudged
}

/// Throws an answer's body away, beside the request where it is not there yet.
fn without_body(mut head: AnswerHead, lease: Lease) -> AnswerHead {
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        head.status = StatusCode::BAD_GATEWAY;
    }
    let mut body = ReplyBody::upstream(lease, DRAINED);
    if !matches!(body, ReplyBody::Own(_)) {
        tokio::task::spawn_local(async move {
            let drained = async {
                let mut left = LARGEST;
                while let Some(Ok(frame)) = body.frame().await {
                    let length = frame.data_ref().map_or(0, bytes::Bytes::len);
                    left = left.checked_sub(length)?;
                }
                None::<Infallible>
            };
            let _ = timeout(DRAINED, drained).await;
        });
    }
    head
}

/// `$scheme://$http_host$request_uri`, of the canonical request.
fn original_url(asked: &Asked, scheme: &str, target: &str) -> String {
    let authority = asked.authority.as_ref().map(Authority::to_string).unwrap_or_default();
    format!("{scheme}://{authority}{target}")
}

/// A WebSocket is asked for with GET, whichever version of HTTP it comes over.
fn method(method: &Method) -> &Method {
    if *method == Method::CONNECT { &Method::GET } else { method }
}

#[cfg(test)]
mod tests {
    use http::HeaderMap;

    use super::*;

    #[test]
    fn an_answer_is_remembered_unless_it_says_no() {
        let five = Duration::from_secs(5);
        for (fields, expected) in [
            (&[][..], Some(5)),
            (&[("cache-control", "public, max-age=60")], Some(60)),
            (&[("cache-control", "Max-Age=0")], None),
            (&[("cache-control", "max-age=x")], None),
            (&[("cache-control", "public"), ("cache-control", "No-Store")], None),
            (&[("cache-control", "private")], None),
            (&[("set-cookie", "a=b")], None),
            (&[("vary", "cookie")], None),
            (&[("expires", "0")], None),
        ] {
            let mut answer = AnswerHead { status: StatusCode::OK, headers: HeaderMap::new() };
            for (name, value) in fields {
                answer.headers.append(*name, HeaderValue::from_static(value));
            }
            let found = remembered(&answer, five).map(|it| it.as_secs());
            assert_eq!(found, expected, "{fields:?}");
        }
        let mut large = AnswerHead { status: StatusCode::OK, headers: HeaderMap::new() };
        let value = HeaderValue::try_from("x".repeat(MOST_REMEMBERED)).expect("a value");
        large.headers.insert("x-large", value);
        assert_eq!(remembered(&large, five), None);
    }
}
