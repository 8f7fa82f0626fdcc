#![doc = include_str!("../README.md")]

mod aiff;
mod augment;
mod chunks;
mod error;
pub mod families;
mod feature_config;
mod header;
mod log_mel;
mod ogg;
mod opus;
mod recording;
mod resample;
mod tokens;
mod wav;
mod waveform;
mod whisper;

pub use augment::AudioAugment;
pub use error::AudioError;
pub use header::AudioHeader;
pub use kyoka_nn::ConfigError;
pub use log_mel::{LogMel, LogMelConfig, mel_filters};
pub use recording::Recording;
pub use resample::{resample, resampled_len};
pub use tokens::SHORTEST_SOUND;
pub use waveform::{SAMPLE_RATE_HZ, Waveform};
pub use whisper::{AudioSpan, WhisperConfig, WhisperEncoder};
