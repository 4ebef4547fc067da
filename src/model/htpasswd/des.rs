//! The oldest scheme of crypt(3): 25 times DES with the password as its key.
//!
//! DES is that of FIPS PUB 46-3, with its tables' names and with bits counted from the left, from one. What
//! crypt(3) adds is in the seventh edition of the Unix Programmer's Manual and in POSIX: seven bits of each of
//! eight characters are the key, what is encrypted is zero, and two characters of salt exchange outputs of
//! the expansion E, which spoiled the DES chips of its time for the search.

use super::ALPHABET;

/// How much of a password counts, in bytes.
const COUNTED: usize = 8;
/// How often DES is applied.
const TIMES: usize = 25;

/// Permuted choice 1, C above D.
const PC1: [[u8; 28]; 2] = [
    [
        57, 49, 41, 33, 25, 17, 9, 1, 58, 50, 42, 34, 26, 18, 10, 2, 59, 51, 43, 35, 27, 19, 11, 3,
        60, 52, 44, 36,
    ],
    [
        63, 55, 47, 39, 31, 23, 15, 7, 62, 54, 46, 38, 30, 22, 14, 6, 61, 53, 45, 37, 29, 21, 13,
        5, 28, 20, 12, 4,
    ],
];
/// Permuted choice 2, in halves.
const PC2: [[u8; 24]; 2] = [
    [14, 17, 11, 24, 1, 5, 3, 28, 15, 6, 21, 10, 23, 19, 12, 4, 26, 8, 16, 7, 27, 20, 13, 2],
    [
        41, 52, 31, 37, 47, 55, 30, 40, 51, 45, 33, 48, 44, 49, 39, 56, 34, 53, 46, 42, 50, 36, 29,
        32,
    ],
];
/// How far C and D turn to the left before each key.
const TURNS: [u32; 16] = [1, 1, 2, 2, 2, 2, 2, 2, 1, 2, 2, 2, 2, 2, 2, 1];
/// The inverse of the initial permutation, in halves.
const FP: [[u8; 32]; 2] = [
    [
        40, 8, 48, 16, 56, 24, 64, 32, 39, 7, 47, 15, 55, 23, 63, 31, 38, 6, 46, 14, 54, 22, 62,
        30, 37, 5, 45, 13, 53, 21, 61, 29,
    ],
    [
        36, 4, 44, 12, 52, 20, 60, 28, 35, 3, 43, 11, 51, 19, 59, 27, 34, 2, 42, 10, 50, 18, 58,
        26, 33, 1, 41, 9, 49, 17, 57, 25,
    ],
];
const P: [u8; 32] = [
    16, 7, 20, 21, 29, 12, 28, 17, 1, 15, 23, 26, 5, 18, 31, 10, 2, 8, 24, 14, 32, 27, 3, 9, 19,
    13, 30, 6, 22, 11, 4, 25,
];
/// Four rows each.
const S: [[u8; 64]; 8] = [
    [
        14, 4, 13, 1, 2, 15, 11, 8, 3, 10, 6, 12, 5, 9, 0, 7, //
        0, 15, 7, 4, 14, 2, 13, 1, 10, 6, 12, 11, 9, 5, 3, 8, //
        4, 1, 14, 8, 13, 6, 2, 11, 15, 12, 9, 7, 3, 10, 5, 0, //
        15, 12, 8, 2, 4, 9, 1, 7, 5, 11, 3, 14, 10, 0, 6, 13,
    ],
    [
        15, 1, 8, 14, 6, 11, 3, 4, 9, 7, 2, 13, 12, 0, 5, 10, //
        3, 13, 4, 7, 15, 2, 8, 14, 12, 0, 1, 10, 6, 9, 11, 5, //
        0, 14, 7, 11, 10, 4, 13, 1, 5, 8, 12, 6, 9, 3, 2, 15, //
        13, 8, 10, 1, 3, 15, 4, 2, 11, 6, 7, 12, 0, 5, 14, 9,
    ],
    [
        10, 0, 9, 14, 6, 3, 15, 5, 1, 13, 12, 7, 11, 4, 2, 8, //
        13, 7, 0, 9, 3, 4, 6, 10, 2, 8, 5, 14, 12, 11, 15, 1, //
        13, 6, 4, 9, 8, 15, 3, 0, 11, 1, 2, 12, 5, 10, 14, 7, //
        1, 10, 13, 0, 6, 9, 8, 7, 4, 15, 14, 3, 11, 5, 2, 12,
    ],
    [
        7, 13, 14, 3, 0, 6, 9, 10, 1, 2, 8, 5, 11, 12, 4, 15, //
        13, 8, 11, 5, 6, 15, 0, 3, 4, 7, 2, 12, 1, 10, 14, 9, //
        10, 6, 9, 0, 12, 11, 7, 13, 15, 1, 3, 14, 5, 2, 8, 4, //
        3, 15, 0, 6, 10, 1, 13, 8, 9, 4, 5, 11, 12, 7, 2, 14,
    ],
    [
        2, 12, 4, 1, 7, 10, 11, 6, 8, 5, 3, 15, 13, 0, 14, 9, //
        14, 11, 2, 12, 4, 7, 13, 1, 5, 0, 15, 10, 3, 9, 8, 6, //
        4, 2, 1, 11, 10, 13, 7, 8, 15, 9, 12, 5, 6, 3, 0, 14, //
        11, 8, 12, 7, 1, 14, 2, 13, 6, 15, 0, 9, 10, 4, 5, 3,
    ],
    [
        12, 1, 10, 15, 9, 2, 6, 8, 0, 13, 3, 4, 14, 7, 5, 11, //
        10, 15, 4, 2, 7, 12, 9, 5, 6, 1, 13, 14, 0, 11, 3, 8, //
        9, 14, 15, 5, 2, 8, 12, 3, 7, 0, 4, 10, 1, 13, 11, 6, //
        4, 3, 2, 12, 9, 5, 15, 10, 11, 14, 1, 7, 6, 0, 8, 13,
    ],
    [
        4, 11, 2, 14, 15, 0, 8, 13, 3, 12, 9, 7, 5, 10, 6, 1, //
        13, 0, 11, 7, 4, 9, 1, 10, 14, 3, 5, 12, 2, 15, 8, 6, //
        1, 4, 11, 13, 12, 3, 7, 14, 10, 15, 6, 8, 0, 5, 9, 2, //
        6, 11, 13, 8, 1, 4, 10, 7, 9, 5, 0, 15, 14, 2, 3, 12,
    ],
    [
        13, 2, 8, 4, 6, 15, 11, 1, 10, 9, 3, 14, 5, 0, 12, 7, //
        1, 15, 13, 8, 10, 3, 7, 4, 12, 5, 6, 11, 0, 14, 9, 2, //
        7, 11, 4, 1, 9, 12, 14, 2, 0, 6, 10, 13, 15, 3, 5, 8, //
        2, 1, 14, 7, 4, 10, 8, 13, 15, 12, 9, 0, 3, 5, 6, 11,
    ],
];
/// What S makes of six bits, as P has it.
static SP: [[u32; 64]; 8] = substituted();

const fn substituted() -> [[u32; 64]; 8] {
    let mut all = [[0; 64]; 8];
    let mut it = 0;
    while it < 8 * 64 {
        let (which, bits) = (it / 64, it % 64);
        // The outer bits tell the row.
        let row = (bits >> 4 & 2) | (bits & 1);
        let found = S[which][row * 16 + (bits >> 1 & 15)] as u64;
        all[which][bits] = permuted(found << (28 - 4 * which), 32, &P);
        it += 1;
    }
    all
}

/// The bits of a number of `width` bits that a table names, in its order.
const fn permuted(bits: u64, width: u8, table: &[u8]) -> u32 {
    let (mut out, mut it) = (0, 0);
    while it < table.len() {
        out = out << 1 | (bits >> (width - table[it]) & 1 == 1) as u32;
        it += 1;
    }
    out
}

/// The eleven characters behind the salt. Takes some microseconds, whatever the password is.
pub(super) fn crypt(password: &[u8], salt: [u8; 2]) -> [u8; 11] {
    let keys = keys(password);
    let exchanged = exchanged(salt);
    // Zero is permuted to zero; FP and IP cancel each other between one time and the next.
    let (mut left, mut right) = (0, 0);
    for _ in 0..TIMES {
        for key in keys {
            (left, right) = (right, left ^ round(right, key, exchanged));
        }
        (left, right) = (right, left);
    }
    let whole = u64::from(left) << 32 | u64::from(right);
    let [high, low] = FP.map(|it| u64::from(permuted(whole, 64, &it)));
    spelled(high << 32 | low)
}

/// Eight groups of six bits, each the highest of a byte: those of S1, S3, S5, S7, and those of the others.
type Groups = [u32; 2];

/// The keys of the sixteen rounds.
fn keys(password: &[u8]) -> [Groups; 16] {
    let mut key = [0; COUNTED];
    for (it, character) in key.iter_mut().zip(password) {
        *it = character << 1;
    }
    let mut halves = PC1.map(|it| permuted(u64::from_be_bytes(key), 64, &it));
    TURNS.map(|turn| {
        halves = halves.map(|it| (it << turn | it >> (28 - turn)) & 0x0fff_ffff);
        let [c, d] = halves.map(u64::from);
        grouped(PC2.map(|it| permuted(c << 28 | d, 56, &it)))
    })
}

/// Which of the first 24 outputs of E are exchanged with those of the last 24, in the places of both: of each
/// character of the salt the lowest bit comes first.
fn exchanged(salt: [u8; 2]) -> Groups {
    let value = |character| ALPHABET.iter().position(|it| *it == character).unwrap_or_default();
    let [first, second] = salt.map(value);
    let bits = (0..12).filter(|it| (second << 6 | first) >> it & 1 == 1).map(|it| 1 << (23 - it));
    grouped([bits.sum(); 2])
}

/// Groups of 48 bits, which come in halves.
fn grouped(halves: [u32; 2]) -> Groups {
    let group = |it: usize| halves[it / 4] >> (18 - 6 * (it % 4)) & 63;
    [0, 1].map(|first| (0..4).fold(0, |bits, it| bits << 8 | group(2 * it + first) << 2))
}

/// E takes each four bits with their neighbours. Six of its outputs and those 24 further are 16 bits apart
/// in what it takes them from.
fn round(right: u32, key: Groups, exchanged: Groups) -> u32 {
    let around = right.rotate_right(1);
    let keyed =
        |it: usize, bits: u32| bits ^ (bits ^ bits.rotate_left(16)) & exchanged[it] ^ key[it];
    let [odd, even] = [keyed(0, around), keyed(1, around.rotate_left(4))];
    let six = |groups: u32, shift: u32| (groups >> shift & 63) as usize;
    SP[0][six(odd, 26)]
        ^ SP[1][six(even, 26)]
        ^ SP[2][six(odd, 18)]
        ^ SP[3][six(even, 18)]
        ^ SP[4][six(odd, 10)]
        ^ SP[5][six(even, 10)]
        ^ SP[6][six(odd, 2)]
        ^ SP[7][six(even, 2)]
}

/// Six bits a character, the highest first; two zeros fill the last.
fn spelled(bits: u64) -> [u8; 11] {
    let mut left = bits;
    [(); 11].map(|()| {
        let character = ALPHABET[(left >> 58) as usize];
        left <<= 6;
        character
    })
}

#[cfg(test)]
mod tests {
    use super::super::Hash;

    #[test]
    fn crypt_is_that_of_the_system() {
        // Made with glibc's crypt(3).
        for (password, expected) in [
            ("secret", "abNANd1rDfiNc"),
            ("", "..X8NBuQ4l6uQ"),
            ("a", "zzJZ5PtvFqi9o"),
            ("password", "abJnggxhB/yWI"),
            ("password1", "abJnggxhB/yWI"),
            ("Passw0rd", "//zLX7NRr9LNg"),
            ("correct horse battery staple", "ZziV3MgI7K8nk"),
            ("12345678", "09m1hgTukofY6"),
            ("{}~!@#$%", "a.D5yHdUl8iFU"),
            ("pässwörd", "/AbJm49L4Q8/g"),
            ("日本語", "mNj95CP6vCylM"),
            ("        ", "x9hV01aSFBlfc"),
            ("\x01\x7f", "9xD25Bi8gbsqA"),
            ("UNIX", "AzppFTB8PP4hE"),
        ] {
            let hash = Hash::parse(expected).unwrap_or_else(|why| panic!("{expected} {why}"));
            assert!(hash.is_quick(), "{expected}");
            assert!(hash.is_of(password.as_bytes()), "{password:?} {expected}");
            let salt = if expected.starts_with('z') { "y" } else { "z" };
            let (first, rest) = expected.split_at(1);
            let last = if rest.ends_with('.') { "2" } else { "." };
            for (other, password) in [
                (expected.to_owned(), format!("x{password}")),
                (format!("{salt}{rest}"), password.to_owned()),
                (format!("{first}{}{last}", &rest[..11]), password.to_owned()),
            ] {
                let hash = Hash::parse(&other).unwrap_or_else(|why| panic!("{other} {why}"));
                assert!(!hash.is_of(password.as_bytes()), "{password:?} {other}");
            }
        }
    }

    #[test]
    fn eight_characters_of_seven_bits_count() {
        let hash = Hash::parse("09m1hgTukofY6").expect("a hash");
        for (password, expected) in [
            (&b"12345678"[..], true),
            (b"123456789", true),
            (b"1234567", false),
            (b"\xb12345678", true),
            (b"", false),
            (b"12345678\0", false),
        ] {
            assert_eq!(hash.is_of(password), expected, "{password:?}");
        }
    }

    #[test]
    fn what_is_no_such_hash_lets_nobody_in() {
        for text in [
            "ab",
            "abJnggxhB/yW",
            "abJnggxhB/yWIx",
            "!bJnggxhB/yWI",
            "a-JnggxhB/yWI",
            "abJnggxhB/yW=",
            "*0JnggxhB/yWI",
            "\u{e4}bJnggxhB/yW",
            "_J9..rasmBYk8r9AiWNc",
        ] {
            assert!(Hash::parse(text).is_err(), "{text}");
        }
    }
}
