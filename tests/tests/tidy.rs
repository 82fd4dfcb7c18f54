//! The house rules that a machine can check: who may name whom, how long files and functions are, what
//! never stands in the source.
//!
//! CONTRIBUTING.md says why. A rule that is wrong is changed here and there together.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A file longer than this is two nouns.
const FILE_LINES_MAX: usize = 600;
/// A function longer than this is not read in one go.
const FUNCTION_LINES_MAX: usize = 70;
/// ARCHITECTURE.md is a map; one that fills a table is not unfolded.
const ARCHITECTURE_LINES_MAX: usize = 250;
const CRATES: [&str; 4] = ["cobox-store", "cobox-fs", "cobox-net", "cobox-ctl"];

struct Source {
    /// Relative to the workspace, with `/`.
    path: String,
    text: String,
}

impl Source {
    /// Lines with their numbers, comments removed.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        self.text.lines().enumerate().map(|(at, line)| (at + 1, line.split("//").next().unwrap_or_default()))
    }

    /// Lines of code before the file's own tests.
    fn shipped_code(&self) -> impl Iterator<Item = (usize, &str)> {
        let tests =
            self.text.lines().position(|line| line == "#[cfg(test)]" || line.starts_with("#![cfg(test)]"));
        self.code().take(tests.unwrap_or(usize::MAX))
    }

    fn in_crate(&self, name: &str) -> bool {
        self.path.starts_with(&format!("{name}/src/"))
    }
}

fn root() -> PathBuf {
    // At run time: checkouts that share a target folder may run what another one compiled.
    let package = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&package).parent().expect("the package lies in the workspace").to_path_buf()
}

fn collect(dir: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    let entries = std::fs::read_dir(dir).expect("a folder of the checkout can be listed");
    for entry in entries {
        let path = entry.expect("a folder of the checkout can be listed").path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if path.is_dir() && !matches!(name, "target" | ".git" | "corpus" | "artifacts") {
            collect(&path, extension, found);
        } else if path.extension().is_some_and(|found| found == extension) {
            found.push(path);
        }
    }
}

fn files(extension: &str) -> Vec<Source> {
    let root = root();
    let mut paths = Vec::new();
    collect(&root, extension, &mut paths);
    paths.sort();
    let read = |path: PathBuf| Source {
        text: std::fs::read_to_string(&path).expect("a source file is UTF-8"),
        path: path.strip_prefix(&root).expect("found below the root").to_string_lossy().replace('\\', "/"),
    };
    paths.into_iter().map(read).collect()
}

fn sources() -> Vec<Source> {
    files("rs")
}

/// Whether `line` has `word` where no letter, digit or underscore touches it.
fn has_word(line: &str, word: &str) -> bool {
    let joins = |other: Option<char>| other.is_some_and(|other| other.is_alphanumeric() || other == '_');
    line.match_indices(word).any(|(at, _)| {
        !joins(line[..at].chars().next_back()) && !joins(line[at + word.len()..].chars().next())
    })
}

/// Files that are compiled for tests only, as their parent says: `#[cfg(test)]` before `mod name;`.
fn test_files(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        let lines: Vec<&str> = source.text.lines().collect();
        let folder =
            source.path.trim_end_matches("mod.rs").trim_end_matches("lib.rs").trim_end_matches(".rs");
        for pair in lines.windows(2) {
            let name = pair[1].trim_start_matches("pub(crate) ").strip_prefix("mod ");
            if let Some(name) =
                name.and_then(|name| name.strip_suffix(';')).filter(|_| pair[0] == "#[cfg(test)]")
            {
                let folder = folder.trim_end_matches('/');
                found.extend([format!("{folder}/{name}.rs"), format!("{folder}/{name}/")]);
            }
        }
    }
    found
}

fn report(rule: &str, faults: &[String]) {
    assert!(faults.is_empty(), "{rule}:\n{}", faults.join("\n"));
}

/// Lines of the shipped crates that use the crate `name` outside the files that `may` admits.
fn users_outside(name: &str, may: impl Fn(&str) -> bool) -> Vec<String> {
    let mut faults = Vec::new();
    for source in sources() {
        if !CRATES.iter().any(|shipped| source.in_crate(shipped)) || may(&source.path) {
            continue;
        }
        for (number, line) in source.code() {
            let used = line.match_indices(name).any(|(at, _)| {
                let before = line[..at].chars().next_back();
                let apart = !before.is_some_and(|char| char.is_alphanumeric() || char == '_' || char == '"');
                apart && (line[at + name.len()..].starts_with("::") || line.trim() == format!("use {name};"))
            });
            if used {
                faults.push(format!("{}:{number}", source.path));
            }
        }
    }
    faults
}

#[test]
fn foreign_types_stay_in_their_own_files() {
    let db = |path: &str| path.starts_with("cobox-store/src/blind/db") || path == "cobox-store/src/error.rs";
    report("RocksDB types outside blind/db", &users_outside("rocksdb", db));
    let fuse = |path: &str| path == "cobox-fs/src/fuse.rs" || path.starts_with("cobox-fs/src/fuse/");
    report("fuser types outside the adapter", &users_outside("fuser", fuse));
    let swarm = |path: &str| {
        let name = path.strip_prefix("cobox-net/src/");
        matches!(name, Some("swarm.rs" | "swarm/missed.rs" | "behaviour.rs" | "handshakes.rs" | "muxer.rs"))
    };
    report(
        "libp2p types outside swarm.rs, swarm/missed.rs, behaviour.rs, handshakes.rs and muxer.rs",
        &users_outside("libp2p", swarm),
    );
    let cli =
        |path: &str| path.starts_with("cobox-ctl/src/cli/") || path == "cobox-net/src/bin/cobox-seeder.rs";
    report("clap outside the command lines", &users_outside("clap", cli));
    let api = |path: &str| {
        ["cobox-net/src/http/", "cobox-net/src/seeder/api", "cobox-ctl/src/api/"]
            .iter()
            .any(|part| path.starts_with(part))
    };
    for name in ["axum", "hyper", "utoipa_axum"] {
        report("HTTP outside the API", &users_outside(name, api));
    }
}

#[test]
fn crates_name_only_what_lies_below_them() {
    let above = |name: &'static str, users: &'static [&'static str]| {
        users_outside(name, move |path| users.iter().any(|user| path.starts_with(&format!("{user}/src/"))))
    };
    report("cobox_fs is for cobox-ctl", &above("cobox_fs", &["cobox-ctl", "cobox-fs"]));
    report("cobox_net is for cobox-ctl", &above("cobox_net", &["cobox-ctl", "cobox-net"]));
    report("cobox_ctl is for itself", &above("cobox_ctl", &["cobox-ctl"]));
}

#[test]
fn manifests_of_fs_and_net_do_not_name_each_other() {
    for (of, other) in [("cobox-fs", "cobox-net"), ("cobox-net", "cobox-fs")] {
        let manifest = std::fs::read_to_string(root().join(of).join("Cargo.toml")).expect("a manifest");
        assert!(!manifest.contains(other), "{of} depends on {other}");
    }
    let manifest = std::fs::read_to_string(root().join("cobox-net/Cargo.toml")).expect("a manifest");
    assert!(!manifest.contains("keyed"), "cobox-net switches the member's code on");
}

#[test]
fn blind_code_never_names_keyed_code() {
    let mut faults = Vec::new();
    for source in sources() {
        let blind = source.path.starts_with("cobox-store/src/blind/")
            || source.path.starts_with("cobox-store/src/format/")
            || source.in_crate("cobox-net");
        for (number, line) in source.code().filter(|_| blind) {
            if has_word(line, "keyed") {
                faults.push(format!("{}:{number}", source.path));
            }
        }
    }
    report("a seeder's code names a member's", &faults);
}

#[test]
fn seeder_build_links_no_keyed_code() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(root())
        .args(["tree", "--offline", "-p", "cobox-net", "-e", "features,normal,build", "--prefix", "none"])
        .output()
        .expect("cargo can be run");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8_lossy(&output.stdout);
    assert!(tree.lines().any(|line| line.starts_with("cobox-store v")), "the seeder uses the store");
    for line in tree.lines() {
        assert!(!line.starts_with("cobox-store feature \"keyed\""), "the seeder links keyed code");
        assert!(
            !line.starts_with("cobox-store feature \"default\""),
            "the seeder takes the store's defaults"
        );
        assert!(!line.starts_with("cobox-fs"), "the seeder links the file system");
    }
}

#[test]
fn sync_crates_are_not_async() {
    let mut faults = Vec::new();
    for source in sources() {
        let sync = source.in_crate("cobox-store") || source.in_crate("cobox-fs");
        for (number, line) in source.code().filter(|_| sync) {
            let calls = ["async fn", "async move", "block_on("].iter().any(|word| line.contains(word));
            if calls || line.contains(".await") && !line.contains(".await_") {
                faults.push(format!("{}:{number}", source.path));
            }
        }
    }
    report("async code in a synchronous crate", &faults);
}

#[test]
fn files_say_what_they_are_and_stay_short() {
    let mut faults = Vec::new();
    for source in sources() {
        let first = source.text.lines().find(|line| !line.starts_with("#!["));
        if !first.is_some_and(|line| line.starts_with("//! ") && line.len() > 12) {
            faults.push(format!("{}: does not begin with a `//!` line", source.path));
        }
        let lines = source.text.lines().count();
        if lines > FILE_LINES_MAX {
            faults.push(format!("{}: {lines} lines", source.path));
        }
        let stem = source.path.rsplit('/').next().unwrap_or_default().trim_end_matches(".rs");
        if ["utils", "util", "common", "helpers", "helper", "misc", "manager"].contains(&stem) {
            faults.push(format!("{}: names no noun", source.path));
        }
    }
    report("files", &faults);
}

/// Lines of each function: from the line with `fn` to the closing brace of the same indentation, as
/// rustfmt writes it.
fn function_lengths(text: &str) -> Vec<(usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut lengths = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let indent = &line[..line.len() - code.len()];
        let head = code.split("fn ").next().unwrap_or_default();
        let modifiers = head.split_whitespace().all(|word| {
            word.starts_with("pub")
                || matches!(word, "const" | "async" | "unsafe" | "extern" | "\"C\"" | "in")
        });
        if !code.contains("fn ") || !modifiers || code.ends_with('}') || code.ends_with(';') {
            continue;
        }
        let close = format!("{indent}}}");
        let body = lines[at..].iter().position(|line| *line == close);
        let declaration = lines[at..].iter().position(|line| line.ends_with(';'));
        let opening = lines[at..].iter().position(|line| line.ends_with('{'));
        if let (Some(body), Some(opening)) = (body, opening)
            && declaration.is_none_or(|declaration| opening < declaration)
        {
            lengths.push((at + 1, body + 1));
        }
    }
    lengths
}

#[test]
fn functions_stay_short() {
    let mut faults = Vec::new();
    for source in sources() {
        for (line, length) in function_lengths(&source.text) {
            if length > FUNCTION_LINES_MAX {
                faults.push(format!("{}:{line}: {length} lines", source.path));
            }
        }
    }
    report("functions", &faults);
}

#[test]
fn function_length_of_known_text_is_measured() {
    let text = "impl A {\n    pub fn one(\n        a: u8,\n    ) {\n        a;\n    }\n\n    fn two();\n}\nfn three() {\n}\n";
    assert_eq!(function_lengths(text), [(2, 5), (10, 2)]);
}

#[test]
fn nothing_is_left_for_later() {
    // Spelled in two halves, so that this file passes its own rule.
    let words = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let calls = [
        concat!("to", "do!("),
        concat!("unimple", "mented!("),
        concat!("#[ig", "nore"),
        concat!("db", "g!("),
    ];
    let mut faults = Vec::new();
    for source in sources().into_iter().chain(files("md")).chain(files("toml")).chain(files("py")) {
        for (at, line) in source.text.lines().enumerate() {
            let later = words.iter().any(|word| has_word(line, word));
            if later || calls.iter().any(|call| line.contains(call)) {
                faults.push(format!("{}:{}: {}", source.path, at + 1, line.trim()));
            }
        }
    }
    report("left for later", &faults);
}

#[test]
fn libraries_do_not_print() {
    let mut faults = Vec::new();
    let all = sources();
    let tests = test_files(&all);
    for source in &all {
        let library = ["cobox-store", "cobox-fs", "cobox-net"].iter().any(|name| source.in_crate(name));
        let program = ["/bin/", "/main.rs"].iter().any(|part| source.path.contains(part));
        let test = tests.iter().any(|test| source.path.starts_with(test.as_str()));
        for (number, line) in source.shipped_code().filter(|_| library && !program && !test) {
            if has_word(line, "println!") || has_word(line, "eprintln!") || has_word(line, "print!") {
                faults.push(format!("{}:{number}", source.path));
            }
        }
    }
    report("a library prints", &faults);
}

#[test]
fn unsafe_code_states_its_reason() {
    let mut faults = Vec::new();
    for source in sources() {
        let shipped = CRATES.iter().any(|name| source.in_crate(name));
        let expected = source.text.contains("#[expect(unsafe_code, reason");
        for (number, line) in source.code().filter(|_| shipped && !expected) {
            if has_word(line, "unsafe") && !line.contains("unsafe_code") {
                faults.push(format!("{}:{number}", source.path));
            }
        }
    }
    report("unsafe without a stated reason", &faults);
}

#[test]
fn nothing_names_a_private_path() {
    let roots = [concat!("/ro", "ot/"), concat!("/wo", "rk/")];
    let mut faults = Vec::new();
    for source in sources().into_iter().chain(files("md")).chain(files("toml")).chain(files("py")) {
        for (at, line) in source.text.lines().enumerate() {
            if roots.iter().any(|path| line.contains(path)) {
                faults.push(format!("{}:{}: {}", source.path, at + 1, line.trim()));
            }
        }
    }
    report("a path of somebody's machine", &faults);
}

#[test]
fn documents_keep_their_promises() {
    let read = |path: &str| std::fs::read_to_string(root().join(path)).unwrap_or_else(|_| panic!("{path}"));
    assert!(read("ARCHITECTURE.md").lines().count() < ARCHITECTURE_LINES_MAX, "the map is too long");
    let changelog = read("CHANGELOG.md");
    let releases = changelog.lines().filter(|line| line.starts_with("## ")).count();
    for word in ["Format:", "Wire:"] {
        let lines = changelog.lines().filter(|line| line.starts_with(word)).count();
        assert_eq!(lines, releases, "each release has a {word} line");
    }
    assert!(read("LICENSE").contains("GNU AFFERO GENERAL PUBLIC LICENSE"));
    for source in files("md") {
        for name in
            source.text.split('`').filter(|name| name.starts_with("docs/") && !name.contains([' ', '*', 'N']))
        {
            assert!(root().join(name).exists(), "{} names {name}, which does not exist", source.path);
        }
    }
}
