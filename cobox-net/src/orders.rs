//! Carries out what admins order, outside the engine and one at a time.
//!
//! Anybody may send claims and commands. The engine counts them for each connection, and what does not fit into
//! its queue is asked again by whoever waits. What an admin signed, or whoever has a code, has a queue of its own
//! that is looked at first: strangers fill the other one alone.

use std::sync::Arc;

use cobox_store::blind::Store;
use cobox_store::format::command::{Claim, UnverifiedCommand};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::driver::Shared;
use crate::peer_id::PeerId;
use crate::sync::{Conn, Input, Ordered};
use crate::wire::{Frame, QuestionId};

/// Claims and commands that wait in a queue.
const ORDERS_QUEUED: usize = 32;

/// One of them, and where its answer goes.
#[derive(Debug)]
pub struct Waiting {
    pub conn: Conn,
    pub peer: PeerId,
    pub question: QuestionId,
    pub ordered: Ordered,
}

/// Where they are put.
pub struct Desk {
    expected: Sender<Waiting>,
    strangers: Sender<Waiting>,
}

/// Where they are taken from.
pub struct Queues {
    expected: Receiver<Waiting>,
    strangers: Receiver<Waiting>,
}

/// Both ends.
pub fn desk() -> (Desk, Queues) {
    let (expected, to_expected) = channel(ORDERS_QUEUED);
    let (strangers, to_strangers) = channel(ORDERS_QUEUED);
    (Desk { expected, strangers }, Queues { expected: to_expected, strangers: to_strangers })
}

impl Desk {
    /// Puts one where it belongs; nothing where there is no room.
    pub fn put(&self, store: &Store, waiting: Waiting) -> Result<(), Box<TrySendError<Waiting>>> {
        let lane = if is_expected(store, &waiting.ordered) { &self.expected } else { &self.strangers };
        lane.try_send(waiting).map_err(Box::new)
    }
}

/// Whether an admin signed it, or whoever has a code that is open or was used. The signature is looked at only
/// where the key is known, so that nobody else can make much work.
fn is_expected(store: &Store, ordered: &Ordered) -> bool {
    match ordered {
        Ordered::Claim(bytes) => {
            Claim::key_in(bytes).is_some_and(|key| store.is_claim_known(key).unwrap_or(false))
                && Claim::decode(bytes).is_ok()
        }
        Ordered::Command(bytes) => UnverifiedCommand::decode(bytes).is_ok_and(|command| {
            store.is_admin(command.admin()).unwrap_or(false) && command.verify().is_ok()
        }),
    }
}

impl Queues {
    /// The next one; `None` once nobody passes anything on.
    async fn next(&mut self) -> Option<Waiting> {
        tokio::select! {
            biased;
            waiting = self.expected.recv() => waiting,
            waiting = self.strangers.recv() => waiting,
        }
    }
}

/// Answers until nobody passes anything on.
pub async fn obey(shared: Arc<Shared>, mut queues: Queues) {
    while let Some(Waiting { conn, peer, question, ordered }) = queues.next().await {
        let inner = Arc::clone(&shared);
        let answered = tokio::task::spawn_blocking(move || {
            inner.orders.as_ref().and_then(|rule| rule(peer, question, ordered))
        });
        match answered.await {
            Ok(Some(frame)) => {
                shared.input(Input::Answered { conn, frame: Box::new(Frame::Seeding(frame)) });
            }
            Ok(None) => {}
            Err(_) => tracing::warn!(%peer, "an order could not be looked at"),
        }
    }
}

#[cfg(test)]
mod tests {
    use cobox_store::blind::StoreKind;
    use cobox_store::blind::owners::{Claimed, NO_ISSUER, OpenClaim};
    use cobox_store::format::command::{Command, Order, Rank};
    use cobox_store::id::{AdminKey, ChainId, ClaimKey};
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::*;

    const CHAIN: ChainId = ChainId([3; 16]);

    fn claim(code: &SigningKey, admin: &SigningKey) -> Claim {
        let mut claim = Claim {
            seeder: [7; 32],
            claim: ClaimKey(code.verifying_key().to_bytes()),
            admin: AdminKey(admin.verifying_key().to_bytes()),
            recovery: ClaimKey([0; 32]),
            name: "laptop".into(),
            claim_signature: [0; 64],
            admin_signature: [0; 64],
        };
        claim.claim_signature = code.sign(&claim.signed_bytes()).to_bytes();
        claim.admin_signature = admin.sign(&claim.signed_bytes()).to_bytes();
        claim
    }

    /// As `admin` would, signed by `signer`.
    fn command(admin: &SigningKey, signer: &SigningKey) -> Ordered {
        let mut command = Command {
            seeder: [7; 32],
            admin: AdminKey(admin.verifying_key().to_bytes()),
            chain: CHAIN,
            seq: 1,
            issued_ms: 5,
            expires_ms: 6,
            order: Order::Pause,
            signature: [0; 64],
        };
        command.signature = signer.sign(&command.signed_bytes()).to_bytes();
        Ordered::Command(command.encode())
    }

    fn from(peer: u8, ordered: Ordered) -> Waiting {
        Waiting { conn: Conn(1), peer: PeerId::of_key([peer; 32]), question: QuestionId(1), ordered }
    }

    #[tokio::test]
    async fn orders_of_strangers_never_keep_those_of_an_admin_or_a_new_owner_out() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let store = Store::create(dir.path(), StoreKind::Seeder).expect("creates");
        let [owner, code, second, stranger] = [1, 2, 3, 9].map(|seed| SigningKey::from_bytes(&[seed; 32]));
        for (key, rank) in [(&code, Rank::Owner), (&second, Rank::Keeper)] {
            let open = OpenClaim {
                key: ClaimKey(key.verifying_key().to_bytes()),
                rank,
                expires_ms: 0,
                name: "code".into(),
                secret: [0; 16],
                issuer: NO_ISSUER,
            };
            store.claim_open(&open, 1).expect("opens");
        }
        let claimed = store.claim_redeem(&claim(&code, &owner), CHAIN, 1).expect("reads");
        assert!(matches!(claimed, Claimed::Yes(_)));

        let (desk, mut queues) = desk();
        let theirs = [
            command(&stranger, &stranger),
            command(&owner, &stranger),
            Ordered::Claim(claim(&stranger, &stranger).encode()),
            Ordered::Command(vec![1; 9]),
            Ordered::Claim(Vec::new()),
        ];
        let flood = (0u8..200).map(|peer| from(peer, theirs[usize::from(peer) % theirs.len()].clone()));
        let taken = flood.map(|waiting| desk.put(&store, waiting)).filter(Result::is_ok);
        assert_eq!(taken.count(), ORDERS_QUEUED, "there is an end to what waits");
        for ordered in [command(&owner, &owner), Ordered::Claim(claim(&second, &stranger).encode())] {
            desk.put(&store, from(250, ordered.clone())).expect("there is room for it");
            let next = queues.next().await.expect("it waits");
            assert_eq!(
                (next.peer, next.ordered == ordered),
                (PeerId::of_key([250; 32]), true),
                "and comes first"
            );
        }
        assert_eq!(queues.next().await.map(|next| next.peer), Some(PeerId::of_key([0; 32])));
    }
}
