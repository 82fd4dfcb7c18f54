//! Receipts of seeders: the newest of each.

use std::ops::ControlFlow;

use super::batch::{Batch, Durability};
use super::store::Store;
use super::tables::{Table, key};
use crate::error::{Error, Result};
use crate::format::receipt::{Receipt, UnverifiedReceipt};
use crate::id::FolderNo;

impl Store {
    /// Keeps a receipt instead of the seeder's one before; durable on return. The caller has checked that
    /// it answers a nonce of ours: the last to come is the newest, whatever the seeder's clock says.
    ///
    /// # Errors
    /// When the disk cannot be written.
    pub fn receipt_put(&self, no: FolderNo, receipt: &Receipt) -> Result<()> {
        let mut batch = Batch::default();
        batch.put(&key(no, Table::Receipt, &receipt.seeder), &receipt.encode());
        self.db().commit(batch, Durability::Synced)?;
        self.watch().bump(no);
        Ok(())
    }

    /// Drops the receipt of a seeder that failed to prove what it says; durable on return.
    ///
    /// # Errors
    /// See [`super::Db::commit`].
    pub fn receipt_forget(&self, no: FolderNo, seeder: &[u8]) -> Result<()> {
        let mut batch = Batch::default();
        batch.delete(&key(no, Table::Receipt, seeder));
        self.db().commit(batch, Durability::Synced)?;
        self.watch().bump(no);
        Ok(())
    }

    /// The newest receipt of each seeder, ascending by peer id, verified again.
    ///
    /// # Errors
    /// When the disk cannot be read, or changed one.
    pub fn receipts(&self, no: FolderNo) -> Result<Vec<Receipt>> {
        let mut receipts = Vec::new();
        self.db().scan(&key(no, Table::Receipt, &[]), &[], &mut |_, bytes| {
            receipts.push(decode(bytes));
            ControlFlow::Continue(())
        })?;
        receipts.into_iter().collect()
    }
}

fn decode(bytes: &[u8]) -> Result<Receipt> {
    UnverifiedReceipt::decode(bytes)?.verify().map_err(|_| Error::Sealed)
}

#[cfg(test)]
mod tests {
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::super::testing::{Founder, new_store};
    use super::*;
    use crate::format::receipt::peer_id_of;

    #[test]
    fn receipt_with_an_older_time_replaces_the_one_before() {
        let founder = Founder::new(1);
        let (_dir, store, no) = new_store(&founder);
        let make = |seeder: u8, time_ms| {
            let key = SigningKey::from_bytes(&[seeder; 32]);
            let mut receipt = Receipt {
                folder: founder.folder(),
                seeder: peer_id_of(&key.verifying_key().to_bytes()),
                nonce: [0; 32],
                heads: vec![],
                packs_held: 0,
                packs_lacking: 0,
                samples_asked: 0,
                samples_proved: 0,
                live_set_digest: [0; 32],
                time_ms,
                signature: [0; 64],
            };
            receipt.signature = key.sign(&receipt.signed_bytes()).to_bytes();
            receipt
        };
        // A clock that was far ahead once must not keep every later receipt out.
        for (seeder, time_ms) in [(1, u64::MAX), (2, 3), (1, 4)] {
            store.receipt_put(no, &make(seeder, time_ms)).expect("puts");
        }
        let mut times: Vec<u64> =
            store.receipts(no).expect("reads").iter().map(|receipt| receipt.time_ms).collect();
        times.sort_unstable();
        assert_eq!(times, [3, 4]);
    }
}
