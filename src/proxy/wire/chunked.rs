//! The chunked transfer coding of an answer, RFC 9112 section 7.1, read strictly: what is not exactly that
//! is an error, as where a chunk ends decides where the next answer begins.

use bytes::{Buf, Bytes, BytesMut};
use http::HeaderMap;
use http_body::Frame;

use super::Torn;
use super::message;

/// Longest line with the size of a chunk, extensions and all, in bytes.
const LONGEST_LINE: usize = 4 << 10;
/// Most bytes of trailers.
const MOST_TRAILERS: usize = 16 << 10;

/// Where in the coding the next byte belongs.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) enum Chunked {
    /// To the line with a chunk's size.
    #[default]
    Size,
    /// To a chunk, of which so many bytes are to come.
    Data(u64),
    /// To the line's end after a chunk.
    End,
    /// To the trailers.
    Trailers,
    /// To nobody: the body is over.
    Over,
}

impl Chunked {
    /// Whether the body is over; its end often comes with its last piece.
    pub(super) fn is_over(&mut self, input: &mut BytesMut) -> bool {
        const END: &[u8] = b"\r\n0\r\n\r\n";
        if *self == Self::End && input.starts_with(END) {
            input.advance(END.len());
            *self = Self::Over;
        }
        *self == Self::Over
    }

    /// Takes the next piece off `input`: `None` when it takes more bytes to say, or when the body is over.
    pub(super) fn next(&mut self, input: &mut BytesMut) -> Result<Option<Frame<Bytes>>, Torn> {
        loop {
            match *self {
                Self::Size => {
                    let Some(line) = input.iter().take(LONGEST_LINE).position(|it| *it == b'\n')
                    else {
                        return unless_longer(input, LONGEST_LINE);
                    };
                    let size = input[..line].strip_suffix(b"\r").and_then(size);
                    let size = size.ok_or(Torn::Invalid("a chunk's size is none"))?;
                    input.advance(line + 1);
                    *self = if size == 0 { Self::Trailers } else { Self::Data(size) };
                }
                Self::Data(left) => {
                    if input.is_empty() {
                        return Ok(None);
                    }
                    let taken = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
                    let left = left - taken as u64;
                    *self = if left == 0 { Self::End } else { Self::Data(left) };
                    return Ok(Some(Frame::data(input.split_to(taken).freeze())));
                }
                Self::End => {
                    if input.len() < 2 && b"\r\n".starts_with(input) {
                        return Ok(None);
                    }
                    if !input.starts_with(b"\r\n") {
                        return Err(Torn::Invalid("a chunk is longer than it says"));
                    }
                    input.advance(2);
                    *self = Self::Size;
                }
                Self::Trailers => {
                    if input.starts_with(b"\r\n") {
                        input.advance(2);
                        *self = Self::Over;
                        return Ok(None);
                    }
                    let Some(end) = message::end(input, 0) else {
                        return unless_longer(input, MOST_TRAILERS);
                    };
                    let mut trailers = HeaderMap::new();
                    message::fields(&input.split_to(end).freeze(), &mut trailers)?;
                    *self = Self::Over;
                    return Ok(Some(Frame::trailers(trailers)));
                }
                Self::Over => return Ok(None),
            }
        }
    }
}

/// The number at the beginning of a line: hexadecimal digits, then nothing or an extension, which means
/// nothing to us.
fn size(line: &[u8]) -> Option<u64> {
    let digits = line.iter().take_while(|it| it.is_ascii_hexdigit()).count();
    let (digits, rest) = line.split_at(digits);
    let blank = rest.iter().take_while(|it| matches!(it, b' ' | b'\t')).count();
    let rest = &rest[blank..];
    let fits = !digits.is_empty() && digits.len() <= 15;
    let plain = rest.iter().all(|it| !it.is_ascii_control() || *it == b'\t');
    if !fits || !plain || !matches!(rest.first(), None | Some(b';')) {
        return None;
    }
    u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

fn unless_longer(input: &BytesMut, most: usize) -> Result<Option<Frame<Bytes>>, Torn> {
    if input.len() >= most {
        return Err(Torn::Invalid("a line of a chunk, or its trailers, are too long"));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read from `text`, which comes in pieces of `step` bytes: data, trailers, and whether it is over.
    fn read(text: &[u8], step: usize) -> Result<(Vec<u8>, usize, bool), Torn> {
        let (mut input, mut chunked) = (BytesMut::new(), Chunked::default());
        let (mut data, mut trailers) = (Vec::new(), 0);
        for piece in text.chunks(step) {
            input.extend_from_slice(piece);
            while let Some(frame) = chunked.next(&mut input)? {
                match frame.into_data() {
                    Ok(it) => data.extend_from_slice(&it),
                    Err(frame) => trailers = frame.into_trailers().map_or(0, |it| it.len()),
                }
            }
        }
        Ok((data, trailers, chunked == Chunked::Over && input.is_empty()))
    }

    #[test]
    fn chunks_are_read_however_they_come() {
        let long = [b"1000\r\n".as_slice(), &[b'x'; 4096], b"\r\n0\r\n\r\n"].concat();
        for (text, data, trailers) in [
            (&b"0\r\n\r\n"[..], &b""[..], 0),
            (b"3\r\nabc\r\n0\r\n\r\n", b"abc", 0),
            (b"1\r\na\r\n02\r\nbc\r\n000\r\n\r\n", b"abc", 0),
            (b"A;x=\"y\" ; z\r\n0123456789\r\n0;last\r\n\r\n", b"0123456789", 0),
            (b"1 \r\na\r\n0\r\n\r\n", b"a", 0),
            (b"1\r\na\r\n0\r\nx-sum: 1\r\nx-end: 2\r\n\r\n", b"a", 2),
            (&long, &[b'x'; 4096], 0),
        ] {
            for step in [1, 2, 3, 7, usize::MAX] {
                let text_shown = String::from_utf8_lossy(text);
                assert_eq!(
                    read(text, step),
                    Ok((data.to_vec(), trailers, true)),
                    "{text_shown} by {step}"
                );
            }
        }
    }

    #[test]
    fn what_is_cut_is_not_over() {
        let whole = b"3\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n";
        for end in 0..whole.len() {
            let over = read(&whole[..end], usize::MAX).map(|it| it.2);
            assert!(matches!(over, Ok(false)), "{end}: {over:?}");
        }
    }

    #[test]
    fn what_is_not_exactly_chunked_is_refused() {
        for text in [
            &b"\r\n"[..],
            b"x\r\n",
            b"-1\r\n",
            b"+1\r\na\r\n0\r\n\r\n",
            b"0x1\r\na\r\n0\r\n\r\n",
            b"1\na\r\n0\r\n\r\n",
            b"1\r\nab\r\n0\r\n\r\n",
            b"1\r\na0\r\n\r\n",
            b"1\r\na\n0\r\n\r\n",
            b"1 2\r\na\r\n",
            b"1\r\r\na\r\n",
            b"1\x0c\r\na\r\n",
            b"1;\x00\r\na\r\n",
            b"1;a\rb\r\na\r\n",
            b"10000000000000000\r\na",
            b"0\r\nno field\r\n\r\n",
            b"0\r\n folded: 1\r\n\r\n",
            &[b'0'; LONGEST_LINE],
            &[b"0\r\n".as_slice(), &[b'x'; MOST_TRAILERS]].concat(),
        ] {
            let shown = String::from_utf8_lossy(&text[..text.len().min(40)]);
            assert!(matches!(read(text, usize::MAX), Err(Torn::Invalid(_))), "{shown:?}");
            assert!(matches!(read(text, 1), Err(Torn::Invalid(_))), "{shown:?} byte by byte");
        }
    }
}
