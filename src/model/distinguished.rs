//! Distinguished names as text, the way nginx's `$ssl_client_s_dn` has them: RFC 2253.
//!
//! The last attribute comes first; names of attributes are OpenSSL's short ones, bytes outside ASCII are
//! escaped, an attribute without a name is its number and its DER in hexadecimal.

use std::fmt::Write as _;

use x509_parser::der_parser::asn1_rs::Tag;
use x509_parser::x509::{AttributeTypeAndValue, X509Name};

/// Attributes with a name: RFC 4519, RFC 2985 and the CA/Browser Forum's.
const NAMES: &[(&str, &str)] = &[
    ("2.5.4.3", "CN"),
    ("2.5.4.4", "SN"),
    ("2.5.4.5", "serialNumber"),
    ("2.5.4.6", "C"),
    ("2.5.4.7", "L"),
    ("2.5.4.8", "ST"),
    ("2.5.4.9", "street"),
    ("2.5.4.10", "O"),
    ("2.5.4.11", "OU"),
    ("2.5.4.12", "title"),
    ("2.5.4.13", "description"),
    ("2.5.4.15", "businessCategory"),
    ("2.5.4.17", "postalCode"),
    ("2.5.4.41", "name"),
    ("2.5.4.42", "GN"),
    ("2.5.4.43", "initials"),
    ("2.5.4.44", "generationQualifier"),
    ("2.5.4.46", "dnQualifier"),
    ("2.5.4.65", "pseudonym"),
    ("2.5.4.97", "organizationIdentifier"),
    ("0.9.2342.19200300.100.1.1", "UID"),
    ("0.9.2342.19200300.100.1.25", "DC"),
    ("1.2.840.113549.1.9.1", "emailAddress"),
    ("1.3.6.1.4.1.311.60.2.1.1", "jurisdictionL"),
    ("1.3.6.1.4.1.311.60.2.1.2", "jurisdictionST"),
    ("1.3.6.1.4.1.311.60.2.1.3", "jurisdictionC"),
];

/// A name as text; ASCII without control characters.
pub fn text(name: &X509Name<'_>) -> String {
    let relatives: Vec<_> = name.iter().collect();
    let mut text = String::new();
    for relative in relatives.into_iter().rev() {
        let mut separator = if text.is_empty() { "" } else { "," };
        // OpenSSL turns the parts of one around, too.
        let parts: Vec<_> = relative.iter().collect();
        for part in parts.into_iter().rev() {
            text.push_str(separator);
            put(&mut text, part);
            separator = "+";
        }
    }
    text
}

fn put(text: &mut String, part: &AttributeTypeAndValue<'_>) {
    let number = part.attr_type().to_id_string();
    let known = NAMES.iter().find(|(it, _)| *it == number).map(|(_, name)| *name);
    match (known, value(part)) {
        (Some(name), Some(value)) => {
            text.push_str(name);
            text.push('=');
            escape(text, &value);
        }
        (known, _) => {
            let raw = part.attr_value();
            // Writing to a string does not fail.
            let _ = write!(text, "{}=#", known.unwrap_or(&number));
            let _ = write!(text, "{:02X}", raw.header.tag().0);
            put_length(text, raw.data.len());
            for byte in raw.data {
                let _ = write!(text, "{byte:02X}");
            }
        }
    }
}

/// DER's length (X.690 section 8.1.3).
fn put_length(text: &mut String, length: usize) {
    if length < 128 {
        let _ = write!(text, "{length:02X}");
        return;
    }
    let bytes = length.to_be_bytes();
    let bytes = &bytes[bytes.iter().take_while(|it| **it == 0).count()..];
    let _ = write!(text, "{:02X}", 0x80 + bytes.len());
    for byte in bytes {
        let _ = write!(text, "{byte:02X}");
    }
}

/// A string of any of X.509's kinds as UTF-8; `None` for what is no string.
fn value(part: &AttributeTypeAndValue<'_>) -> Option<String> {
    let data = part.attr_value().data;
    match part.attr_value().header.tag() {
        Tag::Utf8String => Some(String::from_utf8_lossy(data).into_owned()),
        // One byte a character: ASCII, or Latin 1 as OpenSSL has it.
        Tag::PrintableString
        | Tag::Ia5String
        | Tag::NumericString
        | Tag::T61String
        | Tag::VisibleString => Some(data.iter().map(|it| char::from(*it)).collect()),
        Tag::BmpString => {
            let units = data.chunks_exact(2).map(|it| u16::from_be_bytes([it[0], it[1]]));
            Some(char::decode_utf16(units).map(|it| it.unwrap_or('\u{fffd}')).collect())
        }
        _ => None,
    }
}

/// RFC 2253 section 2.4.
fn escape(text: &mut String, value: &str) {
    let last = value.len().saturating_sub(1);
    for (at, byte) in value.bytes().enumerate() {
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => {
                text.push('\\');
                text.push(char::from(byte));
            }
            b'#' if at == 0 => text.push_str("\\#"),
            b' ' if at == 0 || at == last => text.push_str("\\ "),
            b' '..=b'~' => text.push(char::from(byte)),
            _ => drop(write!(text, "\\{byte:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, DnValue, KeyPair};
    use x509_parser::prelude::{FromDer, X509Certificate};

    use super::*;

    #[test]
    fn names_are_written_as_openssl_does() {
        let email = DnType::CustomDnType(vec![1, 2, 840, 113_549, 1, 9, 1]);
        let other = DnType::CustomDnType(vec![1, 2, 3, 4]);
        for (parts, expected) in [
            (vec![], ""),
            (vec![(DnType::CommonName, "client")], "CN=client"),
            (
                vec![
                    (DnType::CountryName, "DE"),
                    (DnType::OrganizationName, "Acme, Inc."),
                    (DnType::CommonName, "a+b"),
                ],
                "CN=a\\+b,O=Acme\\, Inc.,C=DE",
            ),
            (vec![(DnType::CommonName, "Zo\u{eb}\n")], "CN=Zo\\C3\\AB\\0A"),
            (vec![(DnType::CommonName, " #x ")], "CN=\\ #x\\ "),
            (vec![(DnType::CommonName, "#x")], "CN=\\#x"),
            (vec![(DnType::CommonName, " ")], "CN=\\ "),
            (vec![(email, "a@b.test")], "emailAddress=a@b.test"),
            (vec![(other, "ab")], "1.2.3.4=#0C026162"),
        ] {
            let mut name = DistinguishedName::new();
            for (kind, value) in parts {
                name.push(kind, DnValue::Utf8String(value.to_owned()));
            }
            let mut params = CertificateParams::default();
            params.distinguished_name = name;
            let key = KeyPair::generate().expect("a key");
            let made = params.self_signed(&key).expect("a certificate");
            let (_, parsed) = X509Certificate::from_der(made.der()).expect("a certificate");
            assert_eq!(text(parsed.subject()), expected);
        }
    }
}
