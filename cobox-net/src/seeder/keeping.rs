//! How long a seeder keeps what is wanted no longer: it lets the store's hold clock go on while it runs, and
//! counts down for folders whose grant ended or was taken back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cobox_store::blind::Store;
use cobox_store::id::FolderNo;

use crate::node::Node;

/// How often time is told to the store: a restart costs at most this much of it.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// How often it is looked whether to end.
const LOOK: Duration = Duration::from_millis(200);
/// A setting of a folder that is not empty where its owner does not want to hold it any more, whatever its
/// grant says: the record of the grant that the owner knew then.
pub const UNSEEDED: &str = "unseeded";

/// Goes on until `stop` says so. The clock is the machine's running time, which nobody can set.
pub fn keep(store: &Arc<Store>, node: &Node, stop: &dyn Fn() -> bool) {
    let mut told = Instant::now();
    while !stop() {
        std::thread::sleep(LOOK);
        if told.elapsed() < TELL_EVERY {
            continue;
        }
        let elapsed_ms = u64::try_from(told.elapsed().as_millis()).unwrap_or(u64::MAX);
        told = Instant::now();
        if let Err(error) = store.retention_advance(elapsed_ms) {
            tracing::warn!(%error, "released packs stay for now");
        }
        for (no, folder) in store.folders().unwrap_or_default() {
            if let Err(error) = see_off(store, node, no) {
                tracing::warn!(%folder, %error, "a folder that is wanted no longer stays for now");
            }
        }
    }
}

fn see_off(store: &Store, node: &Node, no: FolderNo) -> cobox_store::error::Result<()> {
    let granted = store.access(no)?.seeder(&node.peer_id().to_bytes()).is_some();
    if granted && !store.grant_ended(no)? && store.setting(no, UNSEEDED)?.is_none_or(|set| set.is_empty()) {
        return store.leave_cancel(no);
    }
    store.leave_begin(no)?;
    if store.leaving_in_ms(no)? == Some(0) {
        node.remove_folder(no);
        store.folder_remove(no)?;
    }
    Ok(())
}
