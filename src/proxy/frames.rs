//! Where the frames of a WebSocket begin and end (RFC 6455 section 5.2), without a look at what is in them.

/// Where in a frame a stream of bytes is.
#[derive(Clone, Debug, Default)]
pub(super) struct Frames {
    head: [u8; 14],
    /// How many bytes of the head there were; 0 between frames and in a payload.
    have: usize,
    /// How many bytes of the payload are to come.
    payload: u64,
}

impl Frames {
    /// Whether the last byte ended a frame.
    pub(super) fn is_between(&self) -> bool {
        self.have == 0 && self.payload == 0
    }

    /// Passes over bytes: all, or those up to the end of the frame under way. Says how many.
    pub(super) fn pass(&mut self, bytes: &[u8], one: bool) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            if self.payload > 0 {
                let left = bytes.len() - at;
                let step = usize::try_from(self.payload).unwrap_or(usize::MAX).min(left);
                self.payload -= step as u64;
                at += step;
            } else {
                self.head[self.have] = bytes[at];
                self.have += 1;
                at += 1;
                if let Some(payload) = self.payload() {
                    self.have = 0;
                    self.payload = payload;
                }
            }
            if one && self.is_between() {
                break;
            }
        }
        at
    }

    /// RFC 6455 section 5.2: how long the payload is, once the head is there.
    fn payload(&self) -> Option<u64> {
        let length = self.head[1] & 0x7f;
        let extended = match length {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask = if self.head[1] & 0x80 == 0 { 0 } else { 4 };
        if self.have < 2 + extended + mask {
            return None;
        }
        let bytes = self.head[2..2 + extended].iter();
        Some(match extended {
            0 => length.into(),
            _ => bytes.fold(0, |all, byte| all << 8 | u64::from(*byte)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_end_where_their_heads_say() {
        let masked = [&[0x81, 0x85, 1, 2, 3, 4][..], b"hello"].concat();
        let middling = [&[0x82, 126, 1, 0][..], &[7; 256]].concat();
        let large = [&[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0][..], &vec![7; 65_536]].concat();
        let empty = vec![0x89, 0];
        for (name, frame) in
            [("masked", masked), ("middling", middling), ("large", large), ("empty", empty)]
        {
            for chunk in [1, 3, 1000, usize::MAX] {
                let mut frames = Frames::default();
                let last = frame.chunks(chunk.min(frame.len())).count() - 1;
                for (number, piece) in frame.chunks(chunk.min(frame.len())).enumerate() {
                    assert_eq!(frames.pass(piece, false), piece.len(), "{name} by {chunk}");
                    assert_eq!(frames.is_between(), number == last, "{name} by {chunk}: {number}");
                }
            }
            let two = [&frame[..], &frame].concat();
            assert_eq!(Frames::default().pass(&two, true), frame.len(), "{name}: one of two");
        }
    }
}
