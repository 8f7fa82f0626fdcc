//! Splitting a batch by a token budget.

/// One prompt with the lengths of its completions.
#[derive(Debug, Clone)]
pub struct PackItem {
    /// Tokens of the prompt.
    pub prompt_len: usize,
    /// Tokens of each completion that is trained.
    pub completion_lens: Vec<usize>,
}

/// One micro-batch: for each part, the item and the places of its completions.
pub type MicroBatch = Vec<(usize, Vec<usize>)>;

/// Packs items into micro-batches of at most `token_budget` tokens.
///
/// A pass is packed, nothing in it is padded, so a micro-batch costs its tokens. Completions of one prompt stay together
/// unless the prompt with all of them exceeds the budget: then they are split, and the prompt runs again for each part.
/// A single completion is never refused. Items of like length go together, which devices without a fused attention
/// thank.
pub fn plan_micro_batches(items: &[PackItem], token_budget: usize) -> Vec<MicroBatch> {
    let mut parts: Vec<(usize, Vec<usize>, usize)> = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let mut order: Vec<usize> = (0..item.completion_lens.len()).collect();
        order.sort_by_key(|&place| item.completion_lens[place]);
        let mut part = (index, Vec::new(), item.prompt_len);
        for place in order {
            let len = item.completion_lens[place];
            if !part.1.is_empty() && part.2 + len > token_budget {
                parts.push(std::mem::replace(&mut part, (index, Vec::new(), item.prompt_len)));
            }
            part.1.push(place);
            part.2 += len;
        }
        parts.push(part);
    }
    let longest = |part: &(usize, Vec<usize>, usize)| {
        part.1.iter().map(|&place| items[part.0].completion_lens[place]).max().unwrap_or(0)
    };
    parts.sort_by_key(|part| (longest(part), items[part.0].prompt_len, part.1.len()));
    let mut batches: Vec<MicroBatch> = Vec::new();
    let mut held = 0;
    for (index, places, tokens) in parts {
        match batches.last_mut() {
            Some(batch) if held + tokens <= token_budget => {
                batch.push((index, places));
                held += tokens;
            }
            _ => {
                batches.push(vec![(index, places)]);
                held = tokens;
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(prompt_len: usize, completion_lens: &[usize]) -> PackItem {
        PackItem { prompt_len, completion_lens: completion_lens.to_vec() }
    }

    fn places(batches: &[MicroBatch]) -> Vec<(usize, usize)> {
        let all = batches
            .iter()
            .flatten()
            .flat_map(|(item, places)| places.iter().map(move |&place| (*item, place)));
        let mut all: Vec<_> = all.collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn every_completion_is_trained_once_within_the_budget() {
        let items: Vec<_> = (0..20).map(|i| item(10 + i % 3, &[5 + i % 7, 9, 3 + i % 5])).collect();
        let expected: Vec<_> = (0..20).flat_map(|i| (0..3).map(move |place| (i, place))).collect();
        for budget in [1, 40, 120, 10_000] {
            let batches = plan_micro_batches(&items, budget);
            assert_eq!(places(&batches), expected);
            if budget == 120 {
                assert!(batches.len() > 1 && batches.len() < 20);
            }
        }
        assert_eq!(plan_micro_batches(&items, 10_000).len(), 1);
        assert_eq!(
            plan_micro_batches(&items, 1).len(),
            60,
            "a tiny budget still trains one completion at a time"
        );
    }

    /// Nothing in a pass is padded, so the only work above a batch's own tokens is a prompt that runs again because its
    /// group is split.
    #[test]
    fn work_above_the_own_tokens_stays_below_5_percent() {
        let lens = |i: usize| -> Vec<usize> { (0..8).map(|g| 5 + (i * 31 + g * 17) % 60).collect() };
        let items: Vec<_> = (0..64).map(|i| item(20 + i * 13 % 60, &lens(i))).collect();
        let tokens = |item: &PackItem| item.prompt_len + item.completion_lens.iter().sum::<usize>();
        let own: usize = items.iter().map(tokens).sum();
        let batches = plan_micro_batches(&items, 1024);
        let part = |(index, places): &(usize, Vec<usize>)| {
            let lens = &items[*index].completion_lens;
            items[*index].prompt_len + places.iter().map(|&place| lens[place]).sum::<usize>()
        };
        let work: usize = batches.iter().flatten().map(part).sum();
        assert!(work as f64 <= 1.05 * own as f64, "{work} tokens for {own}");
        let fewest = own.div_ceil(1024);
        assert!(
            batches.len() <= fewest + fewest / 3,
            "{} micro-batches, {fewest} would hold it",
            batches.len()
        );
    }
}
