//! The memory that a worker's codings share.

use std::cell::Cell;
use std::rc::Rc;

/// What the codings of one worker may hold in memory, in bytes.
const ROOM: usize = 256 << 20;

/// What the codings of one worker may still take of its memory.
#[derive(Debug)]
pub(in crate::proxy) struct Room {
    /// In bytes.
    pub(super) left: Cell<usize>,
}

impl Room {
    /// Sets memory aside for one answer; `None` where there is not as much.
    pub(super) fn share(self: &Rc<Self>, bytes: usize) -> Option<Share> {
        self.left.set(self.left.get().checked_sub(bytes)?);
        Some(Share { room: self.clone(), bytes })
    }
}

impl Default for Room {
    fn default() -> Self {
        Self { left: Cell::new(ROOM) }
    }
}

/// Memory set aside for one answer.
#[derive(Debug)]
pub(super) struct Share {
    room: Rc<Room>,
    bytes: usize,
}

impl Drop for Share {
    fn drop(&mut self) {
        self.room.left.set(self.room.left.get() + self.bytes);
    }
}
