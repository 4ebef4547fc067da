//! Passwords as htpasswd files hold them: one line a user, `name:hash`.
//!
//! Formats are those that nginx takes on ingress-nginx's system: bcrypt (`$2a$`, `$2b$`, `$2y$`), `$apr1$`
//! and `$1$` (MD5), `$5$` and `$6$` (SHA-crypt), `{SHA}`, `{SSHA}` and `{PLAIN}`, and without any mark that
//! of DES (`htpasswd -d`), of which eight characters count: whoever gets the hash finds the password in a
//! day.

mod des;

use std::collections::BTreeMap;
use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use md5::{Digest, Md5};
use sha_crypt::{Params, sha256_crypt, sha512_crypt};

/// Highest cost of bcrypt that is checked: one password takes some two seconds of a core.
const MOST_COST: u32 = 15;
/// Most rounds of SHA-crypt that are checked: about as much.
const MOST_ROUNDS: u32 = 1_000_000;
/// Longest password that is checked, in bytes: the work of some formats grows with it.
const LONGEST: usize = 1024;
/// The alphabet of crypt(3).
const ALPHABET: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Users and their passwords' hashes.
#[derive(Clone, Default, Eq, PartialEq)]
pub struct Users {
    /// `None` for a name whose first line lets nobody in.
    hashes: BTreeMap<Box<str>, Option<Hash>>,
    /// What was left out: where it stands and why, without a word of what stands there.
    pub bad: Vec<String>,
}

/// A password's hash.
#[derive(Clone, Eq, PartialEq)]
pub struct Hash(Format);

#[derive(Clone, Eq, PartialEq)]
enum Format {
    Plain(Box<[u8]>),
    /// What follows the password, and the hash of both.
    Sha1 {
        salt: Box<[u8]>,
        hash: Box<[u8]>,
    },
    Bcrypt(Box<str>),
    Des {
        salt: [u8; 2],
        hash: Box<[u8]>,
    },
    /// The mark is `$1$` or `$apr1$`.
    Md5 {
        mark: &'static str,
        salt: Box<str>,
        hash: Box<str>,
    },
    Sha256 {
        rounds: u32,
        salt: Box<str>,
        hash: Box<str>,
    },
    Sha512 {
        rounds: u32,
        salt: Box<str>,
        hash: Box<str>,
    },
}

impl Users {
    /// Reads a file: `name:hash` in each line, `#` before a comment, what follows a second colon does not
    /// matter. Of two lines for one name the first counts, as in nginx.
    pub fn file(text: &[u8]) -> Self {
        let mut users = Self::default();
        for (number, line) in (1..).zip(text.split(|it| *it == b'\n')) {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let mut parts = line.split(|it| *it == b':');
            let name = parts.next().and_then(|it| std::str::from_utf8(it).ok());
            match (name.filter(|it| !it.is_empty()), parts.next()) {
                (Some(name), Some(hash)) => users.add(name, hash, || format!("line {number}")),
                _ => users.bad.push(format!("line {number} is not name:hash")),
            }
        }
        users
    }

    /// Reads entries whose names are those of users.
    pub fn map<'a>(entries: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Self {
        let mut users = Self::default();
        for (name, hash) in entries {
            let hash = hash.split(|it| matches!(it, b'\n' | b'\r' | b':')).next();
            users.add(name, hash.unwrap_or_default(), || format!("entry {name:?}"));
        }
        users
    }

    fn add(&mut self, name: &str, hash: &[u8], place: impl Fn() -> String) {
        let hash =
            match std::str::from_utf8(hash).map_err(|_| "holds no text").and_then(Hash::parse) {
                Ok(hash) => Some(hash),
                Err(why) => {
                    self.bad.push(format!("{} {why}", place()));
                    None
                }
            };
        // The first line of a name counts, also one that lets nobody in.
        self.hashes.entry(name.into()).or_insert(hash);
    }

    /// The hash of a user's password.
    pub fn find(&self, name: &str) -> Option<&Hash> {
        self.hashes.get(name)?.as_ref()
    }

    /// Whether nobody can be let in.
    pub fn is_empty(&self) -> bool {
        self.hashes.values().all(Option::is_none)
    }
}

impl fmt::Debug for Users {
    /// Never shows what it holds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = self.hashes.values().flatten().count();
        f.debug_struct("Users").field("known", &known).finish_non_exhaustive()
    }
}

impl fmt::Debug for Hash {
    /// Never shows what it holds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hash").finish_non_exhaustive()
    }
}

impl Hash {
    /// Reads a hash; the error completes "line 7 ...".
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let format = if let Some(plain) = text.strip_prefix("{PLAIN}") {
            Format::Plain(plain.as_bytes().into())
        } else if let Some(rest) = text.strip_prefix("{SSHA}") {
            let bytes = BASE64_STANDARD.decode(rest).map_err(|_| "is not base64")?;
            let (hash, salt) = bytes.split_at_checked(20).ok_or("is too short for SHA-1")?;
            Format::Sha1 { salt: salt.into(), hash: hash.into() }
        } else if let Some(rest) = text.strip_prefix("{SHA}") {
            let hash = BASE64_STANDARD.decode(rest).map_err(|_| "is not base64")?;
            if hash.len() != 20 {
                return Err("has not the length of SHA-1");
            }
            Format::Sha1 { salt: Box::default(), hash: hash.into() }
        } else if text.starts_with("$2") {
            Format::Bcrypt(bcrypt(text)?)
        } else if let Some(rest) = text.strip_prefix("$apr1$") {
            let (salt, hash) = salted(rest, 8, 22)?;
            Format::Md5 { mark: "$apr1$", salt, hash }
        } else if let Some(rest) = text.strip_prefix("$1$") {
            let (salt, hash) = salted(rest, 8, 22)?;
            Format::Md5 { mark: "$1$", salt, hash }
        } else if let Some(rest) = text.strip_prefix("$5$") {
            let (rounds, rest) = rounds(rest)?;
            let (salt, hash) = salted(rest, 16, 43)?;
            Format::Sha256 { rounds, salt, hash }
        } else if let Some(rest) = text.strip_prefix("$6$") {
            let (rounds, rest) = rounds(rest)?;
            let (salt, hash) = salted(rest, 16, 86)?;
            Format::Sha512 { rounds, salt, hash }
        } else if text.len() == 13
            && text.bytes().all(|it| ALPHABET.contains(&it))
            && let Some((salt, hash)) = text.as_bytes().split_first_chunk()
        {
            Format::Des { salt: *salt, hash: hash.into() }
        } else {
            return Err("holds a hash of no known format: use bcrypt (htpasswd -B)");
        };
        Ok(Self(format))
    }

    /// Whether checking a password takes microseconds; else it takes from a millisecond to seconds.
    pub fn is_quick(&self) -> bool {
        matches!(self.0, Format::Plain(_) | Format::Sha1 { .. } | Format::Des { .. })
    }

    /// Whether this is the hash of a password.
    pub fn is_of(&self, password: &[u8]) -> bool {
        // crypt(3) takes a text that ends at its first NUL.
        if password.len() > LONGEST || password.contains(&0) {
            return false;
        }
        match &self.0 {
            Format::Plain(plain) => same(plain, password),
            Format::Sha1 { salt, hash } => {
                let salted = [password, salt].concat();
                same(digest(&SHA1_FOR_LEGACY_USE_ONLY, &salted).as_ref(), hash)
            }
            Format::Bcrypt(hash) => ::bcrypt::verify(password, hash).unwrap_or(false),
            Format::Des { salt, hash } => same(&des::crypt(password, *salt), hash),
            Format::Md5 { mark, salt, hash } => same(
                md5_crypt(password, salt.as_bytes(), mark.as_bytes()).as_bytes(),
                hash.as_bytes(),
            ),
            Format::Sha256 { rounds, salt, hash } => Params::new(*rounds).is_ok_and(|params| {
                let found = sha256_crypt(password, salt.as_bytes(), params);
                same(spell(&found, &SHA256_ORDER).as_bytes(), hash.as_bytes())
            }),
            Format::Sha512 { rounds, salt, hash } => Params::new(*rounds).is_ok_and(|params| {
                let found = sha512_crypt(password, salt.as_bytes(), params);
                same(spell(&found, &SHA512_ORDER).as_bytes(), hash.as_bytes())
            }),
        }
    }

    /// What tells one hash from all others; no less secret than the hash.
    pub fn identity(&self) -> Vec<u8> {
        match &self.0 {
            Format::Plain(plain) => plain.to_vec(),
            Format::Sha1 { salt, hash } => [&**hash, salt].concat(),
            Format::Bcrypt(hash) => hash.as_bytes().to_vec(),
            Format::Des { salt, hash } => [salt, &**hash].concat(),
            Format::Md5 { mark, salt, hash } => format!("{mark}{salt}${hash}").into_bytes(),
            Format::Sha256 { rounds, salt, hash } => {
                format!("5{rounds}${salt}${hash}").into_bytes()
            }
            Format::Sha512 { rounds, salt, hash } => {
                format!("6{rounds}${salt}${hash}").into_bytes()
            }
        }
    }
}

fn same(one: &[u8], other: &[u8]) -> bool {
    verify_slices_are_equal(one, other).is_ok()
}

fn bcrypt(text: &str) -> Result<Box<str>, &'static str> {
    let parts: ::bcrypt::HashParts = text.parse().map_err(|_| "is not bcrypt")?;
    if !(4..=MOST_COST).contains(&parts.get_cost()) {
        return Err("has a cost of bcrypt beyond 4 to 15");
    }
    Ok(text.into())
}

/// `salt$hash`, the salt of `most` characters at most: what is longer is cut off, as crypt(3) does.
fn salted(text: &str, most: usize, length: usize) -> Result<(Box<str>, Box<str>), &'static str> {
    let (salt, hash) = text.split_once('$').ok_or("lacks a salt")?;
    let salt = salt.get(..salt.len().min(most)).ok_or("has a salt that is not plain")?;
    if hash.len() != length || !hash.bytes().all(|it| ALPHABET.contains(&it)) {
        return Err("has a hash of the wrong length or alphabet");
    }
    Ok((salt.into(), hash.into()))
}

/// `rounds=N$` in front of the salt.
fn rounds(text: &str) -> Result<(u32, &str), &'static str> {
    let Some(rest) = text.strip_prefix("rounds=") else {
        return Ok((Params::RECOMMENDED_ROUNDS, text));
    };
    let (rounds, rest) = rest.split_once('$').ok_or("lacks a salt")?;
    let rounds: u32 = rounds.parse().map_err(|_| "has rounds that are no number")?;
    if rounds > MOST_ROUNDS {
        return Err("has more than a million rounds");
    }
    Ok((rounds.max(Params::ROUNDS_MIN), rest))
}

/// The MD5 scheme that FreeBSD began and Apache took over under a mark of its own.
fn md5_crypt(password: &[u8], salt: &[u8], mark: &[u8]) -> String {
    let inner = Md5::new().chain_update(password).chain_update(salt).chain_update(password);
    let inner = inner.finalize();
    let mut outer = Md5::new().chain_update(password).chain_update(mark).chain_update(salt);
    for chunk in password.chunks(16) {
        outer.update(&inner[..chunk.len()]);
    }
    let mut bits = password.len();
    while bits > 0 {
        outer.update(if bits & 1 == 1 { &[0][..] } else { &password[..1] });
        bits >>= 1;
    }
    let mut hash = outer.finalize();
    for round in 0..1000 {
        let odd = round % 2 == 1;
        let mut next = Md5::new();
        next.update(if odd { password } else { &hash[..] });
        if round % 3 != 0 {
            next.update(salt);
        }
        if round % 7 != 0 {
            next.update(password);
        }
        next.update(if odd { &hash[..] } else { password });
        hash = next.finalize();
    }
    spell(&hash, &MD5_ORDER)
}

/// The order in which each scheme spells the bytes of its hash: three at a time, the first the highest.
const MD5_ORDER: [u8; 16] = [0, 6, 12, 1, 7, 13, 2, 8, 14, 3, 9, 15, 4, 10, 5, 11];
const SHA256_ORDER: [u8; 32] = [
    0, 10, 20, 21, 1, 11, 12, 22, 2, 3, 13, 23, 24, 4, 14, 15, 25, 5, 6, 16, 26, 27, 7, 17, 18, 28,
    8, 9, 19, 29, 31, 30,
];
const SHA512_ORDER: [u8; 64] = [
    0, 21, 42, 22, 43, 1, 44, 2, 23, 3, 24, 45, 25, 46, 4, 47, 5, 26, 6, 27, 48, 28, 49, 7, 50, 8,
    29, 9, 30, 51, 31, 52, 10, 53, 11, 32, 12, 33, 54, 34, 55, 13, 56, 14, 35, 15, 36, 57, 37, 58,
    16, 59, 17, 38, 18, 39, 60, 40, 61, 19, 62, 20, 41, 63,
];

/// Writes a hash in crypt(3)'s alphabet, of each group the lowest six bits first.
fn spell(hash: &[u8], order: &[u8]) -> String {
    let mut text = String::new();
    for group in order.chunks(3) {
        let mut bits =
            group.iter().fold(0_usize, |bits, it| bits << 8 | usize::from(hash[usize::from(*it)]));
        for _ in 0..=group.len() {
            text.push(char::from(ALPHABET[bits & 63]));
            bits >>= 6;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_format_knows_its_password() {
        // Made with crypt(3) and `openssl passwd`.
        for text in [
            "{PLAIN}secret",
            "abNANd1rDfiNc",
            "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=",
            "{SSHA}gVK8WC9YyFT1gMsQHTGCgT3sSv5zYWx0",
            "$apr1$abcdefgh$h9FWgUz3n9YxylKLlR5SQ/",
            "$1$abcdefgh$cHJi5PXp/ki/ktXzqlk6I1",
            "$2b$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a",
            "$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a",
            "$5$saltstring$C3o4O1TC6aRHF4FI.QSZMXtHbaj2gSXr4sUc/3NcUi.",
            "$5$rounds=1234$toolongsaltstrin$KHLt4X.l.M2w2Y.M.LsdAbe4KrLoUom07RGMsV6/05A",
            "$6$saltstring$AIsRs/Ee56G/tC8MEHhvReZTfx8u3rXXMl6eYrjCG9ibix19DxoMBLogdTET5Ukw9Sf7eZTITsuk0Ry5qulYz.",
            "$6$rounds=1234$saltstring$jEjbdVgI3DJ2.2esJ0sGPhhOCjuOMC3NT4lLq17ZGmWxZHhdBv5MlVgCU2CU8OvKOT9He.hkrN.SUx28Eu6OE0",
        ] {
            let hash = Hash::parse(text).unwrap_or_else(|why| panic!("{text} {why}"));
            for (password, expected) in [
                ("secret", true),
                ("Secret", false),
                ("secre", false),
                ("", false),
                ("secret\0", false),
            ] {
                assert_eq!(hash.is_of(password.as_bytes()), expected, "{text} {password:?}");
            }
        }
        let long = Hash::parse("$apr1$abc$IIW/V525X46ri30NUi0KL0").expect("a hash");
        assert!(long.is_of(b"a much longer password than sixteen bytes"));
    }

    #[test]
    fn what_cannot_be_checked_is_left_out() {
        for text in [
            "",
            "secret",
            "abJnggxhB/yW",
            "{SHA}5en6",
            "{SSHA}!",
            "{MD5}abc",
            "$apr1$abc",
            "$apr1$abc$short",
            "$2y$16$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a",
            "$2y$05$abc",
            "$5$rounds=99999999$a$KHLt4X.l.M2w2Y.M.LsdAbe4KrLoUom07RGMsV6/05A",
            "$6$rounds=x$a$b",
            "$7$abc$def",
        ] {
            assert!(Hash::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_file_is_a_line_for_each_user() {
        let file = b"# staff\n\nann:{PLAIN}a\r\nbob:{PLAIN}b:comment\nann:{PLAIN}second\nmallory\nold:abJnggxhB/yW\n:{PLAIN}x\nlast:{PLAIN}l";
        let users = Users::file(file);
        let is_of =
            |name: &str, password: &str| users.find(name).map(|it| it.is_of(password.as_bytes()));
        for (name, password, expected) in [
            ("ann", "a", Some(true)),
            ("ann", "second", Some(false)),
            ("bob", "b", Some(true)),
            ("last", "l", Some(true)),
            ("old", "x", None),
            ("mallory", "", None),
            ("", "x", None),
            ("# staff", "", None),
        ] {
            assert_eq!(is_of(name, password), expected, "{name}:{password}");
        }
        let places: Vec<_> = users.bad.iter().map(|it| it.split(' ').nth(1)).collect();
        assert_eq!(places, [Some("6"), Some("7"), Some("8")], "{:?}", users.bad);
        assert!(!format!("{users:?}").contains("PLAIN"));
    }

    #[test]
    fn a_map_has_an_entry_for_each_user() {
        let users = Users::map([("ann", &b"{PLAIN}a\n"[..]), ("tls.key", b"-----BEGIN")]);
        assert!(users.find("ann").is_some_and(|it| it.is_of(b"a")));
        assert_eq!(users.bad.len(), 1);
        assert!(!users.bad[0].contains("BEGIN"), "{:?}", users.bad);
    }
}
