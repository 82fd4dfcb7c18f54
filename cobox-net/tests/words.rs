//! What a peer says of where devices are: how much of that is heard, and how much it is told. Counted, not timed.

mod common;

use cobox_net::sync::{Input, Output};
use cobox_net::wire::{CONTACTS_MAX, Contact, Frame, GrantAnswer, Proof, SessionId};
use cobox_store::format::address::SeederAddress;
use cobox_store::id::{KemKey, LogId, hash};
use common::puppet::{Puppet, Stage, contact, key, log_of, peer_of, tcp};
use ed25519_dalek::SigningKey;

/// As many contacts as a frame has, of devices that are not there.
fn made_up(puppet: &Puppet, round: u64) -> Vec<Contact> {
    let of = |at: usize| Contact {
        peer: puppet.peer,
        log: LogId(hash(format!("device {round} {at}").as_bytes())),
        said_ms: 1,
        addresses: vec![],
        signature: [7; 64],
    };
    (0..CONTACTS_MAX).map(of).collect()
}

/// The session of ours that was opened.
fn opened(outputs: &[Output]) -> Option<SessionId> {
    outputs.iter().find_map(|output| match output {
        Output::Send { frame: Frame::Open { session, .. }, .. } => Some(*session),
        _ => None,
    })
}

/// A peer ends its session again and again, has us open the folder anew by this answer to an offer that nobody made, and
/// says in each where devices are; how often the folder was opened and how many such frames were heard.
fn begin_anew(stage: &mut Stage, puppet: &Puppet, who: Option<&Proof>) -> (usize, usize) {
    const ROUNDS: u64 = 1000;
    let (mut session, folder) = (puppet.session, stage.made.id());
    let (mut begun, mut heard) = (0, 0);
    for round in 0..ROUNDS {
        if stage.closed.contains(&puppet.conn) {
            break;
        }
        stage.say(puppet, Frame::Refuse { session });
        // To say first that it thinks about it makes nothing of it an answer to an offer.
        stage.say(puppet, Frame::GrantAnswer { folder, answer: GrantAnswer::Pending });
        let answer = GrantAnswer::Accepted;
        let outputs = stage.say(puppet, Frame::GrantAnswer { folder, answer });
        let Some(ours) = opened(&outputs) else { continue };
        stage.accept(puppet, ours, who);
        session = ours;
        begun += 1;
        heard += 1;
        let contacts = made_up(puppet, round);
        stage.say(puppet, Frame::Contacts { session, contacts });
    }
    (begun, heard)
}

#[test]
fn peer_that_has_a_folder_opened_again_and_again_is_heard_in_it_no_more_than_one_that_stays() {
    let device = key(1);
    let mut stage = Stage::new(9_800, &[&device]);
    let puppet = stage.enter(&device);
    let (begun, heard) = begin_anew(&mut stage, &puppet, None);
    assert_eq!((begun, heard), (0, 0), "nothing was granted to it");

    // A seeder may say that it took a grant, and say so often.
    let mut stage = Stage::new(9_801, &[]);
    let seeder = stage.enter_seeder(&key(7));
    let (begun, heard) = begin_anew(&mut stage, &seeder, Some(&Proof::Seeder));
    assert!((1..=70).contains(&begun) && heard <= 70, "opened {begun} times, heard {heard} times");

    // The same in whatever way the folder is opened anew: the first word of a connection is free, and not of a session.
    let mut stage = Stage::new(9_802, &[&device]);
    let puppet = stage.enter(&device);
    let mut heard = 0;
    while heard < 1000 && !stage.closed.contains(&puppet.conn) {
        stage.say_contacts(&puppet, made_up(&puppet, heard));
        stage.say(&puppet, Frame::Close { session: puppet.session });
        stage.enter_again(&puppet);
        heard += 1;
    }
    assert!(heard < 100, "{heard} times");
}

#[test]
fn device_that_knows_where_many_are_tells_them_and_itself_in_one_frame() {
    let many: Vec<SigningKey> = (0..CONTACTS_MAX as u8).map(|at| key(10 + at)).collect();
    let mut devices: Vec<&SigningKey> = many.iter().collect();
    let (last, newcomer) = (key(1), key(2));
    devices.extend([&last, &newcomer]);
    let mut stage = Stage::new(9_810, &devices);
    let first = stage.enter(&last);
    let said = |(at, key): (usize, &SigningKey)| contact(&stage.made, key, peer_of(key), 2 + at as u64, &[]);
    let contacts = many.iter().enumerate().map(said).collect();
    stage.say_contacts(&first, contacts);
    stage.input(Input::Listening { addresses: vec![tcp(9, 1)], now_ms: 1 });
    let (second, mut outputs) = stage.greet(&newcomer, cobox_net::sync::Place::Other);
    outputs.extend(stage.pass(cobox_net::sync::TICK));
    let frames = outputs.iter().filter(
        |output| matches!(output, Output::Send { conn, frame: Frame::Contacts { .. } } if *conn == second.conn),
    );
    assert_eq!(frames.count(), 1);
    let told = second.told(&outputs);
    let founder = log_of(&stage.made.founder);
    assert!(told.iter().any(|contact| contact.log == founder), "itself");
    let oldest = log_of(&many[0]);
    assert!(told.len() == CONTACTS_MAX && told.iter().all(|contact| contact.log != oldest), "{}", told.len());
}

#[test]
fn answer_to_an_offer_is_taken_from_seeders_that_the_folder_is_granted_to() {
    let device = key(1);
    let mut stage = Stage::new(9_820, &[&device]);
    let (puppet, folder) = (stage.enter(&device), stage.made.id());
    stage.say(&puppet, Frame::Refuse { session: puppet.session });
    for answer in [GrantAnswer::Refused, GrantAnswer::Pending, GrantAnswer::Accepted] {
        let outputs = stage.say(&puppet, Frame::GrantAnswer { folder, answer });
        assert_eq!(opened(&outputs), None);
    }
    let address =
        SeederAddress { peer_id: puppet.peer.to_bytes(), kem: KemKey([1; 32]), addresses: vec![tcp(9, 1)] };
    let grant = stage.made.grant_with(&address, 1 << 40, [0; 80]);
    stage.store.access_add(stage.no, &grant).expect("an admin's");
    stage.input(Input::Changed { no: stage.no });
    let answer = GrantAnswer::Accepted;
    let outputs = stage.say(&puppet, Frame::GrantAnswer { folder, answer });
    assert!(opened(&outputs).is_some(), "{outputs:?}");
}
