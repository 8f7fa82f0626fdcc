//! An algorithm as plain data: a preset with single fields overridden.

use serde::{Deserialize, Serialize};

use crate::{
    Algorithm, AlgorithmError, KlEstimator, KlPlacement, Preset, Reduction,
    advantage::{StepCredit, Whitening},
    algorithm::{CorrectionKind, Credit, CriticKind, LossKind, RejectionKind},
    correction::RejectionLevel,
    own_part::{Choice, OwnParts},
    readers,
};

/// Every setting once: the config, its overrides, and the one laid over the other.
macro_rules! settings {
    ($($(#[$doc:meta])* $field:ident: $kind:ty,)*) => {
        /// An algorithm as plain data.
        ///
        /// Numbers for which 0 means "none" say so. What a preset brings along for parts that were not chosen has no
        /// effect; a field of [`AlgorithmOverrides`] that the chosen parts do not read is refused.
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct AlgorithmConfig {
            $($(#[$doc])* pub $field: $kind,)*
        }

        impl AlgorithmConfig {
            /// Every field, as if it had been given.
            #[cfg(test)]
            pub(crate) fn to_overrides(&self) -> AlgorithmOverrides {
                AlgorithmOverrides { preset: None, $($field: Some(self.$field.clone()),)* }
            }
        }

        /// Single fields of a preset, overridden; written as `preset` and the fields that differ from it.
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        #[expect(missing_docs, reason = "the fields are those of `AlgorithmConfig`")]
        pub struct AlgorithmOverrides {
            #[serde(skip_serializing_if = "Option::is_none")]
            pub preset: Option<Preset>,
            $(#[serde(skip_serializing_if = "Option::is_none")] pub $field: Option<$kind>,)*
        }

        impl AlgorithmOverrides {
            /// The preset (GRPO if none is named) with the fields given here.
            pub fn resolve(&self) -> AlgorithmConfig {
                let preset = AlgorithmConfig::preset(self.preset.unwrap_or(Preset::Grpo));
                AlgorithmConfig { $($field: self.$field.clone().unwrap_or(preset.$field),)* }
            }

            /// Names of the fields that are given here.
            pub fn given(&self) -> Vec<&'static str> {
                let fields = [$((stringify!($field), self.$field.is_some()),)*];
                fields.into_iter().filter(|(_, given)| *given).map(|(field, _)| field).collect()
            }
        }
    };
}

impl AlgorithmOverrides {
    /// Checks ranges, combination and that every field given here is read, and makes the algorithm for groups of
    /// `group_size`.
    ///
    /// # Errors
    /// If a field is out of range or has no effect, or the parts do not go together, with the reason.
    pub fn build(&self, group_size: usize) -> Result<Algorithm, AlgorithmError> {
        self.build_with(group_size, &OwnParts::default())
    }

    /// [`build`](Self::build), with estimators and losses that another crate brings.
    ///
    /// # Errors
    /// As [`build`](Self::build), and if the recipe names one that is not brought.
    pub fn build_with(&self, group_size: usize, parts: &OwnParts) -> Result<Algorithm, AlgorithmError> {
        let config = self.resolve();
        config.check_ranges()?;
        readers::check(&config, &self.given(), parts.has_foreign_sampler())?;
        config.build_with(group_size, parts)
    }
}

settings! {
    /// How credit is assigned.
    advantage: Choice<Credit>,
    /// Process supervision: weight of step credit; at least 0.
    step_weight: f64,
    /// Process supervision: weight of outcome credit; at least 0.
    outcome_weight: f64,
    /// Process supervision: which tokens get a step's credit.
    step_credit: StepCredit,
    /// Pass@k: tries; at least 1 and at most the group size.
    pass_k: usize,
    /// REINFORCE++ and the GAE family: discount of the next token, in [0, 1].
    gamma: f64,
    /// GAE: lambda of the advantages, in [0, 1].
    lambda: f64,
    /// Decoupled GAE: lambda of the value targets, in [0, 1].
    lambda_critic: f64,
    /// Length-adaptive GAE: share of the completion that the horizon spans; above 0.
    length_alpha: f64,
    /// GPG: what advantages are divided by (`F_norm`); above 0.
    f_norm: f64,
    /// GDPO: what counts once in the batch's mean.
    whitening: Whitening,
    /// GAE family: whether advantages are whitened over the batch.
    whiten: bool,
    /// The per-token loss.
    loss: Choice<LossKind>,
    /// How far the ratio may fall below 1, in (0, 1]; the log-ratio below 0 in GMPO; the divergence of a token that
    /// becomes rarer in DPPO.
    clip_low: f64,
    /// How far the ratio may rise above 1; above 0; the log-ratio above 0 in GMPO; the divergence of a token that
    /// becomes likelier in DPPO.
    clip_high: f64,
    /// Clipped loss: the most that a token with a negative advantage may cost, above 1; 0 is none.
    dual_clip: f64,
    /// Clipped loss: greatest ratio of all, above `1 + clip_high`; 0 is none.
    ratio_ceiling: f64,
    /// SAPO: sharpness of the gate for advantages above 0; above 0.
    tau_positive: f64,
    /// SAPO: sharpness of the gate for the others; above 0.
    tau_negative: f64,
    /// OPMD: strength of the squared anchor; at least 0.
    anchor: f64,
    /// Clip-Cov and KL-Cov: share of the tokens to hold back, in (0, 1].
    cov_share: f64,
    /// Clip-Cov: least covariance of a token that is left out.
    cov_low: f64,
    /// Clip-Cov: greatest covariance of a token that is left out; above `cov_low`.
    cov_high: f64,
    /// KL-Cov: weight of the penalty; at least 0.
    cov_kl_coef: f64,
    /// The loss's denominator.
    reduction: Reduction,
    /// Weight of the divergence from the reference policy; 0 needs no reference.
    kl_coef: f64,
    /// Which estimate of it.
    kl_estimator: KlEstimator,
    /// Whether it is part of the loss or of the reward.
    kl_placement: KlPlacement,
    /// Divergence that the weight is adapted to; 0 keeps the weight fixed.
    kl_target: f64,
    /// Completions over which a weight that is always too low grows by a fifth; above 0.
    kl_horizon: f64,
    /// Steps between updates of the reference; 0 keeps it frozen.
    reference_every: usize,
    /// Share of the old reference that an update keeps, in [0, 1); 0 copies the policy.
    reference_decay: f64,
    /// Who says what a state is worth; the GAE family needs somebody.
    critic: CriticKind,
    /// Weight of the value loss; above 0.
    value_coef: f64,
    /// How far a value may move in one batch; 0 is no bound.
    value_clip: f64,
    /// Steps that train the critic alone; they come before, and on top of, the stage's steps.
    critic_pretrain_steps: usize,
    /// Peak of the critic's learning rate, on a schedule shaped as the policy's; 0 is the policy's peak.
    critic_learning_rate: f64,
    /// Weight of the likelihood of right completions (VAPO); at least 0.
    nll_coef: f64,
    /// Weight of the entropy bonus, at least 0; with a target, its first value.
    entropy_coef: f64,
    /// Entropy in nats that the weight is adapted to; 0 keeps the weight fixed.
    entropy_target: f64,
    /// The correction of a mismatch between sampler and trainer.
    correction: CorrectionKind,
    /// Least weight that a masking correction keeps; at least 0.
    correction_low: f64,
    /// Greatest weight; above `correction_low`.
    correction_high: f64,
    /// Whether weights are divided by their mean over the batch.
    correction_normalise: bool,
    /// Which completions or tokens are dropped where sampler and trainer disagree, besides the correction.
    rejection: RejectionKind,
    /// Rejection: what is judged.
    rejection_level: RejectionLevel,
    /// Rejection by k1: least ratio that is kept; at least 0.
    rejection_low: f64,
    /// Rejection: greatest ratio (k1) or divergence (k2, k3) that is kept; above 0, for k1 above `rejection_low`.
    rejection_high: f64,
    /// Drop groups without spread in reward and sample further prompts in their place.
    dynamic_sampling: bool,
    /// Do not train completions that the length limit cut off.
    mask_overlong: bool,
    /// Share of a group with the largest advantages that is trained (CPPO), in (0, 1].
    keep_share: f64,
    /// Share of the batch that is replayed (Selective Sample Replay), in [0, 1).
    replay_share: f64,
    /// Selective Sample Replay: completions kept, the newest; at least 1.
    replay_capacity: usize,
    /// Selective Sample Replay: a completion is drawn in proportion to `|A|` to this power; 0 draws evenly.
    replay_alpha: f64,
    /// Mean drift in nats beyond which bad completions are dropped; 0 drops none.
    off_policy_threshold: f64,
    /// Share of the tokens with the highest entropy that is trained, in (0, 1].
    top_entropy_share: f64,
    /// Passes over one batch of rollouts (PPO's epochs); at least 1.
    updates_per_batch: usize,
    /// Parts that a batch is split into for each pass, an optimizer update each; at least 1, at most the completions of
    /// a batch. Advantages and old log-probabilities are those of the batch, denominators those of the part.
    mini_batches: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_nothing_reads_is_refused() {
        let overrides = AlgorithmOverrides { pass_k: Some(2), ..Default::default() };
        assert_eq!(
            overrides.build(4).err().unwrap().to_string(),
            "algorithm.pass_k: expected advantage = \"pass_at_k\", which reads it, or no pass_k; got advantage = \"grpo\""
        );
        let read = AlgorithmOverrides { advantage: Some(Credit::PassAtK.into()), ..overrides };
        assert!(read.build(4).is_ok());
        assert_eq!(read.given(), ["advantage", "pass_k"]);
    }

    #[test]
    fn overrides_change_single_fields_of_the_preset() {
        let overrides =
            AlgorithmOverrides { preset: Some(Preset::Dapo), clip_high: Some(0.4), ..Default::default() };
        let expected = AlgorithmConfig { clip_high: 0.4, ..AlgorithmConfig::preset(Preset::Dapo) };
        assert_eq!(overrides.resolve(), expected);
    }
}
