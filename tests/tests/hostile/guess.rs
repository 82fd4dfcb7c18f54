//! A stranger who learned all of a folder that is no secret, and wants to know whether a seeder holds it.

use cobox_net::sync::{Binding, Speaker, signed_bytes};
use cobox_net::wire::{Ask, BulkFrame, OutboardWish, Proof, SessionId};
use cobox_store::format::invite::JoinRequest;
use cobox_store::format::membership::Redemption;
use cobox_store::format::pack::PackRef;
use cobox_store::id::{FolderId, InviteKey, KemKey, LogId, MemberId, PackId, hash};
use ed25519_dalek::Signer as _;

use super::session::{SESSION, opening, receive, send, talk};
use super::*;

/// What a stranger can have seen of a folder: its id, the keys in its access log, a pack; and the blinded id that
/// only somebody with the secret can make.
struct Known {
    folder: FolderId,
    log: LogId,
    member: MemberId,
    invite: InviteKey,
    pack: PackId,
    secret: [u8; 32],
}

impl Known {
    /// Of a folder that there is not.
    fn made_up() -> Self {
        let key = |seed: u8| SigningKey::from_bytes(&[seed; 32]).verifying_key().to_bytes();
        Self {
            folder: FolderId(hash(b"no folder")),
            log: LogId(key(91)),
            member: MemberId(key(92)),
            invite: InviteKey(key(93)),
            pack: PackId(hash(b"no pack")),
            secret: hash(b"no secret"),
        }
    }

    /// A request to join with a key that is no invite's, or with an invite's key and a signature of another.
    fn requests(&self, stranger: &SigningKey) -> [JoinRequest; 2] {
        let own = InviteKey(stranger.verifying_key().to_bytes());
        [own, self.invite].map(|invite| {
            let mut request = JoinRequest {
                folder: std::array::from_fn(|at| self.folder.0[at]),
                redemption: Redemption { invite, signature: [0; 64] },
                log: LogId(own.0),
                kem: KemKey(hash(b"kem")),
                member: MemberId(own.0),
                recovery_kem: KemKey(hash(b"recovery")),
                label: [0; 168],
            };
            request.redemption.signature = stranger.sign(&request.signed_bytes()).to_bytes();
            request
        })
    }

    /// Everything that a stranger may try on a control stream.
    fn probes(&self, binding: &Binding) -> Vec<Vec<u8>> {
        let stranger = SigningKey::from_bytes(&[94; 32]);
        let at = |number: u32| Binding { session: SessionId(number), ..*binding };
        let other = Binding { responder_nonce: [0; 32], ..*binding };
        let open = |number: u32, proof: [u8; 32]| Frame::Open {
            session: SessionId(number),
            blinded: at(number).blinded(&self.secret),
            proof,
        };
        let signed = |speaker: Speaker, key: &[u8; 32]| {
            let transcript = binding.transcript(self.folder, speaker, key);
            stranger.sign(&signed_bytes(&transcript)).to_bytes()
        };
        let mut frames = vec![
            open(2, [0; 32]),
            open(4, at(4).proof(&self.secret, Speaker::Responder)),
            open(6, at(4).proof(&self.secret, Speaker::Opener)),
            open(8, other.proof(&self.secret, Speaker::Opener)),
            Frame::Confirm {
                session: SESSION,
                who: Proof::Member { log: self.log, signature: signed(Speaker::Opener, &self.log.0) },
            },
            Frame::Confirm { session: SESSION, who: Proof::Seeder },
            Frame::Recover {
                session: SessionId(10),
                folder: self.folder,
                member: self.member,
                signature: signed(Speaker::Recoverer, &self.member.0),
            },
            Frame::AccessWant { session: SESSION, have: Vec::new() },
            Frame::LogHeads { session: SESSION, heads: Vec::new() },
            Frame::EntriesWant { session: SESSION, log: self.log, from: 1 },
            Frame::Have { session: SESSION, packs: vec![self.pack] },
        ];
        for (number, request) in [12, 14].into_iter().zip(self.requests(&stranger)) {
            let transcript =
                at(number).transcript(request.padded_folder(), Speaker::Redeemer, &request.invite().0);
            frames.push(Frame::Redeem {
                session: SessionId(number),
                signature: stranger.sign(&signed_bytes(&transcript)).to_bytes(),
                request: request.encode(),
            });
        }
        frames.iter().map(Frame::encode).collect()
    }
}

/// What comes back for a pack on a bulk stream: a frame, or the stream's end.
async fn ask_bulk(rig: &Rig, pack: PackRef) -> Option<Vec<u8>> {
    let stranger = Stranger::connect(&rig.address).await.expect("it listens");
    let mut bulk = stranger.protocol(BULK_PROTOCOL).await.expect("it speaks");
    let ask = Ask { ask: 1, session: SESSION, pack, outboard: OutboardWish::Send, first: 0, count: 1 };
    send(&mut bulk, &BulkFrame::Ask(ask).encode()).await.expect("it reads");
    tokio::time::timeout(Duration::from_secs(60), receive(&mut bulk)).await.expect("it answers")
}

#[test]
fn stranger_learns_neither_which_folders_a_seeder_holds_nor_whether_it_holds_one() {
    let rig = Rig::new();
    let mut made = Made::new(41);
    let invite = SigningKey::from_bytes(&[42; 32]);
    made.invite(&invite);
    made.grant(&rig.address, 1 << 30);
    let mut member = rig.connected(&made, &made.founder);
    let packs = member.write(&[bytes(41, PACK_BYTES)]);
    member.wait_caught_up(rig.peer);
    let known = Known {
        folder: made.id(),
        log: LogId(made.founder.verifying_key().to_bytes()),
        member: MemberId(made.recovery.verifying_key().to_bytes()),
        invite: InviteKey(invite.verifying_key().to_bytes()),
        pack: packs[0].id,
        secret: made.swarm,
    };
    let (made_up, empty) = (Known::made_up(), Rig::new());
    let runtime = runtime();
    runtime.block_on(async {
        // Nothing of what it holds is offered.
        assert_eq!(talk(&rig, |_| Vec::new()).await, talk(&empty, |_| Vec::new()).await);
        let held = talk(&rig, |binding| known.probes(binding)).await;
        assert_eq!(held, talk(&rig, |binding| made_up.probes(binding)).await, "a folder is confirmed");
        assert_eq!(held, talk(&empty, |binding| known.probes(binding)).await, "a folder is confirmed");
        let refused = |frame: &Vec<u8>| matches!(decode_frame(frame), Ok(Frame::Refuse { .. }));
        assert!(held.len() >= 6 && held.iter().all(refused), "{held:?}");
        let size = packs[0].size;
        let bulk = ask_bulk(&rig, packs[0]).await;
        assert_eq!(bulk, ask_bulk(&rig, PackRef { id: made_up.pack, size }).await, "a pack is confirmed");
        // The probes were right: with the secret, the same opening is answered.
        let right = talk(&rig, |binding| opening(binding, &known.secret, known.folder, &made.founder).into());
        let right = right.await;
        let accepted = right.first().map(|frame| decode_frame(frame));
        assert!(matches!(accepted, Some(Ok(Frame::Accept { .. }))), "{accepted:?}");
    });
    rig.assert_sound();
}
