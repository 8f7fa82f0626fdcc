//! A sound as encoders read it.

use crate::{AudioError, Recording, resample};

/// Rate that encoders read, in Hz.
pub const SAMPLE_RATE_HZ: u32 = 16_000;

/// Mono samples in [-1, 1].
#[derive(Debug, Clone, PartialEq)]
pub struct Waveform {
    /// The samples.
    pub samples: Vec<f32>,
    /// Samples a second.
    pub sample_rate_hz: u32,
}

impl Waveform {
    /// Decodes a file by its content and brings it to 16 kHz mono.
    ///
    /// # Errors
    /// As [`Recording::decode`], and if the sampling rate is none.
    pub fn decode(bytes: &[u8]) -> Result<Self, AudioError> {
        Self::decode_at(bytes, SAMPLE_RATE_HZ)
    }

    /// Decodes a file by its content and brings it to one channel at a rate of choice.
    ///
    /// # Errors
    /// As [`Recording::decode`].
    pub fn decode_at(bytes: &[u8], sample_rate_hz: u32) -> Result<Self, AudioError> {
        resample(Recording::decode(bytes)?.mono(), sample_rate_hz)
    }
}
