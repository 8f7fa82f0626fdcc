//! A decoded sound.

use std::io::Cursor;

use symphonia::core::{
    codecs::audio::AudioDecoderOptions,
    errors::Error as SymphoniaError,
    formats::{FormatOptions, TrackType, probe::Hint},
    io::MediaSourceStream,
    meta::MetadataOptions,
};

use crate::{AudioError, resample};

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
    /// If the bytes are empty, of no known format, cut short, without a channel or a sample, or hold samples that
    /// are not finite.
    pub fn decode(bytes: &[u8]) -> Result<Self, AudioError> {
        let native = match bytes {
            [] => return Err(AudioError::Empty),
            [b'R', b'I', b'F', b'F', ..] => decode_wav(bytes)?,
            _ => decode_compressed(bytes)?,
        };
        if native.samples.is_empty() {
            return Err(AudioError::NoSound("no samples"));
        }
        if let Some(index) = native.samples.iter().position(|sample| !sample.is_finite()) {
            return Err(AudioError::NotFinite { index });
        }
        resample(native, SAMPLE_RATE_HZ)
    }
}

fn decode_wav(bytes: &[u8]) -> Result<Waveform, AudioError> {
    let mut reader = hound::WavReader::new(Cursor::new(bytes))?;
    let spec = reader.spec();
    if spec.channels == 0 {
        return Err(AudioError::NoSound("no channels"));
    }
    let interleaved: Vec<f32> = match spec.sample_format {
        hound::SampleFormat::Float => reader.samples::<f32>().collect::<Result<_, _>>()?,
        hound::SampleFormat::Int => {
            let scale = 1.0 / (1_u64 << (spec.bits_per_sample - 1)) as f32;
            reader
                .samples::<i32>()
                .map(|sample| sample.map(|value| value as f32 * scale))
                .collect::<Result<_, _>>()?
        }
    };
    Ok(Waveform {
        samples: mix_down(&interleaved, usize::from(spec.channels)),
        sample_rate_hz: spec.sample_rate,
    })
}

fn decode_compressed(bytes: &[u8]) -> Result<Waveform, AudioError> {
    let source = MediaSourceStream::new(Box::new(Cursor::new(bytes.to_vec())), Default::default());
    let (format_options, metadata_options) = (FormatOptions::default(), MetadataOptions::default());
    let mut format =
        symphonia::default::get_probe().probe(&Hint::new(), source, format_options, metadata_options)?;
    let track = format.default_track(TrackType::Audio).ok_or(AudioError::NoSound("no audio track"))?;
    let track_id = track.id;
    let parameters = track.codec_params.as_ref().and_then(|parameters| parameters.audio());
    let parameters = parameters.ok_or(AudioError::NoSound("no codec parameters"))?;
    let mut decoder =
        symphonia::default::get_codecs().make_audio_decoder(parameters, &AudioDecoderOptions::default())?;
    let (mut samples, mut sample_rate_hz) = (Vec::new(), 0);
    let mut interleaved: Vec<f32> = Vec::new();
    while let Some(packet) = format.next_packet()? {
        if packet.track_id != track_id {
            continue;
        }
        match decoder.decode(&packet) {
            Ok(buffer) => {
                let channels = buffer.num_planes();
                if channels == 0 {
                    return Err(AudioError::NoSound("no channels"));
                }
                sample_rate_hz = buffer.spec().rate();
                buffer.copy_to_vec_interleaved(&mut interleaved);
                samples.extend(mix_down(&interleaved, channels));
            }
            // A damaged packet is skipped, as players do.
            Err(SymphoniaError::DecodeError(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Waveform { samples, sample_rate_hz })
}

/// The mean of the channels.
fn mix_down(interleaved: &[f32], channels: usize) -> Vec<f32> {
    interleaved.chunks_exact(channels).map(|frame| frame.iter().sum::<f32>() / channels as f32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wav(channels: u16, bits: u16, format: hound::SampleFormat, frames: &[f64]) -> Vec<u8> {
        let spec =
            hound::WavSpec { channels, sample_rate: 16_000, bits_per_sample: bits, sample_format: format };
        let mut bytes = Cursor::new(Vec::new());
        let mut writer = hound::WavWriter::new(&mut bytes, spec).unwrap();
        for &frame in frames {
            for _ in 0..channels {
                match format {
                    hound::SampleFormat::Float => writer.write_sample(frame as f32).unwrap(),
                    hound::SampleFormat::Int => {
                        writer.write_sample((frame * (1_i64 << (bits - 1)) as f64) as i32).unwrap();
                    }
                }
            }
        }
        writer.finalize().unwrap();
        bytes.into_inner()
    }

    #[test]
    fn every_kind_of_wav_gives_the_same_samples() {
        let frames = [0.0, 0.5, -0.5, 0.25];
        for (bits, format) in [
            (8, hound::SampleFormat::Int),
            (16, hound::SampleFormat::Int),
            (24, hound::SampleFormat::Int),
            (32, hound::SampleFormat::Int),
            (32, hound::SampleFormat::Float),
        ] {
            for channels in [1, 2] {
                let decoded = Waveform::decode(&wav(channels, bits, format, &frames)).unwrap();
                for (got, expected) in decoded.samples.iter().zip(frames) {
                    assert!((f64::from(*got) - expected).abs() < 1e-6, "{bits} {format:?} {channels}");
                }
            }
        }
    }

    #[test]
    fn broken_files_are_errors_not_panics() {
        let whole = wav(1, 16, hound::SampleFormat::Int, &[0.1; 100]);
        assert!(matches!(Waveform::decode(b""), Err(AudioError::Empty)));
        assert!(Waveform::decode(b"no sound at all").is_err());
        for cut in [3, 10, 30, 43, whole.len() / 2] {
            assert!(Waveform::decode(&whole[..cut]).is_err(), "cut after {cut} bytes");
        }
        let silent = wav(1, 16, hound::SampleFormat::Int, &[]);
        assert!(matches!(Waveform::decode(&silent), Err(AudioError::NoSound(_))));
        let mut no_channels = whole.clone();
        no_channels[22..24].copy_from_slice(&[0, 0]);
        assert!(Waveform::decode(&no_channels).is_err());
        let nan = wav(1, 32, hound::SampleFormat::Float, &[0.0, f64::NAN]);
        assert!(matches!(Waveform::decode(&nan), Err(AudioError::NotFinite { index: 1 })));
    }
}
