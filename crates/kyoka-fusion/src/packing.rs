//! Groups of completions as rectangles of token ids.

use kyoka_core::PackedGroup;

/// The layout of a training pass: prompts padded to `P`, completions to `G x T`.
pub(crate) struct Packing {
    /// Longest prompt, `P`.
    pub prompt_width: usize,
    /// Most completions of a prompt, `G`.
    pub group_size: usize,
    /// Completion tokens that are read, `T`: all but the last of each row, so possibly 0.
    pub completion_len: usize,
    /// Longest completion.
    pub num_targets: usize,
    /// Position of every token of the pass, prompts first.
    pub positions: Vec<usize>,
    /// Token ids of the completions that are read, padded with 0.
    pub completion_ids: Vec<usize>,
    /// For every target, the row of the pass that predicts it; 0 where padded.
    pub predictors: Vec<usize>,
    /// Target token ids, padded with 0.
    pub targets: Vec<usize>,
    /// 1 on real targets, 0 on padding.
    pub target_mask: Vec<f32>,
    /// Number of completions: rows of the result.
    pub num_rows: usize,
}

impl Packing {
    pub fn new(groups: &[PackedGroup<'_>]) -> Self {
        assert!(!groups.is_empty(), "score: expected at least one group, got none");
        let longest = |lengths: &mut dyn Iterator<Item = usize>| lengths.max().unwrap_or(0);
        let p = longest(&mut groups.iter().map(|group| group.prompt.len()));
        let g = longest(&mut groups.iter().map(|group| group.completions.len()));
        let num_targets =
            longest(&mut groups.iter().flat_map(|group| group.completions.iter().map(|ids| ids.len())));
        assert!(g > 0 && num_targets > 0, "score: expected at least one completion token, got none");
        let completion_len = num_targets - 1;
        let mut packing = Self {
            prompt_width: p,
            group_size: g,
            completion_len,
            num_targets,
            positions: (0..groups.len()).flat_map(|_| 0..p).collect(),
            completion_ids: vec![0; groups.len() * g * completion_len],
            predictors: Vec::new(),
            targets: Vec::new(),
            target_mask: Vec::new(),
            num_rows: 0,
        };
        for (b, group) in groups.iter().enumerate() {
            packing.add_group(b, group, groups.len() * p);
        }
        packing
    }

    fn add_group(&mut self, b: usize, group: &PackedGroup<'_>, prompt_rows: usize) {
        let (g, t) = (self.group_size, self.completion_len);
        let prompt_len = group.prompt.len();
        assert!(prompt_len > 0, "score: the prompt of group {b} is empty");
        self.positions.extend((0..g).flat_map(|_| prompt_len..prompt_len + t));
        for (slot, ids) in group.completions.iter().enumerate() {
            assert!(!ids.is_empty(), "score: completion {slot} of group {b} is empty");
            let start = (b * g + slot) * t;
            for (place, &id) in ids[..ids.len() - 1].iter().enumerate() {
                self.completion_ids[start + place] = id as usize;
            }
            for place in 0..self.num_targets {
                let real = place < ids.len();
                let predictor = match place {
                    0 => b * self.prompt_width + prompt_len - 1,
                    _ => prompt_rows + start + place - 1,
                };
                self.predictors.push(if real { predictor } else { 0 });
                self.targets.push(if real { ids[place] as usize } else { 0 });
                self.target_mask.push(f32::from(real));
            }
            self.num_rows += 1;
        }
    }
}
