//! Any of the losses, one number a pair.

use burn::tensor::{Bool, Tensor, TensorData};

use super::{Dpo, DpoForm, Ipo, Kto, KtoInput, Mpo, Pairs, PreferenceConfig, PreferenceKind, Simpo};
use crate::AlgorithmError;

/// A preference loss ready to run.
#[derive(Debug, Clone, Copy)]
#[expect(missing_docs, reason = "the structs are documented under the same names")]
pub enum PreferenceLoss {
    Dpo(Dpo),
    Ipo(Ipo),
    Simpo(Simpo),
    Kto(Kto),
    Mpo(Mpo),
}

impl PreferenceLoss {
    /// Whether [`evaluate`](Self::evaluate) reads log-ratios of mismatched completions.
    pub fn needs_mismatched(&self) -> bool {
        matches!(self, Self::Kto(_))
    }

    /// The implicit rewards of preferred and rejected completions, as the loss compares them: `beta` times what the
    /// completion's log-probability gained on the reference, per token where the loss divides by lengths, and without
    /// reference where the loss has none (SimPO: `beta log p(y) / |y|`).
    ///
    /// # Shapes
    /// - outputs: `[N]`
    pub fn rewards(&self, pairs: &Pairs) -> (Tensor<1>, Tensor<1>) {
        let (beta, per_token, with_reference) = match self {
            Self::Dpo(dpo) => (dpo.beta, dpo.length_normalised, !dpo.reference_free),
            Self::Ipo(ipo) => (ipo.beta, ipo.length_normalised, true),
            Self::Simpo(simpo) => (simpo.beta, true, false),
            Self::Kto(kto) => (kto.beta, false, true),
            Self::Mpo(mpo) => (mpo.beta, false, true),
        };
        let (chosen, rejected) = match with_reference {
            true => pairs.log_ratios(),
            false => (pairs.chosen_logprobs.clone(), pairs.rejected_logprobs.clone()),
        };
        match per_token {
            true => (
                chosen / pairs.chosen_lengths.clone() * beta,
                rejected / pairs.rejected_lengths.clone() * beta,
            ),
            false => (chosen * beta, rejected * beta),
        }
    }

    /// The loss of each pair; KTO, which knows no pairs, gives the mean over both completions.
    ///
    /// # Shapes
    /// - `mismatched_log_ratios`: `[M]`, `log p(y') / p_ref(y')` of completions of other prompts, of the whole batch
    /// - output: `[N]`
    pub fn evaluate(&self, pairs: Pairs, mismatched_log_ratios: Tensor<1>) -> Tensor<1> {
        match self {
            Self::Dpo(dpo) => dpo.evaluate(pairs),
            Self::Ipo(ipo) => ipo.evaluate(pairs),
            Self::Simpo(simpo) => simpo.evaluate(pairs),
            Self::Mpo(mpo) => mpo.evaluate(pairs),
            Self::Kto(kto) => {
                let (chosen, rejected) = pairs.log_ratios();
                let [n] = chosen.dims();
                let device = chosen.device().without_autodiff();
                let of = |log_ratios: Tensor<1>, desirable: bool| {
                    let desirable = TensorData::new(vec![desirable; n], [n]);
                    kto.evaluate(KtoInput {
                        log_ratios,
                        desirable: Tensor::<1, Bool>::from_data(desirable, &device),
                        mismatched_log_ratios: mismatched_log_ratios.clone(),
                    })
                };
                (of(chosen, true) + of(rejected, false)) * 0.5
            }
        }
    }
}

impl PreferenceConfig {
    /// Checks the settings and makes the loss.
    ///
    /// # Errors
    /// If a field is out of range or is set for a loss that does not read it.
    pub fn build(&self) -> Result<PreferenceLoss, AlgorithmError> {
        self.validate()?;
        let Self { beta, label_smoothing, length_normalised, reference_free, .. } = *self;
        let dpo = |form| {
            PreferenceLoss::Dpo(Dpo { beta, form, label_smoothing, length_normalised, reference_free })
        };
        Ok(match self.loss {
            PreferenceKind::Dpo => dpo(DpoForm::Sigmoid),
            PreferenceKind::DpoRobust => dpo(DpoForm::Robust),
            PreferenceKind::DpoHinge => dpo(DpoForm::Hinge),
            PreferenceKind::Ipo => PreferenceLoss::Ipo(Ipo { beta, length_normalised }),
            PreferenceKind::Simpo => PreferenceLoss::Simpo(Simpo { beta, gamma: self.gamma }),
            PreferenceKind::Kto => PreferenceLoss::Kto(Kto {
                beta,
                desirable_weight: self.desirable_weight,
                undesirable_weight: self.undesirable_weight,
            }),
            PreferenceKind::Mpo => PreferenceLoss::Mpo(Mpo {
                beta,
                preference_weight: self.preference_weight,
                quality_weight: self.quality_weight,
                generation_weight: self.generation_weight,
                reward_shift: 0.0,
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{assert_close, column, evaluate},
        *,
    };
    use crate::preference::PreferencePreset;

    // Log-ratios 1 and -1.
    const PAIR: [f32; 6] = [-1.0, -3.0, -2.0, -2.0, 2.0, 4.0];

    #[test]
    fn kto_gives_the_mean_of_both_completions() {
        let kto = PreferenceLoss::Kto(Kto { beta: 1.0, ..Kto::default() });
        let (loss, chosen, rejected) = evaluate(|pairs| kto.evaluate(pairs, column(&[0.5, 0.5])), &[PAIR]);
        let sigmoid = |x: f32| 1.0 / (1.0 + (-x).exp());
        assert_close(&loss, &[0.5 * (1.0 - sigmoid(0.5) + 1.0 - sigmoid(1.5))]);
        assert!(chosen[0] < 0.0 && rejected[0] > 0.0);
    }

    #[test]
    fn rewards_are_what_the_loss_compares() {
        // Log-ratios 1 and -1, log-probabilities -1 and -3, lengths 2 and 4.
        let cases: [(&str, [f32; 2]); 5] = [
            ("dpo", [0.5, -0.5]),
            ("length-normalised dpo", [0.25, -0.125]),
            ("reference-free dpo", [-0.5, -1.5]),
            ("simpo", [-0.25, -0.375]),
            ("kto", [0.5, -0.5]),
        ];
        let dpo = Dpo { beta: 0.5, ..Dpo::default() };
        let losses = [
            PreferenceLoss::Dpo(dpo),
            PreferenceLoss::Dpo(Dpo { length_normalised: true, ..dpo }),
            PreferenceLoss::Dpo(Dpo { reference_free: true, ..dpo }),
            PreferenceLoss::Simpo(Simpo { beta: 0.5, gamma: 0.0 }),
            PreferenceLoss::Kto(Kto { beta: 0.5, ..Kto::default() }),
        ];
        for (loss, (name, expected)) in losses.into_iter().zip(cases) {
            let at = |place: usize| column(&[PAIR[place]]);
            let (chosen, rejected) = loss.rewards(&Pairs {
                chosen_logprobs: at(0),
                rejected_logprobs: at(1),
                reference_chosen: at(2),
                reference_rejected: at(3),
                chosen_lengths: at(4),
                rejected_lengths: at(5),
            });
            let got = [chosen.into_scalar::<f32>(), rejected.into_scalar::<f32>()];
            assert!(got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-6), "{name}: {got:?}");
        }
    }

    #[test]
    fn every_preset_pulls_the_pair_apart() {
        for preset in [
            PreferencePreset::Dpo,
            PreferencePreset::Ipo,
            PreferencePreset::Kto,
            PreferencePreset::Mpo,
            PreferencePreset::Simpo,
        ] {
            let loss = PreferenceConfig::preset(preset).build().unwrap();
            let (_, chosen, rejected) = evaluate(|pairs| loss.evaluate(pairs, column(&[0.0])), &[PAIR]);
            assert!(chosen[0] < 0.0 && rejected[0] > 0.0, "{preset:?} {chosen:?} {rejected:?}");
        }
    }
}
