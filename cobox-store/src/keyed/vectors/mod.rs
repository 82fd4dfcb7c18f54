//! The test vectors of `docs/vectors`: made from fixed seeds, checked against the files.
//!
//! `docs/vectors/README.md` describes the files. With `COBOX_WRITE_VECTORS=1` the test writes them
//! anew; a change in a diff is then a change of format.

mod codes;
mod layouts;
mod story;

use std::path::PathBuf;

use serde_json::{Value, json};

use crate::id::{derive, hex};

fn folder() -> PathBuf {
    // At run time: checkouts that share a target folder may run what another one compiled.
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    PathBuf::from(package).join("../docs/vectors")
}

/// 32 bytes that follow from a name, as every seed of the vectors does.
fn seed(name: &str) -> [u8; 32] {
    derive("test vectors", &[name.as_bytes()])
}

/// `len` bytes that follow from a name and do not compress.
fn noise(name: &str, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new_keyed(&seed(name)).finalize_xof().fill(&mut bytes);
    bytes
}

fn derivations() -> Value {
    let (epoch, folder, id) = (seed("epoch secret"), seed("folder"), seed("epoch id"));
    let all = [epoch, folder, id].concat();
    let member = seed("member");
    let indexed = [member.as_slice(), &5u32.to_le_bytes()].concat();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("recovery sign", indexed.clone()),
        ("recovery kem", indexed),
        ("locator sign", member.to_vec()),
        ("locator seal", member.to_vec()),
        ("locator id", seed("locator key").to_vec()),
        ("epoch commit", epoch.to_vec()),
        ("chunk id", all.clone()),
        ("chunk object", all.clone()),
        ("pack", all.clone()),
        ("log", all),
        ("swarm secret", [epoch, folder].concat()),
        ("chunker seed", [epoch, folder].concat()),
        ("epoch wrap", [epoch, folder].concat()),
        ("label", epoch.to_vec()),
        ("log number", seed("log").to_vec()),
        ("object key", [seed("object"), seed("tag")].concat()),
        ("content digest", vec![0, 0, 0]),
        ("key file slot", seed("key file").to_vec()),
        ("invite", seed("code")[..16].to_vec()),
        ("invite label", seed("code")[..16].to_vec()),
        ("seed", seed("code")[..16].to_vec()),
        ("claim", seed("code")[..16].to_vec()),
        ("branch", [seed("log"), seed("first entry of a branch")].concat()),
    ];
    let cases: Vec<Value> = cases
        .iter()
        .map(|(purpose, material)| {
            let key = hex(&derive(purpose, &[material]));
            json!({ "name": purpose, "purpose": purpose, "material": hex(material), "key": key })
        })
        .collect();
    json!({ "kind": "derive", "cases": cases })
}

fn all() -> Vec<(String, Value)> {
    let mut files =
        vec![("derive.json".to_owned(), derivations()), ("story.json".to_owned(), story::story())];
    files.extend(layouts::all().into_iter().map(|(layout, cases)| {
        let name = format!("{}.json", layout.replace(' ', "-"));
        (name, json!({ "kind": "layout", "layout": layout, "cases": cases }))
    }));
    files
}

#[test]
fn vectors_match_the_code() {
    let write = std::env::var_os("COBOX_WRITE_VECTORS").is_some_and(|value| value == "1");
    for (name, value) in all() {
        let path = folder().join(&name);
        let text = format!("{}\n", serde_json::to_string_pretty(&value).expect("a tree of strings"));
        if write {
            std::fs::write(&path, &text).expect("docs/vectors is writable");
        }
        let found =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{name} cannot be read: {error}"));
        assert!(found == text, "{name} is not what the code makes");
    }
}
