//! What must hold for any batch.

use kyoka_trainer::{LearningRate, PackItem, Schedule, plan_micro_batches};
use proptest::prelude::*;

fn items() -> impl Strategy<Value = Vec<PackItem>> {
    let item = (1_usize..40, prop::collection::vec(1_usize..30, 1..7));
    let item = item.prop_map(|(prompt_len, completion_lens)| PackItem { prompt_len, completion_lens });
    prop::collection::vec(item, 0..9)
}

proptest! {
    #[test]
    fn every_completion_is_in_one_micro_batch_and_budgets_hold(items in items(), budget in 1_usize..300) {
        let planned = plan_micro_batches(&items, budget);
        let mut seen: Vec<Vec<usize>> = items.iter().map(|item| vec![0; item.completion_lens.len()]).collect();
        for batch in &planned {
            let mut tokens = 0;
            let mut completions = 0;
            for (item, places) in batch {
                tokens += items[*item].prompt_len;
                for &place in places {
                    seen[*item][place] += 1;
                    tokens += items[*item].completion_lens[place];
                    completions += 1;
                }
            }
            prop_assert!(completions > 0, "an empty micro-batch");
            prop_assert!(tokens <= budget || completions == 1, "{tokens} tokens of {completions} completions");
        }
        prop_assert!(seen.iter().flatten().all(|&times| times == 1), "{seen:?}");
    }

    #[test]
    fn a_rate_stays_between_0_and_its_peak(
        peak in 0.0_f64..1.0,
        warmup_steps in 0_usize..20,
        final_share in 0.0_f64..=1.0,
        (step, total) in (1_usize..60).prop_flat_map(|total| (0..total, Just(total))),
    ) {
        for schedule in [Schedule::Constant, Schedule::Linear, Schedule::Cosine] {
            let rate = LearningRate { peak, schedule, warmup_steps, final_share }.at(step, total);
            prop_assert!((0.0..=peak * (1.0 + 1e-12)).contains(&rate), "{schedule:?}: {rate}");
        }
    }
}
