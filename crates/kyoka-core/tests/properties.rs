//! What must hold for any prompt and any place.

use std::path::{Path, PathBuf};

use kyoka_core::{Part, Sample, Stream, prompt_parts, stream_rng};
use proptest::prelude::*;
use rand::Rng;

/// Texts with placeholders, backslashes and what is nearly either.
fn text() -> impl Strategy<Value = String> {
    let piece =
        prop::sample::select(vec!["<image>", "<audio>", "\\", "a", " ", "<im", "age>", "é", "<", "\\\\"]);
    prop::collection::vec(piece, 0..9).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn a_prompt_comes_back_as_it_was_written(text in text()) {
        // As many files as the text has placeholders; found by trying.
        let files = |count: usize| (0..count).map(|i| PathBuf::from(format!("{i}"))).collect::<Vec<_>>();
        let read = (0..10).flat_map(|images| (0..10).map(move |audios| (images, audios))).find_map(|(images, audios)| {
            prompt_parts(&text, Path::new(""), &files(images), &files(audios)).ok()
        });
        let parts = read.unwrap();
        for pair in parts.windows(2) {
            prop_assert!(!matches!(pair, [Part::Text(_), Part::Text(_)]), "two texts side by side: {parts:?}");
        }
        let written = Sample::asking(parts.clone()).prompt_text();
        let media = |parts: &[Part]| parts.iter().filter(|part| matches!(part, Part::Media(_))).count();
        let images = parts.iter().filter(|part| matches!(part, Part::Media(medium) if medium.modality.name() == "image"));
        let (images, all) = (images.count(), media(&parts));
        let again = prompt_parts(&written, Path::new(""), &files(images), &files(all - images)).unwrap();
        prop_assert_eq!(again, parts);
    }

    #[test]
    fn other_places_draw_other_numbers(seed: u64, place in prop::collection::vec(any::<u64>(), 0..4), other: u64) {
        let draw = |indices: &[u64]| stream_rng(seed, Stream::Rollout, indices).next_u64();
        prop_assert_eq!(draw(&place), draw(&place));
        prop_assert_ne!(draw(&place), draw(&[place.as_slice(), &[other]].concat()));
    }
}
