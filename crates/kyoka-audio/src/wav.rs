//! WAV: where the samples of a file lie, whatever its head states, and the file as a decoder likes it.

use std::{
    io::{Read, Seek},
    ops::Range,
};

use crate::{
    AudioError, AudioHeader,
    chunks::{ByteOrder, Chunks},
    resample::check_rate,
};

/// How the samples of a WAV file are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Codec {
    Pcm,
    Float,
    ALaw,
    MuLaw,
    MsAdpcm,
    ImaAdpcm,
}

/// What other codecs are called in messages.
const OTHER_CODECS: [(u16, &str); 9] = [
    (0x22, "TrueSpeech"),
    (0x31, "GSM 6.10"),
    (0x42, "G.723.1"),
    (0x45, "G.726"),
    (0x50, "MPEG audio"),
    (0x55, "MP3"),
    (0x64, "G.726"),
    (0x65, "G.722"),
    (0x161, "Windows Media Audio"),
];

impl Codec {
    fn of(tag: u16) -> Result<Self, AudioError> {
        Ok(match tag {
            1 => Self::Pcm,
            2 => Self::MsAdpcm,
            3 => Self::Float,
            6 => Self::ALaw,
            7 => Self::MuLaw,
            0x11 => Self::ImaAdpcm,
            _ => {
                let known = OTHER_CODECS.iter().find(|(other, _)| *other == tag);
                let codec = known.map_or_else(|| format!("codec {tag:#06x}"), |(_, name)| (*name).to_owned());
                return Err(AudioError::Codec { container: "WAV", codec });
            }
        })
    }

    fn tag(self) -> u16 {
        match self {
            Self::Pcm => 1,
            Self::MsAdpcm => 2,
            Self::Float => 3,
            Self::ALaw => 6,
            Self::MuLaw => 7,
            Self::ImaAdpcm => 0x11,
        }
    }
}

/// The `fmt ` chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Format {
    codec: Codec,
    channels: u16,
    sample_rate_hz: u32,
    /// Bytes of a block: one moment of all channels, or a packet of ADPCM.
    block_bytes: u16,
    /// Bits of a sample as it lies in the file.
    bits: u16,
}

impl Format {
    /// Reads the first bytes of the chunk; `length` is that of the whole chunk.
    fn read(bytes: &[u8; 16], sub_format: Option<u16>) -> Result<Self, AudioError> {
        let u16_at = |at: usize| ByteOrder::Little.u16([bytes[at], bytes[at + 1]]);
        let sample_rate_hz = ByteOrder::Little.u32([bytes[4], bytes[5], bytes[6], bytes[7]]);
        let (channels, block_bytes, bits) = (u16_at(2), u16_at(12), u16_at(14));
        if channels == 0 {
            return Err(AudioError::NoSound("no channels"));
        }
        check_rate(sample_rate_hz)?;
        let codec = Codec::of(sub_format.unwrap_or(u16_at(0)))?;
        let sample_bytes = block_bytes / channels;
        let lying = match codec {
            // A sample of 20 bits lies in three bytes, or in four where the block says so.
            Codec::Pcm if bits > 8 && (bits.div_ceil(8)..=4).contains(&sample_bytes) => sample_bytes * 8,
            Codec::Pcm => bits.div_ceil(8).saturating_mul(8),
            Codec::Float => bits,
            Codec::ALaw | Codec::MuLaw => 8,
            Codec::MsAdpcm | Codec::ImaAdpcm => 4,
        };
        let known = match codec {
            Codec::Pcm => (8..=32).contains(&lying),
            Codec::Float => lying == 32 || lying == 64,
            _ => true,
        };
        if !known {
            return Err(AudioError::Codec { container: "WAV", codec: format!("samples of {bits} bits") });
        }
        let block_bytes = match codec {
            Codec::MsAdpcm | Codec::ImaAdpcm => block_bytes,
            _ => (lying / 8).checked_mul(channels).ok_or(AudioError::NoSound("too many channels"))?,
        };
        let format = Self { codec, channels, sample_rate_hz, block_bytes, bits: lying };
        if format.moments_per_block() == 0 {
            return Err(AudioError::NoSound("blocks too short for their channels"));
        }
        Ok(format)
    }

    /// Moments that a block holds; 0 where it is too short for its head.
    fn moments_per_block(&self) -> u64 {
        let (block, channels) = (u64::from(self.block_bytes), u64::from(self.channels));
        let packed = |head: u64, within: u64| match block.checked_sub(head * channels) {
            Some(rest) => rest * 2 / channels + within,
            None => 0,
        };
        match self.codec {
            Codec::MsAdpcm => packed(7, 2),
            Codec::ImaAdpcm => packed(4, 1),
            _ => 1,
        }
    }

    /// A file of these samples, which take less than 4 GiB.
    fn file(&self, samples: &[u8]) -> Vec<u8> {
        let format = self.chunk();
        let mut file = Vec::with_capacity(samples.len() + format.len() + 28);
        file.extend(b"RIFF");
        file.extend((samples.len() as u32 + format.len() as u32 + 20).to_le_bytes());
        file.extend(b"WAVEfmt ");
        file.extend((format.len() as u32).to_le_bytes());
        file.extend(format);
        file.extend(b"data");
        file.extend((samples.len() as u32).to_le_bytes());
        file.extend(samples);
        file
    }

    /// The chunk that says the same in the fewest words.
    fn chunk(&self) -> Vec<u8> {
        let bytes_per_s = self.sample_rate_hz.saturating_mul(u32::from(self.block_bytes));
        let mut chunk = self.codec.tag().to_le_bytes().to_vec();
        chunk.extend(self.channels.to_le_bytes());
        chunk.extend(self.sample_rate_hz.to_le_bytes());
        chunk.extend(bytes_per_s.to_le_bytes());
        chunk.extend(self.block_bytes.to_le_bytes());
        chunk.extend(self.bits.to_le_bytes());
        let extension: u16 = match self.codec {
            Codec::Pcm | Codec::Float => return chunk,
            Codec::ALaw | Codec::MuLaw => 0,
            Codec::ImaAdpcm => 2,
            Codec::MsAdpcm => 32,
        };
        chunk.extend(extension.to_le_bytes());
        chunk.resize(chunk.len() + usize::from(extension), 0);
        chunk
    }
}

/// A WAV file's layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wav {
    format: Format,
    data: Range<u64>,
}

impl Wav {
    /// Whether a file begins as WAV does.
    pub(crate) fn is(head: &[u8]) -> bool {
        matches!(
            head,
            [b'R', b'I', b'F', b'F' | b'X', ..] | [b'R', b'F', b'6', b'4', ..] | [b'B', b'W', b'6', b'4', ..]
        ) && head.get(8..12).is_none_or(|form| form == b"WAVE")
    }

    /// Finds format and samples.
    ///
    /// # Errors
    /// If either is missing, the file is cut short, or the codec is one that is not read.
    pub(crate) fn read(reader: impl Read + Seek) -> Result<Self, AudioError> {
        let mut chunks = Chunks::new(reader, ByteOrder::Little)?;
        if chunks.bytes::<4>(0)? == *b"RIFX" {
            return Err(AudioError::Codec {
                container: "WAV",
                codec: "big-endian samples (RIFX)".to_owned(),
            });
        }
        let (mut format, mut data, mut data_bytes) = (None, None, None);
        while let Some(chunk) = chunks.next()? {
            match &chunk.id {
                // Lengths of 64 bits: of the file, then of the samples.
                b"ds64" => {
                    let length = |bytes: [u8; 8]| u64::from_le_bytes(bytes);
                    let whole = length(chunks.bytes(chunk.start)?);
                    data_bytes = Some(length(chunks.bytes(chunk.start + 8)?));
                    chunks.set_stated(whole);
                }
                b"fmt " if chunk.stated < 16 => return Err(AudioError::NoSound("a format of too few bytes")),
                b"fmt " => {
                    let bytes = chunks.bytes(chunk.start)?;
                    let extensible = bytes[..2] == [0xfe, 0xff] && chunk.stated >= 26;
                    let sub_format = match extensible {
                        true => Some(chunks.order().u16(chunks.bytes(chunk.start + 24)?)),
                        false => None,
                    };
                    format = Some(Format::read(&bytes, sub_format)?);
                }
                b"data" if data.is_none() => {
                    let stated = match data_bytes {
                        Some(bytes) if chunk.stated == u32::MAX => bytes,
                        _ => u64::from(chunk.stated),
                    };
                    data = Some(chunks.samples(chunk.start, stated)?);
                }
                _ => {}
            }
            if let (Some(format), Some(data)) = (format, &data) {
                return Ok(Self { format, data: data.clone() });
            }
        }
        // A file that is cut ends before what is looked for.
        Err(if chunks.is_cut() { AudioError::CutShort } else { AudioError::NoSound("no samples") })
    }

    /// Rate, channels and length.
    pub(crate) fn header(&self) -> AudioHeader {
        let blocks = (self.data.end - self.data.start) / u64::from(self.format.block_bytes);
        let moments = blocks * self.format.moments_per_block();
        AudioHeader::new(self.format.sample_rate_hz, usize::from(self.format.channels), Some(moments))
    }

    /// The file with nothing but format and samples, and with lengths that are right.
    ///
    /// # Errors
    /// If the samples take more than 4 GiB.
    pub(crate) fn plain(&self, file: &[u8]) -> Result<Vec<u8>, AudioError> {
        let samples = &file[self.data.start as usize..self.data.end as usize];
        let fits = u32::try_from(samples.len() + 64).is_ok();
        if fits { Ok(self.format.file(samples)) } else { Err(AudioError::TooLong) }
    }
}

/// A WAV file of 16-bit samples, the channels of each moment side by side, cut off after 4 GiB.
pub(crate) fn write_pcm16(samples: &[u8], channels: usize, sample_rate_hz: u32) -> Vec<u8> {
    let channels = channels as u16;
    let format = Format { codec: Codec::Pcm, channels, sample_rate_hz, block_bytes: 2 * channels, bits: 16 };
    format.file(&samples[..samples.len().min(u32::MAX as usize - 64)])
}
