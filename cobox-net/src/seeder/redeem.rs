//! Seed codes: the seeder asks the addresses in a code until an admin of the folder has granted it.
//!
//! A code is kept until then, also over restarts, and at the most for as long as codes are good.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use cobox_store::blind::{Batch, Durability, STORE, Table, key};
use cobox_store::error::Result;
use cobox_store::format::invite::{CodeFor, InviteCode};
use cobox_store::format::seeding::SeedRequest;
use cobox_store::id::{FolderId, InviteKey, derive};
use ed25519_dalek::{Signer as _, SigningKey};
use zeroize::Zeroizing;

use super::allowance::Unseen;
use super::holding::Holding;
use super::limits::Limits;
use super::{Exit, Failure};
use crate::driver::now_ms;
use crate::error::Error;
use crate::node::Node;
use crate::wire::GrantAnswer;

/// Setting of the store: the code, and since when it is asked for.
const WAITING: &str = "seed-code ";
/// Codes are good for 72 hours unless their maker says otherwise; after a fortnight nobody waits.
const WAIT_MS_MAX: u64 = 14 * 24 * 60 * 60 * 1000;
/// Between two rounds of questions.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How often one address is asked that knows the code and waits for an admin, before the next one's turn: that
/// one may be off, and is waited for half a minute.
const ASKS_IN_A_ROW: usize = 5;
/// Codes that wait at once.
const WAITING_MAX: usize = 16;

/// The key of a seed code.
#[must_use]
pub fn seed_key(secret: &[u8; 16]) -> SigningKey {
    SigningKey::from_bytes(&Zeroizing::new(derive("seed", &[secret])))
}

fn row(code: InviteKey) -> Vec<u8> {
    key(STORE, Table::BlindSetting, format!("{WAITING}{}", code.to_hex()).as_bytes())
}

/// Reads a seed code as a person pasted it.
///
/// # Errors
/// When it is none.
pub fn read_code(text: &str) -> std::result::Result<InviteCode, Failure> {
    InviteCode::from_text_for(CodeFor::Seed, text).map_err(|_| {
        Failure::failed(
            "This is not a seed code, or it was mistyped. Use the line that `cobox-ctl seeder code` printed, whole and unchanged.",
        )
    })
}

impl Holding {
    /// Keeps a code, to be asked for until it is granted or refused.
    ///
    /// # Errors
    /// When it is none, or the store fails.
    pub fn redeem_later(&self, text: &str) -> std::result::Result<InviteKey, Failure> {
        let code = read_code(text)?;
        let name = InviteKey(seed_key(&code.secret).verifying_key().to_bytes());
        if self.waiting_codes()?.len() >= WAITING_MAX {
            let text = "Too many codes wait already.".to_owned();
            return Err(Failure { exit: Exit::Refused, text, missing: false });
        }
        let canonical =
            code.to_text_for(CodeFor::Seed).map_err(|_| Failure::failed("The code is too long."))?;
        let mut batch = Batch::default();
        batch.put(&row(name), &[&now_ms().to_le_bytes()[..], canonical.as_bytes()].concat());
        self.store.db().commit(batch, Durability::Synced)?;
        self.unseen.lock().remove(&name);
        Ok(name)
    }

    /// Whether a code still waits.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn is_waiting(&self, code: InviteKey) -> Result<bool> {
        self.store.db().contains(&row(code))
    }

    fn waiting_codes(&self) -> Result<Vec<(u64, InviteCode)>> {
        let mut found = Vec::new();
        let prefix = key(STORE, Table::BlindSetting, WAITING.as_bytes());
        self.store.db().scan(&prefix, &[], &mut |_, value| {
            if let Some((since, text)) = value.split_first_chunk::<8>()
                && let Ok(text) = std::str::from_utf8(text)
                && let Ok(code) = InviteCode::from_text_for(CodeFor::Seed, text)
            {
                found.push((u64::from_le_bytes(*since), code));
            }
            ControlFlow::Continue(())
        })?;
        Ok(found)
    }

    /// Why the grant of a code was not taken, if that is so.
    pub fn said_of(&self, code: InviteKey) -> Option<String> {
        self.unseen.lock().get(&code).cloned()
    }

    fn say_of(&self, code: InviteKey, text: String) {
        let mut unseen = self.unseen.lock();
        if unseen.len() >= WAITING_MAX {
            unseen.pop_first();
        }
        unseen.insert(code, text);
    }

    fn forget_code(&self, code: InviteKey) {
        let mut batch = Batch::default();
        batch.delete(&row(code));
        if let Err(error) = self.store.db().commit(batch, Durability::Synced) {
            tracing::warn!(%error, "a seed code that was used cannot be forgotten");
        }
    }

    /// Asks for every code that waits, until `stop`.
    pub fn seek(self: &Arc<Self>, node: &Node, stop: &dyn Fn() -> bool) {
        while !stop() {
            for (since_ms, code) in self.waiting_codes().unwrap_or_default() {
                if stop() {
                    return;
                }
                let name = InviteKey(seed_key(&code.secret).verifying_key().to_bytes());
                if now_ms().saturating_sub(since_ms) > WAIT_MS_MAX {
                    tracing::warn!(code = %name, "a seed code was not answered in a fortnight, and is given up");
                    self.forget_code(name);
                    continue;
                }
                self.ask_hints(node, &code, name, stop);
            }
            pause(stop);
        }
    }

    fn ask_hints(&self, node: &Node, code: &InviteCode, name: InviteKey, stop: &dyn Fn() -> bool) {
        let mut request = SeedRequest {
            folder: code.folder,
            code: name,
            signature: [0; 64],
            seeder: self.identity.address(node.addresses()),
        };
        request.signature = seed_key(&code.secret).sign(&request.signed_bytes()).to_bytes();
        let (mut refused, mut asked) = (0, 0);
        for hint in &code.hints {
            asked += 1;
            match until_answered(|| node.redeem_seed(hint, &request), || !pause(stop)) {
                Ok(Some(records)) => {
                    match self.import_granted(&records) {
                        Ok((folder, limits)) => {
                            tracing::info!(%folder, quota = limits.quota_bytes, "a seed code was granted");
                        }
                        Err(failure) => {
                            tracing::warn!(reason = failure.text, "a grant cannot be taken");
                            self.say_of(name, failure.text);
                        }
                    }
                    self.forget_code(name);
                    return;
                }
                Ok(None) => {}
                Err(Error::Refused { .. }) => refused += 1,
                Err(error) => tracing::debug!(%error, "an address of a seed code was not reached"),
            }
        }
        if asked > 0 && refused == asked {
            // A code that was made a moment ago may not be known everywhere yet.
            let since = self.waiting_codes().ok().and_then(|waiting| {
                waiting.into_iter().find(|(_, other)| *other.secret == *code.secret).map(|(since, _)| since)
            });
            if since.is_none_or(|since| now_ms().saturating_sub(since) > 15_000) {
                tracing::warn!(code = %name, "a seed code was used, taken back, or has expired");
                self.forget_code(name);
            }
        }
    }

    /// Takes what a code granted, unless it is more than may be taken unseen: then it waits for the owner.
    pub(super) fn import_granted(
        &self,
        records: &[cobox_store::format::access::Record],
    ) -> std::result::Result<(FolderId, Limits), Failure> {
        let folder = records.first().map(cobox_store::format::access::Record::folder);
        let folder = folder.ok_or_else(|| Failure::failed("The access log is empty."))?;
        let limits = self
            .asked_by(folder, records)
            .ok_or_else(|| Failure::failed("The folder's access log grants this seeder nothing."))?;
        let unseen = self.takes_unseen(limits, self.store.folder_no(folder).ok())?;
        let taken = match &unseen {
            Unseen::Taken => self.import(records, Some(limits))?,
            // What waits is shown with what is granted; a folder that is held goes on with what was accepted.
            Unseen::Waits(_) if self.store.folder_no(folder).is_ok() => self.import(records, None)?,
            Unseen::Waits(_) => self.import(records, Some(Limits::NONE))?,
        };
        match (taken, unseen) {
            (GrantAnswer::Accepted, Unseen::Taken) => Ok((folder, limits)),
            (GrantAnswer::Accepted, Unseen::Waits(text)) => {
                Err(Failure { exit: Exit::Refused, text, missing: false })
            }
            _ => Err(Failure::failed("The grant does not hold.")),
        }
    }
}

/// Waits until the next round; whether it was to stop.
fn pause(stop: &dyn Fn() -> bool) -> bool {
    let mut slept = Duration::ZERO;
    while slept < ASK_EVERY && !stop() {
        std::thread::sleep(super::STOP_LOOK);
        slept += super::STOP_LOOK;
    }
    stop()
}

/// Asks one address again while it says that it waits for an admin, a few times in a row.
fn until_answered<T, E>(
    mut ask: impl FnMut() -> std::result::Result<Option<T>, E>,
    mut may_go_on: impl FnMut() -> bool,
) -> std::result::Result<Option<T>, E> {
    for _ in 1..ASKS_IN_A_ROW {
        match ask() {
            Ok(None) if may_go_on() => {}
            answer => return answer,
        }
    }
    ask()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(answers: &[std::result::Result<Option<u8>, u8>]) -> (std::result::Result<Option<u8>, u8>, usize) {
        let mut asked = 0;
        let answer = until_answered(
            || {
                asked += 1;
                answers.get(asked - 1).copied().unwrap_or(Ok(None))
            },
            || true,
        );
        (answer, asked)
    }

    #[test]
    fn address_that_waits_for_an_admin_is_asked_again_before_the_next() {
        assert_eq!(ask(&[Ok(None), Ok(None), Ok(Some(7))]), (Ok(Some(7)), 3));
        assert_eq!(ask(&[Ok(None), Err(4)]), (Err(4), 2));
        assert_eq!(ask(&[Err(4)]), (Err(4), 1));
        assert_eq!(ask(&[]), (Ok(None), ASKS_IN_A_ROW));
        let stopped = until_answered(|| Ok::<Option<u8>, u8>(None), || false);
        assert_eq!(stopped, Ok(None));
    }
}
