//! Whether what a CA gave may be stored: RFC 5280 as far as servers need it.

use std::collections::BTreeSet;

use rustls::crypto::aws_lc_rs::default_provider;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::due::life;
use crate::model::host::HostPattern;
use crate::model::keypair::Keypair;

/// Largest chain in PEM, in bytes; real ones have some ten thousand.
const LARGEST: usize = 64 << 10;
/// How far the CA's clock may be ahead, in seconds.
const AHEAD: i64 = 300;

/// Reads a chain and checks it against the key and the names it was ordered for; or says what is wrong.
pub(super) fn read(
    chain: &str,
    key: &[u8],
    names: &BTreeSet<String>,
    now: i64,
) -> Result<Keypair, String> {
    if chain.len() > LARGEST {
        return Err(format!("it is larger than {} KiB", LARGEST >> 10));
    }
    let pair = Keypair::parse(Some(chain.as_bytes()), Some(key)).map_err(|it| it.to_string())?;
    for name in names {
        let host: Result<HostPattern, _> = name.parse();
        if !host.is_ok_and(|it| pair.covers(&it)) {
            return Err(format!("it does not cover {name}"));
        }
    }
    if pair.not_before > now + AHEAD {
        return Err("it is not valid yet".to_owned());
    }
    if pair.not_after <= now + life(pair.not_before, pair.not_after) / 10 {
        return Err("it is over, or nearly".to_owned());
    }
    linked(&pair)?;
    Ok(pair)
}

/// Whether each certificate was signed by the next.
fn linked(pair: &Keypair) -> Result<(), String> {
    let mut chain = Vec::new();
    for der in pair.chain() {
        let (_, read) = X509Certificate::from_der(der)
            .map_err(|_| "its chain holds something that is no certificate".to_owned())?;
        chain.push(read);
    }
    for (below, above) in chain.iter().zip(chain.iter().skip(1)) {
        if below.issuer() != above.subject() {
            let (below, above) = (below.issuer(), above.subject());
            return Err(format!("its chain is broken: {below} is wanted where {above} stands"));
        }
        if !is_signed(below, above) {
            let signer = above.subject();
            return Err(format!("its chain is broken: {signer} did not sign what is before it"));
        }
    }
    Ok(())
}

fn is_signed(below: &X509Certificate<'_>, above: &X509Certificate<'_>) -> bool {
    let key = &above.public_key().subject_public_key.data;
    let signature = &below.signature_value.data;
    // One of them fits, and the others say no.
    let algorithms = default_provider().signature_verification_algorithms.all;
    let signed = below.tbs_certificate.as_ref();
    algorithms.iter().any(|it| it.verify_signature(key, signed, signature).is_ok())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

    use super::*;

    const DAY: i64 = 86_400;

    fn ca(name: &str) -> CertifiedIssuer<'static, KeyPair> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a CA")
    }

    /// Chain and key of `a.test`, good from `begin` to `end`.
    fn leaf(ca: &CertifiedIssuer<'_, KeyPair>, begin: i64, end: i64) -> (String, String) {
        let mut params = CertificateParams::new(["a.test".to_owned()]).expect("a name");
        let since = |second| Duration::from_secs(u64::try_from(second).unwrap_or(0));
        params.not_before = rcgen::date_time_ymd(1970, 1, 1) + since(begin);
        params.not_after = rcgen::date_time_ymd(1970, 1, 1) + since(end);
        let key = KeyPair::generate().expect("a key");
        let leaf = params.signed_by(&key, ca).expect("a certificate");
        (leaf.pem(), key.serialize_pem())
    }

    fn check(chain: &str, key: &str, name: &str, now: i64) -> Result<(), String> {
        read(chain, key.as_bytes(), &BTreeSet::from([name.to_owned()]), now).map(drop)
    }

    #[test]
    fn r_sto_1_only_what_was_ordered_is_stored() {
        let (one, two) = (ca("one"), ca("two"));
        let (begin, end) = (100 * DAY, 190 * DAY);
        let (crt, key) = leaf(&one, begin, end);
        let (_, other) = leaf(&one, begin, end);
        let whole = format!("{crt}{}", one.pem());
        for (chain, key, name, now, expected) in [
            (&whole, &key, "a.test", begin, None),
            (&crt, &key, "a.test", begin, None),
            (&whole, &key, "a.test", begin - 300, None),
            (&whole, &key, "a.test", begin - 301, Some("not valid yet")),
            (&whole, &key, "a.test", end - 10 * DAY, None),
            (&whole, &key, "a.test", end - 9 * DAY, Some("it is over, or nearly")),
            (&whole, &key, "b.test", begin, Some("it does not cover b.test")),
            (&whole, &other, "a.test", begin, Some("does not belong")),
            (&format!("{crt}{}", two.pem()), &key, "a.test", begin, Some("its chain is broken")),
            (&"x".repeat(70_000), &key, "a.test", begin, Some("larger than 64 KiB")),
            (&"<html>".to_owned(), &key, "a.test", begin, Some("certificate")),
        ] {
            match (check(chain, key, name, now), expected) {
                (Ok(()), None) => {}
                (Err(text), Some(part)) => assert!(text.contains(part), "{text}, not {part}"),
                (found, expected) => panic!("{found:?}, not {expected:?}"),
            }
        }
    }

    /// The same name on another key: only the signature tells.
    #[test]
    fn r_sto_1_a_chain_is_linked_by_signatures() {
        let (crt, key) = leaf(&ca("one"), 100 * DAY, 190 * DAY);
        let chain = format!("{crt}{}", ca("one").pem());
        let found = check(&chain, &key, "a.test", 100 * DAY).expect_err("broken");
        assert!(found.contains("did not sign"), "{found}");
    }
}
