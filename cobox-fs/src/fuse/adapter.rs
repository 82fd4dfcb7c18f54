//! Decodes a request, calls the [`Vfs`], replies. No decisions about files are made here, except what
//! the kernel may cache and for how long.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    BsdFileFlags, CopyFileRangeFlags, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr,
    Request, TimeOrNow, WriteFlags,
};

use super::convert;
use super::guard::guarded;
use super::teller::Queue;
use super::waiters::{Waiters, WaitingRead};
use crate::tree::names::conflict_origins;
use crate::vfs::{self, Attr, Creator, Errno, FsyncKind, Full, Listing, ROOT, ReadOutcome, SetAttr, Vfs};

/// How long the kernel trusts what it was told. Only this mount and other devices change a folder, and
/// their changes are told to it ([`super::teller`]), so the limit is only there for a lost message.
const TRUST: Duration = Duration::from_secs(3_600);
/// What may change without a word about it is asked for each time. That are names which the folder may
/// know in another spelling (Unicode forms): a change under one spelling would leave the other in the
/// kernel's cache. And it is the names of other versions of a file, which come and go with the versions.
const NO_TRUST: Duration = Duration::ZERO;
/// Numbers between the root's and this are the folder's own reports (`.cobox`), whose text and length
/// change by themselves; the tree's numbers begin here (`tree::names::number`).
const TREE_NUMBERS: u64 = 16;
/// Node numbers are never given to another file: only directories have others ([`Vfs::generation`]).
const GENERATION: Generation = Generation(0);
/// Bytes of one write request: as much as the kernel sends with its default limit of 256 pages.
const MAX_WRITE_BYTES: u32 = 1 << 20;
/// Read-ahead offered at the greeting; the kernel lowers it to its own limit.
const MAX_READ_AHEAD_BYTES: u32 = 1 << 20;
/// Read-ahead and write-back requests under way; the kernel's own default of 12 starves two processors.
const MAX_BACKGROUND: u16 = 64;
/// Bytes copied by one `copy_file_range` request, so that it does not hold a thread for long; the
/// calling program goes on from there.
const COPY_BYTES_MAX: u64 = 8 << 20;
/// Only root is exempt from losing set-id bits on a write (`CAP_FSETID`).
const ROOT_UID: u32 = 0;

/// Serves the kernel from a [`Vfs`].
pub struct Adapter {
    vfs: Arc<Vfs>,
    waiters: Waiters,
}

impl Adapter {
    pub fn new(vfs: Arc<Vfs>, told: &Arc<Queue>) -> io::Result<Self> {
        let waiters = Waiters::start(&vfs, told)?;
        Ok(Self { vfs, waiters })
    }

    fn reply_entry(&self, result: Result<Attr, Errno>, name: &OsStr, reply: ReplyEntry) {
        match result {
            Ok(attr) => {
                let (of_attr, of_name) = (attr_trust(attr.ino), name_trust(name));
                let generation = Generation(self.vfs.generation(attr.ino));
                reply.entry_with_ttls(&of_attr, &of_name, &convert::attr(&attr), generation);
            }
            Err(errno) => reply.error(convert::errno(errno)),
        }
    }

    /// Takes the set-id bits after a write by somebody who is not root.
    fn take_set_id(&self, ino: u64, fh: Option<u64>) -> Result<(), Errno> {
        if let Some(mode) = convert::without_set_id(&self.vfs.getattr(ino, fh)?) {
            self.vfs.setattr(ino, &SetAttr { mode: Some(mode), fh, ..SetAttr::default() })?;
        }
        Ok(())
    }

    /// A change of owner takes the set-id bits of a file, and a truncation by others than root does.
    fn with_set_id_taken(&self, ino: u64, mut change: SetAttr, uid: u32) -> Result<SetAttr, Errno> {
        let owner = change.uid.is_some() || change.gid.is_some();
        let truncated = change.size.is_some() && uid != ROOT_UID;
        if change.mode.is_none() && (owner || truncated) {
            change.mode = convert::without_set_id(&self.vfs.getattr(ino, change.fh)?);
        }
        Ok(change)
    }
}

fn name_trust(name: &OsStr) -> Duration {
    let name = name.as_bytes();
    let lasting = name.is_ascii() && conflict_origins(name).next().is_none();
    if lasting { TRUST } else { NO_TRUST }
}

fn is_report(ino: u64) -> bool {
    ino != ROOT && ino < TREE_NUMBERS
}

fn attr_trust(ino: u64) -> Duration {
    if is_report(ino) { NO_TRUST } else { TRUST }
}

/// Pages stay in the kernel's cache from one open to the next; a report is read afresh each time, up
/// to its end and not to the length that the kernel knew. Closing what was opened for reading saves
/// nothing, so the kernel need not say so.
fn open_answer(ino: u64, flags: vfs::OpenFlags) -> FopenFlags {
    if is_report(ino) {
        FopenFlags::FOPEN_DIRECT_IO
    } else if flags.write {
        FopenFlags::FOPEN_KEEP_CACHE
    } else {
        FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_NOFLUSH
    }
}

/// What is made to be written only is not kept in the kernel's pages: its bytes come from where the program
/// has them, and the kernel does not ask for file capabilities (there are none here) before the first of
/// them, which is one request less of six for a small file. Such a descriptor can be neither read nor
/// mapped; set-id bits are taken as the kernel says with each write.
fn created_answer(flags: vfs::OpenFlags) -> FopenFlags {
    if flags.read {
        FopenFlags::FOPEN_KEEP_CACHE
    } else {
        FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_DIRECT_IO
    }
}

/// The kernel keeps a listing as long as it hears of no change. It changes it by itself with the calls that it
/// passes on; of all other changes it is told ([`vfs::Notifier`]).
fn opened_listing(ino: u64) -> FopenFlags {
    let kept = FopenFlags::FOPEN_KEEP_CACHE | FopenFlags::FOPEN_CACHE_DIR;
    if is_report(ino) { FopenFlags::empty() } else { kept }
}

fn creator(request: &Request, mode: u32) -> Creator {
    Creator { mode: convert::permissions(mode), uid: request.uid(), gid: request.gid() }
}

fn reply_empty(result: Result<(), Errno>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(convert::errno(errno)),
    }
}

fn reply_attr(result: Result<Attr, Errno>, reply: ReplyAttr) {
    match result {
        Ok(attr) => reply.attr(&attr_trust(attr.ino), &convert::attr(&attr)),
        Err(errno) => reply.error(convert::errno(errno)),
    }
}

/// `size` 0 asks how long the value is.
fn reply_xattr(result: Result<Vec<u8>, Errno>, size: u32, reply: ReplyXattr) {
    match result.map(|value| (u32::try_from(value.len()).unwrap_or(u32::MAX), value)) {
        Ok((len, _)) if size == 0 => reply.size(len),
        Ok((len, _)) if len > size => reply.error(convert::errno(Errno::ERANGE)),
        Ok((_, value)) => reply.data(&value),
        Err(errno) => reply.error(convert::errno(errno)),
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Not taken: WRITEBACK_CACHE (the kernel would own size and mtime, against changes from other
        // devices), AUTO_INVAL_DATA (we say what to forget), POSIX_LOCKS and FLOCK_LOCKS (the kernel
        // keeps locks by itself; they hold on this device), ATOMIC_O_TRUNC (it truncates before the
        // kernel has asked whether the file is a program that runs: `O_RDONLY | O_TRUNC` would cut it).
        let wanted = [
            InitFlags::FUSE_DO_READDIRPLUS,
            InitFlags::FUSE_READDIRPLUS_AUTO,
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_HANDLE_KILLPRIV_V2,
            InitFlags::FUSE_NO_EXPORT_SUPPORT,
        ];
        for flag in wanted {
            if config.add_capabilities(flag).is_err() {
                tracing::debug!(?flag, "this kernel does not offer it");
            }
        }
        // A limit below what we ask for comes back as the error; then it is taken.
        if let Err(limit) = config.set_max_write(MAX_WRITE_BYTES) {
            let _ = config.set_max_write(limit);
        }
        if let Err(limit) = config.set_max_readahead(MAX_READ_AHEAD_BYTES) {
            let _ = config.set_max_readahead(limit);
        }
        let _ = config.set_max_background(MAX_BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let result = guarded("lookup", parent.0, || self.vfs.lookup(parent.0, name.as_bytes()));
        if result == Err(Errno::ENOENT) && name_trust(name) != NO_TRUST {
            return reply.entry(&TRUST, &convert::no_attr(), GENERATION);
        }
        self.reply_entry(result, name, reply);
    }

    fn forget(&self, _: &Request, ino: INodeNo, lookups: u64) {
        // There is no reply to carry an error.
        let _ = guarded("forget", ino.0, || {
            self.vfs.forget(ino.0, lookups);
            Ok(())
        });
    }

    fn getattr(&self, _: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        reply_attr(guarded("getattr", ino.0, || self.vfs.getattr(ino.0, fh.map(|fh| fh.0))), reply);
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let now = SystemTime::now();
        let change = SetAttr {
            mode: mode.map(convert::permissions),
            uid,
            gid,
            size,
            mtime_ns: mtime.map(|time| convert::nanoseconds(time, now)),
            atime_ns: atime.map(|time| convert::nanoseconds(time, now)),
            fh: fh.map(|fh| fh.0),
        };
        let result = guarded("setattr", ino.0, || {
            self.vfs.setattr(ino.0, &self.with_set_id_taken(ino.0, change, request.uid())?)
        });
        reply_attr(result, reply);
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match guarded("readlink", ino.0, || self.vfs.readlink(ino.0)) {
            Ok(target) => reply.data(&target),
            Err(errno) => reply.error(convert::errno(errno)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let result = guarded("mknod", parent.0, || {
            let kind = convert::kind_of_mode(mode).ok_or(Errno::EINVAL)?;
            self.vfs.mknod(parent.0, name.as_bytes(), kind, creator(request, mode), rdev)
        });
        self.reply_entry(result, name, reply);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let result =
            guarded("mkdir", parent.0, || self.vfs.mkdir(parent.0, name.as_bytes(), creator(request, mode)));
        self.reply_entry(result, name, reply);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(guarded("unlink", parent.0, || self.vfs.unlink(parent.0, name.as_bytes())), reply);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(guarded("rmdir", parent.0, || self.vfs.rmdir(parent.0, name.as_bytes())), reply);
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        /// A link's own permissions mean nothing; all are shown, as every Linux file system does.
        const LINK_MODE: u32 = 0o777;
        let result = guarded("symlink", parent.0, || {
            let target = target.as_os_str().as_bytes();
            self.vfs.symlink(parent.0, name.as_bytes(), target, creator(request, LINK_MODE))
        });
        self.reply_entry(result, name, reply);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let result = guarded("rename", parent.0, || {
            let flags = convert::rename_flags(flags).ok_or(Errno::EINVAL)?;
            self.vfs.rename(parent.0, name.as_bytes(), newparent.0, newname.as_bytes(), flags)
        });
        reply_empty(result, reply);
    }

    fn link(&self, _: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let result = guarded("link", ino.0, || self.vfs.link(ino.0, newparent.0, newname.as_bytes()));
        self.reply_entry(result, newname, reply);
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let flags = convert::open_flags(flags);
        match guarded("open", ino.0, || self.vfs.open_file(ino.0, flags)) {
            Ok(fh) => {
                let mut answer = open_answer(ino.0, flags);
                if self.vfs.take_stale(ino.0) {
                    answer.remove(FopenFlags::FOPEN_KEEP_CACHE);
                }
                reply.opened(FileHandle(fh), answer);
            }
            Err(errno) => reply.error(convert::errno(errno)),
        }
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let flags = convert::open_flags(OpenFlags(flags));
        let result = guarded("create", parent.0, || {
            self.vfs.create(parent.0, name.as_bytes(), creator(request, mode), flags)
        });
        match result {
            // One time limit for name and attributes: the stricter.
            Ok((attr, fh)) => reply.created(
                &name_trust(name),
                &convert::attr(&attr),
                GENERATION,
                FileHandle(fh),
                created_answer(flags),
            ),
            Err(errno) => reply.error(convert::errno(errno)),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        match guarded("read", ino.0, || self.vfs.read_now(fh.0, offset, size)) {
            Ok(ReadOutcome::Ready(bytes)) => reply.data(&bytes),
            Ok(ReadOutcome::Waiting(_)) => {
                self.waiters.take(WaitingRead { ino: ino.0, fh: fh.0, offset, len: size, reply });
            }
            Err(errno) => reply.error(convert::errno(errno)),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let result = guarded("write", ino.0, || {
            let written = self.vfs.write(fh.0, offset, data)?;
            if write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) {
                self.take_set_id(ino.0, Some(fh.0))?;
            }
            Ok(written)
        });
        match result {
            Ok(written) => reply.written(written),
            Err(errno) => reply.error(convert::errno(errno)),
        }
    }

    fn flush(&self, _: &Request, ino: INodeNo, fh: FileHandle, _lock_owner: LockOwner, reply: ReplyEmpty) {
        reply_empty(guarded("flush", ino.0, || self.vfs.flush(fh.0)), reply);
    }

    fn release(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        reply_empty(guarded("release", ino.0, || self.vfs.release(fh.0)), reply);
    }

    fn fsync(&self, _: &Request, ino: INodeNo, fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        let kind = if datasync { FsyncKind::Data } else { FsyncKind::All };
        reply_empty(guarded("fsync", ino.0, || self.vfs.fsync(fh.0, kind)), reply);
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        match guarded("opendir", ino.0, || self.vfs.opendir(ino.0)) {
            Ok(fh) => reply.opened(FileHandle(fh), opened_listing(ino.0)),
            Err(errno) => reply.error(convert::errno(errno)),
        }
    }

    fn readdir(&self, _: &Request, ino: INodeNo, fh: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let result = guarded("readdir", ino.0, || {
            self.vfs.readdir(fh.0, offset, Listing::Names, &mut |entry, _| {
                let kind = convert::file_type(entry.kind);
                full(reply.add(INodeNo(entry.ino), entry.offset, kind, OsStr::from_bytes(entry.name)))
            })
        });
        match result {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(convert::errno(errno)),
        }
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        let result = guarded("readdirplus", ino.0, || {
            self.vfs.readdir(fh.0, offset, Listing::Plus, &mut |entry, attr| {
                let name = OsStr::from_bytes(entry.name);
                let attr = attr.map_or_else(convert::no_attr, convert::attr);
                let trust = name_trust(name).min(attr_trust(entry.ino));
                let generation = Generation(self.vfs.generation(entry.ino));
                full(reply.add(INodeNo(entry.ino), entry.offset, name, &trust, &attr, generation))
            })
        });
        match result {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(convert::errno(errno)),
        }
    }

    fn releasedir(&self, _: &Request, ino: INodeNo, fh: FileHandle, _flags: OpenFlags, reply: ReplyEmpty) {
        let result = guarded("releasedir", ino.0, || {
            self.vfs.releasedir(fh.0);
            Ok(())
        });
        reply_empty(result, reply);
    }

    fn fsyncdir(&self, _: &Request, ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        reply_empty(guarded("fsyncdir", ino.0, || self.vfs.fsyncdir(fh.0)), reply);
    }

    fn statfs(&self, _: &Request, ino: INodeNo, reply: ReplyStatfs) {
        match guarded("statfs", ino.0, || self.vfs.statfs()) {
            Ok(s) => reply.statfs(
                s.blocks,
                s.blocks_free,
                s.blocks_available,
                s.nodes,
                s.nodes_free,
                s.block_bytes,
                s.name_bytes_max,
                s.block_bytes,
            ),
            Err(errno) => reply.error(convert::errno(errno)),
        }
    }

    fn setxattr(
        &self,
        _: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let result = guarded("setxattr", ino.0, || {
            let how = convert::xattr_set(flags).ok_or(Errno::EINVAL)?;
            self.vfs.setxattr(ino.0, name.as_bytes(), value, how)
        });
        reply_empty(result, reply);
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        reply_xattr(guarded("getxattr", ino.0, || self.vfs.getxattr(ino.0, name.as_bytes())), size, reply);
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let result = guarded("listxattr", ino.0, || self.vfs.listxattr(ino.0));
        reply_xattr(result.map(|names| convert::joined_names(&names)), size, reply);
    }

    fn removexattr(&self, _: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        reply_empty(guarded("removexattr", ino.0, || self.vfs.removexattr(ino.0, name.as_bytes())), reply);
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let result = guarded("fallocate", ino.0, || {
            let mode = convert::fallocate_mode(mode).ok_or(Errno::EOPNOTSUPP)?;
            self.vfs.fallocate(fh.0, mode, offset, length)
        });
        reply_empty(result, reply);
    }

    fn lseek(&self, _: &Request, ino: INodeNo, fh: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let result = guarded("lseek", ino.0, || {
            let whence = convert::whence(whence).ok_or(Errno::EINVAL)?;
            let offset = u64::try_from(offset).map_err(|_| Errno::ENXIO)?;
            let found = self.vfs.lseek(fh.0, offset, whence)?;
            i64::try_from(found).map_err(|_| Errno::EFBIG)
        });
        match result {
            Ok(found) => reply.offset(found),
            Err(errno) => reply.error(convert::errno(errno)),
        }
    }

    fn copy_file_range(
        &self,
        _: &Request,
        ino_in: INodeNo,
        fh_in: FileHandle,
        offset_in: u64,
        _ino_out: INodeNo,
        fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let result = guarded("copy_file_range", ino_in.0, || {
            if !flags.is_empty() {
                return Err(Errno::EINVAL);
            }
            let len = len.min(COPY_BYTES_MAX);
            let copied = self.vfs.copy_file_range(fh_in.0, offset_in, fh_out.0, offset_out, len)?;
            u32::try_from(copied).map_err(|_| Errno::EIO)
        });
        match result {
            Ok(copied) => reply.written(copied),
            // This answer makes the kernel copy by itself and ask no more.
            Err(Errno::EOPNOTSUPP) => reply.error(fuser::Errno::ENOSYS),
            Err(errno) => reply.error(convert::errno(errno)),
        }
    }
}

fn full(is_full: bool) -> Full {
    if is_full { Full::Yes } else { Full::No }
}
