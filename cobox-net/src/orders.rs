//! Carries out what admins order, outside the engine and one at a time.
//!
//! Anybody may send claims and commands. What is checked first costs one look at a signature; the engine
//! counts them for each connection, and what does not fit into the queue is asked again by whoever waits.

use std::sync::Arc;

use tokio::sync::mpsc::Receiver;

use crate::driver::Shared;
use crate::peer_id::PeerId;
use crate::sync::{Conn, Input, Ordered};
use crate::wire::{Frame, QuestionId};

/// Claims and commands that wait.
pub const ORDERS_QUEUED: usize = 32;

/// One of them, and where its answer goes.
#[derive(Debug)]
pub struct Waiting {
    pub conn: Conn,
    pub peer: PeerId,
    pub question: QuestionId,
    pub ordered: Ordered,
}

/// Answers until nobody passes anything on.
pub async fn obey(shared: Arc<Shared>, mut waiting: Receiver<Waiting>) {
    while let Some(Waiting { conn, peer, question, ordered }) = waiting.recv().await {
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
