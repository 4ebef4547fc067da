//! What values of flags may be, and how they are read.

use std::time::Duration;

use clap::ValueEnum;

use crate::model::value;

/// `--host-ownership`
#[expect(missing_docs, reason = "the flag's help says it")]
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum HostOwnership {
    Merge,
    Namespace,
}

/// `--issuer`
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum IssuerFlag {
    /// A CA that speaks ACME.
    Acme,
    /// The small CA inside this program.
    Local,
    /// Nobody.
    None,
}

/// Let's Encrypt, as certificates are ordered there by default.
pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";

/// A flag of Go's: `--x`, `--x=true`, `--x=false`.
pub(super) fn boolean(text: &str) -> Result<bool, String> {
    value::boolean(text).ok_or_else(|| "true or false".to_owned())
}

/// A time with its unit.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    value::duration(text).ok_or_else(|| "a time such as 30s, 5m or 1h30m".to_owned())
}

/// How many in what time.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Rate {
    /// How many, 1 to 1000.
    pub count: u32,
    /// In any time of this length.
    pub span: Duration,
}

/// As `3/7d`.
pub(super) fn rate(text: &str) -> Result<Rate, String> {
    let parsed = text.split_once('/').and_then(|(count, span)| {
        let count = count.trim().parse().ok().filter(|it| (1..=1_000).contains(it))?;
        let span = value::duration(span.trim()).filter(|it| !it.is_zero())?;
        Some(Rate { count, span })
    });
    parsed.ok_or_else(|| "a number and a time such as 3/7d".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_a_number_in_a_time() {
        for (text, expected) in [
            ("3/7d", Some((3, 7 * 86_400))),
            ("100/1h", Some((100, 3_600))),
            ("0/7d", None),
            ("3", None),
            ("3/0", None),
            ("1001/7d", None),
            ("x/7d", None),
        ] {
            let found = rate(text).ok().map(|it| (it.count, it.span.as_secs()));
            assert_eq!(found, expected, "{text}");
        }
    }
}
