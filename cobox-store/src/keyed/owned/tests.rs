//! Seeders that a device commands: what a code or an answer may change of them.

use std::sync::Arc;

use super::*;
use crate::format::invite::FOLDER_PREFIX_BYTES;
use crate::format::receipt::peer_id_of;
use crate::id::KemKey;
use crate::keyed::slots::{PassphraseCost, Unlock};

const CHAIN: ChainId = ChainId([3; 16]);

struct Device {
    home: Arc<Home>,
    seeder: [u8; 32],
    _dir: tempfile::TempDir,
}

fn code(secret: u8) -> InviteCode {
    InviteCode { folder: [0; FOLDER_PREFIX_BYTES], hints: Vec::new(), secret: Zeroizing::new([secret; 16]) }
}

impl Device {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("temporary folder");
        let secret = MemberSecret::generate().expect("random");
        let unlock = Unlock::Passphrase(Zeroizing::new("words".into()));
        let cost = PassphraseCost::cheapest_for_tests();
        let home = Home::init_at_cost(dir.path(), "d", &unlock, &secret, cost).expect("makes a home");
        let seeder = SigningKey::from_bytes(&[7; 32]).verifying_key().to_bytes();
        Self { home, seeder, _dir: dir }
    }

    fn address(&self, hosts: &[u8]) -> SeederAddress {
        SeederAddress {
            peer_id: peer_id_of(&self.seeder),
            kem: KemKey([0; 32]),
            addresses: hosts.iter().map(|host| vec![4, 10, 0, 0, *host, 6, 30, 60]).collect(),
        }
    }

    fn begin(&self, secret: u8) -> Claiming {
        self.home.claim_begin(&code(secret), self.seeder).expect("signs")
    }

    fn finish(&self, claiming: &Claiming, rank: Rank, seq: u64) -> Result<OwnedRow> {
        self.home.claim_finish(claiming, "box", self.address(&[1]), (CHAIN, rank, seq))
    }

    fn row(&self) -> OwnedRow {
        self.home.owned().expect("reads").pop().expect("it commands one")
    }
}

#[test]
fn second_code_of_a_seeder_is_redeemed_with_the_key_that_commands_it() {
    let device = Device::new();
    let first = device.begin(1);
    device.finish(&first, Rank::Owner, 0).expect("keeps");
    device.home.command_make(&device.seeder, Order::Pause, 5).expect("signs");
    let sent = device.row();
    assert_eq!(sent.seq, 1);
    // A code for less: the seeder knows the key and leaves it its rank and its numbers.
    let second = device.begin(2);
    assert_eq!((second.claim.admin, second.claim.recovery), (first.claim.admin, first.claim.recovery));
    assert!(second.claim.claim != first.claim.claim);
    device.finish(&second, Rank::Owner, 0).expect("keeps");
    assert!(device.row() == sent, "the key, the number and the command that is on its way stay");
    // After a reset the seeder begins anew with the same key, and so does the device.
    let other = device.home.claim_finish(
        &device.begin(3),
        "box",
        device.address(&[1]),
        (ChainId([4; 16]), Rank::Watcher, 0),
    );
    let other = other.expect("keeps");
    assert_eq!((other.seq, other.unanswered.len(), other.rank), (0, 0, Rank::Watcher));
    assert!(other.sign_seed == sent.sign_seed);
}

#[test]
fn number_that_no_device_can_have_reached_is_refused_and_does_not_end_the_device() {
    let device = Device::new();
    let claiming = device.begin(1);
    assert!(matches!(device.finish(&claiming, Rank::Owner, u64::MAX), Err(Error::Decode(_))));
    device.finish(&claiming, Rank::Owner, 7).expect("the code can still be redeemed");
    for said in [u64::MAX, u64::MAX - 1, SEQ_MAX + 1] {
        device.home.command_make(&device.seeder, Order::Pause, 5).expect("signs");
        device.home.command_answered(&device.seeder, said).expect("the answer came");
    }
    assert_eq!((device.row().seq, device.row().unanswered.len()), (10, 0));
    // One that a device can have reached, after it was set back.
    device.home.command_answered(&device.seeder, 5000).expect("the answer came");
    assert_eq!(device.home.command_make(&device.seeder, Order::Pause, 5).expect("signs").seq, 5001);
    // A row of before, with the last number there is.
    let full = OwnedRow { seq: u64::MAX, ..device.row() };
    device.home.owned_put(&device.seeder, &full, Batch::default()).expect("writes");
    assert!(device.home.command_make(&device.seeder, Order::Pause, 5).is_err());
}

#[test]
fn addresses_that_a_seeder_says_come_first_and_those_of_before_stay() {
    let device = Device::new();
    device.finish(&device.begin(1), Rank::Owner, 0).expect("keeps");
    device.home.owned_moved(&device.seeder, device.address(&[2, 3])).expect("writes");
    assert!(device.row().address == device.address(&[2, 3, 1]));
    device.home.owned_moved(&device.seeder, device.address(&[3])).expect("writes");
    assert!(device.row().address == device.address(&[3, 2, 1]));
    device.home.owned_moved(&device.seeder, device.address(&[])).expect("nothing is said");
    let many: Vec<u8> = (100..).take(ADDRESSES_MAX).collect();
    device.home.owned_moved(&device.seeder, device.address(&many)).expect("writes");
    assert!(device.row().address == device.address(&many), "there is an end to them");
}
