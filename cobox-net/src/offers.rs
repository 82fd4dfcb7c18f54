//! Looks at grant offers, outside the engine and one at a time.
//!
//! Each record of an offer costs a check of a signature, and anybody may send thousands of them. What
//! costs little is looked at first, and what strangers may take of the processor is a share of one core.

use std::sync::Arc;
use std::time::Instant;

use cobox_store::format::access::{Act, Record, UnverifiedRecord};
use tokio::sync::mpsc::Receiver;

use crate::driver::Shared;
use crate::peer_id::PeerId;
use crate::sync::Input;
use crate::wire::GrantAnswer;

/// Offers that wait to be looked at, of one peer each; further ones are dropped, and offered again.
pub const OFFERS_QUEUED: usize = 16;
/// After each look a pause of so many times its length: offers take at most a quarter of one core.
const PAUSE_SHARE: u32 = 3;

/// An offer: encoded records.
pub type Offered = (PeerId, Vec<Vec<u8>>);

/// Looks at offers until nobody passes them on.
pub async fn weigh_offers(shared: Arc<Shared>, mut offers: Receiver<Offered>) {
    while let Some((peer, records)) = offers.recv().await {
        let started = Instant::now();
        let inner = Arc::clone(&shared);
        let weighed = tokio::task::spawn_blocking(move || weigh(&inner, peer, &records)).await;
        // First, so that the offer which the peer makes when it has its answer is heard.
        shared.input(Input::OfferWeighed { peer });
        match weighed {
            Ok(Some((folder, answer))) => shared.input(Input::OfferAnswered { peer, folder, answer }),
            Ok(None) => {}
            Err(_) => tracing::warn!(%peer, "a grant offer could not be looked at"),
        }
        tokio::time::sleep(started.elapsed() * PAUSE_SHARE).await;
    }
}

fn weigh(
    shared: &Shared,
    peer: PeerId,
    records: &[Vec<u8>],
) -> Option<(cobox_store::id::FolderId, GrantAnswer)> {
    let Some(rule) = &shared.grants else {
        // Who holds nothing for others says so, for one signature.
        let first = UnverifiedRecord::decode(records.first()?).ok()?.verify().ok()?;
        return Some((first.folder(), GrantAnswer::Refused));
    };
    let records = verified(records, &shared.me.to_bytes())?;
    let folder = records.first()?.folder();
    Some(rule(peer, records).unwrap_or((folder, GrantAnswer::Refused)))
}

/// The records of one folder from its beginning, if they grant something to `me` and every signature
/// holds; the signatures come last, and the first wrong one ends it.
fn verified(records: &[Vec<u8>], me: &[u8]) -> Option<Vec<Record>> {
    let decoded: Vec<UnverifiedRecord> =
        records.iter().map(|bytes| UnverifiedRecord::decode(bytes)).collect::<Result<_, _>>().ok()?;
    let begins = matches!(decoded.first()?.content().act, Act::Genesis { .. });
    let grants =
        decoded.iter().any(|record| record.content().act.grant().is_some_and(|grant| grant.peer_id == me));
    if !begins || !grants {
        return None;
    }
    let records: Vec<Record> =
        decoded.into_iter().map(UnverifiedRecord::verify).collect::<Result<_, _>>().ok()?;
    let folder = records.first()?.folder();
    records.iter().all(|record| record.folder() == folder).then_some(records)
}
