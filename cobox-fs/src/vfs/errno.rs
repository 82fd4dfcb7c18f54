//! Errors as the kernel knows them.

use std::io::ErrorKind;

use cobox_store::Error;
use cobox_store::error::is_full;

/// A positive `errno` value.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Errno(pub i32);

impl Errno {
    /// `EPERM`.
    pub const EPERM: Self = Self(rustix::io::Errno::PERM.raw_os_error());
    /// `ENOENT`.
    pub const ENOENT: Self = Self(rustix::io::Errno::NOENT.raw_os_error());
    /// `EIO`.
    pub const EIO: Self = Self(rustix::io::Errno::IO.raw_os_error());
    /// `EBADF`.
    pub const EBADF: Self = Self(rustix::io::Errno::BADF.raw_os_error());
    /// `EACCES`.
    pub const EACCES: Self = Self(rustix::io::Errno::ACCESS.raw_os_error());
    /// `EEXIST`.
    pub const EEXIST: Self = Self(rustix::io::Errno::EXIST.raw_os_error());
    /// `EXDEV`.
    pub const EXDEV: Self = Self(rustix::io::Errno::XDEV.raw_os_error());
    /// `ENOTDIR`.
    pub const ENOTDIR: Self = Self(rustix::io::Errno::NOTDIR.raw_os_error());
    /// `EISDIR`.
    pub const EISDIR: Self = Self(rustix::io::Errno::ISDIR.raw_os_error());
    /// `EINVAL`.
    pub const EINVAL: Self = Self(rustix::io::Errno::INVAL.raw_os_error());
    /// `EFBIG`.
    pub const EFBIG: Self = Self(rustix::io::Errno::FBIG.raw_os_error());
    /// `ENOSPC`.
    pub const ENOSPC: Self = Self(rustix::io::Errno::NOSPC.raw_os_error());
    /// `EROFS`.
    pub const EROFS: Self = Self(rustix::io::Errno::ROFS.raw_os_error());
    /// `EMLINK`.
    pub const EMLINK: Self = Self(rustix::io::Errno::MLINK.raw_os_error());
    /// `ERANGE`.
    pub const ERANGE: Self = Self(rustix::io::Errno::RANGE.raw_os_error());
    /// `E2BIG`.
    pub const E2BIG: Self = Self(rustix::io::Errno::TOOBIG.raw_os_error());
    /// `ENAMETOOLONG`.
    pub const ENAMETOOLONG: Self = Self(rustix::io::Errno::NAMETOOLONG.raw_os_error());
    /// `ENOTEMPTY`.
    pub const ENOTEMPTY: Self = Self(rustix::io::Errno::NOTEMPTY.raw_os_error());
    /// `ENODATA`.
    pub const ENODATA: Self = Self(rustix::io::Errno::NODATA.raw_os_error());
    /// `ENXIO`.
    pub const ENXIO: Self = Self(rustix::io::Errno::NXIO.raw_os_error());
    /// `EOPNOTSUPP`, which is `ENOTSUP` on Linux.
    pub const EOPNOTSUPP: Self = Self(rustix::io::Errno::OPNOTSUPP.raw_os_error());
    /// `ESTALE`.
    pub const ESTALE: Self = Self(rustix::io::Errno::STALE.raw_os_error());
    /// `EBUSY`.
    pub const EBUSY: Self = Self(rustix::io::Errno::BUSY.raw_os_error());
}

impl From<Error> for Errno {
    fn from(error: Error) -> Self {
        match error {
            Error::NoSpace | Error::Quota { .. } => Self::ENOSPC,
            Error::NotPermitted { .. } | Error::RolledBack { .. } | Error::ReadOnlyDisk => Self::EROFS,
            Error::Io { ref source, .. } if is_full(source.kind()) => Self::ENOSPC,
            Error::Io { ref source, .. } if source.kind() == ErrorKind::ReadOnlyFilesystem => Self::EROFS,
            _ => {
                tracing::error!(%error, "a call on the mount failed");
                Self::EIO
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errno_of_a_read_only_disk_is_erofs() {
        assert_eq!(Errno::from(Error::ReadOnlyDisk), Errno::EROFS);
        let source = ErrorKind::ReadOnlyFilesystem.into();
        assert_eq!(Errno::from(Error::Io { path: "reserve".into(), source }), Errno::EROFS);
    }

    #[test]
    fn errno_of_a_full_disk_is_enospc() {
        assert_eq!(Errno::from(Error::NoSpace), Errno::ENOSPC);
        assert_eq!(Errno::ENOSPC.0, 28);
        let io = |kind: ErrorKind| Error::Io { path: "reserve".into(), source: kind.into() };
        assert_eq!(Errno::from(io(ErrorKind::StorageFull)), Errno::ENOSPC);
        assert_eq!(Errno::from(io(ErrorKind::QuotaExceeded)), Errno::ENOSPC);
        assert_eq!(Errno::from(io(ErrorKind::Other)), Errno::EIO);
        assert_eq!(Errno::from(Error::Sealed), Errno::EIO);
    }
}
