//! What the loss needs to know of the completions of a step.

use kyoka_algorithms::Algorithm;

/// Everything the loss needs, a list a completion.
#[derive(Default)]
pub(super) struct Credited {
    pub advantages: Vec<Vec<f32>>,
    /// Loss weight of each token of a completion, in the whole batch or in the mini-batch under way; 0 leaves it out.
    pub weights: Vec<f32>,
    /// Tokens of each completion that the denominators count.
    pub lengths: Vec<usize>,
    /// Completions that the policy has left behind in the updates before; they keep their place in the denominators.
    pub left_behind: Vec<bool>,
    /// Tokens that a rejection leaves; empty without one.
    pub kept: Vec<Vec<bool>>,
    /// Which tokens count.
    pub mask: Vec<Vec<bool>>,
    /// Log-probabilities that the ratio is taken against.
    pub old_logprobs: Vec<Vec<f32>>,
    /// Importance weights of every token where sampler and trainer disagree; empty without a correction.
    pub corrections: Vec<Vec<f64>>,
    /// Factors of the surrogate, 1 for most: importance weights where sampler and trainer disagree, 0 at tokens that a
    /// filter leaves out. They change no denominator.
    pub factors: Vec<Vec<f64>>,
    /// Values at the start of the batch, and what they should have been; empty without a critic.
    pub values: Vec<Vec<f32>>,
    pub value_targets: Vec<Vec<f32>>,
    /// Which completions are right; their likelihood is raised besides, where the algorithm says so.
    pub right: Vec<bool>,
    /// Mean divergence from the reference, where it was taken from the rewards.
    pub kl: Option<f64>,
    /// Coefficients of divergence and entropy in this step.
    pub kl_coef: f64,
    pub entropy_coef: f64,
}

impl Credited {
    /// Whether a completion moves the policy.
    pub fn trains(&self, row: usize, algorithm: &Algorithm) -> bool {
        let penalised = algorithm.kl.is_some() || algorithm.entropy.is_some();
        let imitated = algorithm.nll_coef > 0.0 && self.right[row];
        self.weights[row] > 0.0
            && (penalised || imitated || self.advantages[row].iter().any(|&advantage| advantage != 0.0))
    }

    /// Tokens that move the policy: of what counts, without penalties, those that the surrogate does not leave out.
    pub fn trained_tokens(&self, algorithm: &Algorithm) -> usize {
        let penalised = algorithm.kl.is_some() || algorithm.entropy.is_some();
        let moves = |row: usize| {
            let tokens = self.mask[row].iter().zip(&self.factors[row]);
            tokens.filter(|&(&counts, &factor)| counts && (penalised || factor != 0.0)).count()
        };
        (0..self.weights.len()).filter(|&row| self.trains(row, algorithm)).map(moves).sum()
    }

    /// Tokens of a completion that count.
    pub fn counted(&self, row: usize) -> usize {
        self.mask[row].iter().filter(|&&counts| counts).count()
    }
}
