//! DPPO: tokens that moved too far in probability get no gradient (arXiv 2602.04879, section 4).
//!
//! `loss_t = -M_t sg(min(r_t, ratio_max)) A_t log p_t`
//!
//! `M_t = 0` where the update would push further a token that is already beyond its bound: `A_t > 0`, `p > p_old` and a
//! divergence above `high`; or `A_t <= 0`, `p < p_old` and a divergence above `low`. The divergence is the total
//! variation of the token, `|p - p_old|`, or the binary `KL(p_old || p) = p_old log(p_old / p) +
//! (1 - p_old) log((1 - p_old) / (1 - p))`. A ratio clip would cut rare tokens early and likely ones late.
//!
//! Deviation 1: the log-ratio is clamped to +-20; 1e-8 is added to both probabilities of "another token", as verl does.

use burn::tensor::{Bool, Tensor};
use kyoka_core::{PolicyLoss, PolicyLossInput, PolicyLossOutput};
use serde::{Deserialize, Serialize};

use super::{LOG_RATIO_BOUND, masked::Masked};

/// How far a token moved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyDivergence {
    /// `|p - p_old|`. The default.
    #[default]
    TotalVariation,
    /// Binary `KL(p_old || p)` between "this token" and "another".
    Kl,
}

/// Divergence-bounded policy optimisation.
#[derive(Debug, Clone, Copy)]
pub struct Dppo {
    /// Which divergence. Default total variation.
    pub divergence: PolicyDivergence,
    /// Most divergence of tokens that become rarer. Default 0.15 (total variation).
    pub low: f64,
    /// Most divergence of tokens that become likelier. Default 0.2 (total variation).
    pub high: f64,
    /// Greatest weight of a token. Default 20.
    pub ratio_max: f64,
    /// Log-ratios are clamped to plus or minus this. Default 20.
    pub log_ratio_bound: f64,
}

impl Default for Dppo {
    fn default() -> Self {
        Self {
            divergence: PolicyDivergence::TotalVariation,
            low: 0.15,
            high: 0.2,
            ratio_max: 20.0,
            log_ratio_bound: LOG_RATIO_BOUND,
        }
    }
}

/// Keeps the logarithms of `1 - p` finite.
const EPSILON: f64 = 1e-8;

impl Dppo {
    /// True where the token is beyond its bound and the update would push it further.
    fn beyond(&self, tokens: &Masked) -> Tensor<2, Bool> {
        let logprobs = tokens.logprobs.clone().detach();
        let old = logprobs.clone() - tokens.log_ratio.clone().detach();
        let (p, p_old) = (logprobs.exp(), old.exp());
        let move_up = p.clone() - p_old.clone();
        let divergence = match self.divergence {
            PolicyDivergence::TotalVariation => move_up.clone().abs(),
            PolicyDivergence::Kl => {
                let log_rest =
                    |p: Tensor<2>| (p.neg() + 1.0 + EPSILON).clamp_min(f64::from(f32::MIN_POSITIVE)).log();
                let other = log_rest(p_old.clone()) - log_rest(p);
                p_old.clone() * tokens.log_ratio.clone().detach().neg() + (p_old.neg() + 1.0) * other
            }
        };
        let wants_up = tokens.advantages.clone().greater_scalar(0.0);
        let too_high =
            divergence.clone().greater_scalar(self.high).bool_and(move_up.clone().greater_scalar(0.0));
        let too_low = divergence.greater_scalar(self.low).bool_and(move_up.lower_scalar(0.0));
        let up = wants_up.clone().bool_and(too_high);
        up.bool_or(wants_up.bool_not().bool_and(too_low))
    }
}

impl PolicyLoss for Dppo {
    fn evaluate(&self, input: PolicyLossInput) -> PolicyLossOutput {
        let tokens = Masked::new(input);
        let beyond = self.beyond(&tokens);
        let weight = tokens.ratio(self.log_ratio_bound).detach().clamp_max(self.ratio_max);
        let per_token: Tensor<2> = -(weight * tokens.advantages.clone() * tokens.logprobs.clone());
        tokens.output(per_token.mask_fill(beyond.clone(), 0.0), beyond)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{Token, assert_close, evaluate},
        *,
    };

    fn token(p: f32, p_old: f32, advantage: f32) -> Token {
        (p.ln(), p_old.ln(), advantage, true)
    }

    #[test]
    fn hand_case() {
        // Moves of +0.3 and +0.1, then -0.2 and -0.1; the bounds are 0.2 up and 0.15 down.
        let row = [token(0.5, 0.2, 1.0), token(0.3, 0.2, 1.0), token(0.2, 0.4, -1.0), token(0.3, 0.4, -1.0)];
        let (loss, gradient) = evaluate(&Dppo::default(), &[&row]);
        assert_close(&loss, &[0.0, -1.5 * 0.3_f32.ln(), 0.0, 0.75 * 0.3_f32.ln()]);
        assert_close(&gradient, &[0.0, -1.5, 0.0, 0.75]);
    }

    #[test]
    fn a_token_that_the_update_brings_back_keeps_its_gradient() {
        let row = [token(0.5, 0.2, -1.0), token(0.2, 0.4, 1.0)];
        let (_, gradient) = evaluate(&Dppo::default(), &[&row]);
        assert_close(&gradient, &[2.5, -0.5]);
    }

    #[test]
    fn binary_divergence_by_hand() {
        // KL(0.2 || 0.5) = 0.2 ln 0.4 + 0.8 ln 1.6 = 0.1927; KL(0.2 || 0.3) = 0.0257.
        let kl = Dppo { divergence: PolicyDivergence::Kl, low: 0.05, high: 0.05, ..Dppo::default() };
        let (_, gradient) = evaluate(&kl, &[&[token(0.5, 0.2, 1.0), token(0.3, 0.2, 1.0)]]);
        assert_close(&gradient, &[0.0, -1.5]);
        let wide = Dppo { high: 0.1928, ..kl };
        let (_, gradient) = evaluate(&wide, &[&[token(0.5, 0.2, 1.0)]]);
        assert_close(&gradient, &[-2.5]);
    }
}
