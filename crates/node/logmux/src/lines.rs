//! Output becomes lines.

/// Longest line in bytes; what is longer goes on in the next one (spec flynn-host 10.1).
pub(crate) const LINE_LEN: usize = 10_000;

/// One stream's beginning of a line that has not ended yet, and where in the spool it comes from.
#[derive(Clone, Debug, Default)]
pub(crate) struct Partial {
    bytes: Vec<u8>,
    /// How many of `bytes` are kept in the cursor, because the spool before `from` may be gone.
    carried: usize,
    /// Offset of the record in which the rest begins, and how many bytes of its payload come before.
    from: u64,
    skip: usize,
}

impl Partial {
    pub(crate) fn restored(carry: Vec<u8>, from: u64, skip: usize) -> Self {
        Self { carried: carry.len(), bytes: carry, from, skip }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// `(carried bytes, offset of the record, bytes to skip in it)`
    pub(crate) fn origin(&self) -> (&[u8], u64, usize) {
        (&self.bytes[..self.carried], self.from, self.skip)
    }

    /// From now on all of it is kept in the cursor, and the spool before `next` is not needed.
    pub(crate) fn carry(&mut self, next: u64) {
        (self.carried, self.from, self.skip) = (self.bytes.len(), next, 0);
    }

    /// Splits the payload of the record at offset `record`, from index `start` on.
    pub(crate) fn feed(&mut self, record: u64, start: usize, payload: &[u8], mut emit: impl FnMut(&[u8])) {
        let mut at = start;
        while at < payload.len() {
            let room = LINE_LEN - self.bytes.len();
            // One byte more than fits: a newline behind a line of full length belongs to it.
            let window = &payload[at..payload.len().min(at + room + 1)];
            let (len, used) = match window.iter().position(|byte| *byte == b'\n') {
                Some(newline) => (newline, newline + 1),
                None if window.len() > room => (room, room),
                None => {
                    if self.bytes.is_empty() {
                        (self.carried, self.from, self.skip) = (0, record, at);
                    }
                    self.bytes.extend_from_slice(window);
                    return;
                }
            };
            if self.bytes.is_empty() {
                emit(&window[..len]);
            } else {
                self.bytes.extend_from_slice(&window[..len]);
                self.end(&mut emit);
            }
            at += used;
        }
    }

    /// Ends the line here.
    pub(crate) fn end(&mut self, mut emit: impl FnMut(&[u8])) {
        if !self.bytes.is_empty() {
            emit(&self.bytes);
        }
        self.bytes = Vec::new(); // an idle job keeps no buffer
        self.carried = 0;
    }
}

#[cfg(test)]
mod tests;
