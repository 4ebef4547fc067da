//! `ssl-ciphers`: which suites of TLS 1.2 are offered, as OpenSSL's lists name them.
//!
//! Read as `SSL_CTX_set_cipher_list` does, for the six suites there are; names of others, which are weaker
//! or slower, have no effect. The order is our own.

use rustls::CipherSuite;

/// The suites of TLS 1.2 there are: OpenSSL's name, and what its words call them by.
const SUITES: [(&str, CipherSuite, &[&str]); 6] = [
    (
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        &["ECDSA", "aECDSA", "AES", "AES256", "AESGCM", "FIPS"],
    ),
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        &["ECDSA", "aECDSA", "AES", "AES128", "AESGCM", "FIPS"],
    ),
    (
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        &["ECDSA", "aECDSA", "CHACHA20"],
    ),
    (
        "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        &["aRSA", "AES", "AES256", "AESGCM", "FIPS"],
    ),
    (
        "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        &["aRSA", "AES", "AES128", "AESGCM", "FIPS"],
    ),
    (
        "ECDHE-RSA-CHACHA20-POLY1305",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        &["aRSA", "CHACHA20"],
    ),
];

/// OpenSSL's words for what all of them are.
const EACH: &[&str] =
    &["DEFAULT", "ALL", "HIGH", "ECDHE", "EECDH", "kECDHE", "kEECDH", "ECDH", "TLSv1.2"];

/// Which of the suites of TLS 1.2 are offered; those of 1.3 always are, as in nginx.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Ciphers([bool; SUITES.len()]);

/// A list of ciphers that is not, or not quite, followed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum CiphersError {
    /// It leaves none of ours.
    None,
    /// What it leaves, though it has words that nobody here follows.
    Partly(Ciphers),
}

impl Ciphers {
    /// Reads OpenSSL's list: names or words with `:` between them, `A+B` for what is both, and `!` or `-`
    /// before what is taken out, for good or for now.
    pub fn parse(text: &str) -> Result<Self, CiphersError> {
        let (mut offered, mut banned) = ([false; SUITES.len()], [false; SUITES.len()]);
        let mut all_read = true;
        let text = text.replace('@', ":@");
        let words = text.split(|it: char| it == ':' || it == ',' || it.is_whitespace());
        for word in words.filter(|it| !it.is_empty()) {
            // Orders alone, and the order is ours.
            if word == "@STRENGTH" || word.starts_with('+') {
                continue;
            }
            if word.starts_with('@') || word.contains("SUITEB") {
                all_read = false;
                continue;
            }
            let name = word.trim_start_matches(['!', '-']);
            for (place, (suite, _, words)) in SUITES.iter().enumerate() {
                let is = |it: &str| it == *suite || EACH.contains(&it) || words.contains(&it);
                if !name.split('+').all(is) {
                    continue;
                }
                match word.as_bytes()[0] {
                    b'!' => banned[place] = true,
                    b'-' => offered[place] = false,
                    _ => offered[place] = true,
                }
            }
        }
        for (offered, banned) in offered.iter_mut().zip(banned) {
            *offered &= !banned;
        }
        if !offered.contains(&true) {
            return Err(CiphersError::None);
        }
        let read = Self(offered);
        if all_read { Ok(read) } else { Err(CiphersError::Partly(read)) }
    }

    /// Whether a suite of TLS 1.2 is offered.
    pub fn offer(&self, suite: CipherSuite) -> bool {
        SUITES.iter().zip(self.0).any(|((_, it, _), offered)| *it == suite && offered)
    }
}

impl Default for Ciphers {
    /// All there are.
    fn default() -> Self {
        Self([true; SUITES.len()])
    }
}

#[cfg(test)]
mod tests {
    use rustls::SupportedCipherSuite;

    use super::*;

    /// ingress-nginx's own list, which is Mozilla's intermediate one.
    const INTERMEDIATE: &str = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:\
        ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:\
        ECDHE-RSA-CHACHA20-POLY1305:DHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES256-GCM-SHA384";

    #[test]
    fn lists_are_openssls() {
        // By ECDSA with AES-256, AES-128, ChaCha20, and the same by RSA.
        for (text, expected) in [
            (INTERMEDIATE, Ok("111111")),
            ("DEFAULT", Ok("111111")),
            ("HIGH:!aNULL:!MD5", Ok("111111")),
            ("HIGH:!aNULL:!MD5:!RC4:@STRENGTH", Ok("111111")),
            ("ECDHE-RSA-AES128-GCM-SHA256", Ok("000010")),
            ("ECDHE-RSA-AES128-GCM-SHA256:AES128-SHA", Ok("000010")),
            ("ECDHE-RSA-AES128-GCM-SHA256, ECDHE-ECDSA-AES128-GCM-SHA256", Ok("010010")),
            ("ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM", Ok("111111")),
            ("ECDHE+AESGCM", Ok("110110")),
            ("EECDH+AESGCM+aRSA", Ok("000110")),
            ("HIGH:!CHACHA20", Ok("110110")),
            ("HIGH:!ECDSA", Ok("000111")),
            ("!ECDHE-RSA-AES128-GCM-SHA256:HIGH", Ok("111101")),
            ("HIGH:-AES128", Ok("101101")),
            ("HIGH:-AES128:ECDHE-RSA-AES128-GCM-SHA256", Ok("101111")),
            ("HIGH:!AES128:ECDHE-RSA-AES128-GCM-SHA256", Ok("101101")),
            ("HIGH:+AES256", Ok("111111")),
            ("HIGH:!DHE:!kRSA:!SHA1", Ok("111111")),
            ("DEFAULT@SECLEVEL=2", Err("111111")),
            ("DEFAULT:@SECLEVEL=2", Err("111111")),
            ("SUITEB128", Err("none")),
            ("", Err("none")),
            ("DHE-RSA-AES128-GCM-SHA256", Err("none")),
            ("ecdhe-rsa-aes128-gcm-sha256", Err("none")),
            ("HIGH:!ECDHE", Err("none")),
            ("RSA", Err("none")),
            ("+", Err("none")),
            ("!", Err("none")),
        ] {
            let bits = |it: Ciphers| it.0.map(|it| if it { '1' } else { '0' });
            let read = match Ciphers::parse(text) {
                Ok(it) => Ok(bits(it).iter().collect()),
                Err(CiphersError::Partly(it)) => Err(bits(it).iter().collect()),
                Err(CiphersError::None) => Err("none".to_owned()),
            };
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(read, expected, "{text}");
        }
    }

    #[test]
    fn every_suite_there_is_has_a_name() {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let tls12 = provider.cipher_suites.iter().filter(|it| it.tls13().is_none());
        let ours: Vec<_> = tls12.map(SupportedCipherSuite::suite).collect();
        assert!(ours.iter().all(|it| Ciphers::default().offer(*it)), "{ours:?}");
        assert_eq!(ours.len(), SUITES.len());
    }
}
