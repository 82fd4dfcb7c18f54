//! The bytes of files: reading, writing, length, holes, mappings, copies.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};

use rustix::fs::{FallocateFlags, SeekFrom as RawSeek};
use rustix::io::Errno;

use crate::drive::{Drive, noise};

#[test]
fn written_bytes_are_read_back_at_every_size() {
    let Some(mut drive) = Drive::mounted() else { return };
    let sizes = [0, 1, 1023, 1024, 1025, 4095, 4096, 65_537, 1 << 20, (5 << 20) + 3];
    for size in sizes {
        fs::write(drive.path(&format!("f{size}")), noise(size, size as u64)).expect("write");
    }
    let check = |drive: &Drive| {
        for size in sizes {
            let read = fs::read(drive.path(&format!("f{size}"))).expect("read");
            assert!(read == noise(size, size as u64), "bytes of size {size} differ");
        }
    };
    check(&drive);
    drive.remount();
    check(&drive);
}

#[test]
fn overwrite_in_the_middle_changes_only_that() {
    let Some(mut drive) = Drive::mounted() else { return };
    let mut expected = noise(3 << 20, 1);
    fs::write(drive.path("f"), &expected).expect("write");
    drive.remount();
    let file = OpenOptions::new().read(true).write(true).open(drive.path("f")).expect("open");
    for (offset, len) in [(0, 10), (1_000_000, 70_000), ((3 << 20) - 5, 5), (123_457, 1)] {
        let patch = noise(len, offset as u64 + 7);
        file.write_all_at(&patch, offset as u64).expect("write");
        expected[offset..offset + len].copy_from_slice(&patch);
    }
    drop(file);
    assert!(fs::read(drive.path("f")).expect("read") == expected);
    drive.remount();
    assert!(fs::read(drive.path("f")).expect("read") == expected);
}

#[test]
fn append_from_two_descriptors_loses_nothing() {
    let Some(drive) = Drive::mounted() else { return };
    let open = || OpenOptions::new().append(true).create(true).open(drive.path("log")).expect("open");
    let (mut one, mut two) = (open(), open());
    let mut expected = String::new();
    for index in 0..200 {
        let line = format!("line {index}\n");
        let file = if index % 2 == 0 { &mut one } else { &mut two };
        file.write_all(line.as_bytes()).expect("append");
        expected.push_str(&line);
    }
    assert_eq!(fs::read_to_string(drive.path("log")).expect("read"), expected);
}

#[test]
fn append_from_threads_keeps_every_line_whole() {
    let Some(drive) = Drive::mounted() else { return };
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let path = drive.path("log");
            scope.spawn(move || {
                let mut file = OpenOptions::new().append(true).create(true).open(path).expect("open");
                for line in 0..100 {
                    file.write_all(format!("{thread} {line:04}\n").as_bytes()).expect("append");
                }
            });
        }
    });
    let text = fs::read_to_string(drive.path("log")).expect("read");
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    let expected: Vec<_> = (0..4).flat_map(|t| (0..100).map(move |l| format!("{t} {l:04}"))).collect();
    assert_eq!(lines, expected);
}

#[test]
fn truncation_shortens_and_lengthens_with_zeroes() {
    let Some(mut drive) = Drive::mounted() else { return };
    fs::write(drive.path("f"), noise(100_000, 3)).expect("write");
    let file = OpenOptions::new().write(true).open(drive.path("f")).expect("open");
    file.set_len(10).expect("shorter");
    file.set_len(200_000).expect("longer");
    drop(file);
    let mut expected = noise(100_000, 3)[..10].to_vec();
    expected.resize(200_000, 0);
    assert!(fs::read(drive.path("f")).expect("read") == expected);
    drive.remount();
    assert!(fs::read(drive.path("f")).expect("read") == expected);
    File::create(drive.path("f")).expect("O_TRUNC");
    assert_eq!(fs::metadata(drive.path("f")).expect("stat").len(), 0);
}

#[test]
fn sparse_file_reads_zeroes_and_takes_no_blocks() {
    let Some(mut drive) = Drive::mounted() else { return };
    const END: u64 = 1 << 33;
    let file = File::create(drive.path("f")).expect("create");
    file.write_all_at(b"start", 0).expect("write");
    file.write_all_at(b"end", END).expect("write");
    file.sync_all().expect("fsync");
    drop(file);
    drive.remount();
    let file = File::open(drive.path("f")).expect("open");
    let stat = file.metadata().expect("stat");
    assert_eq!(stat.len(), END + 3);
    assert!(stat.blocks() < 1 << 16, "{} blocks for two short ranges", stat.blocks());
    let mut buffer = [1u8; 100];
    file.read_exact_at(&mut buffer, END / 2).expect("read");
    assert_eq!(buffer, [0u8; 100]);
    let mut end = Vec::new();
    let mut file = file;
    file.seek(SeekFrom::Start(END)).expect("seek");
    file.read_to_end(&mut end).expect("read");
    assert_eq!(end, b"end");
}

#[test]
fn seek_finds_data_and_holes() {
    let Some(drive) = Drive::mounted() else { return };
    let file =
        OpenOptions::new().read(true).write(true).create_new(true).open(drive.path("f")).expect("open");
    file.write_all_at(&noise(1 << 20, 5), 8 << 20).expect("write");
    file.set_len(16 << 20).expect("longer");
    let data = rustix::fs::seek(&file, RawSeek::Data(0)).expect("data");
    let hole = rustix::fs::seek(&file, RawSeek::Hole(8 << 20)).expect("hole");
    // A file system may report less hole than there is, never more.
    assert!(data <= 8 << 20, "data at {data}");
    assert!((9 << 20..=16 << 20).contains(&hole), "hole at {hole}");
    assert_eq!(rustix::fs::seek(&file, RawSeek::Data(16 << 20)), Err(Errno::NXIO));
}

#[test]
fn fallocate_punches_and_lengthens() {
    let Some(drive) = Drive::mounted() else { return };
    let mut expected = noise(1 << 20, 9);
    fs::write(drive.path("f"), &expected).expect("write");
    let file = OpenOptions::new().read(true).write(true).open(drive.path("f")).expect("open");
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    rustix::fs::fallocate(&file, punch, 1000, 500_000).expect("punch");
    expected[1000..501_000].fill(0);
    rustix::fs::fallocate(&file, FallocateFlags::ZERO_RANGE, 600_000, 1000).expect("zero");
    expected[600_000..601_000].fill(0);
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 2 << 20).expect("lengthen");
    expected.resize(2 << 20, 0);
    assert!(fs::read(drive.path("f")).expect("read") == expected);
}

#[test]
fn copy_file_range_copies_between_files() {
    let Some(drive) = Drive::mounted() else { return };
    let bytes = noise(20 << 20, 11);
    fs::write(drive.path("from"), &bytes).expect("write");
    // The standard library copies by copy_file_range(2).
    assert_eq!(fs::copy(drive.path("from"), drive.path("to")).expect("copy"), bytes.len() as u64);
    assert!(fs::read(drive.path("to")).expect("read") == bytes);
}

#[test]
fn shared_mapping_is_written_and_seen_by_read() {
    let Some(mut drive) = Drive::mounted() else { return };
    const LEN: usize = 300_000;
    let mut expected = noise(LEN, 13);
    fs::write(drive.path("f"), &expected).expect("write");
    let file = OpenOptions::new().read(true).write(true).open(drive.path("f")).expect("open");
    // An appending descriptor is open as well: pages written back through it must land in place.
    let appending = OpenOptions::new().append(true).open(drive.path("f")).expect("open");
    // SAFETY: the file is this test's own and nothing shortens it while it is mapped.
    #[expect(unsafe_code, reason = "mapping a file is what is tested; memmap2 has no safe way to do it")]
    let mut map = unsafe { memmap2::MmapMut::map_mut(&file) }.expect("mmap");
    assert!(map[..] == expected[..]);
    for at in [0, 4096, 100_000, LEN - 1] {
        map[at] ^= 0xff;
        expected[at] ^= 0xff;
    }
    assert!(fs::read(drive.path("f")).expect("read") == expected, "read sees the mapping");
    file.write_all_at(b"through write", 50_000).expect("write");
    expected[50_000..50_013].copy_from_slice(b"through write");
    assert!(map[..] == expected[..], "the mapping sees write");
    map.flush().expect("msync");
    drop((map, file, appending));
    drive.remount();
    assert!(fs::read(drive.path("f")).expect("read") == expected, "after a remount");
}

#[test]
fn unlinked_file_lives_until_it_is_closed() {
    let Some(mut drive) = Drive::mounted() else { return };
    let path = drive.path("f");
    let mut file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).expect("open");
    file.write_all(b"before").expect("write");
    fs::remove_file(&path).expect("unlink");
    assert!(!path.exists());
    file.write_all(b" after").expect("write");
    assert_eq!(file.metadata().expect("fstat").nlink(), 0);
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).expect("seek");
    file.read_to_string(&mut text).expect("read");
    assert_eq!(text, "before after");
    fs::write(&path, b"another").expect("the name is free");
    assert_eq!(file.metadata().expect("fstat").len(), 12);
    drop(file);
    drive.remount();
    assert_eq!(fs::read(&path).expect("read"), b"another");
}

#[test]
fn replaced_file_lives_until_it_is_closed() {
    let Some(drive) = Drive::mounted() else { return };
    fs::write(drive.path("old"), b"old").expect("write");
    fs::write(drive.path("new"), b"new").expect("write");
    let mut open = File::open(drive.path("old")).expect("open");
    fs::rename(drive.path("new"), drive.path("old")).expect("rename over");
    let mut text = String::new();
    open.read_to_string(&mut text).expect("read");
    assert_eq!(text, "old");
    assert_eq!(fs::read(drive.path("old")).expect("read"), b"new");
}

#[test]
fn many_threads_write_their_own_files() {
    let Some(mut drive) = Drive::mounted() else { return };
    std::thread::scope(|scope| {
        for thread in 0..8u64 {
            let dir = drive.path(&format!("d{thread}"));
            scope.spawn(move || {
                fs::create_dir(&dir).expect("mkdir");
                for file in 0..50u64 {
                    let bytes = noise(3000, thread * 1000 + file);
                    fs::write(dir.join(format!("{file}")), bytes).expect("write");
                }
            });
        }
    });
    drive.remount();
    for thread in 0..8u64 {
        for file in 0..50u64 {
            let bytes = fs::read(drive.path(&format!("d{thread}/{file}"))).expect("read");
            assert!(bytes == noise(3000, thread * 1000 + file));
        }
    }
}

#[test]
fn read_only_mount_refuses_changes() {
    let Some(mut drive) = Drive::mounted() else { return };
    fs::write(drive.path("f"), b"text").expect("write");
    drive.unmount();
    drive.mount(cobox_fs::mount::MountOptions { read_only: true, allow_other: false }).expect("mounts");
    assert_eq!(fs::read(drive.path("f")).expect("read"), b"text");
    let refused = |error: std::io::Error| assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    refused(fs::write(drive.path("f"), b"x").expect_err("read-only"));
    refused(fs::create_dir(drive.path("d")).expect_err("read-only"));
    refused(fs::remove_file(drive.path("f")).expect_err("read-only"));
}
