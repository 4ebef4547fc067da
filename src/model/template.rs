//! The access log's line: text with nginx's variables, parsed once.

/// The line ingress-nginx writes when `log-format-upstream` is not set.
pub const UPSTREAM_INFO: &str = concat!(
    "$remote_addr - $remote_user [$time_local] \"$request\" $status $body_bytes_sent ",
    "\"$http_referer\" \"$http_user_agent\" $request_length $request_time ",
    "[$proxy_upstream_name] [$proxy_alternative_upstream_name] $upstream_addr ",
    "$upstream_response_length $upstream_response_time $upstream_status $req_id"
);

/// A parsed format.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Template {
    /// What is written, in order.
    pub pieces: Vec<Piece>,
    /// Names of request headers that the line shows, each once, as they stand in `Piece::Header`.
    pub headers: Vec<Box<str>>,
    /// Escape values for use inside JSON strings (`log-format-escape-json`).
    pub json: bool,
}

/// One part of a line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Piece {
    /// Text between variables.
    Text(Box<str>),
    /// A variable whose value the proxy knows.
    Variable(Variable),
    /// `$http_…`: the request header at this place of [`Template::headers`].
    Header(usize),
}

/// Variables a line may hold, by nginx's names.
#[expect(missing_docs, reason = "the names are nginx's")]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Variable {
    Args,
    BodyBytesSent,
    BytesSent,
    Host,
    IngressName,
    Method,
    Namespace,
    Path,
    Protocol,
    ProxyAlternative,
    ProxyUpstreamName,
    RemoteAddr,
    RemotePort,
    RemoteUser,
    Request,
    RequestId,
    RequestLength,
    RequestTime,
    RequestUri,
    Scheme,
    ServerPort,
    ServiceName,
    ServicePort,
    Status,
    TimeIso8601,
    TimeLocal,
    Msec,
    UpstreamAddr,
    UpstreamResponseLength,
    UpstreamResponseTime,
    UpstreamStatus,
}

const VARIABLES: &[(&str, Variable)] = &[
    ("args", Variable::Args),
    ("query_string", Variable::Args),
    ("body_bytes_sent", Variable::BodyBytesSent),
    ("bytes_sent", Variable::BytesSent),
    ("host", Variable::Host),
    ("http_host", Variable::Host),
    ("best_http_host", Variable::Host),
    ("ingress_name", Variable::IngressName),
    ("request_method", Variable::Method),
    ("namespace", Variable::Namespace),
    ("uri", Variable::Path),
    ("document_uri", Variable::Path),
    ("server_protocol", Variable::Protocol),
    ("proxy_alternative_upstream_name", Variable::ProxyAlternative),
    ("proxy_upstream_name", Variable::ProxyUpstreamName),
    ("remote_addr", Variable::RemoteAddr),
    ("the_real_ip", Variable::RemoteAddr),
    ("realip_remote_addr", Variable::RemoteAddr),
    ("remote_port", Variable::RemotePort),
    ("realip_remote_port", Variable::RemotePort),
    ("remote_user", Variable::RemoteUser),
    ("request", Variable::Request),
    ("req_id", Variable::RequestId),
    ("request_id", Variable::RequestId),
    ("request_length", Variable::RequestLength),
    ("request_time", Variable::RequestTime),
    ("request_uri", Variable::RequestUri),
    ("scheme", Variable::Scheme),
    ("pass_access_scheme", Variable::Scheme),
    ("server_port", Variable::ServerPort),
    ("pass_server_port", Variable::ServerPort),
    ("pass_port", Variable::ServerPort),
    ("service_name", Variable::ServiceName),
    ("service_port", Variable::ServicePort),
    ("status", Variable::Status),
    ("time_iso8601", Variable::TimeIso8601),
    ("time_local", Variable::TimeLocal),
    ("msec", Variable::Msec),
    ("upstream_addr", Variable::UpstreamAddr),
    ("upstream_response_length", Variable::UpstreamResponseLength),
    ("upstream_response_time", Variable::UpstreamResponseTime),
    ("upstream_status", Variable::UpstreamStatus),
];

impl Variable {
    fn parse(name: &str) -> Option<Self> {
        VARIABLES.iter().find(|(it, _)| *it == name).map(|(_, variable)| *variable)
    }
}

impl Template {
    /// Reads a format; the second half names the variables that are not known and stay empty (`-`).
    pub fn parse(format: &str, json: bool) -> (Self, Vec<String>) {
        let mut template = Self { pieces: Vec::new(), headers: Vec::new(), json };
        let mut unknown = Vec::new();
        let mut rest = format;
        while let Some(dollar) = rest.find('$') {
            template.text(&rest[..dollar]);
            let tail = &rest[dollar + 1..];
            let braced = tail.starts_with('{');
            let tail = &tail[usize::from(braced)..];
            let end = tail
                .find(|it: char| !it.is_ascii_alphanumeric() && it != '_')
                .unwrap_or(tail.len());
            let (name, tail) = tail.split_at(end);
            rest = if braced { tail.strip_prefix('}').unwrap_or(tail) } else { tail };
            match Variable::parse(name) {
                Some(variable) => template.pieces.push(Piece::Variable(variable)),
                None => {
                    if let Some(header) = name.strip_prefix("http_") {
                        template.header(&header.replace('_', "-"));
                    } else {
                        template.text("-");
                        unknown.push(name.to_owned());
                    }
                }
            }
        }
        template.text(rest);
        (template, unknown)
    }

    fn text(&mut self, text: &str) {
        if !text.is_empty() {
            self.pieces.push(Piece::Text(text.into()));
        }
    }

    fn header(&mut self, name: &str) {
        let known = self.headers.iter().position(|it| **it == *name);
        let place = known.unwrap_or_else(|| {
            self.headers.push(name.into());
            self.headers.len() - 1
        });
        self.pieces.push(Piece::Header(place));
    }
}

impl Default for Template {
    fn default() -> Self {
        Self::parse(UPSTREAM_INFO, false).0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_is_text_variables_and_headers() {
        let (template, unknown) =
            Template::parse("a $status \"${http_x_y}\" $nope $http_x_y", true);
        assert_eq!(
            template.pieces,
            [
                Piece::Text("a ".into()),
                Piece::Variable(Variable::Status),
                Piece::Text(" \"".into()),
                Piece::Header(0),
                Piece::Text("\" ".into()),
                Piece::Text("-".into()),
                Piece::Text(" ".into()),
                Piece::Header(0),
            ]
        );
        assert_eq!(unknown, ["nope"]);
        assert_eq!(*template.headers, ["x-y".into()]);
    }

    #[test]
    fn the_default_line_has_no_unknown_variable() {
        assert_eq!(Template::parse(UPSTREAM_INFO, false).1, [""; 0]);
    }
}
