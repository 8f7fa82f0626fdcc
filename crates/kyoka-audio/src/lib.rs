#![doc = include_str!("../README.md")]

mod augment;
mod error;
pub mod families;
mod log_mel;
mod resample;
mod waveform;
mod whisper;

pub use augment::AudioAugment;
pub use error::AudioError;
pub use log_mel::{LogMel, LogMelConfig, mel_filters};
pub use resample::resample;
pub use waveform::{SAMPLE_RATE_HZ, Waveform};
pub use whisper::{AudioSpan, WhisperConfig, WhisperEncoder};
