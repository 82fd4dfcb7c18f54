//! Unix sockets below any path: `sun_path` is short, folders are not.

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;

/// `sun_path` holds 108 bytes with the final zero; see unix(7).
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// Calls `action` with a path that fits into a socket's address: one that does not is reached through
/// its open folder.
///
/// # Errors
/// What `action` returns, or when the folder cannot be opened.
pub fn with_short_path<T>(path: &Path, action: impl Fn(&Path) -> io::Result<T>) -> io::Result<T> {
    if path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        return action(path);
    }
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    };
    let dir = std::fs::File::open(dir)?;
    action(&Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name))
}

/// Listens at `path`, for this user alone. A socket that is there belongs to a program that died: the
/// caller holds the store's lock.
///
/// # Errors
/// When it cannot be made.
pub fn listen_private(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = with_short_path(path, |short| UnixListener::bind(short))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}
