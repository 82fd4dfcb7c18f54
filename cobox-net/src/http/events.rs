//! The event stream (server-sent events): short news to whoever listens, and no history.
//!
//! Level-triggered like the store's watch: an event says what to look at again. Who reads too slowly is
//! told that it missed some.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::{Event, Sse};
use cobox_store::blind::Store;
use cobox_store::id::FolderNo;
use futures::Stream;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::broadcast::{Receiver, Sender, error::RecvError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Fault;

/// Events that wait for one listener.
const QUEUED_MAX: usize = 256;
/// More programs than this do not watch one device.
pub const LISTENERS_MAX: usize = 16;
/// A comment in silence, so that a connection that is gone is noticed.
const STILL_HERE: Duration = Duration::from_secs(15);

/// Something that happened.
#[derive(Clone, PartialEq, Debug, Serialize, utoipa::ToSchema)]
pub struct News {
    /// `folder-changed`, `copies-changed`, `peer-up`, `peer-down`, `alarm`, `grant-waits` and `grant-warning` (a seeder's); or `missed`: this listener was
    /// too slow, and should read again what it shows.
    pub what: String,
    /// The folder's id in hex, where it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
    /// The peer, where it is about one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub peer: Option<String>,
    /// The state now: a folder's light, an alarm's sentence, the id of a grant that waits, what a grant is warned of
    /// (`quota-80`, `quota-95`, `ends`, `ended`, `silent`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub now: Option<String>,
}

impl News {
    /// News of a kind, about nothing yet.
    #[must_use]
    pub fn of(what: &str) -> Self {
        Self { what: what.to_owned(), folder: None, peer: None, now: None }
    }
}

/// Where news come in, and who listens.
#[derive(Clone, Debug)]
pub struct Hub {
    sender: Sender<News>,
    seats: Arc<Semaphore>,
}

impl Default for Hub {
    fn default() -> Self {
        Self { sender: Sender::new(QUEUED_MAX), seats: Arc::new(Semaphore::new(LISTENERS_MAX)) }
    }
}

struct Listener {
    news: Receiver<News>,
    _seat: OwnedSemaphorePermit,
}

impl Hub {
    /// Tells everybody who listens.
    pub fn tell(&self, news: News) {
        // Nobody may be listening.
        let _ = self.sender.send(news);
    }

    /// Whether looking for news is worth the work.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        self.sender.receiver_count() > 0
    }

    /// A stream of what happens from now on.
    ///
    /// # Errors
    /// When too many listen already.
    pub fn listen(&self) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>> + use<>>, Fault> {
        let seat = Arc::clone(&self.seats)
            .try_acquire_owned()
            .map_err(|_| Fault::busy(format!("{LISTENERS_MAX} programs listen to events already.")))?;
        let listener = Listener { news: self.sender.subscribe(), _seat: seat };
        // The first line goes out at once, so that a client knows that it is connected.
        let hello = futures::stream::once(async { Ok(Event::default().comment("listening")) });
        let rest = futures::stream::unfold(listener, |mut listener| async {
            let event = next(&mut listener.news).await?;
            Some((Ok(event), listener))
        });
        Ok(Sse::new(futures::StreamExt::chain(hello, rest)))
    }
}

/// Folders that changed since they were last taken, while somebody listens.
#[derive(Clone, Default)]
pub struct Changes(Arc<Mutex<BTreeSet<FolderNo>>>);

impl Changes {
    /// Follows a store's watch.
    #[must_use]
    pub fn of(store: &Store, hub: &Hub) -> Self {
        let changes = Self::default();
        let (inner, hub) = (changes.clone(), hub.clone());
        store.watch().subscribe(Box::new(move |no| {
            if hub.is_heard() {
                inner.0.lock().insert(no);
            }
        }));
        changes
    }

    /// Takes them.
    #[must_use]
    pub fn take(&self) -> BTreeSet<FolderNo> {
        std::mem::take(&mut *self.0.lock())
    }
}

async fn next(news: &mut Receiver<News>) -> Option<Event> {
    let found = match tokio::time::timeout(STILL_HERE, news.recv()).await {
        Err(_) => return Some(Event::default().comment("still here")),
        Ok(Ok(found)) => found,
        Ok(Err(RecvError::Lagged(_))) => News::of("missed"),
        Ok(Err(RecvError::Closed)) => return None,
    };
    let text = serde_json::to_string(&found).unwrap_or_default();
    Some(Event::default().event(found.what).data(text))
}
