//! Files made of chunks: RIFF, which WAV is, and IFF, which AIFF is.

use std::{
    io::{Read, Seek, SeekFrom},
    ops::Range,
};

use crate::AudioError;

/// Lengths from here on are those that writers without a way back put down: they stand for "to the end of the file".
const OPEN_LENGTH: u32 = 0x7fff_0000;

/// How numbers are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ByteOrder {
    /// RIFF.
    Little,
    /// IFF.
    Big,
}

impl ByteOrder {
    pub(crate) fn u16(self, bytes: [u8; 2]) -> u16 {
        if self == Self::Little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) }
    }

    pub(crate) fn u32(self, bytes: [u8; 4]) -> u32 {
        if self == Self::Little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) }
    }
}

/// One chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Chunk {
    /// Its four letters.
    pub id: [u8; 4],
    /// Where its content begins.
    pub start: u64,
    /// Length of its content as its head states it.
    pub stated: u32,
}

/// Reads a file chunk by chunk.
pub(crate) struct Chunks<R> {
    reader: R,
    order: ByteOrder,
    /// Length of the file.
    length: u64,
    /// Length that the file's head states for all that follows it.
    stated: u64,
    next: u64,
}

impl<R: Read + Seek> Chunks<R> {
    /// The chunks behind the twelve bytes that such a file begins with.
    pub(crate) fn new(mut reader: R, order: ByteOrder) -> Result<Self, AudioError> {
        let length = reader.seek(SeekFrom::End(0))?;
        let mut chunks = Self { reader, order, length, stated: 0, next: 12 };
        chunks.stated = u64::from(order.u32(chunks.bytes(4)?));
        Ok(chunks)
    }

    /// How numbers are written.
    pub(crate) fn order(&self) -> ByteOrder {
        self.order
    }

    /// Takes the file's whole length from elsewhere.
    pub(crate) fn set_stated(&mut self, stated: u64) {
        self.stated = stated;
    }

    /// Whether the file is shorter than its head says.
    pub(crate) fn is_cut(&self) -> bool {
        self.stated < u64::from(OPEN_LENGTH) && self.stated + 8 > self.length
    }

    /// The bytes at a place of the file.
    pub(crate) fn bytes<const N: usize>(&mut self, place: u64) -> Result<[u8; N], AudioError> {
        let mut bytes = [0; N];
        if place + N as u64 > self.length {
            return Err(AudioError::CutShort);
        }
        self.reader.seek(SeekFrom::Start(place))?;
        self.reader.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    /// The next chunk, if there is another whole head.
    pub(crate) fn next(&mut self) -> Result<Option<Chunk>, AudioError> {
        if self.next + 8 > self.length {
            return Ok(None);
        }
        let chunk = self.at(self.next)?;
        self.next = behind(chunk);
        Ok(Some(chunk))
    }

    fn at(&mut self, place: u64) -> Result<Chunk, AudioError> {
        let [a, b, c, d, size @ ..] = self.bytes::<8>(place)?;
        Ok(Chunk { id: [a, b, c, d], start: place + 8, stated: self.order.u32(size) })
    }

    /// Where the samples lie that begin at `start` and are said to take `stated` bytes.
    ///
    /// A length that was left open reaches to the end of the file. So does one that is too long while the length of the
    /// whole file is right: then nothing was cut off, and only that number is wrong.
    ///
    /// # Errors
    /// If there are fewer bytes than stated.
    pub(crate) fn samples(&mut self, start: u64, stated: u64) -> Result<Range<u64>, AudioError> {
        let rest = self.length.saturating_sub(start);
        if stated <= rest && (stated > 0 || self.only_chunks_from(start)?) {
            return Ok(start..start + stated);
        }
        let open = stated == 0 || (u64::from(OPEN_LENGTH)..=u64::from(u32::MAX)).contains(&stated);
        // Some writers do not count a last padding byte.
        let whole = self.length.saturating_sub(8).checked_sub(self.stated).is_some_and(|more| more <= 1);
        if open || whole || stated == u64::MAX { Ok(start..self.length) } else { Err(AudioError::CutShort) }
    }

    /// Whether nothing but whole chunks stands from a place to the end of the file.
    fn only_chunks_from(&mut self, mut place: u64) -> Result<bool, AudioError> {
        while place + 8 <= self.length {
            let chunk = self.at(place)?;
            let named = chunk.id.iter().all(|letter| letter.is_ascii_graphic() || *letter == b' ');
            if !named || chunk.start + u64::from(chunk.stated) > self.length {
                return Ok(false);
            }
            place = behind(chunk);
        }
        Ok(place >= self.length)
    }
}

/// Where the next chunk begins: chunks have an even length.
fn behind(chunk: Chunk) -> u64 {
    chunk.start + u64::from(chunk.stated).next_multiple_of(2)
}
