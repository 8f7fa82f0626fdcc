//! Opus packets (RFC 6716) in Ogg (RFC 7845).

use ropus::opus::multistream::OpusMSDecoder;

use crate::AudioError;

/// Rate that Opus is decoded at, whatever was encoded.
pub(crate) const OPUS_RATE_HZ: u32 = 48_000;

/// Most moments of a packet: 120 ms.
const MAX_MOMENTS: usize = 5_760;

/// Decodes packets of up to 255 channels.
pub(crate) struct OpusDecoder {
    decoder: OpusMSDecoder,
    channels: usize,
    /// Factor of the header's gain.
    gain: f32,
    buffer: Vec<i16>,
}

impl OpusDecoder {
    /// A decoder as the identification header asks for.
    ///
    /// # Errors
    /// If the header is too short, or asks for streams that cannot be.
    pub(crate) fn new(header: &[u8]) -> Result<Self, AudioError> {
        let broken = AudioError::Opus("a broken header");
        let [
            b'O',
            b'p',
            b'u',
            b's',
            b'H',
            b'e',
            b'a',
            b'd',
            _,
            channels,
            _,
            _,
            _,
            _,
            _,
            _,
            low,
            high,
            family,
            rest @ ..,
        ] = header
        else {
            return Err(broken);
        };
        let plain = [1, channels.saturating_sub(1), 0, 1];
        let layout = match (family, channels) {
            (0, 1 | 2) => plain.as_slice(),
            (0, _) => return Err(broken),
            _ => rest,
        };
        let [streams, coupled, mapping @ ..] = layout else { return Err(broken) };
        let count = usize::from(*channels);
        if mapping.len() < count {
            return Err(broken);
        }
        let [all, streams, coupled] = [*channels, *streams, *coupled].map(i32::from);
        let decoder =
            OpusMSDecoder::new(OPUS_RATE_HZ as i32, all, streams, coupled, mapping).map_err(|_| broken)?;
        let gain_db = f32::from(i16::from_le_bytes([*low, *high])) / 256.0;
        let gain = 10_f32.powf(gain_db / 20.0);
        Ok(Self { decoder, channels: count, gain, buffer: vec![0; MAX_MOMENTS * count] })
    }

    /// Number of channels.
    pub(crate) fn channels(&self) -> usize {
        self.channels
    }

    /// Appends a packet's samples, the channels of each moment side by side.
    ///
    /// # Errors
    /// If the packet is damaged.
    pub(crate) fn decode(&mut self, packet: &[u8], samples: &mut Vec<f32>) -> Result<(), AudioError> {
        let length = i32::try_from(packet.len()).map_err(|_| AudioError::Opus("a packet too long"))?;
        let moments = self.decoder.decode(Some(packet), length, &mut self.buffer, MAX_MOMENTS as i32, false);
        let moments = moments.map_err(|_| AudioError::Opus("a damaged packet"))? as usize;
        let scale = self.gain / 32_768.0;
        samples
            .extend(self.buffer[..moments * self.channels].iter().map(|&sample| f32::from(sample) * scale));
        Ok(())
    }
}
