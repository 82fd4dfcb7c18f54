//! Keeps a defect in one call from taking the whole mount down.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::vfs::Errno;

/// Runs one call of the kernel. A panic is logged and becomes `EIO` for that call alone: a thread that
/// serves the kernel must not die, or every program on the mount would hang.
pub fn guarded<T>(call: &'static str, ino: u64, run: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    let _span = tracing::trace_span!("fuse", call, ino).entered();
    // What a panic left half done lies behind the Vfs's own locks; its ops are committed in one batch
    // or not at all.
    let result = catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
        tracing::error!(call, ino, "a call on the mount panicked");
        Err(Errno::EIO)
    });
    if let Err(errno) = &result {
        tracing::trace!(call, ino, errno = errno.0, "failed");
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panic_becomes_an_input_output_error() {
        let hook = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let result: Result<(), Errno> = guarded("test", 1, || panic!("a defect"));
        std::panic::set_hook(hook);
        assert_eq!(result, Err(Errno::EIO));
        assert_eq!(guarded("test", 1, || Ok(5)), Ok(5));
    }
}
