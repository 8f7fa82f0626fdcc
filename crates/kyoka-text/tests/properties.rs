//! What must hold for any text.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use kyoka_text::Tokenizer;
use proptest::prelude::*;

fn tokenizer() -> Tokenizer {
    Tokenizer::from_bytes(include_bytes!("tiny_tokenizer.json")).unwrap()
}

proptest! {
    #[test]
    fn a_text_of_known_words_comes_back_and_its_tokens_cover_it(
        words in prop::collection::vec(prop::sample::select(vec!["bag", "coat", "shirt", "1", "2", "no"]), 1..9),
    ) {
        let tokenizer = tokenizer();
        let text = words.join(" ");
        let ids = tokenizer.encode(&text).unwrap();
        let decoded = tokenizer.decode(&ids);
        prop_assert_eq!(&decoded.text, &text);
        prop_assert_eq!(decoded.token_spans.len(), ids.len());
        let mut end = 0;
        for span in &decoded.token_spans {
            prop_assert_eq!(span.start, end, "a gap before a token");
            end = span.end;
        }
        prop_assert_eq!(end, text.len());
    }

    #[test]
    fn any_ids_decode_with_spans_one_after_the_other(ids in prop::collection::vec(0_u32..300, 0..20)) {
        let tokenizer = tokenizer();
        let ids: Vec<u32> = ids.into_iter().filter(|&id| (id as usize) < tokenizer.vocab_size()).collect();
        let decoded = tokenizer.decode(&ids);
        prop_assert_eq!(decoded.token_spans.len(), ids.len());
        // A token may hold a part of a letter: spans count bytes.
        let mut end = 0;
        for span in &decoded.token_spans {
            prop_assert!(span.start >= end && span.end >= span.start, "{span:?} after {end}");
            end = span.end;
        }
        prop_assert!(end <= decoded.text.len());
    }
}
