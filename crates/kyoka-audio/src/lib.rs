#![doc = include_str!("../README.md")]

mod augment;
mod error;
pub mod families;
mod feature_config;
mod log_mel;
mod recording;
mod resample;
mod waveform;
mod whisper;

pub use augment::AudioAugment;
pub use error::AudioError;
pub use kyoka_nn::ConfigError;
pub use log_mel::{LogMel, LogMelConfig, mel_filters};
pub use recording::Recording;
pub use resample::resample;
pub use waveform::{SAMPLE_RATE_HZ, Waveform};
pub use whisper::{AudioSpan, WhisperConfig, WhisperEncoder};
