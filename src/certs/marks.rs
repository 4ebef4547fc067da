//! What our annotations on a Secret say: what we know of the certificate in it, and what people ask.

use jiff::Timestamp;

use super::ari::Window;
use crate::compile::objects::PREFIX;
use crate::model::texts::Texts;

/// The account's URL that the certificate was ordered by.
pub(super) const ACCOUNT: &str = "account";
/// What the CA knows the certificate by (RFC 9773 section 4.1).
pub(super) const CERT_ID: &str = "cert-id";
/// The names that were ordered.
pub(super) const NAMES: &str = "names";
/// When the certificate ends.
pub(super) const NOT_AFTER: &str = "not-after";
/// The profile it was ordered with.
pub(super) const PROFILE: &str = "profile";
/// The order's URL.
pub(super) const ORDER: &str = "order";
/// The CA's window for its renewal.
pub(super) const ARI_WINDOW: &str = "ari-window";
/// When it is renewed.
pub(super) const RENEW_AT: &str = "renew-at";
/// Somebody asks for a new one: `now`, or `force` past the budget.
pub(super) const RENEW: &str = "renew";
/// Somebody hands the Secret over.
pub(super) const ADOPT: &str = "adopt";
/// Somebody asks to revoke it, and says why.
pub(super) const REVOKE: &str = "revoke";
/// What was revoked, by its [`CERT_ID`]: as long as that is what is held, another is due.
pub(super) const REVOKED: &str = "revoked";

/// The whole name of an annotation.
pub(super) fn full(name: &str) -> String {
    format!("{PREFIX}{name}")
}

/// Our annotations on a Secret, without their common beginning.
#[derive(Clone, Copy, Debug)]
pub(super) struct Marks<'a>(pub(super) &'a Texts);

impl<'a> Marks<'a> {
    pub(super) fn get(self, name: &str) -> Option<&'a str> {
        self.0.get(name).map(str::trim).filter(|it| !it.is_empty())
    }

    /// Whether somebody asks for a new certificate, and whether past the budget.
    pub(super) fn renew(self) -> Option<bool> {
        match self.get(RENEW)? {
            "force" => Some(true),
            "now" | "true" => Some(false),
            _ => None,
        }
    }

    pub(super) fn is_handed_over(self) -> bool {
        self.get(ADOPT).is_some_and(|it| it.eq_ignore_ascii_case("true"))
    }

    /// The CA's window, with the certificate it was for.
    pub(super) fn window(self) -> Option<Window> {
        let (start, end) = self.get(ARI_WINDOW)?.split_once('/')?;
        let second = |it: &str| it.parse::<Timestamp>().ok().map(Timestamp::as_second);
        let id = self.get(CERT_ID)?.to_owned();
        Some(Window { id, start: second(start)?, end: second(end)? })
    }
}

/// RFC 3339, as all of Kubernetes writes times.
pub(super) fn moment(second: i64) -> String {
    Timestamp::from_second(second).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_read_as_it_was_written() {
        let window = Window { id: "a.b".to_owned(), start: 1_000, end: 2_000 };
        let marks = Texts::from([(ARI_WINDOW, &*window.to_string()), (CERT_ID, "a.b")]);
        assert_eq!(Marks(&marks).window(), Some(window));
    }

    #[test]
    fn requests_are_words() {
        for (text, expected) in
            [("now", Some(false)), ("force", Some(true)), ("", None), ("later", None)]
        {
            let marks = Texts::from([(RENEW, text)]);
            assert_eq!(Marks(&marks).renew(), expected, "{text}");
        }
    }
}
