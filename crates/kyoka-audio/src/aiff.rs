//! AIFF and AIFF-C: where the samples of a file lie, whatever its head states, and the file as a decoder likes it.

use std::{
    io::{Read, Seek},
    ops::Range,
};

use crate::{
    AudioError, AudioHeader,
    chunks::{ByteOrder, Chunks},
    resample::check_rate,
};

/// An AIFF file's layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Aiff {
    channels: u16,
    bits: u16,
    /// Rate as the file writes it: a float of 80 bits.
    rate: [u8; 10],
    /// How samples are written, `NONE` for plain AIFF.
    compression: [u8; 4],
    data: Range<u64>,
}

impl Aiff {
    /// Whether a file begins as AIFF does.
    pub(crate) fn is(head: &[u8]) -> bool {
        matches!(head, [b'F', b'O', b'R', b'M', _, _, _, _, b'A', b'I', b'F', b'F' | b'C', ..])
    }

    /// Finds format and samples.
    ///
    /// # Errors
    /// If either is missing, the file is cut short, or the rate is none.
    pub(crate) fn read(reader: impl Read + Seek) -> Result<Self, AudioError> {
        let mut chunks = Chunks::new(reader, ByteOrder::Big)?;
        let compressed = chunks.bytes::<12>(0)?[11] == b'C';
        let (mut found, mut data) = (None, None);
        while let Some(chunk) = chunks.next()? {
            match &chunk.id {
                b"COMM" => {
                    let head: [u8; 18] = chunks.bytes(chunk.start)?;
                    let compression = if compressed { chunks.bytes(chunk.start + 18)? } else { *b"NONE" };
                    found = Some((head, compression));
                }
                b"SSND" if data.is_none() => {
                    let offset = u64::from(chunks.order().u32(chunks.bytes(chunk.start)?));
                    // An open length stands for itself, not for eight bytes more.
                    let stated = match chunk.stated {
                        0..=8 => 0,
                        stated => u64::from(stated).saturating_sub(8 + offset),
                    };
                    data = Some(chunks.samples(chunk.start + 8 + offset, stated)?);
                }
                _ => {}
            }
        }
        let cut = chunks.is_cut();
        let missing = |what| if cut { AudioError::CutShort } else { AudioError::NoSound(what) };
        let (head, compression) = found.ok_or(missing("no format"))?;
        let data = data.ok_or(missing("no samples"))?;
        let u16_at = |at: usize| u16::from_be_bytes([head[at], head[at + 1]]);
        let rate = std::array::from_fn(|index| head[8 + index]);
        let aiff = Self { channels: u16_at(0), bits: u16_at(6), rate, compression, data };
        if aiff.channels == 0 {
            return Err(AudioError::NoSound("no channels"));
        }
        check_rate(aiff.sample_rate_hz())?;
        Ok(aiff)
    }

    /// Bytes of a sample.
    fn sample_bytes(&self) -> Result<u64, AudioError> {
        let bits = u64::from(self.bits);
        Ok(match &self.compression.map(|letter| letter.to_ascii_lowercase()) {
            b"none" | b"in24" | b"in32" | b"23ni" if (1..=32).contains(&bits) => bits.div_ceil(8),
            b"sowt" | b"twos" if bits == 16 => 2,
            b"raw " | b"alaw" | b"ulaw" => 1,
            b"fl32" => 4,
            b"fl64" => 8,
            other => {
                let name = String::from_utf8_lossy(other).trim().to_owned();
                return Err(AudioError::Codec { container: "AIFF", codec: format!("{name} of {bits} bits") });
            }
        })
    }

    /// Rate, channels and length.
    ///
    /// # Errors
    /// If the samples are written in a way that is not read.
    pub(crate) fn header(&self) -> Result<AudioHeader, AudioError> {
        let moment = self.sample_bytes()? * u64::from(self.channels);
        let moments = (self.data.end - self.data.start) / moment;
        Ok(AudioHeader::new(self.sample_rate_hz(), usize::from(self.channels), Some(moments)))
    }

    /// Sign and exponent, then a mantissa with its leading one.
    fn sample_rate_hz(&self) -> u32 {
        let [a, b, mantissa @ ..] = self.rate;
        let exponent = i32::from(u16::from_be_bytes([a, b])) - 16_383 - 63;
        (u64::from_be_bytes(mantissa) as f64 * f64::from(exponent).exp2()) as u32
    }

    /// The file with nothing but format and samples, and with lengths that are right.
    ///
    /// # Errors
    /// If the samples take more than 4 GiB, or are written in a way that is not read.
    pub(crate) fn plain(&self, file: &[u8]) -> Result<Vec<u8>, AudioError> {
        let moment = self.sample_bytes()? * u64::from(self.channels);
        let samples = &file[self.data.start as usize..self.data.end as usize];
        let samples = &samples[..samples.len() / moment as usize * moment as usize];
        let fits = |length: usize| u32::try_from(length).map_err(|_| AudioError::TooLong);
        let mut plain = b"FORM".to_vec();
        plain.extend(fits(samples.len() + 4 + 8 + 24 + 16)?.to_be_bytes());
        plain.extend(b"AIFCCOMM");
        plain.extend(24_u32.to_be_bytes());
        plain.extend(self.channels.to_be_bytes());
        plain.extend(fits(samples.len() / moment as usize)?.to_be_bytes());
        plain.extend(self.bits.to_be_bytes());
        plain.extend(self.rate);
        plain.extend(self.compression);
        // A name of no letters.
        plain.extend([0, 0]);
        plain.extend(b"SSND");
        plain.extend(fits(samples.len() + 8)?.to_be_bytes());
        plain.extend([0; 8]);
        plain.extend(samples);
        Ok(plain)
    }
}
