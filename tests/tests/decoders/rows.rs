//! Valid rows of the tree, as `fuzz/src/lib.rs` reads them: after a byte for the kind and one for how many short numbers
//! are known.

use cobox_fs::tree::row::{
    DirMoveRow, Head, LinkRow, Listed, MoveEffect, NodeRow, Note, Placement, Seen, Slot, SlotEntry, SlotHash,
    Stamped, Versions, XattrRow,
};
use cobox_fs::tree::short::{Long, Unknown};
use cobox_fs::tree::{Row, RowKey};
use cobox_store::format::Writer;
use cobox_store::format::content::{ChunkRef, Content, Extent};
use cobox_store::format::op::Kind;
use cobox_store::id::{ChunkTag, EpochId, Ino, LinkId, OpId};

use super::decoders::shorts;

/// Samples of each decoder, by name.
pub fn samples() -> Vec<(&'static str, Vec<Vec<u8>>)> {
    let longs = [Long::Epoch(EpochId([3; 32])), Long::Log(7)];
    vec![("short", longs.map(|long| long.encode()).into()), ("tree_row", tree_rows())]
}

fn id(hlc: u64, log: u64) -> OpId {
    OpId { hlc, log }
}

fn chunk(epoch: u8) -> ChunkRef {
    ChunkRef { epoch: EpochId([epoch; 32]), tag: ChunkTag([9; 32]) }
}

fn head(hlc: u64, content: Content) -> Head {
    Head { id: id(hlc, 2), content, mtime_ns: 1_700_000_000, seen: Seen::Not, settled: None }
}

fn file() -> NodeRow {
    let data = |len, epoch| Extent::Data { len, chunk: chunk(epoch) };
    let settled =
        Head { seen: Seen::ByLastUnlink, settled: Some(id(1010, 4)), ..head(1001, Content::empty()) };
    NodeRow {
        kind: Kind::File,
        generation: 3,
        made: id(1000, 2),
        mode: Stamped { value: 0o644, id: id(1000, 2) },
        mtime_ns: Stamped { value: 1_700_000_000, id: id(1005, 2) },
        uid: Stamped { value: 1000, id: id(1006, 78) },
        gid: Stamped { value: 1000, id: id(1000, 2) },
        heads: vec![
            settled,
            head(1002, Content::Inline(b"short".to_vec())),
            head(1003, Content::Extents(vec![data(5, 1), Extent::Hole { len: 1 << 40 }, data(262_144, 201)])),
            head(1004, Content::Tree { root: chunk(3), height: 2, size: 1 << 33 }),
        ],
        links: vec![LinkId([1; 16]), LinkId([2; 16])],
        unlinked: Some((id(990, 4), LinkId([1; 16]))),
        last_unlinked: true,
        revived: Some(LinkId([1; 16])),
        changed: id(1006, 78),
        xattrs: vec![b"user.a".to_vec(), b"user.b".to_vec()],
        ..*NodeRow::root()
    }
}

fn rows() -> Vec<(u8, Row)> {
    let (ino, parent, link) = (Ino([1; 16]), Ino([8; 16]), LinkId([2; 16]));
    let place = |hlc| Placement { id: id(hlc, 2), parent, name: b"name".to_vec() };
    let links = |dots: &[u64], places: &[u64]| {
        let dots = dots.iter().map(|hlc| id(*hlc, 2)).collect();
        let places = places.iter().map(|hlc| place(*hlc)).collect();
        Row::Link(LinkRow { ino, kind: Kind::File, listed: Listed::Yes, dots, places })
    };
    let entry = |versions| SlotEntry {
        link,
        ino,
        kind: Kind::File,
        name: b"name".to_vec(),
        placed: id(7, 4),
        versions,
    };
    let moved = |previous, effect| {
        let name = b"name".to_vec();
        Row::DirMove(DirMoveRow { link, parent, name, previous, effect })
    };
    let dir = NodeRow {
        entries_changed: id(9, 2),
        visible_children: 5,
        visible_dirs: 2,
        rdev: 7,
        target: b"target".to_vec(),
        ..*NodeRow::root()
    };
    vec![
        (0, Row::Node(Box::new(file()))),
        (0, Row::Node(Box::new(dir))),
        (1, links(&[7], &[7])),
        (1, links(&[7, 9], &[7, 9, 11])),
        (2, Row::Dirent(Slot { entries: vec![entry(Versions::One), entry(Versions::Several)] })),
        (3, Row::Xattr(XattrRow { id: id(5, 6), value: Some(b"value".to_vec()) })),
        (3, Row::Xattr(XattrRow { id: id(5, 6), value: None })),
        (4, moved(None, MoveEffect::First)),
        (4, moved(Some(id(3, 4)), MoveEffect::Replaced(place(2)))),
        (5, Row::NewestDirMove(id(5, 6))),
        (6, Row::Note(Note::Slot(ino, SlotHash([3; 16])))),
        (6, Row::Note(Note::Move(id(5, 6)))),
    ]
}

/// Each with an empty table, with one that knows something and with a full one; and two as the first version wrote them.
fn tree_rows() -> Vec<Vec<u8>> {
    let spelled = |known: u8| {
        let table = shorts(known);
        rows().into_iter().map(move |(kind, row)| {
            [&[kind, known][..], &row.encode(&table, &mut Unknown::default())].concat()
        })
    };
    let mut samples: Vec<Vec<u8>> = [0, 4, 255].into_iter().flat_map(spelled).collect();
    let mut link = Writer::new();
    link.fixed(&[1, 4, 1]);
    link.fixed(&[1; 16]);
    link.fixed(&[Kind::File as u8, 1]);
    link.count(1);
    link.op_id(id(7, 2));
    link.count(1);
    link.op_id(id(7, 2));
    link.fixed(&[8; 16]);
    link.bytes16(b"name");
    let mut slot = Writer::new();
    slot.fixed(&[2, 4, 1]);
    slot.count(1);
    slot.fixed(&[2; 16]);
    slot.fixed(&[1; 16]);
    slot.fixed(&[Kind::Dir as u8, 0]);
    slot.op_id(id(7, 2));
    slot.bytes16(b"name");
    samples.extend([link.into_bytes(), slot.into_bytes()]);
    samples
}

#[test]
fn rows_that_are_known_by_short_numbers_take_less() {
    let len = |known: u8| Row::Node(Box::new(file())).encode(&shorts(known), &mut Unknown::default()).len();
    assert!(len(255) < len(4) && len(4) < len(0));
    let key = RowKey::Node(Ino([1; 16]));
    let fewer = Row::Node(Box::new(file())).encode(&shorts(4), &mut Unknown::default());
    let read = Row::decode(&key, &fewer, &shorts(255)).expect("what was written with fewer is read");
    assert_eq!(read, Row::Node(Box::new(file())));
}
