//! Cross-origin questions of browsers (the CORS protocol of Fetch), answered as ingress-nginx does.

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    CONTENT_TYPE, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode, request};

use super::body::ReplyBody;
use super::observe::Extra;
use crate::model::cors::{Cors, Origins};

/// Notes what the answer says about other origins, in place of what the endpoint says; answers a preflight.
///
/// Where an origin may not, nothing is said of ours, and its preflight is the endpoint's to answer. With `*`
/// every `OPTIONS` is a preflight, with an `Origin` or without.
pub(super) fn answer(
    cors: &Cors,
    head: &request::Parts,
    extras: &mut Vec<Extra>,
) -> Option<Response<ReplyBody>> {
    let origin = match &cors.origins {
        Origins::Any => HeaderValue::from_static("*"),
        Origins::Listed(listed) => {
            // Whoever stores the answer must know that it is not for every origin.
            extras.push(Extra::Add(VARY, HeaderValue::from_static("Origin")));
            let origin = only_origin(&head.headers)?;
            let text = origin.to_str().ok()?;
            listed.iter().any(|it| it.is(text)).then(|| origin.clone())?
        }
    };
    extras.push(Extra::Set(ACCESS_CONTROL_ALLOW_ORIGIN, origin));
    if cors.credentials {
        let credentials = HeaderValue::from_static("true");
        extras.push(Extra::Set(ACCESS_CONTROL_ALLOW_CREDENTIALS, credentials));
    }
    extras.push(Extra::Set(ACCESS_CONTROL_ALLOW_METHODS, cors.methods.clone()));
    extras.push(Extra::Set(ACCESS_CONTROL_ALLOW_HEADERS, cors.headers.clone()));
    if let Some(expose) = &cors.expose {
        extras.push(Extra::Set(ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone()));
    }
    extras.push(Extra::Set(ACCESS_CONTROL_MAX_AGE, cors.max_age.clone()));
    (head.method == Method::OPTIONS).then(preflight)
}

fn only_origin(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut origins = headers.get_all(ORIGIN).iter();
    origins.next().filter(|_| origins.next().is_none())
}

/// Without `Content-Length`, which ingress-nginx sends and RFC 9110 section 8.6 forbids.
fn preflight() -> Response<ReplyBody> {
    let mut reply = Response::new(ReplyBody::empty());
    *reply.status_mut() = StatusCode::NO_CONTENT;
    let text = HeaderValue::from_static("text/plain charset=UTF-8");
    reply.headers_mut().insert(CONTENT_TYPE, text);
    reply
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    /// What is said to a request, as text, and whether it is answered.
    fn said(cors: &Cors, method: &str, origins: &[&str]) -> (String, bool) {
        let mut request = Request::builder().method(method).uri("/");
        for origin in origins {
            request = request.header(ORIGIN, *origin);
        }
        let (head, ()) = request.body(()).expect("a request").into_parts();
        let mut extras = Vec::new();
        let answered = answer(cors, &head, &mut extras).is_some();
        let mut headers = HeaderMap::new();
        for it in extras {
            it.put(StatusCode::OK, &mut headers);
        }
        let short = |name: &str| {
            let name = name.trim_start_matches("access-control-").trim_start_matches("allow-");
            name.to_owned()
        };
        let shown = ["vary", "access-control-allow-origin", "access-control-allow-credentials"];
        let shown = shown.iter().filter_map(|name| {
            let value = headers.get(*name)?.to_str().expect("text");
            Some(format!("{}: {value}", short(name)))
        });
        (shown.collect::<Vec<_>>().join(", "), answered)
    }

    #[test]
    fn an_origin_is_told_that_it_may_and_nobody_else() {
        let listed = |list: &str| {
            let mut cors = Cors::default();
            cors.read_origins(list);
            cors
        };
        let any = Cors::default();
        let one = listed("https://a.test");
        let none = listed("a.test");
        let alone = Cors { credentials: false, ..any.clone() };
        let star = "origin: *, credentials: true";
        for (cors, method, origins, expected, answered) in [
            (&any, "GET", &[][..], star, false),
            (&any, "GET", &["https://b.test"], star, false),
            (&any, "OPTIONS", &[], star, true),
            (&alone, "GET", &[], "origin: *", false),
            (
                &one,
                "GET",
                &["https://a.test"],
                "vary: Origin, origin: https://a.test, credentials: true",
                false,
            ),
            (
                &one,
                "OPTIONS",
                &["https://A.test"],
                "vary: Origin, origin: https://A.test, credentials: true",
                true,
            ),
            (&one, "OPTIONS", &["https://b.test"], "vary: Origin", false),
            (&one, "OPTIONS", &[], "vary: Origin", false),
            (&one, "GET", &["https://a.test", "https://b.test"], "vary: Origin", false),
            (&none, "OPTIONS", &["https://a.test"], "vary: Origin", false),
        ] {
            let found = said(cors, method, origins);
            assert_eq!(found, (expected.to_owned(), answered), "{method} {origins:?}");
        }
    }
}
