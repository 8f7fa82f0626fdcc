//! Only the tokens where the policy hesitates are trained (arXiv 2506.01939, section 5). The others lose their surrogate,
//! not their place in the denominators: the paper's sum is over an indicator, its normaliser over all tokens.

/// True at the `share` of all tokens of the batch with the highest entropy (default 0.2), at least one.
///
/// The threshold is the batch's: pass every completion of the step, entropies of tokens that count. Tokens as high as
/// the threshold are kept too. A batch without a token gives an empty mask.
pub fn top_entropy_mask(entropies: &[Vec<f32>], share: f64) -> Vec<Vec<bool>> {
    let mut all: Vec<f32> = entropies.iter().flatten().copied().collect();
    let count = ((all.len() as f64 * share - 1e-9).ceil().max(1.0) as usize).min(all.len());
    if count == 0 {
        return entropies.iter().map(|_| Vec::new()).collect();
    }
    let (_, &mut threshold, _) = all.select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a));
    entropies.iter().map(|row| row.iter().map(|&entropy| entropy >= threshold).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hand_case() {
        let entropies = [vec![0.1, 2.0, 0.3], vec![1.0, 0.2]];
        assert_eq!(top_entropy_mask(&entropies, 0.4), [vec![false, true, false], vec![true, false]]);
        assert_eq!(top_entropy_mask(&entropies, 0.01), [vec![false, true, false], vec![false, false]]);
        assert_eq!(top_entropy_mask(&entropies, 1.0), [vec![true; 3], vec![true; 2]]);
        assert!(top_entropy_mask(&[vec![]], 0.2)[0].is_empty());
    }
}
