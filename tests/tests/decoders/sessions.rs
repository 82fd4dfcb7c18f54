//! Vectors of what opens a folder's session: names and proofs under the swarm secret, and signatures.

use cobox_net::PeerId;
use cobox_net::sync::{Binding, Speaker, signed_bytes};
use cobox_net::wire::SessionId;
use cobox_store::id::{FolderId, InviteKey, LogId, MemberId, derive, hex};
use ed25519_dalek::{Signer as _, SigningKey};

fn seed(name: &str) -> [u8; 32] {
    derive("test vectors", &[name.as_bytes()])
}

/// One opening as a reader sees it: what it is bound to, and what was sent.
#[derive(Clone)]
struct Case {
    binding: Binding,
    swarm: [u8; 32],
    folder: FolderId,
    speaker: Speaker,
    key: [u8; 32],
    blinded: [u8; 32],
    proof: [u8; 32],
    signature: [u8; 64],
}

impl Case {
    /// As an honest side says it.
    fn made(speaker: Speaker) -> Self {
        let binding = Binding {
            opener: PeerId::of_key(seed("opener")),
            responder: PeerId::of_key(seed("responder")),
            opener_nonce: seed("opener's nonce"),
            responder_nonce: seed("responder's nonce"),
            session: SessionId(0x0001_0002),
        };
        let (swarm, signer) = (seed("swarm secret"), SigningKey::from_bytes(&seed("signer")));
        let mut folder = FolderId(seed("folder"));
        if speaker == Speaker::Redeemer {
            // Whoever has a code knows half of the id.
            folder.0[16..].fill(0);
        }
        let key = signer.verifying_key().to_bytes();
        Self {
            binding,
            swarm,
            folder,
            speaker,
            key,
            blinded: binding.blinded(&swarm),
            proof: binding.proof(&swarm, speaker),
            signature: signer.sign(&signed_bytes(&binding.transcript(folder, speaker, &key))).to_bytes(),
        }
    }

    fn with(&self, change: impl FnOnce(&mut Self)) -> Self {
        let mut changed = self.clone();
        change(&mut changed);
        changed
    }

    /// What the code says of it.
    fn holds(&self) -> bool {
        let (binding, folder, signature) = (&self.binding, self.folder, &self.signature);
        let proved = self.blinded == binding.blinded(&self.swarm)
            && binding.proves(&self.swarm, self.speaker, self.proof);
        proved
            && match self.speaker {
                Speaker::Recoverer => binding.member_signed(folder, MemberId(self.key), signature),
                Speaker::Redeemer => binding.invite_signed(folder, InviteKey(self.key), signature),
                speaker => binding.device_signed(folder, speaker, LogId(self.key), signature),
            }
    }

    fn line(&self, name: &str) -> String {
        let fields = [
            ("opener", hex(self.binding.opener.key())),
            ("responder", hex(self.binding.responder.key())),
            ("opener_nonce", hex(&self.binding.opener_nonce)),
            ("responder_nonce", hex(&self.binding.responder_nonce)),
            ("swarm", hex(&self.swarm)),
            ("folder", hex(&self.folder.0)),
            ("key", hex(&self.key)),
            ("blinded", hex(&self.blinded)),
            ("proof", hex(&self.proof)),
            ("signature", hex(&self.signature)),
        ];
        let fields: Vec<String> =
            fields.iter().map(|(name, value)| format!("\"{name}\": \"{value}\"")).collect();
        format!(
            "    {{ \"name\": \"{name}\", \"accept\": {}, \"session\": {}, \"speaker\": {}, {} }}",
            self.holds(),
            self.binding.session.0,
            self.speaker as u8,
            fields.join(", ")
        )
    }
}

/// The file: one good case for each speaker, and each fault by itself.
pub fn vectors() -> String {
    let opener = Case::made(Speaker::Opener);
    let responder = Case::made(Speaker::Responder);
    let redeemer = Case::made(Speaker::Redeemer);
    let good = [
        ("opener", opener.clone()),
        ("responder", responder.clone()),
        ("recoverer", Case::made(Speaker::Recoverer)),
        ("redeemer, who knows half of the folder's id", redeemer.clone()),
    ];
    let other = SigningKey::from_bytes(&seed("another signer"));
    let transcript = opener.binding.transcript(opener.folder, Speaker::Opener, &opener.key);
    let bad = [
        ("a nonce of another connection", opener.with(|case| case.binding.responder_nonce[0] ^= 1)),
        ("a nonce of one's own of another connection", opener.with(|case| case.binding.opener_nonce[0] ^= 1)),
        ("a session of another number", opener.with(|case| case.binding.session.0 += 2)),
        ("passed on by another peer", opener.with(|case| case.binding.opener = PeerId::of_key(seed("eve")))),
        (
            "passed on to another peer",
            opener.with(|case| case.binding.responder = PeerId::of_key(seed("eve"))),
        ),
        (
            "the ends exchanged",
            opener.with(|case| {
                let ends = (case.binding.opener, case.binding.responder);
                (case.binding.responder, case.binding.opener) = ends;
            }),
        ),
        ("another secret", opener.with(|case| case.swarm = seed("another secret"))),
        (
            "another name",
            opener.with(|case| case.blinded = responder.binding.blinded(&seed("another secret"))),
        ),
        ("the opener's proof sent back", responder.with(|case| case.proof = opener.proof)),
        ("the opener's signature sent back", responder.with(|case| case.signature = opener.signature)),
        ("another folder", opener.with(|case| case.folder.0[31] ^= 1)),
        ("another key", opener.with(|case| case.key = other.verifying_key().to_bytes())),
        (
            "signed by another key",
            opener.with(|case| case.signature = other.sign(&signed_bytes(&transcript)).to_bytes()),
        ),
        (
            "the transcript signed without its context",
            opener.with(|case| {
                let signer = SigningKey::from_bytes(&seed("signer"));
                case.signature = signer.sign(&transcript).to_bytes();
            }),
        ),
        ("redeemed with the whole id", redeemer.with(|case| case.folder = FolderId(seed("folder")))),
    ];
    assert!(good.iter().all(|(_, case)| case.holds()), "what is good holds");
    assert!(bad.iter().all(|(_, case)| !case.holds()), "what is bad does not");
    let lines: Vec<String> = good.iter().chain(&bad).map(|(name, case)| case.line(name)).collect();
    format!("{{\n  \"kind\": \"session\",\n  \"cases\": [\n{}\n  ]\n}}\n", lines.join(",\n"))
}
