//! As whom a node says where it is, and what of it others are told. Made once, when a node begins.

use std::sync::Arc;

use ed25519_dalek::{Signer as _, SigningKey};

use crate::driver::Shared;
use crate::node::{Signer, Speaks};
use crate::swarm;
use crate::sync::{Engine, signed_bytes};
use crate::wire::{decode_word, place};

/// Addresses that others may be told by word: places, and no names, which whoever hears them would have to look up.
pub fn announced(texts: &[String]) -> Vec<Vec<u8>> {
    let usable = texts.iter().filter_map(|text| swarm::usable(text).ok());
    usable.map(|address| address.to_vec()).filter(|address| place(address).is_some()).collect()
}

/// The engine of a node that speaks so.
pub fn speaking(shared: &Shared, speaks: Speaks) -> Engine {
    let engine = Engine::new(Arc::clone(&shared.store), shared.me).counting(Arc::clone(&shared.tally));
    let Speaks::AsSeeder { word } = speaks else { return engine };
    let word = word.and_then(|bytes| {
        let warn = |error: &_| tracing::warn!(%error, "where this seeder said that it is cannot be read");
        decode_word(&bytes).inspect_err(warn).ok()
    });
    let key = SigningKey::from_bytes(&shared.seed);
    let signer: Signer = Arc::new(move |text| key.sign(&signed_bytes(text)).to_bytes());
    engine.saying_where(signer, word)
}
