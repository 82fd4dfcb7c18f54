//! What a seeder keeps of places: where it said that it is, and where its folders' devices said that they are.
//!
//! Both are for the day on which it is somewhere else: it then says so with a later time, and calls devices that do
//! not come. The layouts are in `docs/format.md` §15.7.

use cobox_store::blind::{STORE, Store};
use cobox_store::error::Result;
use cobox_store::id::FolderNo;

use super::holding::Holding;
use super::identity::{save_address, saved_address};
use crate::node::Node;
use crate::sync::{Keep, MOVES_MAX};

/// A setting of the store: what it said of itself last.
const WORD: &str = "seeder-word";
/// A setting of each folder: where its devices are.
const WHEREABOUTS: &str = "whereabouts";

/// How often is kept what is left when the seeder ends: a thousand folders, and no more, since whoever ends it waits.
const LAST_MAX: usize = 16;

/// What this seeder said of itself last.
pub(super) fn last_word(store: &Store) -> Result<Option<Vec<u8>>> {
    store.setting(STORE, WORD)
}

impl Holding {
    /// Tells the node where the folder's devices were when the seeder ran last.
    pub(super) fn recall_places(&self, no: FolderNo, node: &Node) {
        match self.store.setting(no, WHEREABOUTS) {
            Ok(Some(known)) => node.recall_whereabouts(no, &known),
            Ok(None) => {}
            Err(error) => tracing::warn!(no = no.0, %error, "where devices were cannot be read"),
        }
    }

    /// Keeps what changed and was not kept yet, before the seeder ends.
    pub(super) fn keep_last_places(&self) {
        for _ in 0..LAST_MAX {
            if !self.keep_places(Keep::All) {
                return;
            }
        }
    }

    /// Keeps what changed, and the address that `cobox-seeder address` prints; whether there may be more.
    pub(super) fn keep_places(&self, keep: Keep) -> bool {
        let Some(node) = self.node.lock().clone() else { return false };
        let Ok((word, folders)) = node.moves(keep) else { return false };
        let more = folders.len() == MOVES_MAX;
        let word = word.map(|word| self.store.setting_put(STORE, WORD, &word));
        // One that was deleted meanwhile is not begun again.
        let held = folders.iter().filter(|(no, _)| self.store.folder_id(*no).is_ok());
        let folders = held.map(|(no, known)| self.store.setting_put(*no, WHEREABOUTS, known));
        for kept in word.into_iter().chain(folders) {
            // They are told again with the next change; until then a restart costs calls that were not needed.
            if let Err(error) = kept {
                tracing::warn!(%error, "where this seeder and its devices are is not kept");
            }
        }
        self.keep_address(&node);
        more
    }

    fn keep_address(&self, node: &Node) {
        let address = self.identity.address(node.addresses());
        let known = saved_address(&self.data).ok();
        if address.addresses.is_empty() || known.as_ref() == Some(&address) {
            return;
        }
        tracing::info!(
            "the addresses changed: members are told; who adds this seeder anew needs the new ADDR"
        );
        if let Err(failure) = save_address(&self.data, &address) {
            tracing::warn!("{}", failure.text);
        }
    }
}
