//! Secrets at the edge: read from a prompt, a file or standard input; never from an argument.

use std::fs::OpenOptions;
use std::io::{self, IsTerminal as _, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use cobox_store::keyed::MemberSecret;
use zeroize::Zeroizing;

use crate::exit::{Outcome, Problem};

/// Far more than 24 words or a sentence as a passphrase.
const SECRET_FILE_BYTES_MAX: u64 = 4096;
/// Words that are asked back.
const ASKED_BACK: usize = 3;
/// Before the words are shown again.
const TRIES: usize = 3;

/// Whether a person can be asked.
pub(crate) fn on_terminal() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Reads a small secret file whole; `-` is standard input.
///
/// # Errors
/// When it cannot be read or is larger than a secret.
pub(crate) fn read_secret(path: &Path) -> Outcome<Zeroizing<String>> {
    let problem = |error: io::Error| {
        Problem::failed_with(
            format!("{} cannot be read: {error}.", path.display()),
            "Check that the file is there and that you may read it.",
        )
    };
    let mut text = Zeroizing::new(String::new());
    if path == Path::new("-") {
        io::stdin().lock().take(SECRET_FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(problem)?;
    } else {
        let file = std::fs::File::open(path).map_err(problem)?;
        file.take(SECRET_FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(problem)?;
    }
    if text.len() as u64 > SECRET_FILE_BYTES_MAX {
        return Err(Problem::usage(
            format!("{} is too large for a secret.", path.display()),
            "Choose the right file.",
        ));
    }
    Ok(text)
}

/// The first line of a passphrase file.
fn passphrase_from(path: &Path) -> Outcome<Zeroizing<String>> {
    let text = read_secret(path)?;
    let line = text.lines().next().unwrap_or_default();
    if line.is_empty() {
        return Err(Problem::usage(
            format!("The first line of {} is empty.", path.display()),
            "Write the passphrase there.",
        ));
    }
    Ok(Zeroizing::new(line.to_owned()))
}

/// Where the passphrase of a device that is there comes from.
#[derive(Clone, Copy)]
pub(crate) enum PassphraseFrom<'a> {
    /// A person is asked.
    Prompt,
    /// The first line of a file.
    File(&'a Path),
    /// Somebody typed it a moment ago.
    Typed(&'a Zeroizing<String>),
}

impl<'a> PassphraseFrom<'a> {
    /// What the command line says.
    pub fn option(file: Option<&'a PathBuf>) -> Self {
        file.map_or(Self::Prompt, |path| Self::File(path))
    }
}

/// The passphrase of a device that is there.
///
/// # Errors
/// When there is neither a file nor a terminal.
pub(crate) fn existing_passphrase(from: PassphraseFrom<'_>) -> Outcome<Zeroizing<String>> {
    match from {
        PassphraseFrom::Typed(typed) => return Ok(typed.clone()),
        PassphraseFrom::File(path) => return passphrase_from(path),
        PassphraseFrom::Prompt => {}
    }
    if !on_terminal() {
        return Err(Problem::usage(
            "This device is locked with a passphrase, and there is no terminal to ask for it.",
            "Give --passphrase-file FILE, or start the daemon once from a terminal.",
        ));
    }
    prompt("Passphrase: ")
}

/// A passphrase for a new device.
///
/// # Errors
/// When there is neither a file nor a terminal, or the two that were typed differ.
pub(crate) fn new_passphrase(file: Option<&PathBuf>) -> Outcome<Zeroizing<String>> {
    if let Some(path) = file {
        return passphrase_from(path);
    }
    if !on_terminal() {
        return Err(Problem::usage(
            "There is no terminal to ask for a passphrase.",
            "Give --passphrase-file FILE, or --no-passphrase for a device that starts unattended.",
        ));
    }
    for _ in 0..TRIES {
        let first = prompt("Choose a passphrase for this device: ")?;
        if first.is_empty() {
            eprintln!("An empty passphrase protects nothing; use --no-passphrase if that is what you want.");
        } else if *first == *prompt("Again: ")? {
            return Ok(first);
        } else {
            eprintln!("The two were not the same.");
        }
    }
    Err(Problem::failed_with("No passphrase was chosen.", "Run it again. Nothing was changed."))
}

/// Tells a person at the terminal what would come of it, and asks whether they want it.
///
/// # Errors
/// What they were told, when they do not.
pub(crate) fn confirm(problem: &Problem) -> Outcome<()> {
    eprint!("{}\nType yes if that is what you want: ", problem.message);
    let mut line = String::new();
    if io::stdin().read_line(&mut line).is_ok() && is_yes(&line) {
        return Ok(());
    }
    Err(Problem::refused("Nothing was changed.", ""))
}

fn is_yes(line: &str) -> bool {
    line.trim().eq_ignore_ascii_case("yes")
}

fn prompt(question: &str) -> Outcome<Zeroizing<String>> {
    rpassword::prompt_password(question)
        .map(Zeroizing::new)
        .map_err(|error| Problem::failed(format!("The terminal cannot be read: {error}.")))
}

/// A new file for the words, made before there are words, so that nothing can fail afterwards.
///
/// # Errors
/// When it exists or cannot be made.
pub(crate) fn words_file(path: &Path) -> Outcome<std::fs::File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(|error| {
        if error.kind() == io::ErrorKind::AlreadyExists {
            Problem::refused(
                format!("{} exists, and a file with words is never overwritten.", path.display()),
                "Choose another name for --words-out.",
            )
        } else {
            Problem::failed(format!("{} cannot be made: {error}.", path.display()))
        }
    })
}

/// Writes the words down, durably.
///
/// # Errors
/// When the disk fails.
pub(crate) fn write_words(mut file: std::fs::File, secret: &MemberSecret) -> Outcome<()> {
    let words = secret.words();
    file.write_all(words.as_bytes())
        .and_then(|()| file.write_all(b"\n"))
        .and_then(|()| file.sync_all())
        .map_err(|error| Problem::failed(format!("The words cannot be written: {error}.")))
}

/// Shows the words and asks some of them back until they are right.
///
/// # Errors
/// When the person gives up.
pub(crate) fn show_and_ask_back(secret: &MemberSecret) -> Outcome<()> {
    let words = secret.words();
    let list: Vec<&str> = words.split(' ').collect();
    let ask = places_to_ask(list.len())?;
    for _ in 0..TRIES {
        eprintln!("These 24 words give everything back when this device is lost. Nobody else has them.");
        eprintln!("Write them on paper, in order. They are not shown again.\n");
        for (row, chunk) in list.chunks(4).enumerate() {
            let numbered: Vec<String> = chunk
                .iter()
                .enumerate()
                .map(|(at, word)| format!("{:2}. {word:<10}", row * 4 + at + 1))
                .collect();
            eprintln!("  {}", numbered.join("  "));
        }
        eprintln!("\nTo be sure that you have them:");
        if ask.iter().all(|place| asked_back(*place, &list)) {
            return Ok(());
        }
        eprintln!("That is not the word. Look again.\n");
    }
    Err(Problem::failed_with(
        "The words were not confirmed, so no device was set up.",
        "Run it again with pen and paper at hand, or with --words-out FILE.",
    ))
}

fn asked_back(place: usize, list: &[&str]) -> bool {
    eprint!("  word {}: ", place + 1);
    let mut line = Zeroizing::new(String::new());
    let read = io::stdin().read_line(&mut line).is_ok();
    read && list.get(place).is_some_and(|word| line.trim().eq_ignore_ascii_case(word))
}

/// Different places, ascending, not to be guessed beforehand.
fn places_to_ask(count: usize) -> Outcome<Vec<usize>> {
    let random = cobox_store::keyed::Secret32::random()?;
    let mut places = std::collections::BTreeSet::new();
    for byte in random.expose() {
        if places.len() < ASKED_BACK {
            places.insert(usize::from(*byte) % count.max(1));
        }
    }
    Ok(places.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::exit::Exit;

    #[test]
    fn words_file_is_private_and_never_overwrites() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let path = temp.path().join("words");
        words_file(&path).expect("made");
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(words_file(&path).expect_err("refused").code, Exit::Refused);
    }

    #[test]
    fn passphrase_is_the_first_line_of_its_file() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let path = temp.path().join("passphrase");
        std::fs::write(&path, "open sesame \r\nsecond\n").expect("written");
        assert_eq!(*passphrase_from(&path).expect("read"), "open sesame ");
        std::fs::write(&path, "\n").expect("written");
        assert_eq!(passphrase_from(&path).expect_err("refused").code, Exit::Usage);
    }

    #[test]
    fn file_that_is_too_large_for_a_secret_is_refused() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let path = temp.path().join("film");
        std::fs::write(&path, "x".repeat(5000)).expect("written");
        assert_eq!(read_secret(&path).expect_err("refused").code, Exit::Usage);
    }

    #[test]
    fn only_a_whole_yes_is_one() {
        assert!(is_yes("yes\n") && is_yes(" YES "));
        assert!(!is_yes("") && !is_yes("y\n") && !is_yes("yes, but no"));
    }

    #[test]
    fn places_asked_back_are_few_and_in_range() {
        let places = places_to_ask(24).expect("random");
        assert!((1..=ASKED_BACK).contains(&places.len()) && places.iter().all(|place| *place < 24));
    }
}
