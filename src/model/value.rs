//! Values as ingress-nginx and Go write them in annotations, ConfigMaps and flags.

use std::time::Duration;

/// A truth value by the rules of Go's `strconv.ParseBool`, which ingress-nginx uses throughout.
pub fn boolean(text: &str) -> Option<bool> {
    match text.trim() {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// A whole number of seconds without a unit, as `proxy-read-timeout` takes it; not 0, with which nothing
/// would ever be in time.
pub fn positive_seconds(text: &str) -> Option<Duration> {
    let seconds = text.trim().parse::<u32>().ok().filter(|it| *it > 0)?;
    Some(Duration::from_secs(seconds.into()))
}

/// A size in bytes as nginx writes it: `0`, `512`, `8k`, `1m`, `2g`, in either case.
pub fn bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.trim_end_matches(|it: char| it.is_ascii_alphabetic());
    let shift = match &text[digits.len()..] {
        "" => 0,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// A size that is not 0 and below 4 GiB.
pub fn positive_bytes(text: &str) -> Option<u32> {
    bytes(text)?.try_into().ok().filter(|it| *it > 0)
}

/// A switch as nginx writes it: `on` or `off`.
pub fn switch(text: &str) -> Option<bool> {
    match text.trim() {
        "on" => Some(true),
        "off" => Some(false),
        _ => None,
    }
}

/// A duration as Go writes it: `30s`, `5m`, `1h30m`, `250ms`; a bare `0` is allowed, and `d` for days.
pub fn duration(text: &str) -> Option<Duration> {
    /// Longer than anybody waits, and short enough for any clock.
    const MOST: Duration = Duration::from_secs(100 * 366 * 86_400);
    let mut rest = text.trim();
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let number = rest.find(|it: char| !it.is_ascii_digit() && it != '.')?;
        let (value, tail) = rest.split_at(number);
        let unit = tail.find(|it: char| it.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        let scale = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(value.parse::<f64>().ok()? * scale).ok()?;
        total = total.checked_add(part)?;
        rest = tail;
    }
    (!text.trim().is_empty() && total <= MOST).then_some(total)
}

/// The entries of a list with commas; empty ones are none.
pub fn entries_of(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|it| !it.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_are_gos() {
        for (text, expected) in
            [("true", Some(true)), ("F", Some(false)), ("yes", None), ("on", None), ("", None)]
        {
            assert_eq!(boolean(text), expected, "{text:?}");
        }
    }

    #[test]
    fn sizes_are_nginxs() {
        for (text, expected) in [
            ("0", Some(0)),
            ("8m", Some(8 << 20)),
            ("512K", Some(512 << 10)),
            ("15r", None),
            ("m", None),
            ("99999999999999g", None),
            ("-1", None),
        ] {
            assert_eq!(bytes(text), expected, "{text:?}");
        }
    }

    #[test]
    fn durations_are_gos() {
        for (text, expected) in [
            ("30s", Some(Duration::from_secs(30))),
            ("1h30m", Some(Duration::from_secs(5400))),
            ("1.5s", Some(Duration::from_millis(1500))),
            ("0", Some(Duration::ZERO)),
            ("7d", Some(Duration::from_secs(7 * 86_400))),
            ("200000000000000d", None),
            ("30", None),
            ("", None),
            ("s", None),
        ] {
            assert_eq!(duration(text), expected, "{text:?}");
        }
    }

    #[test]
    fn entries_are_between_commas() {
        for (text, expected) in
            [("a", &["a"][..]), (" a ,b,, c d ,", &["a", "b", "c d"]), ("", &[]), (" , ", &[])]
        {
            assert_eq!(entries_of(text).collect::<Vec<_>>(), expected, "{text:?}");
        }
    }
}
