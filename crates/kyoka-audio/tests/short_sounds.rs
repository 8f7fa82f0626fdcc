//! Sounds of no or few samples: features and encoders take them, or the length is refused before they are asked.

use burn::tensor::Device;
use kyoka_audio::{
    AudioAugment, AudioError, AudioSpan, LogMel, LogMelConfig, SHORTEST_SOUND, WhisperConfig, WhisperEncoder,
};
use kyoka_core::{ModalityEncoder, Stream, stream_rng};
use kyoka_nn::WeightInit;

const LENGTHS: [usize; 11] = [0, 1, 2, 159, 160, 161, 319, 320, 321, 400, 480];

#[test]
fn every_length_is_encoded_to_the_tokens_that_were_counted_or_refused() {
    let device = Device::default();
    let log_mel = LogMel::new(LogMelConfig::new(80, 1.0));
    let tiny = WhisperConfig::tiny();
    // Whisper and encoders from scratch; Qwen2-Audio; Qwen2.5-Omni.
    let spans =
        [(AudioSpan::Padded, false), (AudioSpan::Valid, true), (AudioSpan::Chunks { frames: 20 }, true)];
    for (span, pooled) in spans {
        let config = WhisperConfig { span, pooled, ..tiny.clone() };
        let encoder = WhisperEncoder::new(&config, &mut WeightInit::new(3, &device));
        for length in LENGTHS {
            let samples: Vec<f32> = (0..length).map(|i| (i as f32 * 0.3).sin()).collect();
            let input = log_mel.process(&samples);
            assert!(input.input_features.iter().all(|value| value.is_finite()), "{span:?}, {length} samples");
            match config.num_tokens(&log_mel, length, 1) {
                Ok(tokens) => {
                    let features = encoder.encode(&[&input], &device);
                    assert_eq!(features.lengths, [tokens], "{span:?}, {length} samples");
                    let values = features.embeddings.into_data().try_to_vec::<f32>().unwrap();
                    assert!(values.iter().all(|value| value.is_finite()), "{span:?}, {length} samples");
                }
                Err(error) => {
                    assert!(
                        matches!(error, AudioError::TooShort { expected: SHORTEST_SOUND, .. }),
                        "{error}"
                    );
                    assert!(pooled && length < SHORTEST_SOUND, "{span:?}, {length} samples");
                }
            }
        }
    }
}

#[test]
fn changed_copies_of_short_sounds_are_finite() {
    for length in LENGTHS {
        let samples = vec![0.5; length];
        for seed in 0..20 {
            let changed =
                AudioAugment::default().apply(&samples, &mut stream_rng(seed, Stream::Augment, &[]));
            assert!(changed.len() >= length && changed.iter().all(|sample| sample.is_finite()), "{length}");
        }
    }
}
