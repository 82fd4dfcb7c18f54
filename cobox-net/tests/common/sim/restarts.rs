//! Programs that end and begin again, where they were or somewhere else.

use super::*;

impl Sim {
    pub(super) fn engine(&self, at: usize) -> Engine {
        let engine = Engine::new(Arc::clone(&self.stores[at]), peer(&self.keys[at]));
        if at < self.world.devices {
            return engine;
        }
        let key = self.keys[at].clone();
        let signer = move |text: &[u8]| key.sign(&cobox_net::sync::signed_bytes(text)).to_bytes();
        engine.saying_where(Arc::new(signer), self.kept[at].1.clone())
    }

    /// The engine forgets everything but what a program keeps; the store stays. A seeder keeps its address.
    pub fn restart(&mut self, at: usize) {
        self.end(at);
        if at < self.world.devices && self.rng.one_in(2) {
            self.addresses[at][4] += 1;
        }
        self.begin(at);
    }

    /// It ends here and begins somewhere else.
    pub fn move_away(&mut self, at: usize) {
        self.end(at);
        self.addresses[at][4] += 1;
        self.begin(at);
    }

    fn end(&mut self, at: usize) {
        let mine = |wire: &Wire| wire.ends.iter().any(|end| end.0 == at);
        let mine: Vec<u64> = self.wires.iter().filter(|(_, wire)| mine(wire)).map(|(id, _)| *id).collect();
        mine.into_iter().for_each(|id| self.cut(id));
        self.fetches.retain(|fetch| fetch.node != at);
        self.dials.retain(|dial| dial.0 != at);
        self.kept[at].0 = self.engines[at].whereabouts(self.nos[at]);
        let (word, _) = self.engines[at].moves(Keep::All, self.now);
        self.kept[at].1 = word.or(self.kept[at].1.take());
    }

    fn begin(&mut self, at: usize) {
        self.engines[at] = self.engine(at);
        self.configure(at);
    }
}
