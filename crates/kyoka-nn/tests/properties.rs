//! What must hold for any layout.

use kyoka_nn::{AttentionLayout, HeadConfig};
use proptest::prelude::*;

proptest! {
    #[test]
    fn every_row_of_a_pass_belongs_to_one_prompt_or_completion(
        prompts in prop::collection::vec((1_usize..9, prop::collection::vec(0_usize..7, 0..4)), 1..5),
        causal: bool,
    ) {
        let heads = HeadConfig { num_heads: 4, num_kv_heads: 2, d_head: 8 };
        let (lens, completions): (Vec<usize>, Vec<Vec<usize>>) = prompts.iter().cloned().unzip();
        let layout = AttentionLayout::new(heads, &lens, causal).with_completions(&completions);
        let mut rows: Vec<usize> = layout.prompts.iter().chain(layout.completions.iter().flatten()).flat_map(Clone::clone).collect();
        rows.sort_unstable();
        prop_assert_eq!(rows, (0..layout.num_rows()).collect::<Vec<_>>());
        prop_assert_eq!(layout.num_rows(), lens.iter().chain(completions.iter().flatten()).sum::<usize>());
        let padded = layout.padded_prompt_rows();
        prop_assert_eq!(padded.len(), lens.len() * layout.longest_prompt());
        for (prompt, rows) in padded.chunks(layout.longest_prompt()).enumerate() {
            prop_assert!(rows.iter().all(|row| layout.prompts[prompt].contains(row)));
        }
    }
}
