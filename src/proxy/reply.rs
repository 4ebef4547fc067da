//! Answers of our own: what went wrong, whose fault it is, and the status that says so.

use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, LOCATION, RETRY_AFTER,
};
use http::{HeaderValue, Response, StatusCode};

use super::body::ReplyBody;
use super::canonical::Refused;
use super::upload::Fault;

/// Why a request got no answer from an endpoint.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// The client's: the head breaks a rule.
    Refused(Refused),
    /// The client's: the body broke off.
    Body(Fault),
    /// The client's, or a wrong configuration's: the request runs in a circle.
    Loops,
    /// The client's: a WebSocket to an endpoint that is spoken to with HTTP/2.
    NoTunnel,
    /// Nobody's: no rule takes the request.
    NotFound,
    /// The client's: the ConfigMap blocks it.
    Blocked,
    /// The owner's: a security setting is not honoured, so nothing is served.
    Denied,
    /// The judge's: it says neither yes nor no.
    Unjudged,
    /// The client's: it asks for more than its Ingress lets one client.
    Limited(StatusCode),
    /// Ours: more is asked for than can be served.
    Overloaded,
    /// The backend's: nobody is ready.
    NoEndpoint,
    /// The backend's: every endpoint tried refused a connection.
    Unreachable,
    /// The backend's: no connection, or no answer, in time.
    Slow,
    /// The backend's: the connection broke, or the answer is not HTTP.
    Broken,
}

impl Failure {
    /// The status a failure is answered with.
    pub(super) fn status(&self) -> StatusCode {
        match self {
            Self::Refused(refused) => refused.status,
            Self::Body(Fault::Large) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Body(Fault::Broken) => StatusCode::BAD_REQUEST,
            Self::Body(Fault::Slow) => StatusCode::REQUEST_TIMEOUT,
            Self::Loops => StatusCode::LOOP_DETECTED,
            Self::NoTunnel => StatusCode::NOT_IMPLEMENTED,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Blocked => StatusCode::FORBIDDEN,
            Self::Unjudged => StatusCode::INTERNAL_SERVER_ERROR,
            Self::Limited(status) => *status,
            Self::Denied | Self::Overloaded | Self::NoEndpoint => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unreachable | Self::Broken => StatusCode::BAD_GATEWAY,
            Self::Slow => StatusCode::GATEWAY_TIMEOUT,
        }
    }

    /// Whether the connection must not carry another request: its framing is in doubt.
    fn closes(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Body(_))
    }

    pub(super) fn reply(&self) -> Response<ReplyBody> {
        let mut reply = match self {
            Self::Refused(refused) => page(refused.status, refused.why),
            // Without a body, which would wait for a window that an attacker keeps closed.
            Self::Overloaded => {
                let mut reply = Response::new(ReplyBody::empty());
                *reply.status_mut() = self.status();
                reply.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
                reply
            }
            other => page(other.status(), ""),
        };
        if self.closes() {
            reply.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        if reply.status() == StatusCode::METHOD_NOT_ALLOWED {
            let methods = "GET, HEAD, POST, PUT, DELETE, OPTIONS, TRACE, PATCH";
            reply.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
        }
        reply
    }
}

/// A page that says its status, as nginx's do, and perhaps why.
pub(super) fn page(status: StatusCode, why: &str) -> Response<ReplyBody> {
    let reason = match status {
        // The one page whose words people look for are those that nginx has.
        StatusCode::UNAUTHORIZED => "Authorization Required",
        other => other.canonical_reason().unwrap_or_default(),
    };
    let title = format!("{} {reason}", status.as_u16());
    let text = format!(
        "<html>\r\n<head><title>{title}</title></head>\r\n<body>\r\n<h1>{title}</h1>\r\n\
         {why}{}</body>\r\n</html>\r\n",
        if why.is_empty() { "" } else { "\r\n" }
    );
    with(status, "text/html", text)
}

/// An answer with a body of ours.
pub(super) fn with(
    status: StatusCode,
    content_type: &'static str,
    text: impl Into<bytes::Bytes>,
) -> Response<ReplyBody> {
    let mut reply = Response::new(ReplyBody::from(text));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// What HEAD gets where GET would get a body of ours (RFC 9110 section 9.3.2).
pub(super) fn without_body(mut reply: Response<ReplyBody>) -> Response<ReplyBody> {
    if let ReplyBody::Own(Some(text)) = reply.body() {
        let length = HeaderValue::from(text.len());
        reply.headers_mut().insert(CONTENT_LENGTH, length);
        *reply.body_mut() = ReplyBody::empty();
    }
    reply
}

/// A redirect to `location`.
pub(super) fn redirect(status: StatusCode, location: &str) -> Response<ReplyBody> {
    let mut reply = page(status, "");
    // What does not fit a header field came from a target that was refused before.
    if let Ok(location) = HeaderValue::try_from(location) {
        reply.headers_mut().insert(LOCATION, location);
    }
    reply
}

/// The answer to an HTTP-01 challenge.
pub(super) fn key_authorization(text: String) -> Response<ReplyBody> {
    let mut reply = with(StatusCode::OK, "application/octet-stream", text);
    let headers = reply.headers_mut();
    headers.insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}
