//! What the daemon answers: the same objects for `--json`, for people and for `.cobox/status.json`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Everything about a device.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct StatusReport {
    /// What people call the device.
    pub label: String,
    /// Its libp2p identity.
    pub peer_id: String,
    /// Room on the disk of the store.
    pub disk_free_bytes: u64,
    /// Its folders.
    pub folders: Vec<FolderReport>,
}

/// One folder.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FolderReport {
    /// What the member calls it.
    pub name: String,
    /// The folder's id in hex.
    pub id: String,
    /// Whether this device is none of the folder's: nothing new reaches it, and what is written here is sent to nobody.
    #[serde(default)]
    pub removed: bool,
    /// Where it is mounted.
    pub mount: Option<MountReport>,
    /// What lies on this device.
    pub local: LocalReport,
    /// Conflicts that nobody has settled; `None` while it is not mounted.
    #[serde(default)]
    pub conflicts: Option<u64>,
    /// What a person must know and do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alarms: Vec<Alarm>,
    /// Who holds copies.
    pub seeders: Vec<SeederReport>,
    /// Other devices that this one knows of.
    #[serde(default)]
    pub devices: Vec<PeerReport>,
    /// How many seeders say they hold everything, or have proved it, or had a moment ago.
    pub copies_claimed: u32,
    /// How many have proved it, in a proof that still counts.
    pub copies_proved: u32,
    /// Those of them whose proof should have been renewed by now.
    #[serde(default)]
    pub copies_late: u32,
    /// How many there should be.
    #[serde(default)]
    pub copies_wanted: u32,
    /// How long a proof counts, in milliseconds.
    #[serde(default)]
    pub tolerance_ms: u64,
    /// Who said how many, and how long.
    #[serde(default)]
    pub policy_of: PolicyOf,
    /// When the newest proof was given, in milliseconds since 1970, also where it does not count now; null when there is
    /// none.
    pub proved_at_ms: Option<u64>,
}

/// Whose wish a folder's copies and tolerance are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PolicyOf {
    /// An admin's, for everybody.
    Folder,
    /// This device's, for itself.
    Device,
    /// Nobody's: what holds where nothing was said.
    #[default]
    Nobody,
}

/// Something that is wrong with a folder, as sentences.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Alarm {
    /// What happened.
    pub what: String,
    /// What to do.
    pub advice: String,
}

/// Where alarms go besides the log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AlarmSettings {
    /// A program that gets the notice as JSON on its standard input. One that does not end with 0 within a minute gets it
    /// again, for a week: it is to end with 0 once it has taken it, and to mind a notice that it had.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub program: Option<PathBuf>,
    /// A web address that the notice is posted to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// An e-mail address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mail: Option<String>,
    /// How long trouble lasts before it is told, in milliseconds.
    pub after_ms: u64,
}

/// How a test of the alarms went.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AlarmTest {
    /// Where it was sent.
    pub settings: AlarmSettings,
    /// What did not work.
    pub problems: Vec<String>,
}

/// A mount.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct MountReport {
    /// Where.
    #[schema(value_type = String)]
    pub dir: PathBuf,
    /// Whether it refuses changes.
    pub read_only: bool,
    /// Why it is wanted but not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// What lies on this device.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LocalReport {
    /// Signed entries, over all logs.
    pub entries: u64,
    /// Live packs.
    pub packs: u64,
    /// Their bytes.
    pub pack_bytes: u64,
    /// Live packs that are not wholly on this device.
    pub packs_missing: u64,
    /// Those of them that no seeder is known to hold.
    #[serde(default)]
    pub packs_lost: u64,
    /// Bytes that no entry carries yet.
    pub dirty_bytes: u64,
    /// Changes that no entry carries yet.
    pub pending_ops: u64,
}

/// How sure it is that a seeder holds a folder.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Holding {
    /// It lacks something, or was never reached.
    Behind,
    /// Its owner let the folder go: it keeps what it has for a while, and takes nothing new.
    LetGo,
    /// It proved everything that there was until a few minutes ago, and what came since is on its way to it, or waits for it.
    Syncing,
    /// It proved that it holds everything, too long ago to count.
    Expired,
    /// It says that it holds everything.
    Claimed,
    /// It is connected, proved a moment ago that it holds everything, and is sent what was written since: what a copy
    /// of a folder is while that is written to.
    Following,
    /// It proved that it holds everything; the proof counts, and its renewal is late.
    Late,
    /// It proved that it holds everything.
    Proved,
}

/// One seeder of a folder.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SeederReport {
    /// Its libp2p identity.
    pub peer_id: String,
    /// Its address, as text.
    pub address: String,
    /// How much it may store.
    pub quota_bytes: u64,
    /// Until when, in milliseconds since 1970.
    pub until_ms: u64,
    /// Whether a session is open: `connected`, `waiting`, `offline`, `refused`, `pending`.
    pub link: String,
    /// Why not, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// Round trip.
    pub rtt_ms: Option<u64>,
    /// How it is reached.
    pub path: Option<String>,
    /// Whether it is connected and has told what it lacks.
    #[serde(default)]
    pub told: bool,
    /// Entries it lacks, as far as it told; all of them while it is not connected.
    pub entries_behind: u64,
    /// Packs it lacks, as far as it told.
    pub packs_to_send: u64,
    /// Their bytes.
    pub bytes_to_send: u64,
    /// Bytes sent since the session began.
    pub bytes_sent: u64,
    /// Bytes per second just now.
    pub rate: u64,
    /// What is known of its copy.
    pub holding: Holding,
    /// When it last proved something, in milliseconds since 1970, by this device's clock.
    pub proved_at_ms: Option<u64>,
    /// When what it has is deleted, no earlier, in milliseconds since 1970: where its owner let the folder go.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone_ms: Option<u64>,
    /// When a session with it was last open, by this device's clock.
    #[serde(default)]
    pub heard_at_ms: Option<u64>,
    /// Where it stands, as agreed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// Who runs it, as agreed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organisation: Option<String>,
    /// How to reach them, as agreed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contact: Option<String>,
    /// The agreement's id, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agreement: Option<String>,
}

impl SeederReport {
    /// Whether it may have every pack, as far as it proved or says.
    pub(crate) fn may_have_all(&self) -> bool {
        match self.holding {
            Holding::Behind | Holding::Syncing | Holding::LetGo => false,
            Holding::Following => self.entries_behind == 0 && self.packs_to_send == 0,
            _ => true,
        }
    }

    /// Who and where, for lists: `Kollektiv, Leipzig`; empty where nothing was agreed.
    #[must_use]
    pub fn whereabouts(&self) -> String {
        let said = [&self.organisation, &self.place];
        said.into_iter().flatten().cloned().collect::<Vec<_>>().join(", ")
    }
}

/// Another device of a folder, on the network.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PeerReport {
    /// Its libp2p identity.
    pub peer_id: String,
    /// What people call it, once it said which device it is.
    pub label: Option<String>,
    /// How far its session is, in the words of [`SeederReport::link`].
    pub link: String,
    /// Why it is not connected, as a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
    /// How it is reached.
    pub path: Option<String>,
    /// Since when, in milliseconds since 1970.
    pub since_ms: Option<u64>,
    /// Round trip.
    pub rtt_ms: Option<u64>,
    /// Our entries that it lacks, as far as it told us.
    pub entries_behind: u64,
    /// Its entries that we lack.
    pub entries_to_receive: u64,
    /// Pack bytes sent since the session began.
    pub bytes_sent: u64,
    /// Pack bytes received since the session began.
    pub bytes_received: u64,
}

impl Holding {
    /// Whether the proof counts.
    #[must_use]
    pub fn is_proved(self) -> bool {
        matches!(self, Self::Proved | Self::Late)
    }
}

/// How far a wait is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WaitProgress {
    /// `cutting`, `connecting`, `sending`, `receiving`, `proving`.
    pub stage: String,
    /// Copies proved so far.
    pub copies_proved: u32,
    /// Copies asked for.
    pub copies_wanted: u32,
    /// Bytes there.
    pub bytes_done: u64,
    /// Bytes in all.
    pub bytes_total: u64,
    /// Bytes per second.
    pub rate: u64,
    /// Seconds to go at that rate.
    pub eta_s: Option<u64>,
    /// What is missing, as a sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub missing: String,
}

/// A wait that succeeded.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct WaitReport {
    /// Which folder.
    pub folder: String,
    /// Copies proved.
    pub copies_proved: u32,
    /// The seeders that proved.
    pub seeders: Vec<ProofReport>,
    /// Live packs that were proved.
    pub packs: u64,
    /// Their bytes.
    pub pack_bytes: u64,
    /// Bytes sent while waiting.
    pub bytes_sent: u64,
    /// How long it took.
    pub elapsed_ms: u64,
}

/// One proof.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ProofReport {
    /// Who.
    pub peer_id: String,
    /// Whether it covers all that is live.
    pub holding: Holding,
    /// Samples that were asked for.
    pub samples: u64,
    /// Samples that were proved.
    pub proved: u64,
    /// When, in milliseconds since 1970, by this device's clock; 0 when it was not reached.
    pub time_ms: u64,
    /// What was wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// The answer of an audit.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AuditReport {
    /// Which folder.
    pub folder: String,
    /// One line per seeder.
    pub proofs: Vec<ProofReport>,
}

/// A grant that was recorded.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SeederAddReport {
    /// Which folder.
    pub folder: String,
    /// The seeder.
    pub peer_id: String,
    /// Its link after a few seconds.
    pub link: String,
    /// When what it has is deleted, no earlier, in milliseconds since 1970: where its owner let the folder go, and has
    /// to take it again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gone_ms: Option<u64>,
    /// How much it may store.
    pub quota_bytes: u64,
}

/// A grant that was ended.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct SeederRemoveReport {
    /// Which folder.
    pub folder: String,
    /// The seeder.
    pub peer_id: String,
    /// Whether it knows already.
    pub told: bool,
    /// Proved copies that are left.
    pub copies_left: u32,
    /// How many there should be.
    pub copies_wanted: u32,
}

/// What a check found in one folder.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FolderCheck {
    /// Which folder.
    pub name: String,
    /// Entries read, verified and opened.
    pub entries: u64,
    /// Packs read.
    pub packs: u64,
    /// Bytes read.
    pub bytes: u64,
    /// Live packs that are not wholly on this device, but at a seeder: no damage.
    pub packs_missing: u64,
    /// Packs that were damaged.
    #[serde(default)]
    pub packs_damaged: u64,
    /// Files whose content was in the damaged places, from the root of the folder; at most 100.
    /// Bytes that are no UTF-8 are replaced.
    #[serde(default)]
    pub files_damaged: Vec<String>,
    /// The bytes of all of them in hex, where one is no UTF-8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub files_damaged_hex: Vec<String>,
    /// What is wrong, one sentence each.
    pub damage: Vec<String>,
}

/// What a check found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct CheckReport {
    /// One per folder.
    pub folders: Vec<FolderCheck>,
}

/// How far `prune` came.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PruneState {
    /// It only looked.
    Looked,
    /// No pack is without anything that is needed.
    Nothing,
    /// Packs were written again, and too few seeders have proved that they hold them: run it again.
    Copies,
    /// Other devices have to answer; the daemon goes on by itself.
    Waiting,
    /// A file came back, or a log turned out longer: it has to begin again.
    Void,
    /// Packs were released.
    Released,
}

/// A folder that this device has left.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct LeaveReport {
    /// What the member called it.
    pub folder: String,
    /// Its id, in hex.
    pub id: String,
    /// Copies that seeders proved.
    pub copies_proved: u32,
    /// Bytes of packs that were removed here.
    pub removed_bytes: u64,
}

/// What `prune` found and did.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PruneReport {
    /// Of which folder.
    pub folder: String,
    /// How far it came.
    pub state: PruneState,
    /// Packs of the folder.
    pub packs: u64,
    /// Their bytes.
    pub pack_bytes: u64,
    /// Bytes in them that a file needs.
    pub live_bytes: u64,
    /// Packs of which nothing is needed.
    pub dead_packs: u64,
    /// Their bytes.
    pub dead_bytes: u64,
    /// Packs of which less than half is needed.
    pub half_dead_packs: u64,
    /// Their bytes that nothing needs.
    pub half_dead_bytes: u64,
    /// Packs that were released now.
    pub released_packs: u64,
    /// Their bytes.
    pub released_bytes: u64,
    /// Labels of the devices that have not answered.
    pub waits_for: Vec<String>,
    /// Bytes that were released and are still on this device, because something here uses them.
    pub held_here_bytes: u64,
    /// Packs that can go because others hold what is needed of them; with `--dry-run`, as are those up to `comes_back_bytes`.
    pub covered_packs: u64,
    /// Their bytes.
    pub covered_bytes: u64,
    /// Packs that would be written again in one run: mostly dead ones and small ones.
    pub rewrite_packs: u64,
    /// Their bytes.
    pub rewrite_bytes: u64,
    /// What of them is needed, and would be sent to all seeders again.
    pub copied_bytes: u64,
    /// How many more are worth it, for which there is no room.
    pub kept_back_packs: u64,
    /// How much may be sent again without filling a seeder's grant; nothing is written again beyond it.
    pub room_bytes: u64,
    /// Bytes that seeders get back, 30 days after the release.
    pub comes_back_bytes: u64,
    /// Packs that were made now of others.
    pub merged_packs: u64,
    /// Their bytes.
    pub merged_bytes: u64,
}

/// The public side of a device's keys.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct KeyReport {
    /// What people call the device.
    pub label: String,
    /// Its libp2p identity.
    pub peer_id: String,
    /// How the keys are unlocked: `passphrase` or `key-file`.
    pub unlock: String,
    /// Its key in each folder.
    pub folders: Vec<FolderKey>,
}

/// A device's public key in one folder.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct FolderKey {
    /// What the member calls it.
    pub name: String,
    /// The folder's id in hex.
    pub id: String,
    /// The device's signing key in hex.
    pub log: String,
}

/// Where the HTTP API answers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ApiReport {
    /// The Unix socket, which is always there.
    #[schema(value_type = String)]
    pub socket: PathBuf,
    /// The address on TCP.
    pub listen: Option<String>,
    /// The file with the token that requests on TCP must show.
    #[schema(value_type = Option<String>)]
    pub token_file: Option<PathBuf>,
}

/// What arrived after a recovery.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ArriveReport {
    /// The folders, as they stand now.
    pub folders: Vec<FolderReport>,
    /// Whether more than one source agreed on what is newest.
    pub freshness: String,
    /// Folders that nobody was asked about: they have no seeder, and no other device was connected.
    #[serde(default)]
    pub alone: Vec<String>,
}
