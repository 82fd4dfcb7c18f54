//! The plaintext of a chunk, shared: it stays in the buffer in which it was opened.

use std::ops::{Deref, Range};
use std::sync::Arc;

/// Opened bytes. A clone shares them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plain {
    bytes: Arc<Vec<u8>>,
    range: Range<usize>,
}

impl Plain {
    /// All but the first `skip` bytes of `bytes`.
    pub(super) fn after(skip: usize, bytes: Vec<u8>) -> Self {
        Self { range: skip.min(bytes.len())..bytes.len(), bytes: Arc::new(bytes) }
    }

    /// A part of it; `None` where it ends before.
    pub(super) fn part(&self, part: &Range<usize>) -> Option<Self> {
        self.get(part.clone())?;
        let start = self.range.start;
        Some(Self { bytes: Arc::clone(&self.bytes), range: start + part.start..start + part.end })
    }
}

impl From<Vec<u8>> for Plain {
    fn from(bytes: Vec<u8>) -> Self {
        Self::after(0, bytes)
    }
}

impl Deref for Plain {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.bytes.get(self.range.clone()).unwrap_or(&[])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_after_its_flag_is_the_rest() {
        assert_eq!(&*Plain::after(1, vec![9, 1, 2]), &[1, 2]);
        assert_eq!(&*Plain::after(5, vec![9]), &[0u8; 0]);
        assert_eq!(&*Plain::from(vec![3]), &[3]);
    }

    #[test]
    fn part_of_a_plain_is_within_it() {
        let plain = Plain::after(1, vec![9, 1, 2, 3]);
        let part = plain.part(&(1..3)).expect("is within");
        assert_eq!(&*part, &[2, 3]);
        assert_eq!(part.part(&(1..2)).as_deref(), Some(&[3][..]));
        assert_eq!(part.part(&(1..3)), None);
        assert_eq!(plain.part(&(2..4)), None);
    }
}
