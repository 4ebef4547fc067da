//! Cookies that clients bring.

use http::HeaderMap;
use http::header::COOKIE;

/// The value of the first cookie whose name `is` it; it may be spread over several fields (RFC 9113 section
/// 8.2.3). Bytes that are not text are nobody's cookie.
pub(super) fn value(headers: &HeaderMap, is: impl Fn(&str) -> bool) -> Option<&str> {
    let fields = headers.get_all(COOKIE).iter().filter_map(|it| it.to_str().ok());
    let crumbs = fields.flat_map(|it| it.split(';'));
    let mut pairs = crumbs.filter_map(|it| it.trim().split_once('='));
    pairs.find(|(name, _)| is(name)).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_of_a_name_is_found() {
        let mut headers = HeaderMap::new();
        for field in ["a=1; b=2=3;c=", "d=\"4\"; a=5", " ; =6; g"] {
            headers.append(COOKIE, field.parse().expect("a value"));
        }
        for (name, expected) in [
            ("a", Some("1")),
            ("b", Some("2=3")),
            ("c", Some("")),
            ("d", Some("\"4\"")),
            ("g", None),
            ("A", None),
        ] {
            assert_eq!(value(&headers, |it| it == name), expected, "{name}");
        }
        assert_eq!(value(&headers, |it| it.eq_ignore_ascii_case("A")), Some("1"));
    }
}
