//! How many tokens a sound gives, known from its length alone.

use crate::{AudioError, LogMel, LogMelConfig, WhisperConfig};

/// Fewest samples at 16 kHz that every family hears: three frames. Of fewer, Qwen2-Audio and Qwen2.5-Omni make no token;
/// Whisper pads them.
pub const SHORTEST_SOUND: usize = 2 * 160 + 1;

impl WhisperConfig {
    /// Tokens of a sound of so many samples, `fold` positions of the encoder each.
    ///
    /// # Errors
    /// If they are too few for a single token.
    pub fn num_tokens(&self, log_mel: &LogMel, num_samples: usize, fold: usize) -> Result<usize, AudioError> {
        let frames = log_mel.num_frames();
        let tokens = |valid_frames: usize| self.num_positions(frames, valid_frames) / fold;
        match tokens(log_mel.valid_frames(num_samples)) {
            0 => {
                let fewest = (1..=frames).find(|&valid_frames| tokens(valid_frames) > 0);
                let fewest = fewest.ok_or(AudioError::NoSound("the window is too short for a token"))?;
                let expected = (fewest - 1) * log_mel.config().hop_length + 1;
                Err(AudioError::TooShort { expected, got: num_samples })
            }
            tokens => Ok(tokens),
        }
    }

    /// Refuses features that this encoder cannot read.
    ///
    /// # Errors
    /// If their bands are not those of the encoder, or their window has more frames than there are positions for.
    pub fn check_features(&self, features: &LogMelConfig) -> Result<(), String> {
        let LogMelConfig { num_mels, hop_length, .. } = *features;
        if num_mels != self.num_mels {
            return Err(format!(
                "feature_size: expected the encoder's {} mel bands, got {num_mels}",
                self.num_mels
            ));
        }
        let frames = features.num_samples() / hop_length;
        match self.max_positions {
            Some(most) if frames.div_ceil(2) > most => {
                Err(format!("chunk_length: expected a window of at most {} frames, got {frames}", 2 * most))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AudioSpan;

    #[test]
    fn sounds_too_short_for_a_token_are_errors_that_say_how_long() {
        let log_mel = LogMel::new(LogMelConfig::new(80, 1.0));
        let of = |span, pooled| WhisperConfig { span, pooled, ..WhisperConfig::tiny() };
        let heard = [of(AudioSpan::Valid, true), of(AudioSpan::Chunks { frames: 20 }, true)];
        for config in &heard {
            for short in [0, 1, 2, 159, 160, 161, 319, 320] {
                let error = config.num_tokens(&log_mel, short, 1).unwrap_err();
                let AudioError::TooShort { expected, got } = error else { panic!("{error}") };
                assert_eq!((expected, got), (SHORTEST_SOUND, short));
            }
            for (long, tokens) in [(321, 1), (400, 1), (480, 1), (481, 1), (961, 2)] {
                assert_eq!(config.num_tokens(&log_mel, long, 1).unwrap(), tokens, "{long}");
            }
        }
        // Five positions a token: ten of the tower's, of which an odd frame at the end fills one: 19 frames.
        let error = heard[0].num_tokens(&log_mel, 400, 5).unwrap_err();
        assert!(matches!(error, AudioError::TooShort { expected: 2_881, .. }), "{error}");
        let padded = of(AudioSpan::Padded, false);
        assert!([0, 1, 480].into_iter().all(|short| padded.num_tokens(&log_mel, short, 10).unwrap() == 5));
        assert!(padded.num_tokens(&log_mel, 16_000, 99).unwrap_err().to_string().contains("window"));
    }

    #[test]
    fn features_of_another_encoder_are_refused() {
        let config = WhisperConfig { max_positions: Some(50), ..WhisperConfig::tiny() };
        assert_eq!(config.check_features(&LogMelConfig::new(80, 1.0)), Ok(()));
        assert!(config.check_features(&LogMelConfig::new(128, 1.0)).unwrap_err().contains("mel bands"));
        assert!(config.check_features(&LogMelConfig::new(80, 1.1)).unwrap_err().contains("chunk_length"));
        let open = WhisperConfig::tiny();
        assert_eq!(open.check_features(&LogMelConfig::new(80, 300.0)), Ok(()));
    }
}
