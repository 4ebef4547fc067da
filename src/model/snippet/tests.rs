//! What is taken, what is refused, and where.

use super::*;

fn phrase(text: &str) -> Phrase {
    Phrase::parse(text).expect("a phrase")
}

#[test]
fn the_closed_set_is_read() {
    let name = HeaderName::from_static;
    for (text, expected) in [
        ("", vec![]),
        ("# nothing\n  ", vec![]),
        (
            "more_set_headers \"X-Frame-Options: DENY\" 'X-A: b; c';",
            vec![
                Directive::SetInAnswer(name("x-frame-options"), phrase("DENY")),
                Directive::SetInAnswer(name("x-a"), phrase("b; c")),
            ],
        ),
        ("more_set_headers 'Server:';", vec![Directive::ClearInAnswer(name("server"))]),
        (
            "more_clear_headers X-A X-B;",
            vec![Directive::ClearInAnswer(name("x-a")), Directive::ClearInAnswer(name("x-b"))],
        ),
        (
            "add_header X-A 1 always; # why\nadd_header X-B \"two words\";",
            vec![
                Directive::AddToAnswer(name("x-a"), phrase("1"), true),
                Directive::AddToAnswer(name("x-b"), phrase("two words"), false),
            ],
        ),
        (
            "proxy_set_header X-Forwarded-Host $http_host;\nproxy_set_header X-Gone \"\";",
            vec![
                Directive::SetInRequest(name("x-forwarded-host"), phrase("$http_host")),
                Directive::SetInRequest(name("x-gone"), phrase("")),
            ],
        ),
        (
            "return 301 https://b.test$request_uri;",
            vec![Directive::Return(
                StatusCode::MOVED_PERMANENTLY,
                Some(phrase("https://b.test$request_uri")),
            )],
        ),
        (
            "allow 10.0.0.0/8; deny 192.0.2.1; deny all;",
            vec![
                Directive::Network { allow: true, network: "10.0.0.0/8".parse().ok() },
                Directive::Network { allow: false, network: "192.0.2.1/32".parse().ok() },
                Directive::Network { allow: false, network: None },
            ],
        ),
        (
            "location ~ /\\.git { deny all; } location = /x { return 404; }",
            vec![
                Directive::Location {
                    place: Place::Regex(Pattern::of_path("/\\.git").expect("a pattern")),
                    status: StatusCode::FORBIDDEN,
                },
                Directive::Location {
                    place: Place::Exact("/x".into()),
                    status: StatusCode::NOT_FOUND,
                },
            ],
        ),
    ] {
        assert_eq!(parse(text), Ok(expected), "{text}");
    }
}

#[test]
fn each_annotation_has_its_own_set() {
    for (text, context, fits) in [
        ("proxy_set_header X-A 1;", Context::Location, true),
        ("proxy_set_header X-A 1;", Context::Auth, true),
        ("proxy_set_header X-A 1;", Context::Server, false),
        ("add_header X-A 1;", Context::Auth, false),
        ("location /a { deny all; }", Context::Server, true),
        ("location /a { deny all; }", Context::Location, false),
    ] {
        let read = read(text, context, &mut Snippets::default());
        assert_eq!(read.is_ok(), fits, "{text} {context:?}");
    }
}

#[test]
fn all_else_is_refused_with_its_line() {
    for (text, line, why) in [
        ("proxy_pass http://evil;", "proxy_pass http://evil", "is not among"),
        ("lua_code_cache off;", "lua_code_cache off", "is not among"),
        ("return 200", "return 200", "ends without"),
        ("return 99;", "return 99", "returns no status"),
        ("more_set_headers 'X-A 1';", "more_set_headers 'X-A 1'", "sets no value"),
        ("add_header X-A $nope;", "add_header X-A $nope", "has a variable"),
        ("proxy_set_header Host evil;", "proxy_set_header Host evil", "sets Host"),
        ("add_header Transfer-Encoding x;", "add_header Transfer-Encoding x", "frames"),
        ("add_header 'X A' x;", "add_header 'X A' x", "names no header"),
        ("add_header X-A \"a\nb\";", "add_header X-A \"a", "has a value"),
        ("deny 10.0.0.0/33;", "deny 10.0.0.0/33", "names no network"),
        ("if ($host = a) { return 403; }", "if ($host = a)", "is not among the blocks"),
        ("location / { proxy_pass http://a; }", "proxy_pass http://a", "is not among"),
        ("location / { allow all; }", "location /", "does more"),
        ("location / { location /a { deny all; } }", "location / {", "holds a block"),
        ("} return 200;", "} return 200;", "holds a brace"),
        ("add_header X-A \"open;", "add_header X-A \"open;", "holds an open quote"),
    ] {
        let error = parse(text).expect_err(text);
        assert!(error.line.starts_with(line), "{text}: {error}");
        assert!(error.to_string().contains(why), "{text}: {error}");
    }
}
