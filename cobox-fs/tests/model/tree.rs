//! A file system in a few maps: what the real one must look like.

use std::collections::BTreeMap;

use cobox_fs::vfs::{Attr, DirEntry, Full, Kind, Listing, OpenFlags, ROOT, Vfs};

/// Everything that can be seen of a tree, by path.
pub type Picture = BTreeMap<Vec<u8>, Seen>;

/// Everything that can be seen of a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    pub kind: Kind,
    pub perm: u32,
    pub nlink: u32,
    pub mtime_ns: Option<i64>,
    pub bytes: Vec<u8>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Paths of the same inode share a number.
    pub first_path: Vec<u8>,
}

#[derive(Clone, Debug)]
pub struct Node {
    pub kind: Kind,
    pub perm: u32,
    pub mtime_ns: Option<i64>,
    pub bytes: Vec<u8>,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    pub names: BTreeMap<Vec<u8>, usize>,
}

/// The model.
#[derive(Clone, Debug)]
pub struct Model {
    pub nodes: Vec<Node>,
}

impl Model {
    pub fn new() -> Self {
        let mut model = Self { nodes: Vec::new() };
        model.add(Kind::Dir, 0o755);
        model
    }

    pub fn add(&mut self, kind: Kind, perm: u32) -> usize {
        let node = Node {
            kind,
            perm,
            mtime_ns: None,
            bytes: Vec::new(),
            xattrs: BTreeMap::new(),
            names: BTreeMap::new(),
        };
        self.nodes.push(node);
        self.nodes.len() - 1
    }

    /// Paths of all directories, and of everything else.
    pub fn paths(&self) -> (Vec<Vec<u8>>, Vec<Vec<u8>>) {
        let (mut dirs, mut others) = (vec![Vec::new()], Vec::new());
        self.walk(0, &[], &mut |path, index| {
            if self.nodes[index].kind == Kind::Dir {
                dirs.push(path.to_vec())
            } else {
                others.push(path.to_vec())
            }
        });
        (dirs, others)
    }

    fn walk(&self, dir: usize, path: &[u8], visit: &mut dyn FnMut(&[u8], usize)) {
        for (name, index) in &self.nodes[dir].names {
            let inner = join(path, name);
            visit(&inner, *index);
            if self.nodes[*index].kind == Kind::Dir {
                self.walk(*index, &inner, visit);
            }
        }
    }

    pub fn find(&self, path: &[u8]) -> Option<usize> {
        path.split(|byte| *byte == b'/')
            .filter(|name| !name.is_empty())
            .try_fold(0, |dir, name| self.nodes[dir].names.get(name).copied())
    }

    pub fn picture(&self) -> Picture {
        let mut links: BTreeMap<usize, (u32, Vec<u8>)> = BTreeMap::new();
        self.walk(0, &[], &mut |path, index| {
            links.entry(index).or_insert((0, path.to_vec())).0 += 1;
        });
        let mut picture = Picture::new();
        self.walk(0, &[], &mut |path, index| {
            let node = &self.nodes[index];
            let dirs = node.names.values().filter(|child| self.nodes[**child].kind == Kind::Dir).count();
            let (count, first_path) = links[&index].clone();
            picture.insert(
                path.to_vec(),
                Seen {
                    kind: node.kind,
                    perm: node.perm,
                    nlink: if node.kind == Kind::Dir { 2 + u32::try_from(dirs).expect("few") } else { count },
                    mtime_ns: node.mtime_ns,
                    bytes: node.bytes.clone(),
                    xattrs: node.xattrs.clone(),
                    first_path,
                },
            );
        });
        picture
    }
}

pub fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

pub const READ: OpenFlags =
    OpenFlags { read: true, write: false, truncate: false, append: false, exclusive: false };
pub const WRITE: OpenFlags =
    OpenFlags { read: true, write: true, truncate: false, append: false, exclusive: false };

/// Number of a path; each component counts one lookup, as the kernel does.
pub fn resolve(vfs: &Vfs, path: &[u8]) -> u64 {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()).fold(ROOT, |dir, name| {
        vfs.lookup(dir, name)
            .unwrap_or_else(|error| panic!("{}: {error:?}", String::from_utf8_lossy(path)))
            .ino
    })
}

/// Everything that can be seen; times as well where `times` knows that they were set.
pub fn look(vfs: &Vfs, times: &Picture) -> Picture {
    let mut picture = Picture::new();
    let mut first: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    look_in(vfs, ROOT, &[], times, &mut picture, &mut first);
    picture
}

pub fn list(vfs: &Vfs, dir: u64) -> Vec<(Vec<u8>, Attr)> {
    let fh = vfs.opendir(dir).expect("opens");
    let (mut names, mut offset) = (Vec::new(), 0);
    loop {
        let before = offset;
        let mut room = 3;
        let mut visit = |entry: DirEntry<'_>, attr: Option<&Attr>| {
            if room == 0 {
                return Full::Yes;
            }
            room -= 1;
            offset = entry.offset;
            if entry.name != b"." && entry.name != b".." {
                let attr = *attr.expect("asked for");
                assert_eq!((attr.ino, attr.kind), (entry.ino, entry.kind));
                names.push((entry.name.to_vec(), attr));
            }
            Full::No
        };
        vfs.readdir(fh, before, Listing::Plus, &mut visit).expect("lists");
        if offset == before {
            break;
        }
    }
    vfs.releasedir(fh);
    names.sort_by(|one, other| one.0.cmp(&other.0));
    names
}

fn look_in(
    vfs: &Vfs,
    dir: u64,
    path: &[u8],
    times: &Picture,
    picture: &mut Picture,
    first: &mut BTreeMap<u64, Vec<u8>>,
) {
    for (name, attr) in list(vfs, dir) {
        let inner = join(path, &name);
        let first_path = first.entry(attr.ino).or_insert_with(|| inner.clone()).clone();
        let bytes = match attr.kind {
            Kind::File => read_all(vfs, attr.ino, attr.size),
            Kind::Symlink => vfs.readlink(attr.ino).expect("reads"),
            _ => Vec::new(),
        };
        let xattrs = vfs.listxattr(attr.ino).expect("lists");
        let xattrs = xattrs.into_iter().map(|name| {
            let value = vfs.getxattr(attr.ino, &name).expect("reads");
            (name, value)
        });
        let known = times.get(&inner).and_then(|seen| seen.mtime_ns);
        let seen = Seen {
            kind: attr.kind,
            perm: attr.perm,
            nlink: attr.nlink,
            mtime_ns: known.map(|_| attr.mtime_ns),
            bytes,
            xattrs: xattrs.collect(),
            first_path,
        };
        picture.insert(inner.clone(), seen);
        if attr.kind == Kind::Dir {
            look_in(vfs, attr.ino, &inner, times, picture, first);
        }
        vfs.forget(attr.ino, 1);
    }
}

pub fn read_all(vfs: &Vfs, ino: u64, size: u64) -> Vec<u8> {
    let fh = vfs.open_file(ino, READ).expect("opens");
    let mut bytes = Vec::new();
    loop {
        let part = vfs.read(fh, bytes.len() as u64, 100_000).expect("reads");
        if part.is_empty() {
            break;
        }
        bytes.extend_from_slice(&part);
    }
    vfs.release(fh).expect("closes");
    assert_eq!(bytes.len() as u64, size);
    bytes
}

/// Fails with the first path that differs.
pub fn assert_same(found: &Picture, wanted: &Picture, when: &str) {
    for path in found.keys().chain(wanted.keys()) {
        let (one, other) = (found.get(path), wanted.get(path));
        if one == other {
            continue;
        }
        let name = String::from_utf8_lossy(path);
        let (Some(one), Some(other)) = (one, other) else {
            panic!("{when}: {name}: found {}, wanted {}", one.is_some(), other.is_some());
        };
        let at = one.bytes.iter().zip(&other.bytes).position(|(a, b)| a != b);
        let short = |seen: &Seen| Seen { bytes: Vec::new(), ..seen.clone() };
        panic!(
            "{when}: {name}: {} and {} bytes, differing at {at:?}\nfound  {:?}\nwanted {:?}",
            one.bytes.len(),
            other.bytes.len(),
            short(one),
            short(other)
        );
    }
}
