//! Bytes that leave a stream in parts of one size, however they come.
//!
//! Each write on a stream is a frame of Yamux's, up to its size. A length of four bytes would be one by itself, and
//! so would each of a hundred short frames that wait together: the receiver keeps each in an allocation of its own.

use std::io::Result;

use futures::AsyncWriteExt as _;
use futures::io::WriteHalf;

use crate::swarm::ByteStream;

/// What Yamux puts into one frame at the most, unless it is told otherwise.
pub const PART_BYTES: usize = 16 * 1024;

/// The writing half of a stream.
pub struct Parts {
    stream: WriteHalf<ByteStream>,
    part: Vec<u8>,
}

impl Parts {
    pub const fn new(stream: WriteHalf<ByteStream>) -> Self {
        Self { stream, part: Vec::new() }
    }

    /// Takes some of these bytes, writes a part where one is complete, and returns the rest of the bytes.
    pub async fn push<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8]> {
        let (taken, rest) = bytes.split_at(bytes.len().min(PART_BYTES - self.part.len()));
        if taken.len() == PART_BYTES {
            self.stream.write_all(taken).await?;
            return Ok(rest);
        }
        self.part.extend_from_slice(taken);
        if self.part.len() == PART_BYTES {
            self.stream.write_all(&self.part).await?;
            self.part.clear();
        }
        Ok(rest)
    }

    /// Takes all of these bytes.
    pub async fn push_all(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            bytes = self.push(bytes).await?;
        }
        Ok(())
    }

    /// Writes what is left, and hands it on.
    pub async fn flush(&mut self) -> Result<()> {
        self.stream.write_all(&self.part).await?;
        self.part.clear();
        self.stream.flush().await
    }
}
