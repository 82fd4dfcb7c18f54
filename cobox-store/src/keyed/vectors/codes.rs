//! Codes that people hand on, and what a device that has one asks.

use bech32::primitives::iter::{ByteIterExt as _, Fe32IterExt as _};
use bech32::{Bech32, Bech32m, Fe32, Hrp};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::layouts::{Cases, bent, set};
use super::seed;
use crate::format::invite::{CodeFor, Hint, InviteCode, JoinRequest};
use crate::format::membership::Redemption;
use crate::id::{KemKey, LogId, MemberId, hex};
use crate::keyed::invite::InviteKeys;
use crate::keyed::label::LabelOf;

fn head<const N: usize>(name: &str) -> [u8; N] {
    std::array::from_fn(|at| seed(name)[at])
}

fn code() -> InviteCode {
    let hint = |name: &str, port: u8| Hint {
        peer: seed(name),
        addresses: vec![vec![4, 127, 0, 0, 1, 6, 30, port], vec![4, 10, 0, 0, port, 6, 30, 60]],
    };
    let hints = vec![hint("an admin's device", 60), hint("a seeder", 61)];
    InviteCode { folder: head("folder"), hints, secret: Zeroizing::new(head("code")) }
}

fn kinds() -> [(CodeFor, &'static str); 3] {
    [(CodeFor::Invite, "cobox"), (CodeFor::Seed, "coboxseed"), (CodeFor::Claim, "coboxclaim")]
}

/// What a code is expected to say, and to be.
fn said(what: &str, code: &InviteCode) -> Value {
    let hints = code.hints.iter().map(|hint| {
        json!({ "peer": hex(&hint.peer), "addresses": hint.addresses.iter().map(|one| hex(one)).collect::<Vec<_>>() })
    });
    let mut said = json!({ "prefix": what, "folder": hex(&code.folder), "hints": hints.collect::<Vec<_>>() });
    if what == "cobox" {
        said["invite"] = hex(&InviteKeys::of(code).invite().0).into();
    }
    said
}

/// Reads a code in its one canonical spelling.
fn read_code(bytes: &[u8], case: &Value) -> Option<Vec<u8>> {
    let (what, _) = kinds().into_iter().find(|(_, prefix)| case["prefix"] == *prefix)?;
    let code = InviteCode::from_text_for(what, std::str::from_utf8(bytes).ok()?).ok()?;
    Some(code.to_text_for(what).ok()?.as_bytes().to_vec())
}

/// The bytes of a code's text, whatever they are, under a right checksum.
fn spelled(bytes: &[u8]) -> String {
    bech32::encode::<Bech32m>(Hrp::parse_unchecked("cobox"), bytes).expect("short")
}

/// The same with a bit set where the last letter is filled up.
fn filled(bytes: &[u8]) -> String {
    let mut letters: Vec<Fe32> = bytes.iter().copied().bytes_to_fes().collect();
    let last = letters.last_mut().expect("not empty");
    assert!(!(bytes.len() * 8).is_multiple_of(5), "there is something to fill");
    *last = Fe32::try_from(last.to_u8() | 1).expect("five bits");
    letters.into_iter().with_checksum::<Bech32m>(&Hrp::parse_unchecked("cobox")).chars().collect()
}

fn codes() -> Vec<Value> {
    let invite = code();
    let mut cases = Cases::new(read_code);
    for (what, prefix) in kinds() {
        let text = invite.to_text_for(what).expect("fits");
        cases.add(prefix, text.as_bytes(), "accept", said(prefix, &invite));
    }
    let bare = InviteCode { hints: Vec::new(), ..invite.clone() };
    let text = bare.to_text().expect("fits");
    cases.add("no hints", text.as_bytes(), "accept", said("cobox", &bare));
    let bytes: Vec<u8> = bech32::decode(&text).expect("a code").1;
    let text = text.as_bytes();
    let wrong = json!({ "prefix": "cobox" });
    let seed_code = invite.to_text_for(CodeFor::Seed).expect("fits");
    let old = bech32::encode::<Bech32>(Hrp::parse_unchecked("cobox"), &bytes).expect("short");
    let crowd = [&bytes[..17], &[5], &[[1; 32].as_slice(), &[0]].concat().repeat(5), &bytes[18..]].concat();
    let spread = [&bytes[..17], &[1], &[1; 32], &[5], &[1, 9].repeat(5), &bytes[18..]].concat();
    let mut mixed = text.to_vec();
    mixed[8..20].make_ascii_uppercase();
    assert_ne!(mixed, text);
    for (name, faulty) in [
        ("a letter mistyped", set(text, 20, if text[20] == b'q' { b'p' } else { b'q' })),
        ("two letters exchanged", {
            let mut swapped = text.to_vec();
            let at = (10..40).find(|at| text[*at] != text[at + 1]).expect("they differ somewhere");
            swapped.swap(at, at + 1);
            swapped
        }),
        ("in both cases", mixed),
        ("a seed code for an invite", seed_code.as_bytes().to_vec()),
        ("the checksum of bech32", old.into_bytes()),
        ("another version", spelled(&set(&bytes, 0, 2)).into_bytes()),
        ("a byte more", spelled(&[&bytes[..], &[0]].concat()).into_bytes()),
        ("a byte less", spelled(&bytes[..bytes.len() - 1]).into_bytes()),
        ("five hints", spelled(&crowd).into_bytes()),
        ("five addresses of a hint", spelled(&spread).into_bytes()),
        ("bits that fill the last letter", filled(&bytes).into_bytes()),
        ("nothing", Vec::new()),
    ] {
        cases.add(name, &faulty, "refuse", wrong.clone());
    }
    cases.cases
}

fn requests() -> Vec<Value> {
    let keys = InviteKeys::of(&code());
    let text = code().to_text().expect("fits");
    let label = keys.label.seal_at(LabelOf::Device, "laptop", &head("label nonce"));
    let mut request = JoinRequest {
        folder: code().folder,
        redemption: Redemption { invite: keys.invite(), signature: [0; 64] },
        log: LogId(seed("log")),
        kem: KemKey(seed("kem")),
        member: MemberId(seed("member key")),
        recovery_kem: KemKey(seed("recovery kem")),
        label: label.try_into().expect("padded"),
    };
    request.redemption.signature = keys.sign(&request.signed_bytes());
    let bytes = request.encode();
    let again = |bytes: &[u8], _: &Value| JoinRequest::decode(bytes).ok().map(|request| request.encode());
    let extra = json!({ "code": *text, "label": "laptop" });
    let mut cases = Cases::new(again).with_faults("join request", &bytes, extra.clone());
    let other = InviteKeys::of(&InviteCode { secret: Zeroizing::new([7; 16]), ..code() });
    let mut forged = request.clone();
    forged.redemption.signature = other.sign(&request.signed_bytes());
    let mut swapped = request.clone();
    (swapped.log.0, swapped.kem.0) = (request.kem.0, request.log.0);
    for (name, faulty) in [
        ("another version", set(&bytes, 0, 2)),
        ("another folder", bent(&bytes, 1)),
        ("another invite", bent(&bytes, 17)),
        ("a changed signature", bent(&bytes, 49)),
        ("another device's key", bent(&bytes, 113)),
        ("another key for boxes", bent(&bytes, 145)),
        ("another member", bent(&bytes, 177)),
        ("another recovery key", bent(&bytes, 209)),
        ("signed by another invite", forged.encode()),
        ("two keys exchanged", swapped.encode()),
    ] {
        cases.add(name, &faulty, "refuse", extra.clone());
    }
    cases.cases
}

pub(super) fn all() -> Vec<(&'static str, Vec<Value>)> {
    vec![("invite code", codes()), ("join request", requests())]
}
