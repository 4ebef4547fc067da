//! Text with nginx's variables, where an annotation may have them: what one request comes to.
//!
//! The set of variables is closed: a text with any other is refused, so that nobody relies on a value
//! that is silently empty.

/// A text whose variables each request fills.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Phrase(pub Box<[Word]>);

/// One part of a [`Phrase`], by nginx's names.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Word {
    /// Text between variables.
    Text(Box<str>),
    /// `$args`, `$query_string`
    Args,
    /// `$arg_NAME`: a parameter of the query, as it is written there.
    Argument(Box<str>),
    /// `$cookie_NAME`
    Cookie(Box<str>),
    /// `$escaped_request_uri`: `$request_uri` with all but unreserved characters escaped.
    EscapedRequestUri,
    /// `$host`: without its port.
    Host,
    /// `$ingress_name`
    Ingress,
    /// `$is_args`: `?` where there is a query.
    IsArgs,
    /// `$msec`: seconds since 1970, with milliseconds.
    Msec,
    /// `$namespace`
    Namespace,
    /// `$request_id`, `$req_id`
    RequestId,
    /// `$server_port`, `$pass_server_port`: the port the client asked for.
    ServerPort,
    /// `$service_name`
    Service,
    /// `$service_port`
    ServicePort,
    /// `$http_NAME`: a header field; the name with hyphens.
    Header(Box<str>),
    /// `$remote_addr`, `$binary_remote_addr`, `$the_real_ip`
    RemoteAddr,
    /// `$remote_user`: the name in a `Basic` authorization.
    RemoteUser,
    /// `$request_method`
    Method,
    /// `$request_uri`: path and query as the client wrote them.
    RequestUri,
    /// `$scheme`, `$pass_access_scheme`
    Scheme,
    /// `$uri`, `$document_uri`: the canonical path.
    Uri,
}

impl Phrase {
    /// Reads `$name` and `${name}`; the error is a variable that is not known.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut words = Vec::new();
        let mut rest = text;
        while let Some(dollar) = rest.find('$') {
            if dollar > 0 {
                words.push(Word::Text(rest[..dollar].into()));
            }
            let tail = &rest[dollar + 1..];
            let (name, tail) = if let Some(tail) = tail.strip_prefix('{') {
                tail.split_once('}').ok_or_else(|| format!("${{{tail}"))?
            } else {
                let name = |it: char| it.is_ascii_alphanumeric() || it == '_';
                tail.split_at(tail.find(|it| !name(it)).unwrap_or(tail.len()))
            };
            words.push(Word::variable(name).ok_or_else(|| format!("${name}"))?);
            rest = tail;
        }
        if !rest.is_empty() {
            words.push(Word::Text(rest.into()));
        }
        Ok(Self(words.into()))
    }
}

impl Word {
    fn variable(name: &str) -> Option<Self> {
        let named = |prefix: &str| name.strip_prefix(prefix).filter(|it| !it.is_empty());
        Some(match name {
            "args" | "query_string" => Self::Args,
            "escaped_request_uri" => Self::EscapedRequestUri,
            "ingress_name" => Self::Ingress,
            "is_args" => Self::IsArgs,
            "msec" => Self::Msec,
            "namespace" => Self::Namespace,
            "request_id" | "req_id" => Self::RequestId,
            "server_port" | "pass_server_port" => Self::ServerPort,
            "service_name" => Self::Service,
            "service_port" => Self::ServicePort,
            "host" => Self::Host,
            "best_http_host" => Self::Header("host".into()),
            "remote_addr" | "binary_remote_addr" | "the_real_ip" => Self::RemoteAddr,
            "remote_user" => Self::RemoteUser,
            "request_method" => Self::Method,
            "request_uri" => Self::RequestUri,
            "scheme" | "pass_access_scheme" => Self::Scheme,
            "uri" | "document_uri" => Self::Uri,
            _ => {
                if let Some(it) = named("arg_") {
                    Self::Argument(it.into())
                } else if let Some(it) = named("cookie_") {
                    Self::Cookie(it.into())
                } else {
                    Self::Header(named("http_")?.to_ascii_lowercase().replace('_', "-").into())
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_a_closed_set() {
        let words = |text: &str| Phrase::parse(text).map(|it| it.0.into_vec());
        assert_eq!(words("$request_uri"), Ok(vec![Word::RequestUri]));
        assert_eq!(
            words("a-${http_X_User}$arg_id."),
            Ok(vec![
                Word::Text("a-".into()),
                Word::Header("x-user".into()),
                Word::Argument("id".into()),
                Word::Text(".".into()),
            ])
        );
        for (text, unknown) in
            [("$nope", "$nope"), ("x$", "$"), ("${host", "${host"), ("$http_", "$http_")]
        {
            assert_eq!(words(text), Err(unknown.to_owned()), "{text}");
        }
    }
}
