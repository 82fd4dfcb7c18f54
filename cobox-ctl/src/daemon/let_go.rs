//! Seeders whose owner let a folder go: what they said, and what people are told of it.
//!
//! Such a seeder keeps what it has for a while and even proves it, but takes nothing new: it is no copy that anybody
//! can count on. It says so in each session, and also that it holds the folder again.

use cobox_net::PeerId;
use cobox_store::error::Result;
use cobox_store::format::agreement::Held;

use super::folder::FolderState;

fn name(peer_id: PeerId) -> String {
    format!("seeder-let-go {peer_id}")
}

/// Writes down what a seeder said.
pub(super) fn note(state: &FolderState, peer_id: PeerId, held: Held) -> Result<()> {
    let said = match held {
        Held::On => None,
        Held::Until(gone_ms) => Some(gone_ms),
    };
    if gone_ms(state, peer_id)? == said {
        return Ok(());
    }
    tracing::warn!(folder = %state.folder.id(), let_go = said.is_some(), "a seeder's owner decided anew about the folder");
    let bytes = said.map_or_else(Vec::new, |gone_ms| gone_ms.to_le_bytes().to_vec());
    state.folder.store().setting_put(state.no(), &name(peer_id), &bytes)
}

/// When what the seeder has is deleted, no earlier, in milliseconds since 1970: where its owner let the folder go.
pub(super) fn gone_ms(state: &FolderState, peer_id: PeerId) -> Result<Option<u64>> {
    let said = state.folder.store().setting(state.no(), &name(peer_id))?;
    Ok(said.and_then(|bytes| Some(u64::from_le_bytes(bytes.try_into().ok()?))))
}

/// What people are told of it.
pub(super) fn sentence(gone_ms: u64) -> String {
    format!(
        "The seeder's owner let the folder go: it takes nothing new, counts as no copy, and deletes what it has no earlier than {}. \
         Add another seeder, or ask its owner to take the folder again.",
        crate::render::units::time(gone_ms)
    )
}
