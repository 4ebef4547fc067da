//! ACME renewal information (RFC 9773): when the CA wants a certificate renewed.
//!
//! A window belongs to one certificate, by its id: one that was fetched for the certificate before is
//! void, or each new certificate would be due at once. Pure, with the time as an argument.

use std::fmt;

use jiff::Timestamp;
use serde::Deserialize;

use super::marks::moment;

/// Between two fetches at least and at most, in seconds, whatever the CA asks for.
const LEAST: i64 = 60;
const MOST: i64 = 86_400;
/// After an error that does not say when to come again (section 4.3.3).
const AFTER_ERROR: i64 = 6 * 3600;
/// A window older than this is fetched anew before it is acted upon.
const FRESH: i64 = 3600;

/// When the CA wants a certificate renewed, in seconds since 1970.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Window {
    /// Which certificate.
    pub id: String,
    /// From.
    pub start: i64,
    /// To.
    pub end: i64,
}

impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", moment(self.start), moment(self.end))
    }
}

/// What is known of one certificate's window.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) struct Ari {
    /// The last one that was had.
    pub(super) window: Option<Window>,
    /// Where the CA explains it.
    pub(super) notice: Option<String>,
    /// When it was fetched.
    pub(super) fetched: Option<i64>,
    /// When that was last tried.
    pub(super) tried: Option<i64>,
    /// When it is fetched next.
    pub(super) next: i64,
}

/// What the CA answered.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Told {
    pub(super) window: Window,
    pub(super) notice: Option<String>,
    /// `Retry-After`, in seconds.
    pub(super) wait: Option<i64>,
}

impl Ari {
    /// Takes in what the CA answered at `now`, or that it did not.
    pub(super) fn take(&mut self, told: Result<Told, Option<i64>>, now: i64) {
        match told {
            Ok(Told { window, notice, wait }) => {
                self.next = now + wait.unwrap_or(AFTER_ERROR).clamp(LEAST, MOST);
                self.window = Some(window);
                self.notice = notice;
                self.fetched = Some(now);
            }
            Err(wait) => self.next = now + wait.unwrap_or(AFTER_ERROR).clamp(LEAST, MOST),
        }
    }

    /// Whether the window is to be fetched at `now`.
    pub(super) fn is_stale(&self, now: i64) -> bool {
        // A clock that was set back must not keep it for ever.
        now >= self.next || self.next - now > MOST
    }

    /// Whether it is to be fetched before it is acted upon.
    pub(super) fn is_old(&self, now: i64) -> bool {
        let old = |at: Option<i64>| at.is_none_or(|it| !(0..=FRESH).contains(&(now - it)));
        // Who asked in vain within the hour goes by what is known.
        old(self.fetched) && old(self.tried)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Body {
    suggested_window: Ends,
    #[serde(rename = "explanationURL")]
    explanation: Option<String>,
}

#[derive(Deserialize)]
struct Ends {
    start: String,
    end: String,
}

/// Reads an answer about the certificate `id`.
pub(super) fn read(id: &str, body: &[u8], wait: Option<i64>) -> Option<Told> {
    let Body { suggested_window, explanation } = serde_json::from_slice(body).ok()?;
    let second = |it: &str| it.parse::<Timestamp>().ok().map(Timestamp::as_second);
    let (start, end) = (second(&suggested_window.start)?, second(&suggested_window.end)?);
    // Shown to people: what is no address of a page is no explanation.
    let notice = explanation.filter(|it| it.starts_with("https://") && it.len() <= 500);
    Some(Told { window: Window { id: id.to_owned(), start, end }, notice, wait })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::keypair::Keypair;

    /// The certificate of RFC 9773 section 4.1's example has these halves.
    #[test]
    fn the_id_is_the_issuers_key_and_the_serial_number() {
        use rcgen::{CertificateParams, CertifiedIssuer, KeyPair, SerialNumber};
        let mut ca = CertificateParams::default();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let aki = [
            0x69, 0x88, 0x5b, 0x6b, 0x87, 0x46, 0x40, 0x41, 0xe1, 0xb3, 0x7b, 0x84, 0x7b, 0xa0,
            0xae, 0x2c, 0xde, 0x01, 0xc8, 0xd4,
        ];
        ca.key_identifier_method = rcgen::KeyIdMethod::PreSpecified(aki.to_vec());
        let key = KeyPair::generate().expect("a key");
        let ca = CertifiedIssuer::self_signed(ca, key).expect("a CA");
        let mut leaf = CertificateParams::new(["a.test".to_owned()]).expect("a name");
        leaf.use_authority_key_identifier_extension = true;
        leaf.serial_number = Some(SerialNumber::from(vec![0x00, 0x87, 0x65, 0x43, 0x21]));
        let key = KeyPair::generate().expect("a key");
        let crt = leaf.signed_by(&key, &ca).expect("a certificate").pem();
        let key = key.serialize_pem();
        let pair = Keypair::parse(Some(crt.as_bytes()), Some(key.as_bytes())).expect("a pair");
        assert_eq!(pair.id, "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE");
    }

    #[test]
    fn r_ren_2_fetched_again_when_the_ca_says_within_bounds() {
        let window = Window { id: "a".to_owned(), start: 5, end: 9 };
        let told = |wait| Ok(Told { window: window.clone(), notice: None, wait });
        for (told, expected) in [
            (told(Some(21_600)), 21_600),
            (told(Some(0)), 60),
            (told(Some(i64::MAX)), 86_400),
            (told(None), 21_600),
            (Err(None), 21_600),
            (Err(Some(300)), 300),
        ] {
            let mut ari = Ari::default();
            ari.take(told.clone(), 1_000);
            assert_eq!(ari.next, 1_000 + expected, "{told:?}");
            assert!(!ari.is_stale(999 + expected) && ari.is_stale(1_000 + expected), "{told:?}");
        }
        let mut ari = Ari::default();
        ari.take(told(Some(60)), 1_000);
        ari.take(Err(None), 2_000);
        assert_eq!(ari.window, Some(window.clone()), "an error changes nothing");
        assert!(!ari.is_old(4_600) && ari.is_old(4_601), "over an hour old");
    }

    #[test]
    fn what_is_no_window_is_none() {
        let good = br#"{"suggestedWindow":{"start":"2025-01-02T04:00:00Z","end":"2025-01-03T04:00:00Z"},"explanationURL":"https://ca.test/why"}"#;
        let told = read("a", good, Some(9)).expect("a window");
        assert_eq!((told.window.start, told.window.end), (1_735_790_400, 1_735_876_800));
        assert_eq!(told.notice.as_deref(), Some("https://ca.test/why"));
        for bad in ["", "{}", r#"{"suggestedWindow":{"start":"soon","end":"later"}}"#, "<html>"] {
            assert_eq!(read("a", bad.as_bytes(), None), None, "{bad}");
        }
    }
}
