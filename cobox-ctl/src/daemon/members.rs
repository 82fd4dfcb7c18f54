//! People of a folder: inviting, roles, removals; and what the daemon does for others unasked.

use cobox_net::wire::place;
use cobox_net::{PeerId, shown};
use cobox_store::blind::{Access, InviteState};
use cobox_store::format::access::Role;
use cobox_store::format::invite::{HINT_ADDRESSES_MAX, Hint, InviteCode};
use cobox_store::id::{InviteKey, LogId, MemberId};
use cobox_store::keyed::{Admission, Folder, InviteKeys};

use super::folder::FolderState;
use super::status::grants;
use super::wait::Tell;
use super::{Daemon, now_ms};
use crate::control::{Sure, Unseen};
use crate::exit::{Outcome, Problem};
use crate::people::{
    DepartureReport, InviteLine, InviteReport, InvitesReport, PeopleReport, Person, PersonDevice, PersonRole,
};
use crate::report::WaitProgress;

/// Seeders that a code names beside this device: the code must stay short enough for a QR code.
const SEEDER_HINTS_MAX: usize = 2;

impl Daemon {
    /// Opens an invite and makes its code.
    pub fn invite(&self, folder: &str, role: PersonRole, valid_ms: u64) -> Outcome<InviteReport> {
        let state = self.folder(folder)?;
        require_lifetime(valid_ms)?;
        let hints = self.hints(&state)?;
        if hints.is_empty() {
            return Err(Problem::failed_with(
                format!("Nobody could be asked: this device does not listen, and {folder} has no seeder."),
                "Grant a seeder first: `cobox-ctl seeder add`.",
            ));
        }
        let expires_ms = now_ms().saturating_add(valid_ms);
        let code = InviteCode { hints, ..state.folder.invite(role.role(), expires_ms)? };
        let text = code.to_text().map_err(|_| Problem::failed("The addresses do not fit into a code."))?;
        Ok(InviteReport {
            folder: state.folder.name(),
            code: text.to_string(),
            invite: InviteKeys::of(&code).invite().to_hex(),
            role,
            expires_ms,
            hints: code.hints.len(),
        })
    }

    /// Where somebody who joins can ask: at this device, and at seeders, which pass the request on.
    pub fn hints(&self, state: &FolderState) -> Outcome<Vec<Hint>> {
        let mut hints = Vec::new();
        let own = short(self.node.addresses());
        if !own.is_empty() {
            hints.push(Hint { peer: *self.node.peer_id().key(), addresses: own });
        }
        let seeders = grants(state)?.into_iter().map(|(peer, grant)| {
            // Names stay true when it moves; then where it says that it is, before where it was when it was added.
            let (were, names): (Vec<_>, Vec<_>) =
                grant.addresses.into_iter().partition(|address| place(address).is_some());
            let mut addresses = names;
            addresses.extend(state.said_by(peer));
            addresses.extend(were);
            Hint { peer: *PeerId::key(&peer), addresses: short(addresses) }
        });
        hints.extend(seeders.filter(|hint| !hint.addresses.is_empty()).take(SEEDER_HINTS_MAX));
        Ok(hints)
    }

    /// All invites there were.
    pub fn invites(&self, folder: &str) -> Outcome<InvitesReport> {
        let state = self.folder(folder)?;
        let access = state.folder.store().access(state.no())?;
        let line = |(invite, (open, standing)): (&InviteKey, &(_, InviteState))| {
            let open: &cobox_store::format::membership::OpenInvite = open;
            let (word, used_by) = match standing {
                InviteState::Open if now_ms() > open.expires_ms => ("expired", None),
                InviteState::Open => ("open", None),
                InviteState::Void => ("void", None),
                InviteState::Clashed => ("clashed", None),
                InviteState::Used(log) => ("used", Some(label(&state.folder, log))),
            };
            InviteLine {
                invite: invite.to_hex(),
                role: PersonRole::of(open.role),
                expires_ms: open.expires_ms,
                state: word.to_owned(),
                used_by,
            }
        };
        let invites = access.invites.iter().map(line).collect();
        Ok(InvitesReport { folder: state.folder.name(), invites })
    }

    /// Takes an invite back; `chosen` is the beginning of its name, or the code itself.
    pub fn void_invite(&self, folder: &str, chosen: &str) -> Outcome<InvitesReport> {
        let state = self.folder(folder)?;
        let access = state.folder.store().access(state.no())?;
        let named = InviteCode::from_text(chosen).ok().map(|code| InviteKeys::of(&code).invite());
        let fits = |invite: &InviteKey| {
            named.map_or_else(
                || !chosen.is_empty() && invite.to_hex().starts_with(chosen),
                |named| named == *invite,
            )
        };
        let found: Vec<InviteKey> = access.invites.keys().copied().filter(|invite| fits(invite)).collect();
        let [invite] = found[..] else {
            return Err(Problem::missing(
                "No single invite is meant by that.",
                "`cobox-ctl folder invite FOLDER --list` shows them.",
            ));
        };
        state.folder.void_invite(invite)?;
        self.invites(folder)
    }

    /// Who is here.
    pub fn people(&self, folder: &str) -> Outcome<PeopleReport> {
        let state = self.folder(folder)?;
        let access = state.folder.store().access(state.no())?;
        let me = access.devices.get(&state.folder.log()).map(|device| device.member);
        let members = access.members.iter().map(|(member, standing)| Person {
            id: member.to_hex(),
            role: PersonRole::of(standing.role),
            here: me == Some(*member),
            devices: devices_of(&state, &access, *member),
        });
        let clashed = access.invites.iter().filter(|(_, (_, state))| *state == InviteState::Clashed);
        let alerts = clashed.map(|(invite, _)| {
            format!(
                "Two devices used the invite {invite} at the same time. Neither was let in, and the keys were changed; somebody else has seen the code."
            )
        });
        Ok(PeopleReport {
            folder: state.folder.name(),
            role: access.role_of(&state.folder.log()).map(PersonRole::of),
            members: members.collect(),
            former: access.former.keys().map(|log| device(&state, log)).collect(),
            alerts: alerts.collect(),
        })
    }

    /// Changes what a person's devices may do.
    pub fn person_role(
        &self,
        folder: &str,
        who: &str,
        role: PersonRole,
        (unseen, sure): (Unseen, Sure),
        tell: Tell<'_>,
    ) -> Outcome<DepartureReport> {
        let state = self.folder(folder)?;
        let member = find_member(&state, who)?;
        if role != PersonRole::Admin {
            require_other_admin(&state, |_, other| other != member)?;
            let is_own = state.folder.role()? == Some(Role::Admin) && own_member(&state)? == Some(member);
            require_sure(&state, is_own, sure, "You would be no admin any more of")?;
        }
        if role == PersonRole::Read {
            self.require_seen(&state, &logs_of(&state, member)?, unseen, tell)?;
            // Others may have been removed meanwhile.
            require_other_admin(&state, |_, other| other != member)?;
        }
        self.depart(&state, member, Some(role), |folder| folder.set_role(member, role.role()))
    }

    /// Removes a person.
    pub fn person_remove(
        &self,
        folder: &str,
        who: &str,
        (unseen, sure): (Unseen, Sure),
        tell: Tell<'_>,
    ) -> Outcome<DepartureReport> {
        let state = self.folder(folder)?;
        let member = find_member(&state, who)?;
        require_other_admin(&state, |_, other| other != member)?;
        let is_own = own_member(&state)? == Some(member);
        require_sure(
            &state,
            is_own,
            sure,
            "You would remove yourself, with all your devices and your words, from",
        )?;
        self.require_seen(&state, &logs_of(&state, member)?, unseen, tell)?;
        require_other_admin(&state, |_, other| other != member)?;
        self.depart(&state, member, None, |folder| folder.remove_member(member))
    }

    /// Removes one device.
    pub fn device_remove(
        &self,
        folder: &str,
        which: &str,
        (unseen, sure): (Unseen, Sure),
        tell: Tell<'_>,
    ) -> Outcome<DepartureReport> {
        let state = self.folder(folder)?;
        let access = state.folder.store().access(state.no())?;
        let fits = |log: &&LogId| is_meant(&log.to_hex(), Some(label(&state.folder, log)), which);
        let found: Vec<LogId> = access.devices.keys().filter(fits).copied().collect();
        let log = single(&found, which, "device")?;
        require_other_admin(&state, |other, _| other != log)?;
        let is_own = log == state.folder.log();
        require_sure(&state, is_own, sure, "You would remove the very device that you are at from")?;
        self.require_seen(&state, &[log], unseen, tell)?;
        require_other_admin(&state, |other, _| other != log)?;
        let before = (readable_entries(&state)?, access.epochs.len() as u64);
        let devices = vec![device(&state, &log)];
        state.folder.remove_device(log)?;
        self.departed(&state, devices, None, before)
    }

    /// Removes a device that nobody heard of for [`LAPSE_MS`].
    pub fn device_lapse(
        &self,
        folder: &str,
        which: &str,
        unseen: Unseen,
        tell: Tell<'_>,
    ) -> Outcome<DepartureReport> {
        let state = self.folder(folder)?;
        let access = state.folder.store().access(state.no())?;
        let fits = |log: &&LogId| is_meant(&log.to_hex(), Some(label(&state.folder, log)), which);
        let found: Vec<LogId> = access.devices.keys().filter(fits).copied().collect();
        let silent = device(&state, &single(&found, which, "device")?);
        let name = shown::name(silent.label.as_bytes());
        let seen = match silent.last_seen_ms {
            Some(ms) if now_ms().saturating_sub(ms) >= LAPSE_MS => {
                return self.device_remove(folder, &silent.id, (unseen, Sure::No), tell);
            }
            Some(ms) => format!("{name} wrote last {}", shown::time(ms)),
            None => format!("{name} never wrote anything"),
        };
        Err(Problem::refused(
            format!("{seen}: a device lapses when it was silent for 90 days."),
            "`cobox-ctl device remove` removes it now.",
        ))
    }

    fn depart(
        &self,
        state: &FolderState,
        member: MemberId,
        role: Option<PersonRole>,
        act: impl FnOnce(&Folder) -> cobox_store::error::Result<()>,
    ) -> Outcome<DepartureReport> {
        let access = state.folder.store().access(state.no())?;
        let before = (readable_entries(state)?, access.epochs.len() as u64);
        let devices = devices_of(state, &access, member);
        act(&state.folder)?;
        self.departed(state, devices, role, before)
    }

    fn departed(
        &self,
        state: &FolderState,
        devices: Vec<PersonDevice>,
        role: Option<PersonRole>,
        (readable_entries, readable_epochs): (u64, u64),
    ) -> Outcome<DepartureReport> {
        self.tell_network(state)?;
        let now = state.folder.store().access(state.no())?.epochs.len() as u64;
        Ok(DepartureReport {
            folder: state.folder.name(),
            devices,
            role,
            readable_entries,
            readable_epochs,
            rotated: now > readable_epochs,
        })
    }

    /// What is owed to the others: vouches, epochs, and answers to those who ask to be let in.
    pub fn tend(&self, state: &FolderState) -> Outcome<()> {
        let tended = state.folder.tend()?;
        if tended.vouches > 0 {
            tracing::info!(folder = %state.folder.id(), vouches = tended.vouches, "vouched for logs that ended");
        }
        state.apply_role()
    }

    /// Answers requests to be let in.
    pub fn answer_joins(&self) {
        for (no, request) in self.node.take_joins() {
            let Some(state) = self.folders().into_iter().find(|state| state.no() == no) else { continue };
            if !matches!(state.folder.role(), Ok(Some(Role::Admin))) {
                continue;
            }
            match state.folder.admit(&request) {
                Ok(Admission::New) => tracing::info!(folder = %state.folder.id(), "a device joined"),
                Ok(Admission::Known) => {}
                Err(error) => {
                    tracing::warn!(folder = %state.folder.id(), %error, "a request to join was refused");
                }
            }
        }
    }
}

/// How long a device must be silent before it can be lapsed.
const LAPSE_MS: u64 = 90 * 24 * 60 * 60 * 1000;

pub(super) fn asking(what: &str) -> WaitProgress {
    WaitProgress {
        stage: "connecting".to_owned(),
        copies_proved: 0,
        copies_wanted: 0,
        bytes_done: 0,
        bytes_total: 0,
        rate: 0,
        eta_s: None,
        missing: what.to_owned(),
    }
}

/// The first few addresses that others can use: those of this machine alone only where there are no others.
fn short(addresses: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    // A binary multiaddr begins with its protocol: 4 is IPv4, 41 (0x29) IPv6.
    const LOOPBACK_V6: [u8; 17] = [0x29, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    let is_local = |address: &Vec<u8>| address.starts_with(&[4, 127]) || address.starts_with(&LOOPBACK_V6);
    let (local, mut usable): (Vec<_>, Vec<_>) = addresses.into_iter().partition(is_local);
    if usable.is_empty() {
        usable = local;
    }
    usable.truncate(HINT_ADDRESSES_MAX);
    usable
}

pub(super) fn label(folder: &Folder, log: &LogId) -> String {
    folder.label_of(log).unwrap_or_else(|| "a device".to_owned())
}

fn device(state: &FolderState, log: &LogId) -> PersonDevice {
    let store = state.folder.store();
    // Where its log forked, the longest of the branches says most.
    let branches = store.branches(state.no()).unwrap_or_default();
    let heads = store.log_heads(state.no()).unwrap_or_default().into_iter();
    let head = heads.filter(|head| branches.origin(&head.log) == *log).max_by_key(|head| head.seq);
    let entry = head.and_then(|head| store.entry(state.no(), head.log, head.seq).ok().flatten());
    let body = entry.and_then(|entry| state.folder.open_entry(&entry).ok());
    PersonDevice {
        id: log.to_hex(),
        label: label(&state.folder, log),
        here: *log == state.folder.log(),
        entries: head.map_or(0, |head| head.seq),
        last_seen_ms: body.map(|body| body.hlc >> 16),
    }
}

fn devices_of(state: &FolderState, access: &Access, member: MemberId) -> Vec<PersonDevice> {
    let listed = access.devices.iter().filter(|(_, device)| device.member == member);
    listed.map(|(log, _)| device(state, log)).collect()
}

fn logs_of(state: &FolderState, member: MemberId) -> Outcome<Vec<LogId>> {
    let access = state.folder.store().access(state.no())?;
    let listed = access.devices.iter().filter(|(_, device)| device.member == member);
    Ok(listed.map(|(log, _)| *log).collect())
}

fn readable_entries(state: &FolderState) -> Outcome<u64> {
    Ok(state.folder.store().log_heads(state.no())?.iter().map(|head| head.seq).sum())
}

/// Whether a person means this: by the beginning of its id, or by its label.
fn is_meant(id: &str, label: Option<String>, chosen: &str) -> bool {
    const PREFIX_MIN: usize = 4;
    (chosen.len() >= PREFIX_MIN && id.starts_with(chosen)) || label.as_deref() == Some(chosen)
}

fn single<T: Copy>(found: &[T], chosen: &str, what: &str) -> Outcome<T> {
    match found {
        [one] => Ok(*one),
        [] => Err(Problem::missing(
            format!("The folder has no {what} {chosen:?}."),
            "`cobox-ctl member list FOLDER` shows ids and labels.",
        )),
        _ => Err(Problem::missing(
            format!("More than one {what} is called {chosen:?}."),
            "Use the beginning of the id; `cobox-ctl member list FOLDER` shows it.",
        )),
    }
}

fn find_member(state: &FolderState, who: &str) -> Outcome<MemberId> {
    let access = state.folder.store().access(state.no())?;
    let fits = |member: &&MemberId| {
        let mut devices = access.devices.iter().filter(|(_, device)| device.member == **member);
        is_meant(&member.to_hex(), None, who)
            || devices.any(|(log, _)| is_meant(&log.to_hex(), Some(label(&state.folder, log)), who))
    };
    let found: Vec<MemberId> = access.members.keys().filter(fits).copied().collect();
    single(&found, who, "member")
}

/// The person of this device; `None` once it was removed.
fn own_member(state: &FolderState) -> Outcome<Option<MemberId>> {
    let access = state.folder.store().access(state.no())?;
    Ok(access.devices.get(&state.folder.log()).map(|device| device.member))
}

/// What nobody here can take back needs a person who means it.
fn require_sure(state: &FolderState, is_own: bool, sure: Sure, what: &str) -> Outcome<()> {
    if !is_own || sure == Sure::Yes {
        return Ok(());
    }
    Err(Problem::unsure(
        format!("{what} {}. Only another admin can take that back.", state.folder.name()),
        "Nothing was changed. Say --yes if that is what you want; `cobox-ctl folder leave` takes a folder off this device alone.",
    ))
}

/// A code that is good for no time brings in nobody.
pub(super) fn require_lifetime(valid_ms: u64) -> Outcome<()> {
    if valid_ms > 0 {
        return Ok(());
    }
    Err(Problem::usage(
        "A code that expires at once brings in nobody.",
        "Say how long it is good, like 72h: long enough to hand it over.",
    ))
}

/// A folder without an admin lets nobody in or out until its founder's words are used.
fn require_other_admin(state: &FolderState, stays: impl Fn(LogId, MemberId) -> bool) -> Outcome<()> {
    let access = state.folder.store().access(state.no())?;
    let mut admins = access.devices.values().filter(|device| device.role == Role::Admin);
    if admins.any(|device| stays(device.log, device.member)) {
        Ok(())
    } else {
        Err(Problem::refused(
            "The folder would be left without an admin.",
            "Make somebody else an admin first: `cobox-ctl member role FOLDER MEMBER admin`.",
        ))
    }
}
