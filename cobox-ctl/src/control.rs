//! The control protocol between `cobox-ctl` and `coboxd`: JSON lines over a Unix socket.
//!
//! One request per connection; then any number of progress lines, then exactly one `ok` or `error`. The
//! socket lies in a folder of mode 0700 and has mode 0600, so whoever can speak here is the member.

use std::io::{self, BufRead, Read as _, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use cobox_net::http::Reach;
use cobox_net::http::socket::with_short_path;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::conflicts::KeepHow;
use crate::contracts::{Told, Wishes};
use crate::exit::Problem;
use crate::people::PersonRole;
use crate::report::AlarmSettings;

/// A request names at most a path (4 KiB, escaped) and an address (under 4 KiB).
pub const REQUEST_BYTES_MAX: usize = 64 * 1024;
/// A reply lists at most 64 folders with 64 seeders each, under 1 KiB per seeder.
pub const REPLY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Whether other users of the machine may use a mount.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Audience {
    /// Only the member.
    Owner,
    /// Everyone, as file modes allow.
    Everyone,
}

/// Whether a mount may change its folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MountAccess {
    /// Reads only.
    ReadOnly,
    /// Reads and writes.
    ReadWrite,
}

/// What the end of the daemon does about mounts that programs use.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InUse {
    /// It goes on, and says who uses them.
    #[default]
    Refuse,
    /// It takes them off all the same; those programs get errors.
    Detach,
}

/// Whether a seeder, or this device, may go although fewer copies are proved than there should be.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shortfall {
    /// It may not, and what must move first is said.
    #[default]
    Refuse,
    /// It may.
    Accept,
}

/// Whether the log of a device may end although others have entries of it that are not here.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unseen {
    /// It may not, and what is not here is said.
    #[default]
    Refuse,
    /// It may.
    Accept,
}

/// Whether whoever asks is sure of what locks out this very device, or its person.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Sure {
    /// They are to be asked.
    #[default]
    No,
    /// They said so.
    Yes,
}

/// A member's 24 words on their way to the daemon: the socket is the member's alone, and nothing shows them.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Words(pub String);

impl Drop for Words {
    fn drop(&mut self) {
        zeroize::Zeroize::zeroize(&mut self.0);
    }
}

impl std::fmt::Debug for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Words(…)")
    }
}

/// Whom a wish about copies holds for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyFor {
    /// Everybody, where it comes from an admin's device; else this device.
    #[default]
    Folder,
    /// This device.
    Device,
    /// Nobody: what this device wanted for itself is taken back.
    Nobody,
}

/// What `cobox-ctl` asks of the daemon.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum Request {
    /// Is it there, and which version?
    Ping,
    /// Unmounts, cuts and ends.
    Stop {
        /// What happens to mounts that programs use.
        #[serde(default)]
        in_use: InUse,
    },
    /// Begins a folder.
    FolderCreate {
        /// What the member calls it.
        name: String,
    },
    /// Removes a folder from this device.
    FolderLeave {
        /// Which, by name.
        folder: String,
        /// What if something would be lost.
        #[serde(default)]
        shortfall: Shortfall,
    },
    /// Changes what a folder should have.
    FolderSet {
        /// Which, by name.
        folder: String,
        /// Proved copies.
        copies: Option<u32>,
        /// How long a proof counts.
        tolerance_ms: Option<u64>,
        /// Whom it holds for.
        whom: PolicyFor,
    },
    /// Where alarms go.
    AlarmShow,
    /// Changes where alarms go.
    AlarmSet {
        /// All of it.
        settings: AlarmSettings,
    },
    /// Sends an alarm that says it is a test.
    AlarmTest,
    /// Everything about all folders or one.
    Status {
        /// Which, by name.
        folder: Option<String>,
    },
    /// Mounts a folder.
    Mount {
        /// Which, by name.
        folder: String,
        /// Where; absolute.
        dir: PathBuf,
        /// For whom.
        audience: Audience,
        /// How.
        access: MountAccess,
    },
    /// Ends a mount.
    Umount {
        /// Where; absolute.
        dir: PathBuf,
    },
    /// Grants a seeder.
    SeederAdd {
        /// Which folder, by name.
        folder: String,
        /// The seeder's address as text.
        address: String,
        /// How much it may store.
        quota_bytes: u64,
        /// Until when, in milliseconds since 1970.
        until_ms: u64,
    },
    /// Challenges the seeders of a folder.
    SeederAudit {
        /// Which folder, by name.
        folder: String,
        /// One of them, by the beginning of its peer id.
        seeder: Option<String>,
    },
    /// Ends a seeder's grant.
    SeederRemove {
        /// Which folder, by name.
        folder: String,
        /// Which, by the beginning of its peer id.
        seeder: String,
        /// What if too few copies are left.
        #[serde(default)]
        shortfall: Shortfall,
    },
    /// Opens a seed code.
    SeedCode {
        /// Of which folder, by name.
        folder: String,
        /// How much whoever redeems it may store.
        quota_bytes: u64,
        /// Until when, in milliseconds since 1970; 0 for no end.
        until_ms: u64,
        /// How long the code is good.
        valid_ms: u64,
    },
    /// All seed codes of a folder.
    SeedCodeList {
        /// Which, by name.
        folder: String,
    },
    /// Takes a seed code back.
    SeedCodeVoid {
        /// Of which folder, by name.
        folder: String,
        /// The beginning of its name, or the code.
        code: String,
    },
    /// Proposes an agreement.
    AgreementPropose {
        /// On which folder, by name.
        folder: String,
        /// With whom: the beginning of a peer id, or an address.
        seeder: String,
        /// What.
        wishes: Wishes,
    },
    /// Agreements.
    AgreementList {
        /// Of one folder, by name.
        folder: Option<String>,
    },
    /// Agrees to what a seeder signed.
    AgreementAccept {
        /// On which folder, by name.
        folder: String,
        /// The beginning of its id.
        id: String,
    },
    /// Gives notice.
    AgreementEnd {
        /// On which folder, by name.
        folder: String,
        /// With whom: the beginning of a peer id.
        seeder: String,
        /// What if too few copies are left.
        #[serde(default)]
        shortfall: Shortfall,
    },
    /// Becomes an admin of a seeder.
    SeederClaim {
        /// The code.
        code: String,
        /// What the member will call it.
        name: Option<String>,
    },
    /// Takes a lost device's place at a seeder.
    SeederReclaim {
        /// The seeder's address as text.
        address: String,
        /// The member's words.
        words: Words,
        /// What the member will call it.
        name: Option<String>,
    },
    /// Seeders that this device commands.
    SeederOwned,
    /// Forgets one of them.
    SeederForget {
        /// What the member calls it.
        name: String,
        /// What if no words bring it back.
        #[serde(default)]
        sure: Sure,
    },
    /// Tells a seeder what to do.
    SeederManage {
        /// What the member calls it.
        name: String,
        /// What.
        told: Told,
        /// What if this device commands it no more afterwards.
        #[serde(default)]
        sure: Sure,
    },
    /// Waits until copies are proved.
    Wait {
        /// Which folder, by name.
        folder: String,
        /// How many.
        copies: u32,
        /// How long; `None` waits until it is so.
        timeout_ms: Option<u64>,
    },
    /// Waits until every folder has what its seeders know: after a recovery.
    Arrive {
        /// How long.
        timeout_ms: u64,
    },
    /// Reads everything that is stored and checks it.
    Check {
        /// Which, by name.
        folder: Option<String>,
    },
    /// What devices did at the same time.
    Conflicts {
        /// In which folder, by name.
        folder: Option<String>,
    },
    /// Settles a conflict.
    ConflictKeep {
        /// Where, absolute, inside a mount; any bytes.
        path: Vec<u8>,
        /// How.
        how: KeepHow,
    },
    /// Gives back the space of what the folder does not need any more.
    Prune {
        /// Which, by name.
        folder: String,
        /// Only says what could go.
        dry_run: bool,
    },
    /// The public side of the keys.
    KeyShow,
    /// Where the HTTP API answers.
    ApiShow,
    /// Changes where the HTTP API answers on TCP.
    ApiSet {
        /// An address like `127.0.0.1:7741`; `None` for the socket alone.
        listen: Option<String>,
        /// How far away those who connect may be.
        reach: Reach,
    },
    /// Opens an invite.
    Invite {
        /// To which folder, by name.
        folder: String,
        /// What who redeems it may do.
        role: PersonRole,
        /// For how long.
        valid_ms: u64,
    },
    /// All invites of a folder.
    InviteList {
        /// Which, by name.
        folder: String,
    },
    /// Takes an invite back.
    InviteVoid {
        /// Of which folder, by name.
        folder: String,
        /// The beginning of its name.
        invite: String,
    },
    /// Joins a folder.
    Join {
        /// The invite's code.
        code: String,
        /// What the member will call the folder.
        name: Option<String>,
        /// How long to wait for an admin.
        timeout_ms: u64,
    },
    /// Who is in a folder.
    MemberList {
        /// Which, by name.
        folder: String,
    },
    /// Changes what a person may do.
    MemberRole {
        /// In which folder, by name.
        folder: String,
        /// Who: the beginning of an id, or a device's label.
        member: String,
        /// What.
        role: PersonRole,
        /// What if entries of theirs are not here.
        #[serde(default)]
        unseen: Unseen,
        /// What if it is this device's own person, who may do less then.
        #[serde(default)]
        sure: Sure,
    },
    /// Removes a person.
    MemberRemove {
        /// From which folder, by name.
        folder: String,
        /// Who: the beginning of an id, or a device's label.
        member: String,
        /// What if entries of theirs are not here.
        #[serde(default)]
        unseen: Unseen,
        /// What if it is this device's own person.
        #[serde(default)]
        sure: Sure,
    },
    /// Removes a device that was silent for 90 days.
    DeviceLapse {
        /// Which folder.
        folder: String,
        /// Which device: the beginning of its id, or its label.
        device: String,
        /// What if entries of it are not here.
        #[serde(default)]
        unseen: Unseen,
    },
    /// Removes a device.
    DeviceRemove {
        /// From which folder, by name.
        folder: String,
        /// Which: the beginning of its id, or its label.
        device: String,
        /// What if entries of it are not here.
        #[serde(default)]
        unseen: Unseen,
        /// What if it is this device.
        #[serde(default)]
        sure: Sure,
    },
}

/// One line from the daemon.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reply {
    /// How far it is; more lines follow.
    Progress(Value),
    /// It is done; the last line.
    Ok(Value),
    /// It is not; the last line.
    Error(Problem),
}

/// Why a line could not be read.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// The other side closed before a whole line.
    #[error("the connection ended")]
    Ended,
    /// Longer than allowed.
    #[error("a line is longer than {0} bytes")]
    TooLong(usize),
    /// Not what the protocol says.
    #[error("a line is not of this protocol")]
    Malformed(#[source] serde_json::Error),
    /// The socket failed.
    #[error("the connection failed")]
    Io(#[source] io::Error),
}

/// Writes one line.
///
/// # Errors
/// When the socket fails.
pub fn write_line<T: Serialize>(writer: &mut impl Write, message: &T) -> io::Result<()> {
    let mut line = serde_json::to_vec(message).map_err(io::Error::other)?;
    line.push(b'\n');
    writer.write_all(&line)?;
    writer.flush()
}

/// Reads one line of at most `bytes_max`.
///
/// # Errors
/// When the peer ends, sends too much or something else.
pub fn read_line<T: DeserializeOwned>(reader: &mut impl BufRead, bytes_max: usize) -> Result<T, LineError> {
    let mut line = Vec::new();
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    reader.by_ref().take(limit).read_until(b'\n', &mut line).map_err(LineError::Io)?;
    if line.pop() != Some(b'\n') {
        return Err(if line.len() >= bytes_max { LineError::TooLong(bytes_max) } else { LineError::Ended });
    }
    serde_json::from_slice(&line).map_err(LineError::Malformed)
}

/// Connects to the socket at `path`, however long the path is.
///
/// # Errors
/// When nobody listens there.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    with_short_path(path, |short| UnixStream::connect(short))
}

/// Listens at `path`, however long the path is.
///
/// # Errors
/// When the socket cannot be made.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    with_short_path(path, |short| UnixListener::bind(short))
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;
    use crate::exit::Exit;

    #[test]
    fn request_round_trips_as_one_line() {
        let request = Request::Wait { folder: "a\nb".into(), copies: 2, timeout_ms: Some(5) };
        let mut line = Vec::new();
        write_line(&mut line, &request).expect("written");
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1);
        let read: Request = read_line(&mut line.as_slice(), REQUEST_BYTES_MAX).expect("read");
        assert_eq!(read, request);
    }

    #[test]
    fn replies_have_the_documented_shape() {
        let mut text = Vec::new();
        write_line(&mut text, &Reply::Error(Problem::new(Exit::Refused, "No.", "Ask."))).expect("written");
        let value: Value = serde_json::from_slice(&text).expect("JSON");
        assert_eq!(value["error"]["code"], "refused");
        assert_eq!(value["error"]["message"], "No.");
        assert_eq!(value["error"]["hint"], "Ask.");
    }

    #[test]
    fn endless_line_is_refused_without_reading_it_all() {
        let long = vec![b'x'; 1000];
        let read: Result<Request, _> = read_line(&mut BufReader::new(long.as_slice()), 100);
        assert!(matches!(read, Err(LineError::TooLong(100))));
    }

    #[test]
    fn broken_and_foreign_lines_are_errors() {
        let read = |bytes: &[u8]| read_line::<Request>(&mut &*bytes, 100);
        assert!(matches!(read(b""), Err(LineError::Ended)));
        assert!(matches!(read(b"{\"verb\":\"ping\"}"), Err(LineError::Ended)));
        assert!(matches!(read(b"{\"verb\":\"format-disk\"}\n"), Err(LineError::Malformed(_))));
        assert!(read(b"{\"verb\":\"ping\"}\n").is_ok());
    }

    #[test]
    fn socket_below_a_long_path_is_reached() {
        let temp = tempfile::tempdir().expect("temporary directory");
        let dir = temp.path().join("d".repeat(150));
        std::fs::create_dir(&dir).expect("created");
        let socket = dir.join("control.sock");
        let listener = listen(&socket).expect("listens");
        let client = connect(&socket).expect("connects");
        listener.accept().expect("accepts");
        drop(client);
    }
}
