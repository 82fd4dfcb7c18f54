//! The plaintext of a chunk, shared: it stays in the buffer in which it was opened.

use std::ops::Deref;
use std::sync::Arc;

/// Opened bytes. A clone shares them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Plain {
    bytes: Arc<Vec<u8>>,
    skip: usize,
}

impl Plain {
    /// All but the first `skip` bytes of `bytes`.
    pub(super) fn after(skip: usize, bytes: Vec<u8>) -> Self {
        Self { skip: skip.min(bytes.len()), bytes: Arc::new(bytes) }
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
        self.bytes.get(self.skip..).unwrap_or(&[])
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
}
