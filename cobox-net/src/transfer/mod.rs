//! Moves frames and packs between streams and the store.
//!
//! A receiver grants credit by asking: nothing is sent that was not asked for, and what is asked for and
//! not yet stored is bounded by one semaphore for the whole node. Readers never wait for anything but
//! that, so two peers that send to each other at once cannot deadlock.

pub mod control;
mod parts;
pub mod pull;
pub mod room;
pub mod serve;

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use futures::{AsyncRead, AsyncReadExt as _};
use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::wire::BULK_BYTES_MAX;

/// Slices asked for and not yet stored, in the whole node: 16 MiB.
pub const CREDIT_SLICES: usize = 256;
/// Slices of them over one stream: one that stands still leaves room for the others, and one that is slow keeps only
/// what fits what it brings (`pull/pace.rs`). What a stream owes beyond that is bounded by this number, and read only as
/// the node has credit for it.
pub const STREAM_SLICES: usize = 192;
/// Buffers that are kept for the next frames: one pack's worth, so that memory stays mapped while packs
/// stream in, and little is held when none does.
const BUFFERS_MAX: usize = 32;
/// A stream that owes us something and brings nothing for this long is closed, and resumed later.
pub const STALL_WAIT: std::time::Duration = std::time::Duration::from_secs(30);

/// Which way a frame goes.
#[derive(Clone, Copy, Debug)]
pub enum Way {
    /// To the peer.
    Out,
    /// From the peer.
    In,
}

/// Appends every plaintext frame to a file: `way u8 ‖ length u32 ‖ frame`. A debugging aid, and how tests
/// see what a seeder sees; off unless `COBOX_FRAME_TAP` or the configuration names a file.
#[derive(Clone, Default)]
pub struct Tap(Option<Arc<Mutex<File>>>);

impl Tap {
    /// Opens the file, or does nothing for `None`.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn open(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else { return Ok(Self(None)) };
        let file = File::options().create(true).append(true).open(path)?;
        Ok(Self(Some(Arc::new(Mutex::new(file)))))
    }

    /// Notes one frame, given in parts.
    pub fn note(&self, way: Way, parts: &[&[u8]]) {
        let Some(file) = &self.0 else { return };
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let mut bytes = Vec::with_capacity(5 + length);
        bytes.push(match way {
            Way::Out => b'>',
            Way::In => b'<',
        });
        bytes.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes());
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        if let Err(error) = file.lock().write_all(&bytes) {
            tracing::warn!(%error, "the frame tap cannot be written");
        }
    }
}

/// Reads one frame: its length, then its bytes; nothing is allocated for a length above `max`.
///
/// # Errors
/// When the stream ends or the length is too large.
pub async fn read_frame(stream: &mut (impl AsyncRead + Unpin), max: usize) -> Result<Vec<u8>> {
    let mut frame = vec![0; read_length(stream, max).await?];
    stream.read_exact(&mut frame).await?;
    Ok(frame)
}

async fn read_length(stream: &mut (impl AsyncRead + Unpin), max: usize) -> Result<usize> {
    let mut length = [0; 4];
    stream.read_exact(&mut length).await?;
    let length = u32::from_le_bytes(length) as usize;
    if length == 0 || length > max {
        return Err(Error::FrameTooLong { bytes: length as u64 });
    }
    Ok(length)
}

/// Buffers of full bulk frames, used again and again: fresh ones would be zeroed and mapped anew for each.
#[derive(Clone, Default)]
pub struct Buffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl Buffers {
    fn take(&self) -> Vec<u8> {
        self.0.lock().pop().unwrap_or_else(|| vec![0; BULK_BYTES_MAX])
    }

    /// Takes back what is not needed any more.
    pub fn give(&self, spent: Vec<Vec<u8>>) {
        let mut free = self.0.lock();
        let room = BUFFERS_MAX.saturating_sub(free.len());
        free.extend(spent.into_iter().filter(|buffer| buffer.len() == BULK_BYTES_MAX).take(room));
    }

    /// Reads one bulk frame; see [`read_frame`].
    ///
    /// # Errors
    /// See [`read_frame`].
    pub async fn read_frame(&self, stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>> {
        let length = read_length(stream, BULK_BYTES_MAX).await?;
        let mut frame = if length == BULK_BYTES_MAX { self.take() } else { vec![0; length] };
        stream.read_exact(&mut frame).await?;
        Ok(frame)
    }
}
