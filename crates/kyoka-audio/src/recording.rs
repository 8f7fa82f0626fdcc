//! A sound as its file holds it.

use std::{borrow::Cow, io::Cursor};

use symphonia::core::{
    codecs::audio::{
        AudioDecoder, AudioDecoderOptions,
        well_known::{CODEC_ID_FLAC, CODEC_ID_MP1, CODEC_ID_MP2, CODEC_ID_MP3, CODEC_ID_OPUS},
    },
    errors::Error as SymphoniaError,
    formats::FormatReader,
    packet::Packet,
};

use crate::{
    AudioError, Waveform,
    aiff::Aiff,
    header::{audio_track, open, skipped},
    ogg,
    opus::{OPUS_RATE_HZ, OpusDecoder},
    wav::{self, Wav},
};

/// Samples of all channels at the file's own rate.
#[derive(Debug, Clone, PartialEq)]
pub struct Recording {
    /// Samples in [-1, 1], the channels of each moment side by side.
    pub samples: Vec<f32>,
    /// Number of channels, at least one.
    pub channels: usize,
    /// Moments a second.
    pub sample_rate_hz: u32,
}

impl Recording {
    /// Decodes a file by its content: WAV and RF64 with integers of 8 to 32 bits, floats of 32 or 64, A-law, mu-law or
    /// ADPCM (IMA, Microsoft), AIFF and AIFF-C, FLAC, MP3, Ogg Vorbis, Ogg Opus.
    ///
    /// A WAV or AIFF file whose length was left open, as writers into a pipe do, is read to its end.
    ///
    /// # Errors
    /// If the bytes are empty, of no known format, cut short or damaged, without a channel or a sample, or hold samples
    /// that are not finite. Of MP3, a cut shows only where the file states its length, and damage is silence.
    pub fn decode(bytes: &[u8]) -> Result<Self, AudioError> {
        let file = match bytes {
            [] => return Err(AudioError::Empty),
            _ if Wav::is(bytes) => Cow::Owned(Wav::read(Cursor::new(bytes))?.plain(bytes)?),
            _ if Aiff::is(bytes) => Cow::Owned(Aiff::read(Cursor::new(bytes))?.plain(bytes)?),
            _ => Cow::Borrowed(bytes),
        };
        if ogg::is_cut(bytes) {
            return Err(AudioError::CutShort);
        }
        let recording = decode_packets(&file)?;
        if recording.samples.is_empty() {
            return Err(AudioError::NoSound("no samples"));
        }
        recording.check_finite()?;
        Ok(recording)
    }

    /// The mean of the channels.
    pub fn mono(self) -> Waveform {
        let Self { samples, channels, sample_rate_hz } = self;
        let mean = |moment: &[f32]| moment.iter().sum::<f32>() / channels as f32;
        let samples =
            if channels == 1 { samples } else { samples.chunks_exact(channels).map(mean).collect() };
        Waveform { samples, sample_rate_hz }
    }

    /// The sound as a WAV file of 16 bits.
    pub fn to_wav(&self) -> Vec<u8> {
        let sample = |&sample: &f32| (sample * 32_768.0).clamp(-32_768.0, 32_767.0) as i16;
        let samples: Vec<u8> = self.samples.iter().flat_map(|value| sample(value).to_le_bytes()).collect();
        wav::write_pcm16(&samples, self.channels, self.sample_rate_hz)
    }

    fn check_finite(&self) -> Result<(), AudioError> {
        let Some(place) = self.samples.iter().position(|sample| !sample.is_finite()) else { return Ok(()) };
        let index = place / self.channels;
        Err(AudioError::NotFinite {
            index,
            channel: place % self.channels + 1,
            seconds: index as f64 / f64::from(self.sample_rate_hz.max(1)),
            value: self.samples[place],
        })
    }

    /// Takes the shape of the next packet.
    fn accept(&mut self, channels: usize, sample_rate_hz: u32) -> Result<(), AudioError> {
        if channels == 0 {
            return Err(AudioError::NoSound("no channels"));
        }
        if !self.samples.is_empty() && channels != self.channels {
            return Err(AudioError::ChannelsChange);
        }
        (self.channels, self.sample_rate_hz) = (channels, sample_rate_hz);
        Ok(())
    }

    fn moments(&self) -> u64 {
        (self.samples.len() / self.channels.max(1)) as u64
    }
}

fn decode_packets(file: &[u8]) -> Result<Recording, AudioError> {
    let mut format = open(Cursor::new(file))?;
    let (track, parameters) = audio_track(format.as_ref())?;
    let (track_id, codec) = (track.id, parameters.codec);
    let skipped = skipped(track, parameters);
    // What the file says of its length; MPEG audio says it for sure only where the encoder left its mark.
    let is_mpeg = [CODEC_ID_MP1, CODEC_ID_MP2, CODEC_ID_MP3].contains(&codec);
    let states_length = codec == CODEC_ID_FLAC || is_mpeg && track.delay.is_some();
    let promised = track.num_frames.filter(|_| states_length).unwrap_or(0);
    let mut sound = Recording { samples: Vec::new(), channels: 0, sample_rate_hz: 0 };
    if codec == CODEC_ID_OPUS {
        let header = parameters.extra_data.as_deref().unwrap_or_default();
        let decoder = OpusDecoder::new(header)?;
        decode_opus(format.as_mut(), track_id, decoder, &mut sound)?;
        let start = (skipped as usize * sound.channels).min(sound.samples.len());
        sound.samples.drain(..start);
        return Ok(sound);
    }
    let mut decoder =
        symphonia::default::get_codecs().make_audio_decoder(parameters, &AudioDecoderOptions::default())?;
    while let Some(packet) = format.next_packet()? {
        if packet.track_id == track_id {
            decode_packet(decoder.as_mut(), &packet, is_mpeg, &mut sound)?;
        }
    }
    if sound.moments() < promised { Err(AudioError::CutShort) } else { Ok(sound) }
}

/// Appends a packet's samples; one of MPEG audio that needs lost ones before it is silence, so that the rest keeps its
/// place.
fn decode_packet(
    decoder: &mut dyn AudioDecoder,
    packet: &Packet,
    is_mpeg: bool,
    sound: &mut Recording,
) -> Result<(), AudioError> {
    match decoder.decode(packet) {
        Ok(buffer) => {
            sound.accept(buffer.num_planes(), buffer.spec().rate())?;
            let mut samples: Vec<f32> = Vec::new();
            buffer.copy_to_vec_interleaved(&mut samples);
            sound.samples.append(&mut samples);
            Ok(())
        }
        Err(SymphoniaError::DecodeError(_)) if is_mpeg => {
            let silent = packet.dur.get() as usize * sound.channels;
            sound.samples.resize(sound.samples.len() + silent, 0.0);
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

fn decode_opus(
    format: &mut dyn FormatReader,
    track_id: u32,
    mut decoder: OpusDecoder,
    sound: &mut Recording,
) -> Result<(), AudioError> {
    sound.accept(decoder.channels(), OPUS_RATE_HZ)?;
    while let Some(packet) = format.next_packet()? {
        if packet.track_id != track_id {
            continue;
        }
        let before = sound.samples.len();
        decoder.decode(&packet.data, &mut sound.samples)?;
        let trimmed = packet.trim_end.get() as usize * sound.channels;
        let end = sound.samples.len().saturating_sub(trimmed).max(before);
        sound.samples.truncate(end);
    }
    Ok(())
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
        assert!(matches!(Waveform::decode(&nan), Err(AudioError::NotFinite { index: 1, channel: 1, .. })));
    }

    #[test]
    fn sixty_four_bit_floats_are_read_and_a_cut_is_noticed() {
        let frames = [0.0, 0.5, -0.5, 0.25];
        let mut whole = b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0\x03\0\x01\0".to_vec();
        whole.extend(16_000_u32.to_le_bytes());
        whole.extend(128_000_u32.to_le_bytes());
        whole.extend([8, 0, 64, 0]);
        whole.extend(b"data\x20\0\0\0");
        whole.extend(frames.iter().flat_map(|frame: &f64| frame.to_le_bytes()));
        let size = whole.len() as u32 - 8;
        whole[4..8].copy_from_slice(&size.to_le_bytes());
        let decoded = Recording::decode(&whole).unwrap();
        assert_eq!((decoded.samples, decoded.channels), (frames.map(|frame| frame as f32).to_vec(), 1));
        assert!(Recording::decode(&whole[..whole.len() - 9]).is_err());
    }
}
