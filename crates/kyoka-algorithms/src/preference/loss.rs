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
    fn every_preset_pulls_the_pair_apart() {
        for preset in
            [PreferencePreset::Dpo, PreferencePreset::Ipo, PreferencePreset::Kto, PreferencePreset::Mpo]
        {
            let loss = PreferenceConfig::preset(preset).build().unwrap();
            let (_, chosen, rejected) = evaluate(|pairs| loss.evaluate(pairs, column(&[0.0])), &[PAIR]);
            assert!(chosen[0] < 0.0 && rejected[0] > 0.0, "{preset:?} {chosen:?} {rejected:?}");
        }
    }
}
