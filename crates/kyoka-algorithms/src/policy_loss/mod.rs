//! Per-token surrogate objectives.
//!
//! Every loss takes tensors `[R, T]` and gives `[R, T]`, 0 outside the mask; summing is the reduction's business. What
//! stands outside the mask never matters, not even to a gradient: it is replaced before anything is exponentiated.

use kyoka_core::{Maker, PolicyLoss, own};

mod cispo;
mod clip_cov;
mod clipped;
mod covariance;
mod dppo;
mod gmpo;
mod gspo;
mod gspo_token;
mod kl_cov;
mod masked;
mod opmd;
mod reinforce;
mod sapo;

pub use cispo::Cispo;
pub use clip_cov::ClipCov;
pub use clipped::ClippedLoss;
pub use dppo::{Dppo, PolicyDivergence};
pub use gmpo::Gmpo;
pub use gspo::Gspo;
pub use gspo_token::GspoToken;
pub use kl_cov::KlCov;
pub use opmd::Opmd;
pub use reinforce::ReinforceLoss;
pub use sapo::Sapo;

/// Log-ratios are clamped to plus or minus this before `exp`, unless a loss is told otherwise.
pub const LOG_RATIO_BOUND: f64 = 20.0;

/// Losses with settings of their own: `loss = { kind = "KIND", ... }`, and what makes them.
#[rustfmt::skip] // A line a kind, as `cargo xtask new` adds them.
pub(crate) const OWN_LOSSES: &[(&str, Maker<dyn PolicyLoss>)] = &[
    ("cispo", |settings| Ok(Box::new(own::<Cispo>(settings)?))),
];

#[cfg(test)]
mod tests {
    use burn::tensor::{Bool, Device, Tensor};
    use kyoka_core::{PolicyLoss, PolicyLossInput};

    use super::*;

    /// A token: log p, log p old, advantage, whether it counts.
    pub(super) type Token = (f32, f32, f32, bool);

    /// Per-token loss and the gradient of its sum, rows of equal length.
    pub(super) fn evaluate(loss: &dyn PolicyLoss, rows: &[&[Token]]) -> (Vec<f32>, Vec<f32>) {
        let device = Device::default();
        let shape = [rows.len(), rows[0].len()];
        let tokens: Vec<Token> = rows.concat();
        let table = |value: fn(&Token) -> f32| {
            let values: Vec<f32> = tokens.iter().map(value).collect();
            Tensor::<1>::from_floats(values.as_slice(), &device).reshape(shape)
        };
        let mask: Vec<bool> = tokens.iter().map(|t| t.3).collect();
        let policy_logprobs = table(|t| t.0).autodiff().require_grad();
        let output = loss.evaluate(PolicyLossInput {
            policy_logprobs: policy_logprobs.clone(),
            old_logprobs: table(|t| t.1),
            advantages: table(|t| t.2),
            loss_mask: Tensor::<1, Bool>::from_bool(mask.as_slice(), &device).reshape(shape),
        });
        assert_eq!(output.clipped.dims(), shape);
        let gradients = output.per_token.clone().sum().backward();
        let gradient = policy_logprobs.grad(&gradients).unwrap();
        (output.per_token.into_data().try_to_vec().unwrap(), gradient.into_data().try_to_vec().unwrap())
    }

    pub(super) fn assert_close(got: &[f32], expected: &[f32]) {
        assert_eq!(got.len(), expected.len());
        for (a, b) in got.iter().zip(expected) {
            assert!((a - b).abs() <= 1e-5 * (1.0 + b.abs()), "{got:?} against {expected:?}");
        }
    }

    fn all() -> Vec<(&'static str, Box<dyn PolicyLoss>)> {
        let dual = ClippedLoss { dual_clip: Some(3.0), ratio_ceiling: Some(4.0), ..ClippedLoss::default() };
        vec![
            ("reinforce", Box::new(ReinforceLoss)),
            ("clipped", Box::new(ClippedLoss::default())),
            ("dual", Box::new(dual)),
            ("gspo", Box::new(Gspo::default())),
            ("gspo_token", Box::new(GspoToken::default())),
            ("gmpo", Box::new(Gmpo::default())),
            ("cispo", Box::new(Cispo::default())),
            ("sapo", Box::new(Sapo::default())),
            ("dppo_tv", Box::new(Dppo::default())),
            ("dppo_kl", Box::new(Dppo { divergence: PolicyDivergence::Kl, ..Dppo::default() })),
            ("clip_cov", Box::new(ClipCov::default())),
            ("kl_cov", Box::new(KlCov::default())),
            ("opmd", Box::new(Opmd::default())),
        ]
    }

    const PLAIN: [Token; 3] = [(-1.0, -1.2, 0.5, true), (-0.3, -0.25, 0.5, true), (-2.0, -1.5, 0.5, true)];

    #[test]
    fn what_lies_outside_the_mask_never_matters() {
        let garbage = [(0.0, -1e30, -1e30, false), (f32::NAN, 0.0, f32::INFINITY, false)];
        let zeros = [(0.0, 0.0, 0.0, false), (0.0, 0.0, 0.0, false)];
        for (name, loss) in all() {
            let with = |rest: [Token; 2]| {
                let row: Vec<Token> = PLAIN.into_iter().chain(rest).collect();
                evaluate(loss.as_ref(), &[&row])
            };
            let (clean, dirty) = (with(zeros), with(garbage));
            assert_eq!(clean, dirty, "{name}");
            assert_eq!((&dirty.0[3..], &dirty.1[3..]), (&[0.0; 2][..], &[0.0; 2][..]), "{name}");
        }
    }

    #[test]
    fn far_ratios_stay_finite() {
        let far: Vec<Token> = [40.0, -40.0, 20.5, -20.5]
            .into_iter()
            .flat_map(|d: f32| [(-41.0 + d.max(0.0), -41.0 + (-d).max(0.0), 1.0, true)])
            .collect();
        for sign in [1.0, -1.0] {
            let row: Vec<Token> = far.iter().map(|t| (t.0, t.1, sign, true)).collect();
            for (name, loss) in all() {
                let (values, gradient) = evaluate(loss.as_ref(), &[&row]);
                assert!(
                    values.iter().chain(&gradient).all(|x| x.is_finite()),
                    "{name} {values:?} {gradient:?}"
                );
            }
        }
    }

    #[test]
    fn a_mask_without_a_token_gives_zeros() {
        let row = PLAIN.map(|t| (t.0, t.1, t.2, false));
        for (name, loss) in all() {
            let (values, gradient) = evaluate(loss.as_ref(), &[&row]);
            assert_eq!((values, gradient), (vec![0.0; 3], vec![0.0; 3]), "{name}");
        }
    }

    #[test]
    fn on_policy_every_loss_has_the_policy_gradient() {
        let row = [(-1.0, -1.0, 0.7, true), (-2.0, -2.0, 0.7, true)];
        for (name, loss) in all() {
            let (_, gradient) = evaluate(loss.as_ref(), &[&row]);
            // Clip-Cov may drop a token and KL-Cov adds |log r|, whose gradient at 0 is 0.
            if name != "clip_cov" {
                assert_close(&gradient, &[-0.7, -0.7]);
            }
        }
    }

    #[test]
    fn clipping_bounds_the_gradient() {
        let dual = ClippedLoss { dual_clip: Some(3.0), ..ClippedLoss::default() };
        let two_sided = ClippedLoss { ratio_ceiling: Some(3.0), ..ClippedLoss::default() };
        let bounded: [(&dyn PolicyLoss, f32); 5] = [
            (&dual, 3.0),
            (&two_sided, 3.0),
            (&Cispo::default(), 1.28),
            (&Dppo::default(), 20.0),
            // The gate's slope in log r is r 4 s (1 - s), at most 1.5 or so.
            (&Sapo::default(), 2.0),
        ];
        for (loss, bound) in bounded {
            for log_ratio in [-40.0, -3.0, -0.1, 0.0, 0.1, 1.0, 3.0, 40.0_f32] {
                let old = -41.0 + (-log_ratio).max(0.0);
                for advantage in [-2.0, 2.0] {
                    let row = [(old + log_ratio, old, advantage, true)];
                    let (_, gradient) = evaluate(loss, &[&row]);
                    assert!(gradient[0].abs() <= 2.0 * bound + 1e-4, "{log_ratio} {advantage} {gradient:?}");
                }
            }
        }
    }

    #[test]
    fn rows_apart_are_rows_together() {
        let other = [(-0.5, -0.9, -1.0, true), (-1.3, -0.3, -1.0, true), (0.0, 0.0, 0.0, false)];
        for (name, loss) in all() {
            // The covariance losses look at the whole batch.
            if name.ends_with("cov") {
                continue;
            }
            let together = evaluate(loss.as_ref(), &[&PLAIN, &other]);
            let (first, second) = (evaluate(loss.as_ref(), &[&PLAIN]), evaluate(loss.as_ref(), &[&other]));
            assert_eq!(together, ([first.0, second.0].concat(), [first.1, second.1].concat()), "{name}");
        }
    }

    #[test]
    #[should_panic(expected = "advantages: expected [1, 2], got [1, 1]")]
    fn shapes_that_disagree_are_a_callers_bug() {
        let device = Device::default();
        let row = || Tensor::<2>::zeros([1, 2], &device);
        ReinforceLoss.evaluate(PolicyLossInput {
            policy_logprobs: row(),
            old_logprobs: row(),
            advantages: Tensor::zeros([1, 1], &device),
            loss_mask: row().equal_scalar(0.0),
        });
    }
}
