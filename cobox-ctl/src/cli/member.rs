//! Verbs about people: inviting, joining, members, devices.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;

use super::args::span;
use super::secrets::{confirm, on_terminal, read_secret};
use super::{Answer, Session};
use crate::control::{Request, Sure, Unseen};
use crate::exit::{Kind, Outcome, Problem};
use crate::people::{
    DepartureReport, InviteReport, InvitesReport, JoinReport, PeopleReport, PersonDevice, PersonRole,
};
use crate::render::units::{counted, entries, name, time};

/// `folder invite`.
#[derive(Args, Debug)]
pub struct Invite {
    /// The folder's name
    pub folder: String,
    /// What the invited person's devices may do
    #[arg(long, value_parser = role, required_unless_present_any = ["list", "void"], value_name = "read|write|admin")]
    pub role: Option<PersonRole>,
    /// How long the code is good
    #[arg(long, value_parser = span, default_value = "72h", value_name = "SPAN")]
    pub expires: Duration,
    /// List all invites instead, without their codes
    #[arg(long, conflicts_with_all = ["role", "void"])]
    pub list: bool,
    /// Take an invite back instead: the beginning of its name in the list
    #[arg(long, conflicts_with = "role", value_name = "INVITE")]
    pub void: Option<String>,
}

/// `folder join`.
#[derive(Args, Debug)]
pub struct Join {
    /// The code; `-` reads it from standard input
    #[arg(required_unless_present = "code_file")]
    pub code: Option<String>,
    /// Read the code from a file instead; `-` is standard input
    #[arg(long, value_name = "FILE", conflicts_with = "code")]
    pub code_file: Option<PathBuf>,
    /// What you will call the folder; its own name without it
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// How long to wait for an admin's device to answer
    #[arg(long, value_parser = span, default_value = "2m", value_name = "SPAN")]
    pub timeout: Duration,
}

/// `member`.
#[derive(Subcommand, Debug)]
pub enum MemberVerb {
    /// List people, their roles and devices, and when each device wrote last
    List {
        /// The folder's name
        folder: String,
    },
    /// Change what a person's devices may do
    Role {
        /// The folder's name
        folder: String,
        /// The beginning of the member's or a device's id, or a device's label
        member: String,
        /// What they may do from now on
        #[arg(value_parser = role, value_name = "read|write|admin")]
        role: PersonRole,
        #[command(flatten)]
        now: Now,
        #[command(flatten)]
        yes: Yes,
    },
    /// Remove a person with all devices; the words do not open the folder any more
    Remove {
        /// The folder's name
        folder: String,
        /// The beginning of the member's or a device's id, or a device's label
        member: String,
        #[command(flatten)]
        now: Now,
        #[command(flatten)]
        yes: Yes,
    },
}

/// `device`.
#[derive(Subcommand, Debug)]
pub enum DeviceVerb {
    /// List the devices of a folder
    List {
        /// The folder's name
        folder: String,
    },
    /// Remove a device that was silent for 90 days; its owner brings it back with `recover`
    Lapse {
        /// Which folder
        folder: String,
        /// The beginning of the device's id, or its label
        device: String,
        #[command(flatten)]
        now: Now,
    },
    /// Remove one device; its owner stays a member
    Remove {
        /// The folder's name
        folder: String,
        /// The beginning of the device's id, or its label
        device: String,
        #[command(flatten)]
        now: Now,
        #[command(flatten)]
        yes: Yes,
    },
}

/// What about entries that are elsewhere and not here.
#[derive(Args, Clone, Copy, Debug)]
pub struct Now {
    /// Also while others have entries of a log that ends which are not here: they are lost
    #[arg(long)]
    now: bool,
}

/// What about acts that lock out who asks for them.
#[derive(Args, Clone, Copy, Default, Debug)]
pub struct Yes {
    /// Also where it locks out this device or you, without a question
    #[arg(long)]
    yes: bool,
}

impl Yes {
    pub(super) fn sure(self) -> Sure {
        if self.yes { Sure::Yes } else { Sure::No }
    }
}

impl Now {
    fn unseen(self) -> Unseen {
        if self.now { Unseen::Accept } else { Unseen::Refuse }
    }
}

fn role(text: &str) -> Result<PersonRole, String> {
    let roles = [PersonRole::Read, PersonRole::Write, PersonRole::Admin];
    let found = roles.into_iter().find(|role| role.word() == text);
    found.ok_or_else(|| "A role is read, write or admin.".to_owned())
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl Session<'_> {
    pub(super) fn invite(&self, args: &Invite) -> Outcome<Answer> {
        let folder = args.folder.clone();
        let report: InvitesReport = match (&args.void, args.role) {
            (Some(invite), _) => self.ask(&Request::InviteVoid { folder, invite: invite.clone() })?,
            (None, Some(role)) => {
                let valid_ms = millis(args.expires);
                let report: InviteReport = self.ask(&Request::Invite { folder, role, valid_ms })?;
                return Answer::new(&report, invited(&report)?);
            }
            (None, None) => self.ask(&Request::InviteList { folder })?,
        };
        Answer::new(&report, invites(&report))
    }

    pub(super) fn join(&self, args: &Join) -> Outcome<Answer> {
        let code = match (&args.code, &args.code_file) {
            (Some(code), _) if code == "-" => read_secret(std::path::Path::new("-"))?.to_string(),
            (Some(code), _) => code.clone(),
            (None, Some(file)) => read_secret(file)?.to_string(),
            (None, None) => return Err(Problem::usage("No code was given.", "Give it, or --code-file.")),
        };
        let timeout_ms = millis(args.timeout);
        let request = Request::Join { code: code.trim().to_owned(), name: args.name.clone(), timeout_ms };
        let report: JoinReport = self.ask_slowly(&request)?;
        let unsent = if report.unsent {
            "What you wrote here before and had not sent stays on this device alone, since a reader sends nothing. An admin who \
             lets you write (`cobox-ctl member role`) has it sent.\n"
        } else {
            ""
        };
        let text = format!(
            "You are in {}, and may {}. {} here. Mount it with `cobox-ctl mount {} DIR`.\n\
             Your own 24 words open it too, as long as you stay a member.\n{unsent}",
            report.folder,
            may(report.role),
            counted(report.entries, "entry is", "entries are"),
            report.folder,
        );
        Answer::new(&report, text)
    }

    pub(super) fn member(&self, verb: &MemberVerb) -> Outcome<Answer> {
        match verb {
            MemberVerb::List { folder } => {
                let report: PeopleReport = self.ask(&Request::MemberList { folder: folder.clone() })?;
                Answer::new(&report, people(&report))
            }
            MemberVerb::Role { folder, member, role, now, yes } => {
                let report: DepartureReport = self.ask_who_is_sure(*yes, &|sure| {
                    let (folder, member, unseen) = (folder.clone(), member.clone(), now.unseen());
                    Request::MemberRole { folder, member, role: *role, unseen, sure }
                })?;
                Answer::new(&report, departed(&report))
            }
            MemberVerb::Remove { folder, member, now, yes } => {
                let report: DepartureReport = self.ask_who_is_sure(*yes, &|sure| {
                    let (folder, member, unseen) = (folder.clone(), member.clone(), now.unseen());
                    Request::MemberRemove { folder, member, unseen, sure }
                })?;
                Answer::new(&report, departed(&report))
            }
        }
    }

    /// Asks for what may lock out who asks: a person at a terminal is asked first, a script says --yes.
    pub(super) fn ask_who_is_sure<T: serde::de::DeserializeOwned>(
        &self,
        yes: Yes,
        request: &dyn Fn(Sure) -> Request,
    ) -> Outcome<T> {
        match self.ask_slowly(&request(yes.sure())) {
            Err(problem) if problem.kind == Kind::Unsure && yes.sure() == Sure::No && on_terminal() => {
                confirm(&problem)?;
                self.ask_slowly(&request(Sure::Yes))
            }
            answer => answer,
        }
    }

    pub(super) fn device(&self, verb: &DeviceVerb) -> Outcome<Answer> {
        match verb {
            DeviceVerb::List { folder } => {
                let report: PeopleReport = self.ask(&Request::MemberList { folder: folder.clone() })?;
                Answer::new(&report, people(&report))
            }
            DeviceVerb::Lapse { folder, device, now } => {
                let (folder, device, unseen) = (folder.clone(), device.clone(), now.unseen());
                let report: DepartureReport =
                    self.ask_slowly(&Request::DeviceLapse { folder, device, unseen })?;
                Answer::new(&report, departed(&report))
            }
            DeviceVerb::Remove { folder, device, now, yes } => {
                let report: DepartureReport = self.ask_who_is_sure(*yes, &|sure| {
                    let (folder, device, unseen) = (folder.clone(), device.clone(), now.unseen());
                    Request::DeviceRemove { folder, device, unseen, sure }
                })?;
                Answer::new(&report, departed(&report))
            }
        }
    }
}

fn may(role: PersonRole) -> &'static str {
    match role {
        PersonRole::Read => "read",
        PersonRole::Write => "read and write",
        PersonRole::Admin => "read, write, and change who may do what",
    }
}

/// The code on a line of its own, then as a picture: upper case takes the least room in a QR code.
fn invited(report: &InviteReport) -> Outcome<String> {
    let code = QrCode::new(report.code.to_uppercase())
        .map_err(|error| Problem::failed(format!("The QR code cannot be drawn: {error}.")))?;
    // Light squares are drawn and dark ones left out, since most terminals are dark.
    let picture = code.render::<Dense1x2>().dark_color(Dense1x2::Light).light_color(Dense1x2::Dark).build();
    Ok(format!(
        "{}\n\n{picture}\n\nWhoever has this code first can {}, until {}. It is good once. Hand it over where nobody else sees it;\n\
         `cobox-ctl folder invite {} --void {}` takes it back.\n",
        report.code,
        may(report.role),
        time(report.expires_ms),
        report.folder,
        report.invite.get(..8).unwrap_or_default(),
    ))
}

fn invites(report: &InvitesReport) -> String {
    if report.invites.is_empty() {
        return format!("{} has had no invites.\n", report.folder);
    }
    let line = |line: &crate::people::InviteLine| {
        let by = line.used_by.as_ref().map(|by| format!(" by {}", name(by.as_bytes()))).unwrap_or_default();
        let (invite, until) = (line.invite.get(..8).unwrap_or_default(), time(line.expires_ms));
        format!("  {invite}  {:<6} {}{by}, until {until}\n", line.role.word(), line.state)
    };
    report.invites.iter().map(line).collect()
}

fn device_line(device: &PersonDevice) -> String {
    let seen =
        device.last_seen_ms.map_or_else(|| "never wrote".to_owned(), |ms| format!("wrote last {}", time(ms)));
    let here = if device.here { " (this device)" } else { "" };
    let id = device.id.get(..8).unwrap_or_default();
    format!("    {id}  {}{here}, {seen}, {}\n", name(device.label.as_bytes()), entries(device.entries))
}

fn people(report: &PeopleReport) -> String {
    let mut text = String::new();
    for person in &report.members {
        let here = if person.here { " (you)" } else { "" };
        text += &format!("  {}  {}{here}\n", person.id.get(..8).unwrap_or_default(), person.role.word());
        text.extend(person.devices.iter().map(device_line));
    }
    if !report.former.is_empty() {
        text += "  no longer here\n";
        text.extend(report.former.iter().map(device_line));
    }
    if report.role.is_none() {
        text += "This device was removed: it keeps what it has, and gets nothing new.\n";
    }
    for alert in &report.alerts {
        text += &format!("! {alert}\n");
    }
    text
}

fn departed(report: &DepartureReport) -> String {
    let mut text: String = report.devices.iter().map(device_line).collect();
    match report.role {
        Some(role) => text += &format!("may {} from now on.\n", may(role)),
        None => {
            text += &format!(
                "can write nothing more and read nothing new. What they had they have: the {} written until now, under \
                 {} of keys, with all files in them, also where they come by the bytes later.\n",
                entries(report.readable_entries),
                counted(report.readable_epochs, "generation", "generations")
            );
            text += if report.rotated {
                "New keys are in use that they do not know.\n"
            } else {
                "New keys are not in use yet: the next device that writes makes them first.\n"
            };
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_of_another_device_forges_no_line() {
        let evil = PersonDevice {
            id: "00112233".into(),
            label: "evil\u{1b}[31m\nlaptop (this device)".into(),
            here: false,
            entries: 0,
            last_seen_ms: None,
        };
        let line = device_line(&evil);
        assert_eq!(line.lines().count(), 1, "{line}");
        assert!(line.contains("'evil'$'\\033''[31m'$'\\n''laptop (this device)'"), "{line}");
    }
}
