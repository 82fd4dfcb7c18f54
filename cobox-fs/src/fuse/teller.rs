//! Tells the kernel what to forget, so that what one file waits for keeps nothing else waiting.
//!
//! To forget a file's pages the kernel waits for each that is being read, and a read of bytes that nobody has takes up
//! to half a minute. So a few threads tell it one change each, what nothing waits for first, and files that are being
//! waited for take no more than some of the threads. In which order the kernel forgets does not matter: what it asks
//! for anew has changed already.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::{Condvar, Mutex};

use crate::vfs::Invalidate;

/// Threads that tell.
const THREADS: usize = 4;
/// Of them so many tell of files that reads wait for. The others are held up only by a read that begins to wait in the
/// moment in which its file is told of.
const THREADS_HELD_UP: usize = 2;
/// Changes that may wait for the kernel; then catching up waits as well.
const CHANGES_MAX: usize = 65_536;

/// What a thread tells next.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Word {
    /// Forget all of it.
    Whole(Invalidate),
    /// Forget the attributes of a node; its pages come later.
    Attributes(u64),
}

/// Changes that wait, and what they may wait for.
pub struct Queue {
    state: Mutex<State>,
    /// There may be something to tell.
    work: Condvar,
    /// There may be room.
    room: Condvar,
}

#[derive(Default)]
struct State {
    words: VecDeque<Word>,
    /// The same: none waits twice.
    waiting: HashSet<Word>,
    /// Nodes whose pages are being told of.
    told: HashSet<u64>,
    /// How many reads wait for bytes of a node.
    reads: HashMap<u64, usize>,
    ended: bool,
}

impl State {
    fn add(&mut self, word: Word) {
        if self.waiting.insert(word.clone()) {
            self.words.push_back(word);
        }
    }

    /// The first of those that nothing holds up; else the first at all, while threads are left.
    fn next(&mut self) -> Option<Word> {
        let holds_up = |node: &u64| self.reads.contains_key(node);
        let rank = |word: &Word| match word {
            Word::Whole(Invalidate::Node(node)) => (!self.told.contains(node)).then(|| holds_up(node)),
            _ => Some(false),
        };
        let first = |of: &dyn Fn(Option<bool>) -> bool| self.words.iter().position(|word| of(rank(word)));
        let held_up = self.told.iter().filter(|node| holds_up(node)).count();
        let at = first(&|rank| rank == Some(false))
            .or_else(|| (held_up < THREADS_HELD_UP).then(|| first(&|rank| rank.is_some())).flatten())?;
        let word = self.words.remove(at)?;
        self.waiting.remove(&word);
        if let Word::Whole(Invalidate::Node(node)) = &word {
            self.told.insert(*node);
        }
        Some(word)
    }
}

impl Queue {
    pub fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), work: Condvar::new(), room: Condvar::new() })
    }

    /// Has the kernel told; waits where too much waits already.
    pub fn put(&self, changes: Vec<Invalidate>) {
        let mut state = self.state.lock();
        while state.words.len() >= CHANGES_MAX && !state.ended {
            self.room.wait(&mut state);
        }
        if state.ended {
            return;
        }
        for change in changes {
            if let Invalidate::Node(node) = change
                && (state.reads.contains_key(&node) || state.told.contains(&node))
            {
                state.add(Word::Attributes(node));
            }
            state.add(Word::Whole(change));
        }
        self.work.notify_all();
    }

    /// A read waits for bytes of a node from now on.
    pub fn read_waits(&self, node: u64) {
        *self.state.lock().reads.entry(node).or_default() += 1;
    }

    /// It was answered.
    pub fn read_ended(&self, node: u64) {
        let mut state = self.state.lock();
        if let Some(reads) = state.reads.get_mut(&node) {
            *reads -= 1;
            if *reads == 0 {
                state.reads.remove(&node);
                self.work.notify_all();
            }
        }
    }

    /// Ends the threads; what waits is not told any more.
    fn end(&self) {
        self.state.lock().ended = true;
        self.work.notify_all();
        self.room.notify_all();
    }

    fn next(&self) -> Option<Word> {
        let mut state = self.state.lock();
        loop {
            if state.ended {
                return None;
            }
            if let Some(word) = state.next() {
                if state.words.len() < CHANGES_MAX {
                    self.room.notify_all();
                }
                return Some(word);
            }
            self.work.wait(&mut state);
        }
    }

    fn done(&self, word: &Word) {
        if let Word::Whole(Invalidate::Node(node)) = word {
            self.state.lock().told.remove(node);
            self.work.notify_all();
        }
    }
}

/// The threads.
pub struct Teller {
    queue: Arc<Queue>,
    threads: Vec<JoinHandle<()>>,
}

impl Teller {
    /// Has `tell` called with what the kernel is to be told.
    pub fn start(
        queue: &Arc<Queue>,
        tell: impl Fn(&Word) -> io::Result<()> + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let tell = Arc::new(tell);
        let mut teller = Self { queue: Arc::clone(queue), threads: Vec::with_capacity(THREADS) };
        for at in 0..THREADS {
            let (queue, tell) = (Arc::clone(queue), Arc::clone(&tell));
            let thread = std::thread::Builder::new().name(format!("fuse-tell-{at}")).spawn(move || {
                while let Some(word) = queue.next() {
                    if let Err(error) = tell(&word) {
                        tracing::debug!(%error, "the kernel kept something");
                    }
                    queue.done(&word);
                }
            });
            teller.threads.push(thread?);
        }
        Ok(teller)
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        self.queue.end();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a thread that tells the kernel panicked");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};
    use std::time::Duration;

    use super::*;

    /// Long enough on any machine for what comes at all.
    const PATIENCE: Duration = Duration::from_secs(30);

    /// A kernel that forgets the pages of some nodes only once it may.
    struct Kernel {
        stuck: Mutex<HashSet<u64>>,
        free: Condvar,
    }

    impl Kernel {
        fn forget(&self, word: &Word) {
            let mut stuck = self.stuck.lock();
            while matches!(word, Word::Whole(Invalidate::Node(node)) if stuck.contains(node)) {
                self.free.wait(&mut stuck);
            }
        }

        fn release(&self, node: u64) {
            self.stuck.lock().remove(&node);
            self.free.notify_all();
        }
    }

    fn kernel(stuck: impl IntoIterator<Item = u64>) -> (Arc<Kernel>, Arc<Queue>, Teller, Receiver<Word>) {
        let kernel =
            Arc::new(Kernel { stuck: Mutex::new(stuck.into_iter().collect()), free: Condvar::new() });
        let (told, words) = channel();
        let (queue, inner) = (Queue::new(), Arc::clone(&kernel));
        let told = Mutex::new(told);
        let teller = Teller::start(&queue, move |word| {
            inner.forget(word);
            let _ = told.lock().send(word.clone());
            Ok(())
        });
        (kernel, queue, teller.expect("starts"), words)
    }

    fn whole(node: u64) -> Word {
        Word::Whole(Invalidate::Node(node))
    }

    #[test]
    fn file_that_reads_wait_for_holds_up_no_other() {
        let stuck = || 100..110;
        let (kernel, queue, teller, words) = kernel(stuck());
        let next = || words.recv_timeout(PATIENCE).expect("it is told");
        // Two began to wait while they were told of, which nobody can know; of the others it is known.
        queue.put([100, 101].map(Invalidate::Node).into());
        while queue.state.lock().told.len() < 2 {
            std::thread::yield_now();
        }
        stuck().for_each(|node| queue.read_waits(node));
        queue.put(stuck().map(Invalidate::Node).collect());
        let mut attributes: Vec<Word> = stuck().map(|_| next()).collect();
        attributes.sort_by_key(|word| if let Word::Attributes(node) = word { *node } else { 0 });
        assert_eq!(attributes, stuck().map(Word::Attributes).collect::<Vec<_>>(), "those wait for nothing");
        let name = Invalidate::Name { parent: 1, name: b"b".to_vec() };
        for change in [Invalidate::Node(7), name.clone(), Invalidate::Node(8)] {
            queue.put(vec![change.clone()]);
            assert_eq!(next(), Word::Whole(change));
        }
        // What was told while it was held up is told once more after it.
        stuck().for_each(|node| {
            queue.read_ended(node);
            kernel.release(node);
        });
        let mut rest: Vec<Word> = (0..12).map(|_| next()).collect();
        rest.sort_by_key(|word| if let Word::Whole(Invalidate::Node(node)) = word { *node } else { 0 });
        let twice: Vec<Word> = [100, 100, 101, 101].into_iter().chain(102..110).map(whole).collect();
        assert_eq!(rest, twice);
        drop(teller);
        assert!(words.recv().is_err(), "and nothing else");
    }

    #[test]
    fn change_that_waits_is_told_once_and_what_waits_at_the_end_is_not_told() {
        let (kernel, queue, teller, words) = kernel([5]);
        queue.read_waits(5);
        for _ in 0..1000 {
            queue.put(vec![Invalidate::Node(5)]);
        }
        let waiting = queue.state.lock().words.len();
        assert!(waiting <= 2, "its pages and its attributes: {waiting}");
        queue.end();
        kernel.release(5);
        drop(teller);
        let left = words.iter().filter(|word| *word == whole(5)).count();
        assert!(left <= 1, "{left}");
    }
}
