//! The codings: what each takes, and how bytes go through it.

use std::fmt;

use brotli::enc::StandardAlloc;
use brotli::enc::encode::{BrotliEncoderOperation, BrotliEncoderStateStruct};
use flate2::{Compress, Compression as Level, FlushCompress, Status};

/// How much is compressed before others on the worker get their turn, in bytes; a few milliseconds at the
/// higher levels.
const STEP: usize = 64 << 10;
/// The same for brotli's levels 10 and 11, which are fifty times slower.
const COSTLY_STEP: usize = 8 << 10;
/// Binary logarithm of brotli's window: 256 KiB. ngx_brotli's is twice that, for half as much memory
/// again and next to nothing in size.
const BROTLI_WINDOW: i32 = 18;

/// How an answer is compressed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum How {
    Gzip { level: u8 },
    Brotli { level: u8 },
}

impl How {
    /// Its name in `Content-Encoding`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gzip { .. } => "gzip",
            Self::Brotli { .. } => "br",
        }
    }

    /// The most that it holds, in bytes, as measured.
    pub(super) fn memory(self) -> usize {
        match self {
            Self::Gzip { .. } => 400 << 10,
            Self::Brotli { level: 0..=1 } => 1 << 20,
            Self::Brotli { level: 2..=4 } => 4 << 20,
            Self::Brotli { level: 5..=6 } => 6 << 20,
            Self::Brotli { level: 7 } => 12 << 20,
            Self::Brotli { level: 8 } => 20 << 20,
            Self::Brotli { level: 9 } => 36 << 20,
            Self::Brotli { .. } => 8 << 20,
        }
    }

    /// Whether it is one of brotli's slow levels.
    pub(super) fn is_costly(self) -> bool {
        matches!(self, Self::Brotli { level: 10.. })
    }

    /// How much it compresses before others get their turn, in bytes.
    pub(super) fn step(self) -> usize {
        if self.is_costly() { COSTLY_STEP } else { STEP }
    }
}

/// What is to come of what was fed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Goal {
    /// Whatever compresses best.
    More,
    /// All of it can be read by the client.
    Flush,
    /// The same, and nothing follows.
    End,
}

/// A coding at work.
pub(super) enum Coder {
    Gzip(Compress),
    Brotli(Box<BrotliEncoderStateStruct<StandardAlloc>>),
}

impl Coder {
    /// Of a short answer, whose `length` is known, a smaller window sees as much and takes less time to
    /// set up.
    pub(super) fn new(how: How, length: Option<u64>) -> Self {
        /// What zlib keeps free of its window, in bytes.
        const LOOK_AHEAD: u64 = 262;
        match how {
            How::Gzip { level } => {
                let fits = |it: &u8| {
                    length.is_some_and(|length| length.saturating_add(LOOK_AHEAD) <= 1 << it)
                };
                let window = (9..15).find(fits).unwrap_or(15);
                Self::Gzip(Compress::new_gzip(Level::new(level.into()), window))
            }
            How::Brotli { level } => {
                let mut state = BrotliEncoderStateStruct::new(StandardAlloc::default());
                state.params.quality = level.into();
                state.params.lgwin = BROTLI_WINDOW;
                // 64 KiB, as much as one step: it is what is compressed at once.
                state.params.lgblock = 16;
                Self::Brotli(Box::new(state))
            }
        }
    }

    /// Appends to `output` what comes of `input`; whether that went well.
    pub(super) fn feed(&mut self, input: &[u8], goal: Goal, output: &mut Vec<u8>) -> bool {
        /// How much the output grows by, in bytes.
        const MORE: usize = 4 << 10;
        match self {
            Self::Gzip(state) => {
                let flush = match goal {
                    Goal::More => FlushCompress::None,
                    Goal::Flush => FlushCompress::Sync,
                    Goal::End => FlushCompress::Finish,
                };
                let mut input = input;
                loop {
                    output.reserve(MORE);
                    let before = state.total_in();
                    let Ok(status) = state.compress_vec(input, output, flush) else { return false };
                    // No more than the length of `input`.
                    let read = usize::try_from(state.total_in() - before).unwrap_or_default();
                    input = input.get(read..).unwrap_or_default();
                    let has_room = output.len() < output.capacity();
                    match goal {
                        Goal::End if status == Status::StreamEnd => return true,
                        Goal::More | Goal::Flush if input.is_empty() && has_room => return true,
                        // It got no further, and would not the next time.
                        _ if has_room && status == Status::BufError => return false,
                        _ => {}
                    }
                }
            }
            Self::Brotli(state) => {
                let operation = match goal {
                    Goal::More => BrotliEncoderOperation::BROTLI_OPERATION_PROCESS,
                    Goal::Flush => BrotliEncoderOperation::BROTLI_OPERATION_FLUSH,
                    Goal::End => BrotliEncoderOperation::BROTLI_OPERATION_FINISH,
                };
                let (mut left, mut read) = (input.len(), 0);
                loop {
                    let (mut room, mut end) = (MORE, output.len());
                    output.resize(end + MORE, 0);
                    let done = state.compress_stream(
                        operation,
                        &mut left,
                        input,
                        &mut read,
                        &mut room,
                        output,
                        &mut end,
                        &mut None,
                        &mut |_, _, _, _| (),
                    );
                    output.truncate(end);
                    if !done {
                        return false;
                    }
                    if left == 0 && !state.has_more_output() {
                        return goal != Goal::End || state.is_finished();
                    }
                }
            }
        }
    }
}

impl fmt::Debug for Coder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gzip(_) => "Gzip",
            Self::Brotli(_) => "Brotli",
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Read;

    use super::*;

    pub(in crate::proxy::compress) const GZIP: How = How::Gzip { level: 1 };
    pub(in crate::proxy::compress) const BROTLI: How = How::Brotli { level: 4 };

    /// Text that is worth compressing.
    pub(in crate::proxy::compress) fn text(bytes: usize) -> Vec<u8> {
        let lines =
            (0_u32..).map(|it| format!("item {it} costs {}\n", it.wrapping_mul(2_654_435_761)));
        lines.flat_map(String::into_bytes).take(bytes).collect()
    }

    pub(in crate::proxy::compress) fn reader<'a>(how: How, coded: &'a [u8]) -> Box<dyn Read + 'a> {
        match how {
            How::Gzip { .. } => Box::new(flate2::read::GzDecoder::new(coded)),
            How::Brotli { .. } => Box::new(brotli::Decompressor::new(coded, 4096)),
        }
    }

    #[test]
    fn every_level_gives_back_what_it_got() {
        let levels = (1..=9).map(|level| How::Gzip { level });
        for how in levels.chain((0..=11).map(|level| How::Brotli { level })) {
            for length in [0, 1, 300, 70_000] {
                let plain = text(length);
                for known in [None, Some(length as u64)] {
                    let mut coder = Coder::new(how, known);
                    let mut coded = Vec::new();
                    for piece in plain.chunks(30_000) {
                        assert!(coder.feed(piece, Goal::More, &mut coded), "{how:?}");
                    }
                    assert!(coder.feed(&[], Goal::End, &mut coded), "{how:?}");
                    let mut back = Vec::new();
                    reader(how, &coded).read_to_end(&mut back).expect("it is whole");
                    assert!(back == plain, "{how:?} {length} {known:?}");
                    assert!(length < 300 || coded.len() < length, "{how:?} {length}");
                }
            }
        }
    }

    #[test]
    fn what_is_flushed_can_be_read() {
        for how in [GZIP, BROTLI, How::Brotli { level: 0 }, How::Brotli { level: 11 }] {
            let (mut coder, mut coded) = (Coder::new(how, None), Vec::new());
            for events in 1..=20 {
                assert!(coder.feed(b"data: tick\n\n", Goal::More, &mut coded), "{how:?}");
                for _ in 0..2 {
                    assert!(coder.feed(&[], Goal::Flush, &mut coded), "{how:?}");
                }
                let mut back = vec![0; 12 * events];
                reader(how, &coded).read_exact(&mut back).expect("all of it is there");
                assert_eq!(back, b"data: tick\n\n".repeat(events), "{how:?}");
            }
        }
    }
}
