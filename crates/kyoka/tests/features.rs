//! Kept features of frozen encoders: what makes another input of the same file has features of its own.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;

use burn::tensor::Device;
use kyoka::{
    MediaAugment, MultimodalTask, Policy, PolicyConfig,
    audio::AudioAugment,
    core::{CausalLm, MediaRef, Modality, Part, Sample, Task},
    image::ImageAugment,
    text::Tokenizer,
};

/// A picture, a sound, and a policy that keeps what its encoders give.
struct Setup {
    policy: Policy,
    config: PolicyConfig,
    sample: Sample,
    _files: tempfile::TempDir,
}

fn tokenizer() -> Tokenizer {
    Tokenizer::from_bytes(include_bytes!("../../kyoka-text/tests/tiny_tokenizer.json")).unwrap()
}

fn setup() -> Setup {
    let files = tempfile::tempdir().unwrap();
    let (sound, picture) = (files.path().join("tone.wav"), files.path().join("gradient.png"));
    kyoka_testing::write_tone(&sound, 0.3);
    kyoka_testing::write_grey_png(&picture, 28, |x, y| (x * 9 + y) as u8);
    let medium = |modality, path: &Path| Part::Media(MediaRef::file(modality, path));
    let parts = vec![
        medium(Modality::Image, &picture),
        medium(Modality::Audio, &sound),
        Part::Text("How many?".to_owned()),
    ];
    let config = PolicyConfig::tiny(tokenizer().vocab_size());
    let policy = config.build(5, &Device::flex()).with_feature_cache(1 << 22);
    Setup { policy, config, sample: Sample::asking(parts), _files: files }
}

impl Setup {
    fn task(&self, config: &PolicyConfig, augment: MediaAugment) -> MultimodalTask {
        MultimodalTask::new(tokenizer(), config.clone(), augment, 1)
    }

    /// Pictures and sounds encoded so far, once the row was read as a task gives it.
    fn encoded(&self, task: &MultimodalTask, place: Option<&[u64]>) -> [usize; 2] {
        self.policy.prefill(&[&task.prompt(&self.sample, place).unwrap()]);
        self.policy.num_encoded()
    }

    fn plain(&self) -> MultimodalTask {
        self.task(&self.config, MediaAugment::default())
    }
}

#[test]
fn an_augmented_input_is_encoded_anew_and_the_same_draw_is_not() {
    let setup = setup();
    let augment = MediaAugment {
        image: ImageAugment { shift: 6, ..ImageAugment::default() },
        audio: AudioAugment { max_noise: 0.2, ..AudioAugment::default() },
    };
    let task = setup.task(&setup.config, augment);
    assert_eq!(setup.encoded(&task, None), [1, 1]);
    assert_eq!(setup.encoded(&task, Some(&[1, 0, 7, 0])), [2, 2]);
    assert_eq!(setup.encoded(&task, Some(&[1, 0, 7, 0])), [2, 2], "the same place draws the same change");
    assert_eq!(setup.encoded(&task, Some(&[1, 0, 8, 0])), [3, 3]);
    assert_eq!(setup.encoded(&setup.plain(), None), [3, 3], "what was there before is still there");
}

#[test]
fn a_blanked_input_is_not_the_file_that_it_stands_for() {
    let setup = setup();
    assert_eq!(setup.encoded(&setup.plain(), None), [1, 1]);
    let blank = |modality| setup.plain().with_blank(Some(modality));
    assert_eq!(setup.encoded(&blank(Modality::Image), None), [2, 1]);
    assert_eq!(setup.encoded(&blank(Modality::Audio), None), [2, 2]);
    assert_eq!(setup.encoded(&setup.plain(), None), [2, 2]);
}

#[test]
fn a_differently_processed_input_is_encoded_anew() {
    let setup = setup();
    assert_eq!(setup.encoded(&setup.plain(), None), [1, 1]);
    let mut config = setup.config.clone();
    let vision = config.vision.as_mut().unwrap();
    let kyoka::image::ImageProcessor::FixedSize(processor) = &mut vision.processor else {
        panic!("the tiny policy's processor has one size");
    };
    processor.image_mean = [0.25; 3];
    let other = setup.task(&config, MediaAugment::default());
    assert_eq!(setup.encoded(&other, None), [2, 1]);
    assert_eq!(setup.encoded(&setup.plain(), None), [2, 1]);
}
