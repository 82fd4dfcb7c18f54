//! What the rows of a store take, table by table: `rows STORE [INODES]`, the store's folder (a home's `store/`) while no
//! daemon has it open.
//!
//! Keys and values are counted as they are stored, in all column families; then what RocksDB's files take, with its
//! own account of them: data blocks, indexes, filters.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;

use cobox_store::blind::{Store, StoreKind};

/// Names of the tables of `docs/format.md` §15.2 that a mount fills.
const NAMES: [(u8, &str); 20] = [
    (0x05, "access records"),
    (0x08, "entries, headers"),
    (0x09, "entries, bodies"),
    (0x0b, "packs here"),
    (0x0c, "outboards"),
    (0x0d, "packs live"),
    (0x12, "settings"),
    (0x16, "who lists packs"),
    (0x20, "keys"),
    (0x21, "where chunks are"),
    (0x22, "packs without an entry"),
    (0x40, "inodes"),
    (0x41, "links"),
    (0x42, "names"),
    (0x43, "xattrs"),
    (0x44, "ops without an entry"),
    (0x45, "journal"),
    (0x46, "dirty files"),
    (0x47, "applied"),
    (0x4f, "single rows"),
];

#[derive(Default, Clone, Copy)]
struct Taken {
    rows: u64,
    key_bytes: u64,
    value_bytes: u64,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [dir, rest @ ..] = &words[..] else { return Err("rows STORE [INODES]".into()) };
    let inodes: Option<u64> = rest.first().map(|word| word.parse()).transpose()?;
    let store = Store::open(Path::new(dir), StoreKind::Device)?;
    let tables = count(&store)?;
    let per =
        |bytes: u64| inodes.map_or(String::new(), |inodes| format!("{:>9.1}", bytes as f64 / inodes as f64));
    println!("{:<28}{:>9}{:>12}{:>12}{:>9}", "table", "rows", "keys", "values", "/inode");
    let mut all = Taken::default();
    for (table, taken) in &tables {
        let name = NAMES.iter().find(|(number, _)| number == table).map_or("", |(_, name)| name);
        let bytes = taken.key_bytes + taken.value_bytes;
        println!(
            "{table:02x} {name:<25}{:>9}{:>12}{:>12}{}",
            taken.rows,
            taken.key_bytes,
            taken.value_bytes,
            per(bytes)
        );
        all.rows += taken.rows;
        all.key_bytes += taken.key_bytes;
        all.value_bytes += taken.value_bytes;
    }
    let bytes = all.key_bytes + all.value_bytes;
    println!("{:<28}{:>9}{:>12}{:>12}{}", "all", all.rows, all.key_bytes, all.value_bytes, per(bytes));
    for (family, file_bytes, account) in store.db().room()? {
        println!("\n{family}: {file_bytes} bytes of files{}\n{account}", per(file_bytes));
    }
    Ok(())
}

fn count(store: &Store) -> Result<BTreeMap<u8, Taken>, Box<dyn std::error::Error>> {
    let mut tables: BTreeMap<u8, Taken> = BTreeMap::new();
    let mut folders: Vec<u32> = store.folders()?.iter().map(|(no, _)| no.0).collect();
    folders.push(0);
    for no in folders {
        for table in 0..=u8::MAX {
            let prefix = [&no.to_be_bytes()[..], &[table]].concat();
            store.db().scan(&prefix, &[], &mut |rest, value| {
                let taken = tables.entry(table).or_default();
                taken.rows += 1;
                taken.key_bytes += (prefix.len() + rest.len()) as u64;
                taken.value_bytes += value.len() as u64;
                ControlFlow::Continue(())
            })?;
        }
    }
    Ok(tables)
}
