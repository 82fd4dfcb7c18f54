//! Random system calls, the same ones on the mount and on the machine's own file system: every answer and,
//! after every round, both trees must be equal. Rounds end with the caches dropped or the folder mounted
//! anew. `COBOX_SOAK=n` plays n times as many; `COBOX_SEED=n` plays the one of that seed.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use cobox_tests::load::Rng;
use rustix::fs::{AtFlags, CWD, FallocateFlags, RenameFlags, Timespec, Timestamps, XattrFlags};

use crate::drive::Drive;

const SEEDS: u64 = 3;
const ROUNDS: u64 = 8;
const CALLS: u64 = 120;
/// Few names, so that calls meet what others made.
const NAMES: u64 = 7;
/// Depth of paths.
const DEPTH: u64 = 3;
/// Longest file: past what is inlined and past several chunks.
const FILE_BYTES: u64 = 400_000;
const WRITE_BYTES: u64 = 70_000;
/// Files that stay open while others change, replace or remove their names.
const OPEN_FILES: usize = 4;

/// One call, made on two roots with the same arguments.
#[derive(Debug)]
enum Call {
    Create { path: PathBuf, exclusive: Exclusive },
    Write { path: PathBuf, at: u64, bytes: usize },
    Append { path: PathBuf, bytes: usize },
    Replace { path: PathBuf, bytes: usize },
    Truncate { path: PathBuf, len: u64 },
    Allocate { path: PathBuf, flags: FallocateFlags, at: u64, len: u64 },
    Copy { from: PathBuf, to: PathBuf },
    Mkdir(PathBuf),
    Rmdir(PathBuf),
    Unlink(PathBuf),
    RemoveAll(PathBuf),
    Rename { from: PathBuf, to: PathBuf, flags: RenameFlags },
    Link { from: PathBuf, to: PathBuf },
    Symlink { target: String, path: PathBuf },
    Mode { path: PathBuf, mode: u32 },
    Time { path: PathBuf, seconds: i64 },
    SetAttribute { path: PathBuf, value: Vec<u8>, flags: XattrFlags },
    RemoveAttribute(PathBuf),
    Read(PathBuf),
    ReadLink(PathBuf),
}

#[derive(Debug)]
enum Exclusive {
    Yes,
    No,
}

fn path(rng: &mut Rng) -> PathBuf {
    (0..=rng.below(DEPTH)).map(|_| format!("name {}", rng.below(NAMES))).collect()
}

fn call(rng: &mut Rng) -> Call {
    let bytes = usize::try_from(rng.below(WRITE_BYTES) + 1).expect("small");
    let at = rng.below(FILE_BYTES);
    let one = path(rng);
    match rng.below(26) {
        0 | 1 => Call::Create { path: one, exclusive: Exclusive::No },
        2 => Call::Create { path: one, exclusive: Exclusive::Yes },
        3 | 4 => Call::Write { path: one, at, bytes },
        5 => Call::Append { path: one, bytes },
        6 => Call::Replace { path: one, bytes },
        7 => Call::Truncate { path: one, len: at },
        8 => {
            let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            let flags = [FallocateFlags::empty(), FallocateFlags::KEEP_SIZE, punch];
            let flags = flags[usize::try_from(rng.below(3)).expect("small")];
            Call::Allocate { path: one, flags, at, len: bytes as u64 }
        }
        9 => Call::Copy { from: one, to: path(rng) },
        10..=12 => Call::Mkdir(one),
        13 => Call::Rmdir(one),
        14 | 15 => Call::Unlink(one),
        16 if rng.below(6) == 0 => Call::RemoveAll(one),
        16 | 17 => Call::Rename { from: one, to: path(rng), flags: RenameFlags::empty() },
        18 => Call::Rename { from: one, to: path(rng), flags: RenameFlags::NOREPLACE },
        19 => Call::Rename { from: one, to: path(rng), flags: RenameFlags::EXCHANGE },
        20 => Call::Link { from: one, to: path(rng) },
        21 => Call::Symlink { target: format!("name {}", rng.below(NAMES)), path: one },
        22 => Call::Mode { path: one, mode: 0o700 | u32::try_from(rng.below(0o10000)).expect("small") },
        23 => Call::Time { path: one, seconds: i64::try_from(at).expect("small") },
        24 if rng.below(4) == 0 => Call::RemoveAttribute(one),
        24 => {
            let flags = [XattrFlags::empty(), XattrFlags::CREATE, XattrFlags::REPLACE];
            let flags = flags[usize::try_from(rng.below(3)).expect("small")];
            Call::SetAttribute { path: one, value: rng.bytes(bytes % 500), flags }
        }
        _ if rng.below(2) == 0 => Call::Read(one),
        _ => Call::ReadLink(one),
    }
}

impl Call {
    /// Makes the call below `root`: bytes that it read, or the number of the error.
    fn on(&self, root: &Path, seed: u64) -> Result<Vec<u8>, i32> {
        let done = self.on_files(root, seed).or_else(|| self.on_names(root)).expect("each call is in one");
        done.map_err(|error| error.raw_os_error().unwrap_or(-1))
    }

    fn on_files(&self, root: &Path, seed: u64) -> Option<io::Result<Vec<u8>>> {
        let noise = |len: &usize| Rng::new(seed).bytes(*len);
        let nothing = |result: io::Result<()>| result.map(|()| Vec::new());
        Some(match self {
            Self::Create { path, exclusive } => {
                let exclusive = matches!(exclusive, Exclusive::Yes);
                let mut how = OpenOptions::new();
                how.write(true).mode(0o640).create_new(exclusive).create(true);
                nothing(how.open(root.join(path)).map(drop))
            }
            Self::Write { path, at, bytes } => {
                let opened = OpenOptions::new().write(true).open(root.join(path));
                nothing(opened.and_then(|file| file.write_all_at(&noise(bytes), *at)))
            }
            Self::Append { path, bytes } => {
                let opened = OpenOptions::new().append(true).open(root.join(path));
                nothing(opened.and_then(|mut file| file.write_all(&noise(bytes))))
            }
            Self::Replace { path, bytes } => nothing(fs::write(root.join(path), noise(bytes))),
            Self::Truncate { path, len } => {
                let opened = OpenOptions::new().write(true).open(root.join(path));
                nothing(opened.and_then(|file| file.set_len(*len)))
            }
            Self::Allocate { path, flags, at, len } => {
                let opened = OpenOptions::new().write(true).open(root.join(path));
                nothing(opened.and_then(|file| Ok(rustix::fs::fallocate(&file, *flags, *at, *len)?)))
            }
            Self::Copy { from, to } => {
                fs::copy(root.join(from), root.join(to)).map(|bytes| bytes.to_string().into_bytes())
            }
            Self::Read(path) => fs::read(root.join(path)),
            _ => return None,
        })
    }

    fn on_names(&self, root: &Path) -> Option<io::Result<Vec<u8>>> {
        let done: io::Result<()> = match self {
            Self::Mkdir(path) => fs::create_dir(root.join(path)),
            Self::Rmdir(path) => fs::remove_dir(root.join(path)),
            Self::Unlink(path) => fs::remove_file(root.join(path)),
            Self::RemoveAll(path) => fs::remove_dir_all(root.join(path)),
            Self::Rename { from, to, flags } => {
                rustix::fs::renameat_with(CWD, root.join(from), CWD, root.join(to), *flags)
                    .map_err(io::Error::from)
            }
            Self::Link { from, to } => fs::hard_link(root.join(from), root.join(to)),
            Self::Symlink { target, path } => symlink(target, root.join(path)),
            Self::Mode { path, mode } => {
                fs::set_permissions(root.join(path), fs::Permissions::from_mode(*mode))
            }
            Self::Time { path, seconds } => {
                let time = Timespec { tv_sec: *seconds, tv_nsec: 7 };
                let times = Timestamps { last_access: time, last_modification: time };
                rustix::fs::utimensat(CWD, root.join(path), &times, AtFlags::SYMLINK_NOFOLLOW)
                    .map_err(io::Error::from)
            }
            Self::SetAttribute { path, value, flags } => {
                rustix::fs::setxattr(root.join(path), "user.tag", value, *flags).map_err(io::Error::from)
            }
            Self::RemoveAttribute(path) => {
                rustix::fs::removexattr(root.join(path), "user.tag").map_err(io::Error::from)
            }
            Self::ReadLink(path) => {
                return Some(
                    fs::read_link(root.join(path)).map(|to| to.into_os_string().into_encoded_bytes()),
                );
            }
            _ => return None,
        };
        Some(done.map(|()| Vec::new()))
    }
}

/// Everything about a node that must be equal; which names share a node is told by the first of them.
#[derive(PartialEq, Eq, Debug)]
struct Seen {
    kind: &'static str,
    mode: u32,
    links: u64,
    same_as: PathBuf,
    size: u64,
    /// Only what a call has set: both clocks go on between two calls.
    set_mtime: Option<(i64, i64)>,
    bytes: Vec<u8>,
    attribute: Option<Vec<u8>>,
}

fn look(root: &Path) -> BTreeMap<PathBuf, Seen> {
    let mut found: Vec<PathBuf> = Vec::new();
    let mut waiting = vec![root.to_path_buf()];
    while let Some(dir) = waiting.pop() {
        for entry in fs::read_dir(&dir).expect("opendir") {
            let entry = entry.expect("readdir");
            if entry.file_type().expect("kind").is_dir() {
                waiting.push(entry.path());
            }
            found.push(entry.path());
        }
    }
    found.sort();
    let mut nodes: BTreeMap<u64, PathBuf> = BTreeMap::new();
    found
        .into_iter()
        .map(|path| {
            let stat = fs::symlink_metadata(&path).expect("stat");
            let name = path.strip_prefix(root).expect("below").to_path_buf();
            let same_as = nodes.entry(stat.ino()).or_insert_with(|| name.clone()).clone();
            (name, seen(&path, &stat, same_as))
        })
        .collect()
}

fn seen(path: &Path, stat: &fs::Metadata, same_as: PathBuf) -> Seen {
    let kind = stat.file_type();
    let (kind, bytes) = if kind.is_dir() {
        ("directory", Vec::new())
    } else if kind.is_symlink() {
        ("link", fs::read_link(path).expect("readlink").into_os_string().into_encoded_bytes())
    } else {
        ("file", fs::read(path).expect("read"))
    };
    let mut value = [0u8; 600];
    let attribute = match kind {
        "link" => None,
        _ => rustix::fs::getxattr(path, "user.tag", &mut value[..]).ok().map(|len| value[..len].to_vec()),
    };
    Seen {
        kind,
        mode: stat.mode(),
        links: stat.nlink(),
        same_as,
        // A directory's own size is each file system's affair.
        size: if kind == "directory" { 0 } else { stat.len() },
        set_mtime: (stat.mtime_nsec() == 7).then(|| (stat.mtime(), stat.mtime_nsec())),
        bytes,
        attribute,
    }
}

fn first_difference(mount: &BTreeMap<PathBuf, Seen>, native: &BTreeMap<PathBuf, Seen>) -> Option<String> {
    let names = mount.keys().chain(native.keys());
    let differing = names.into_iter().find(|name| mount.get(*name) != native.get(*name))?;
    let short = |seen: Option<&Seen>| {
        seen.map(|Seen { kind, mode, links, same_as, size, set_mtime, attribute, .. }| {
            let attribute = attribute.as_ref().map(Vec::len);
            format!("{kind} {mode:o} {links} links {same_as:?} {size} bytes {set_mtime:?} {attribute:?}")
        })
    };
    let (here, there) = (short(mount.get(differing)), short(native.get(differing)));
    Some(format!("{differing:?}: mount {here:?}, native {there:?}; if these agree, the bytes differ"))
}

/// A file that is open on the mount and natively.
struct OpenPair([File; 2]);

impl OpenPair {
    /// The same step on both; what each says, with errors by their numbers.
    fn step<T>(&self, step: impl Fn(&File) -> io::Result<T>) -> [Result<T, i32>; 2] {
        let number = |error: io::Error| error.raw_os_error().unwrap_or(-1);
        self.0.each_ref().map(|file| step(file).map_err(number))
    }

    /// A random step through the open file.
    fn random(&self, rng: &mut Rng) {
        let at = rng.below(FILE_BYTES);
        let len = usize::try_from(rng.below(WRITE_BYTES)).expect("small");
        let noise = rng.bytes(len);
        let [here, there] = match rng.below(4) {
            0 => self.step(|file| file.write_all_at(&noise, at)),
            1 => self.step(|file| file.set_len(at)),
            2 => self.step(File::sync_all),
            _ => self.step(File::sync_data),
        };
        assert_eq!(here, there);
        self.compare();
    }

    fn compare(&self) {
        let [here, there] = self.step(|file| {
            let stat = file.metadata()?;
            let mut bytes = vec![0; usize::try_from(stat.len()).expect("small")];
            file.read_exact_at(&mut bytes, 0)?;
            Ok((stat.nlink(), stat.mode(), bytes))
        });
        assert!(
            here == there,
            "an open file differs: links and mode {:?}, {:?}",
            short(&here),
            short(&there)
        );
    }
}

fn short(answer: &Result<(u64, u32, Vec<u8>), i32>) -> Result<(u64, u32, usize), i32> {
    answer.as_ref().map(|(links, mode, bytes)| (*links, *mode, bytes.len())).map_err(|error| *error)
}

/// Opens, uses or closes a file that stays open over other calls.
fn use_open_files(open: &mut Vec<OpenPair>, rng: &mut Rng, mount: &Path, native: &Path) {
    match (rng.below(4), open.len()) {
        (0, 1..) => drop(open.swap_remove(usize::try_from(rng.draw()).expect("64 bits") % open.len())),
        (1, 0..OPEN_FILES) | (_, 0) => {
            let path = path(rng);
            let opened = |root: &Path| OpenOptions::new().read(true).write(true).open(root.join(&path));
            match (opened(mount), opened(native)) {
                (Ok(here), Ok(there)) => open.push(OpenPair([here, there])),
                (Err(here), Err(there)) => assert_eq!(here.raw_os_error(), there.raw_os_error(), "{path:?}"),
                (here, there) => panic!("open {path:?}: mount {here:?}, native {there:?}"),
            }
        }
        (_, count) => open[usize::try_from(rng.draw()).expect("64 bits") % count].random(rng),
    }
}

fn play(seed: u64) {
    let Some(mut drive) = Drive::mounted() else { return };
    let native = tempfile::tempdir().expect("a temporary directory");
    let mut rng = Rng::new(seed);
    let mut open = Vec::new();
    for round in 0..ROUNDS {
        for step in 0..CALLS {
            if rng.below(4) == 0 {
                use_open_files(&mut open, &mut rng, &drive.at, native.path());
            }
            let call = call(&mut rng);
            let noise = rng.draw();
            let (here, there) = (call.on(&drive.at, noise), call.on(native.path(), noise));
            let same = here == there;
            let len = |answer: &Result<Vec<u8>, i32>| answer.as_ref().map(Vec::len).map_err(|error| *error);
            assert!(
                same,
                "seed {seed}, round {round}, call {step}: {call:?}: mount {:?}, native {:?}",
                len(&here),
                len(&there)
            );
            // Reserving room for a file stores nothing here, and leaves its times alone.
            if let Call::Allocate { path, .. } = &call
                && here.is_ok()
            {
                let again = Call::Time { path: path.clone(), seconds: 1 };
                assert_eq!(again.on(&drive.at, noise), again.on(native.path(), noise));
            }
        }
        open.iter().for_each(OpenPair::compare);
        if let Some(difference) = first_difference(&look(&drive.at), &look(native.path())) {
            panic!("seed {seed}, after round {round}: {difference}");
        }
        if round % 2 == 0 {
            File::open(&drive.at).and_then(|dir| Ok(rustix::fs::syncfs(&dir)?)).expect("syncfs");
            drive.vfs().drop_caches();
        } else {
            // Nothing may be open then.
            open.clear();
            drive.remount();
        }
        if let Some(difference) = first_difference(&look(&drive.at), &look(native.path())) {
            panic!("seed {seed}, after round {round} and a fresh look: {difference}");
        }
    }
}

#[test]
fn random_calls_answer_and_leave_what_the_native_file_system_does() {
    if let Some(seed) = std::env::var("COBOX_SEED").ok().and_then(|text| text.parse().ok()) {
        return play(seed);
    }
    let soak: u64 = std::env::var("COBOX_SOAK").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    for seed in 1..=SEEDS * soak {
        play(seed);
    }
}
