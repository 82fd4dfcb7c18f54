//! What a directory holds, content and metadata, so that two mounts can be compared.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use cobox_store::id::hash;

/// Names of extended attributes of one file, at most.
const XATTR_BYTES_MAX: usize = 64 * 1024;

/// One file, directory or other node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Kind and permissions, as `stat` has them.
    pub mode: u32,
    /// Bytes of a file; 0 for everything else.
    pub size: u64,
    /// Seconds and nanoseconds of the last change.
    pub mtime: (i64, i64),
    /// Names that the file has.
    pub links: u64,
    /// Hash of a file's bytes or a symbolic link's target; zeros for everything else.
    pub content: [u8; 32],
    /// User attributes.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// Everything below `root`, by path; the root itself is the empty path.
///
/// # Errors
/// When something cannot be read, also because it went away meanwhile.
pub fn tree(root: &Path) -> io::Result<BTreeMap<PathBuf, Node>> {
    let mut found = BTreeMap::new();
    visit(root, root, &mut found)?;
    Ok(found)
}

/// How two trees differ, a line each; empty where they are equal.
#[must_use]
pub fn differences(one: &BTreeMap<PathBuf, Node>, other: &BTreeMap<PathBuf, Node>) -> Vec<String> {
    let names = one.keys().chain(other.keys()).collect::<std::collections::BTreeSet<_>>();
    let differs = |name: &&&PathBuf| one.get(**name) != other.get(**name);
    names
        .iter()
        .filter(differs)
        .map(|name| format!("{}: {:?} / {:?}", name.display(), one.get(*name), other.get(*name)))
        .collect()
}

fn visit(root: &Path, path: &Path, found: &mut BTreeMap<PathBuf, Node>) -> io::Result<()> {
    let data = fs::symlink_metadata(path)?;
    let content = if data.is_file() {
        hash(&fs::read(path)?)
    } else if data.is_symlink() {
        hash(fs::read_link(path)?.as_os_str().as_bytes())
    } else {
        [0; 32]
    };
    let node = Node {
        mode: data.mode(),
        size: if data.is_file() { data.len() } else { 0 },
        mtime: (data.mtime(), data.mtime_nsec()),
        links: if data.is_file() { data.nlink() } else { 0 },
        content,
        xattrs: if data.is_symlink() { BTreeMap::new() } else { xattrs(path)? },
    };
    let name = path.strip_prefix(root).expect("it lies below the root").to_path_buf();
    found.insert(name, node);
    if data.is_dir() {
        for entry in fs::read_dir(path)? {
            visit(root, &entry?.path(), found)?;
        }
    }
    Ok(())
}

fn xattrs(path: &Path) -> io::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
    let mut names = vec![0; XATTR_BYTES_MAX];
    let len = rustix::fs::listxattr(path, &mut names)?;
    names.truncate(len);
    let mut found = BTreeMap::new();
    for name in names.split(|byte| *byte == 0).filter(|name| name.starts_with(b"user.")) {
        let mut value = vec![0; XATTR_BYTES_MAX];
        let len = rustix::fs::getxattr(path, name, &mut value)?;
        value.truncate(len);
        found.insert(name.to_vec(), value);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_that_differ_in_anything_are_told_apart() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("f");
        fs::write(&file, "a").expect("writes");
        let before = tree(dir.path()).expect("reads");
        assert!(differences(&before, &before).is_empty());
        let differs = || differences(&before, &tree(dir.path()).expect("reads")).len();
        fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("changes");
        assert_eq!(differs(), 1);
        fs::write(dir.path().join("g"), "b").expect("writes");
        // The new file, the changed one, and the directory's own time.
        assert_eq!(differs(), 3);
    }
}
