//! What the daemon answers about people: invites, joining, members, removals.

use serde::{Deserialize, Serialize};

use cobox_store::format::access::Role;

/// A role as people write it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum PersonRole {
    /// Reads.
    Read,
    /// Reads and writes.
    Write,
    /// Changes who may do what.
    Admin,
}

impl PersonRole {
    /// As the access log has it.
    #[must_use]
    pub fn role(self) -> Role {
        match self {
            Self::Read => Role::Read,
            Self::Write => Role::Write,
            Self::Admin => Role::Admin,
        }
    }

    /// As people write it. A seeder's role is below all of them.
    #[must_use]
    pub fn of(role: Role) -> Self {
        match role {
            Role::Relay | Role::Read => Self::Read,
            Role::Write => Self::Write,
            Role::Admin => Self::Admin,
        }
    }

    /// In a sentence.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

/// An invite that was just opened. The code is in no other report.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct InviteReport {
    /// The folder's name here.
    pub folder: String,
    /// What to hand over.
    pub code: String,
    /// What the invite is called in lists.
    pub invite: String,
    /// What who redeems it may do.
    pub role: PersonRole,
    /// Milliseconds since 1970.
    pub expires_ms: u64,
    /// How many programs the code says to ask.
    pub hints: usize,
}

/// An invite, without its code.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct InviteLine {
    /// Its name.
    pub invite: String,
    /// What who redeems it may do.
    pub role: PersonRole,
    /// Milliseconds since 1970.
    pub expires_ms: u64,
    /// `open`, `expired`, `void`, `used` or `clashed`.
    pub state: String,
    /// The device that joined with it.
    pub used_by: Option<String>,
}

/// Invites of a folder.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct InvitesReport {
    /// The folder's name here.
    pub folder: String,
    /// All there were.
    pub invites: Vec<InviteLine>,
}

/// A folder that was joined.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct JoinReport {
    /// The folder's name here.
    pub folder: String,
    /// Its id in hex.
    pub id: String,
    /// What this device may do.
    pub role: PersonRole,
    /// Entries that are here already.
    pub entries: u64,
    /// Until it was let in.
    pub elapsed_ms: u64,
    /// Whether something that was written here before stays on this device alone: a reader sends nothing.
    #[serde(default)]
    pub unsent: bool,
}

/// One device of a person.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PersonDevice {
    /// Its log's id in hex.
    pub id: String,
    /// What its owner calls it.
    pub label: String,
    /// Whether it is this one.
    pub here: bool,
    /// Entries it wrote, as far as they are here.
    pub entries: u64,
    /// When it wrote the last one, by its clock; milliseconds since 1970.
    pub last_seen_ms: Option<u64>,
}

/// A person.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Person {
    /// The member's id in hex.
    pub id: String,
    /// What the person's devices may do.
    pub role: PersonRole,
    /// Whether this device is the person's.
    pub here: bool,
    /// The devices.
    pub devices: Vec<PersonDevice>,
}

/// Who is in a folder.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct PeopleReport {
    /// The folder's name here.
    pub folder: String,
    /// What this device may do; `None` once it was removed.
    pub role: Option<PersonRole>,
    /// Everyone.
    pub members: Vec<Person>,
    /// Devices that were removed, or never rightly let in.
    pub former: Vec<PersonDevice>,
    /// What a person should know: invites that two devices used at once.
    pub alerts: Vec<String>,
}

/// A device or person that was removed, or whose role changed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, utoipa::ToSchema)]
pub struct DepartureReport {
    /// The folder's name here.
    pub folder: String,
    /// The devices it is about.
    pub devices: Vec<PersonDevice>,
    /// The new role; `None` for a removal.
    pub role: Option<PersonRole>,
    /// Entries that were there before, which a removed device has or can still read if it kept the keys.
    pub readable_entries: u64,
    /// Generations of keys that it knows.
    pub readable_epochs: u64,
    /// Whether new keys are in use that it does not know.
    pub rotated: bool,
}
