//! A body on its way through a coding.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};

use super::coder::{Coder, Goal, How};
use super::room::Share;
use crate::proxy::body::{CutOff, ReplyBody};

/// How much is gathered before it goes to the client while the endpoint goes on sending, in bytes.
const PIECE: usize = 16 << 10;

/// An answer's body on its way through a coding.
#[derive(Debug)]
pub(in crate::proxy) struct CodedBody {
    /// Where it comes from; empty once all of it came, so that the endpoint's connection is free.
    plain: ReplyBody,
    /// `None` once all of it is in `output`.
    coder: Option<(Coder, Share)>,
    how: How,
    /// What came and is not compressed yet.
    input: Bytes,
    /// What is compressed and not sent yet.
    output: Vec<u8>,
    trailers: Option<HeaderMap>,
    /// Whether the coder may hold something back.
    holds: bool,
    /// Whether the endpoint had a chance to go on since something came.
    paused: bool,
    /// How much may be compressed before others get their turn, in bytes.
    left: usize,
}

impl CodedBody {
    pub(super) fn new(plain: ReplyBody, how: How, length: Option<u64>, share: Share) -> Self {
        Self {
            plain,
            coder: Some((Coder::new(how, length), share)),
            how,
            input: Bytes::new(),
            output: Vec::new(),
            trailers: None,
            holds: false,
            paused: false,
            left: how.step(),
        }
    }

    pub(in crate::proxy) fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        loop {
            if self.output.len() >= PIECE || (self.coder.is_none() && !self.output.is_empty()) {
                return self.hand_over();
            }
            if self.coder.is_none() {
                return Poll::Ready(self.trailers.take().map(|it| Ok(Frame::trailers(it))));
            }
            if !self.input.is_empty() {
                if self.left == 0 {
                    return self.yield_now(cx);
                }
                let piece = self.input.split_to(self.input.len().min(self.left));
                self.left -= piece.len();
                // Of the slow levels nothing is put off, or it would be done all at once in the end.
                let goal = if self.how.is_costly() { Goal::Flush } else { Goal::More };
                self.compress(&piece, goal)?;
                continue;
            }
            match Pin::new(&mut self.plain).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    self.paused = false;
                    match frame.into_data() {
                        Ok(data) => self.input = data,
                        // Kept until the end was read, which frees the endpoint's connection.
                        Err(frame) => self.trailers = frame.into_trailers().ok(),
                    }
                }
                Poll::Ready(Some(Err(cut))) => return Poll::Ready(Some(Err(cut))),
                Poll::Ready(None) => self.finish()?,
                Poll::Pending if !self.holds && self.output.is_empty() => {
                    self.left = self.how.step();
                    return Poll::Pending;
                }
                Poll::Pending if self.holds && !self.paused => {
                    // A task that reads the connection (HTTP/2, reading ahead) may have more by then.
                    self.paused = true;
                    return self.yield_now(cx);
                }
                Poll::Pending => {
                    if self.holds {
                        self.compress(&[], Goal::Flush)?;
                    }
                    return self.hand_over();
                }
            }
        }
    }

    pub(in crate::proxy) fn is_end_stream(&self) -> bool {
        self.coder.is_none() && self.output.is_empty() && self.trailers.is_none()
    }

    fn hand_over(&mut self) -> Poll<Option<Result<Frame<Bytes>, CutOff>>> {
        Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.output).into()))))
    }

    fn yield_now<T>(&mut self, cx: &Context<'_>) -> Poll<T> {
        self.left = self.how.step();
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn finish(&mut self) -> Result<(), CutOff> {
        self.compress(&[], Goal::End)?;
        self.coder = None;
        self.plain = ReplyBody::empty();
        Ok(())
    }

    fn compress(&mut self, input: &[u8], goal: Goal) -> Result<(), CutOff> {
        self.holds = goal == Goal::More;
        let Some((coder, _)) = &mut self.coder else { return Ok(()) };
        let fed = coder.feed(input, goal, &mut self.output);
        fed.then_some(()).ok_or(CutOff::Ours("it could not be compressed"))
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::proxy::compress::coder::tests::{BROTLI, GZIP, reader, text};
    use crate::proxy::compress::room::Room;

    #[test]
    fn a_body_is_compressed_in_turns() {
        let room = Rc::new(Room::default());
        for how in [GZIP, BROTLI, How::Brotli { level: 10 }] {
            let plain = text(100_000);
            let share = room.share(how.memory()).expect("there is room");
            let mut body = CodedBody::new(ReplyBody::from(plain.clone()), how, None, share);
            let (mut pauses, mut coded) = (0, Vec::new());
            let mut cx = Context::from_waker(std::task::Waker::noop());
            loop {
                match body.poll(&mut cx) {
                    Poll::Pending => pauses += 1,
                    Poll::Ready(Some(Ok(frame))) => {
                        coded.extend(frame.into_data().expect("there are no trailers"));
                    }
                    Poll::Ready(Some(Err(cut))) => panic!("{how:?}: {cut}"),
                    Poll::Ready(None) => break,
                }
            }
            assert_eq!(pauses, (plain.len() - 1) / how.step(), "{how:?}");
            assert!(body.is_end_stream());
            assert_eq!(
                room.left.get(),
                Room::default().left.get(),
                "given back before the body is dropped"
            );
            let mut back = Vec::new();
            reader(how, &coded).read_to_end(&mut back).expect("it is whole");
            assert!(back == plain, "{how:?}");
        }
    }
}
