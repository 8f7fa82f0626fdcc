#![doc = include_str!("../README.md")]

mod fakes;

use std::path::Path;

pub use fakes::{Echo, Scored, Scripted, Tells, sample};
pub use hound;

/// The sampling settings of test sounds.
pub fn wav_16khz_mono() -> hound::WavSpec {
    hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    }
}

/// Writes a square grey PNG; `shade` gives the value at `(x, y)`.
///
/// # Panics
/// If the file cannot be written.
pub fn write_grey_png(path: &Path, side: u32, shade: impl Fn(u32, u32) -> u8) {
    let image = image::GrayImage::from_fn(side, side, |x, y| image::Luma([shade(x, y)]));
    image.save(path).expect("a test's folder can be written");
}

/// Writes a second of a tone.
///
/// # Panics
/// If the file cannot be written.
pub fn write_tone(path: &Path, step: f32) {
    let mut writer =
        hound::WavWriter::create(path, wav_16khz_mono()).expect("a test's folder can be written");
    for i in 0..8_000 {
        writer
            .write_sample(((i as f32 * step).sin() * 9_000.0) as i16)
            .expect("a test's folder can be written");
    }
    writer.finalize().expect("a test's folder can be written");
}
