//! Whether a canary takes a request: ingress-nginx's decisions, in its order.

use http::HeaderMap;

use super::Visit;
use super::affinity;
use super::cookie;
use crate::live::balance::Balancer;
use crate::model::pattern::Pattern;
use crate::model::sharing::{HeaderPattern, Split};

/// Who takes a request at a route: its Service, or the canary beside it.
pub(super) fn chosen<'a>(visit: &Visit<'a>, headers: &HeaderMap) -> Option<&'a Balancer> {
    let main = visit.way.balancer.as_deref()?;
    let Some(canary) = &visit.way.canary else { return Some(main) };
    if !takes(main, canary, headers, || visit.link.worker.random()) {
        return Some(main);
    }
    visit.trace.canary.set(true);
    Some(canary)
}

fn takes(
    main: &Balancer,
    canary: &Balancer,
    headers: &HeaderMap,
    random: impl FnOnce() -> u64,
) -> bool {
    match choice(main, canary, headers) {
        Choice::Main(_) => false,
        Choice::Canary(_) => true,
        Choice::Chance(split) => by_chance(split, random()),
    }
}

/// Who takes a request, and why.
pub(super) enum Choice<'a> {
    Main(&'static str),
    Canary(&'static str),
    /// Its weight decides.
    Chance(&'a Split),
}

/// What a request itself decides.
pub(super) fn choice<'a>(main: &'a Balancer, canary: &Balancer, headers: &HeaderMap) -> Choice<'a> {
    let Some(policy) = &main.backend.canary else { return Choice::Main("there is no canary") };
    // Whoever is kept on one stays there, whatever else is said.
    if main.is_empty() {
        return Choice::Main("a canary does not stand in for a Service without endpoints");
    }
    if affinity::keeps(main, headers) {
        return Choice::Main("its cookie keeps the client there");
    }
    if canary.is_empty() {
        return Choice::Main("the canary has no endpoints");
    }
    if affinity::keeps(canary, headers) {
        return Choice::Canary("its cookie keeps the client there");
    }
    match asked(&policy.split, headers) {
        Some(true) => Choice::Canary("the request asks for it"),
        Some(false) => Choice::Main("the request asks not to go to the canary"),
        None => Choice::Chance(&policy.split),
    }
}

/// What the request itself says, if anything.
fn asked(split: &Split, headers: &HeaderMap) -> Option<bool> {
    by_header(split, headers).or_else(|| {
        // Names of cookies are alike in either case to nginx's variables.
        let name = split.cookie.as_deref()?;
        let value = cookie::value(headers, |it| it.eq_ignore_ascii_case(name))?;
        always_or_never(value.as_bytes())
    })
}

fn by_header(split: &Split, headers: &HeaderMap) -> Option<bool> {
    let mut values =
        headers.get_all(split.header.as_ref()?).iter().map(http::HeaderValue::as_bytes);
    let first = values.next()?;
    // Several fields are one list, as in nginx.
    let joined = values.next().map(|second| {
        let all = [first, second].into_iter().chain(values);
        all.collect::<Vec<_>>().join(&b", "[..])
    });
    let value = joined.as_deref().unwrap_or(first);
    match (&split.value, &split.pattern) {
        (Some(wanted), _) => (*value == *wanted.as_bytes()).then_some(true),
        (None, Some(HeaderPattern::Read(pattern))) => {
            let fits = value.len() <= Pattern::LONGEST_PATH;
            (fits && pattern.is_match(value)).then_some(true)
        }
        (None, Some(HeaderPattern::Unreadable)) => Some(false),
        (None, None) => always_or_never(value),
    }
}

fn always_or_never(value: &[u8]) -> Option<bool> {
    match value {
        b"always" => Some(true),
        b"never" => Some(false),
        _ => None,
    }
}

fn by_chance(split: &Split, random: u64) -> bool {
    random % u64::from(split.out_of()) < u64::from(split.weight)
}

#[cfg(test)]
mod tests {
    use http::header::COOKIE;

    use super::*;

    fn headers(header: &[&str], cookie: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in header {
            headers.append("x-canary", value.parse().expect("a value"));
        }
        if !cookie.is_empty() {
            headers.insert(COOKIE, format!("a=b; c={cookie}").parse().expect("a value"));
        }
        headers
    }

    #[test]
    fn header_comes_before_cookie_and_cookie_before_weight() {
        let plain = Split {
            header: Some("X-Canary".parse().expect("a name")),
            cookie: Some("C".into()),
            ..Split::default()
        };
        let value = Split { value: Some("de".into()), ..plain.clone() };
        let pattern = Pattern::parse("^(fr|it)$", false)
            .map_or(HeaderPattern::Unreadable, HeaderPattern::Read);
        let pattern = Split { pattern: Some(pattern), ..plain.clone() };
        let both = Split { value: value.value.clone(), ..pattern.clone() };
        let broken = Split { pattern: Some(HeaderPattern::Unreadable), ..plain.clone() };
        let none = Split::default();
        for (case, split, header, cookie, expected) in [
            ("header", &plain, &["always"][..], "never", Some(true)),
            ("header", &plain, &["never"], "always", Some(false)),
            ("header of another value", &plain, &["Always"], "", None),
            ("header of another value", &plain, &["maybe"], "always", Some(true)),
            ("no header", &plain, &[], "never", Some(false)),
            ("header twice", &plain, &["always", "always"], "", None),
            ("cookie of another value", &plain, &[], "1", None),
            ("nothing asked", &plain, &[], "", None),
            ("value", &value, &["de"], "never", Some(true)),
            ("always is a value like others", &value, &["always"], "", None),
            ("never is a value like others", &value, &["never"], "always", Some(true)),
            ("no match leaves it to the cookie", &value, &["en"], "never", Some(false)),
            ("pattern", &pattern, &["it"], "never", Some(true)),
            ("pattern without match", &pattern, &["always"], "", None),
            ("pattern without match", &pattern, &["de"], "always", Some(true)),
            ("value before pattern", &both, &["it"], "", None),
            ("value before pattern", &both, &["de"], "", Some(true)),
            ("a pattern that cannot be read", &broken, &["it"], "always", Some(false)),
            ("a pattern that cannot be read", &broken, &[], "always", Some(true)),
            ("neither is looked at", &none, &["always"], "always", None),
        ] {
            assert_eq!(
                asked(split, &headers(header, cookie)),
                expected,
                "{case}: {header:?} {cookie}"
            );
        }
    }

    #[test]
    fn a_weight_is_a_share_of_its_total() {
        for (weight, total, expected) in [
            (0, 100, 0),
            (1, 100, 10),
            (30, 100, 300),
            (100, 100, 1000),
            (200, 100, 1000),
            (5, 10, 50),
            (250, 1000, 250),
            (1000, 1000, 1000),
        ] {
            let split = Split { weight, total, ..Split::default() };
            let taken = (0..1000_u64).filter(|it| by_chance(&split, *it)).count();
            assert_eq!(taken, expected, "{weight} of {total}");
        }
    }
}
