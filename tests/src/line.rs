//! A line to a program that can be made slow: a port on loopback that passes on what comes, both ways.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cobox_store::format::address::SeederAddress;

/// Slices of time in which a slow line passes something on.
const SLICES_PER_S: u64 = 20;

/// The line; it ends when this is dropped.
pub struct Line {
    port: u16,
    pace: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
}

impl Line {
    /// A line to a port on loopback, as fast as can be.
    ///
    /// # Panics
    /// When there is no port for it.
    #[must_use]
    pub fn to(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let (pace, ended) = (Arc::new(AtomicU64::new(u64::MAX)), Arc::new(AtomicBool::new(false)));
        let (paced, end) = (Arc::clone(&pace), Arc::clone(&ended));
        std::thread::spawn(move || {
            for near in listener.incoming() {
                let far = TcpStream::connect(("127.0.0.1", target));
                if end.load(Ordering::SeqCst) {
                    return;
                }
                if let (Ok(near), Ok(far)) = (near, far) {
                    join(&near, &far, &paced);
                }
            }
        });
        Self { port, pace, ended }
    }

    /// From now on so many bytes a second come back over it.
    pub fn slow_down(&self, bytes_per_s: u64) {
        self.pace.store(bytes_per_s, Ordering::SeqCst);
    }

    /// As fast as can be.
    pub fn speed_up(&self) {
        self.pace.store(u64::MAX, Ordering::SeqCst);
    }

    /// What reaches a seeder over this line, in place of where it listens.
    #[must_use]
    pub fn address(&self, seeder: &SeederAddress) -> String {
        let port = self.port.to_be_bytes();
        // A binary multiaddress of TCP over IPv4: code 4, four bytes, code 6, two bytes.
        let address = [&[4, 127, 0, 0, 1, 6][..], &port].concat();
        SeederAddress { addresses: vec![address], ..seeder.clone() }.to_text()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // Wakes the one who waits for connections.
        drop(TcpStream::connect(("127.0.0.1", self.port)));
    }
}

fn join(near: &TcpStream, far: &TcpStream, pace: &Arc<AtomicU64>) {
    let unpaced = Arc::new(AtomicU64::new(u64::MAX));
    for (from, to, pace) in [(near, far, unpaced), (far, near, Arc::clone(pace))] {
        if let (Ok(from), Ok(to)) = (from.try_clone(), to.try_clone()) {
            std::thread::spawn(move || pass(from, to, &pace));
        }
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, pace: &AtomicU64) {
    let mut buffer = [0; 64 * 1024];
    loop {
        let pace = pace.load(Ordering::SeqCst);
        let slice = usize::try_from(pace / SLICES_PER_S).unwrap_or(usize::MAX).clamp(1, buffer.len());
        let Some(part) = buffer.get_mut(..slice) else { return };
        match from.read(part) {
            Ok(count @ 1..) if part.get(..count).is_some_and(|read| to.write_all(read).is_ok()) => {}
            _ => break,
        }
        if pace < u64::MAX {
            std::thread::sleep(Duration::from_secs(1) / u32::try_from(SLICES_PER_S).unwrap_or(1));
        }
    }
    // The other direction ends with this one.
    drop((from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both)));
}
