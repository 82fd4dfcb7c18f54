//! Randomness for nonces, buffered per thread: the system call costs more than sealing a short value.
//!
//! Fast key erasure: each refill replaces the key with the first bytes of its own output, so what was
//! handed out cannot be computed from the state later. Keys never come from here, see
//! [`super::secret::Secret32::random`].

use std::cell::RefCell;

use zeroize::{Zeroize as _, Zeroizing};

/// One refill: BLAKE3's output at full width.
const BUFFER_BYTES: usize = 4096;
/// The key is mixed with the system's randomness after as many refills: 4 MiB of output.
const REFILLS_PER_SEED: u32 = 1024;

struct Source {
    key: Zeroizing<[u8; 32]>,
    buffer: Zeroizing<[u8; BUFFER_BYTES]>,
    used: usize,
    refills: u32,
}

thread_local! {
    static SOURCE: RefCell<Source> = RefCell::new(Source {
        key: Zeroizing::new([0; 32]),
        buffer: Zeroizing::new([0; BUFFER_BYTES]),
        used: BUFFER_BYTES,
        refills: REFILLS_PER_SEED,
    });
}

/// `N` random bytes.
///
/// # Panics
/// When the operating system has no randomness: before its first start has finished, never later.
pub(super) fn random<const N: usize>() -> [u8; N] {
    const { assert!(N <= 64) };
    SOURCE.with_borrow_mut(|source| {
        if source.used + N > BUFFER_BYTES {
            source.refill();
        }
        let mut bytes = [0; N];
        let taken = &mut source.buffer[source.used..source.used + N];
        bytes.copy_from_slice(taken);
        taken.zeroize();
        source.used += N;
        bytes
    })
}

impl Source {
    fn refill(&mut self) {
        if self.refills == REFILLS_PER_SEED {
            let mut fresh = Zeroizing::new([0; 32]);
            getrandom::fill(fresh.as_mut()).expect("a kernel that has started gives randomness");
            *self.key = *blake3::keyed_hash(&self.key, fresh.as_ref()).as_bytes();
            self.refills = 0;
        }
        self.refills += 1;
        blake3::Hasher::new_keyed(&self.key).finalize_xof().fill(self.buffer.as_mut());
        self.key.copy_from_slice(&self.buffer[..32]);
        self.buffer[..32].zeroize();
        self.used = 32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_bytes_do_not_repeat_across_refills_and_threads() {
        let draw = || (0..10_000).map(|_| random::<24>()).collect::<Vec<_>>();
        let mut all = draw();
        all.extend(std::thread::spawn(draw).join().expect("the thread ends"));
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
