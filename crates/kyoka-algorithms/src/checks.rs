//! Whether a composition makes sense: ranges of the fields, and parts that go together.

use kyoka_core::{AdvantageEstimator, PolicyLoss};

use crate::{
    AlgorithmConfig, AlgorithmError,
    algorithm::{Credit, CriticKind, LossKind, RejectionKind, in_range},
};

impl AlgorithmConfig {
    /// An error that names the first field out of its range.
    pub(crate) fn check_ranges(&self) -> Result<(), AlgorithmError> {
        let at_least_0 = [
            ("step_weight", self.step_weight),
            ("outcome_weight", self.outcome_weight),
            ("replay_alpha", self.replay_alpha),
            ("dual_clip", self.dual_clip),
            ("ratio_ceiling", self.ratio_ceiling),
            ("anchor", self.anchor),
            ("cov_kl_coef", self.cov_kl_coef),
            ("kl_coef", self.kl_coef),
            ("kl_target", self.kl_target),
            ("value_clip", self.value_clip),
            ("critic_learning_rate", self.critic_learning_rate),
            ("nll_coef", self.nll_coef),
            ("entropy_coef", self.entropy_coef),
            ("entropy_target", self.entropy_target),
            ("correction_low", self.correction_low),
            ("rejection_low", self.rejection_low),
            ("off_policy_threshold", self.off_policy_threshold),
        ];
        for (field, value) in at_least_0 {
            in_range(value >= 0.0 && value.is_finite(), field, "a finite number of at least 0", value)?;
        }
        let above_0 = [
            ("length_alpha", self.length_alpha),
            ("f_norm", self.f_norm),
            ("clip_high", self.clip_high),
            ("tau_positive", self.tau_positive),
            ("tau_negative", self.tau_negative),
            ("kl_horizon", self.kl_horizon),
            ("value_coef", self.value_coef),
        ];
        for (field, value) in above_0 {
            in_range(value > 0.0 && value.is_finite(), field, "a finite number above 0", value)?;
        }
        let in_unit = |value: f64| value > 0.0 && value <= 1.0;
        for (field, value) in [
            ("cov_share", self.cov_share),
            ("keep_share", self.keep_share),
            ("top_entropy_share", self.top_entropy_share),
            ("clip_low", self.clip_low),
        ] {
            in_range(in_unit(value), field, "a number in (0, 1]", value)?;
        }
        for (field, value) in
            [("gamma", self.gamma), ("lambda", self.lambda), ("lambda_critic", self.lambda_critic)]
        {
            in_range((0.0..=1.0).contains(&value), field, "a number in [0, 1]", value)?;
        }
        for (field, value) in [("replay_share", self.replay_share), ("reference_decay", self.reference_decay)]
        {
            in_range((0.0..1.0).contains(&value), field, "a number in [0, 1)", value)?;
        }
        self.check_bounds()?;
        for (field, count) in [
            ("replay_capacity", self.replay_capacity),
            ("pass_k", self.pass_k),
            ("updates_per_batch", self.updates_per_batch),
            ("mini_batches", self.mini_batches),
        ] {
            in_range(count >= 1, field, "at least 1", count as f64)?;
        }
        Ok(())
    }

    /// Bounds that depend on each other.
    fn check_bounds(&self) -> Result<(), AlgorithmError> {
        let ceiling = self.ratio_ceiling;
        in_range(self.dual_clip == 0.0 || self.dual_clip > 1.0, "dual_clip", "0 or above 1", self.dual_clip)?;
        let above = ceiling == 0.0 || ceiling > 1.0 + self.clip_high;
        in_range(above, "ratio_ceiling", "0 or above 1 + clip_high", ceiling)?;
        in_range(self.cov_low.is_finite(), "cov_low", "a finite number", self.cov_low)?;
        let rejection_low = if self.rejection == RejectionKind::K1 { self.rejection_low } else { 0.0 };
        for (field, value, expected, least) in [
            ("cov_high", self.cov_high, "a finite number above cov_low", self.cov_low),
            (
                "correction_high",
                self.correction_high,
                "a finite number above correction_low",
                self.correction_low,
            ),
            ("rejection_high", self.rejection_high, "a finite number above rejection_low", rejection_low),
        ] {
            in_range(value > least && value.is_finite(), field, expected, value)?;
        }
        Ok(())
    }

    /// An error that says which parts do not go together.
    pub(crate) fn check_combination(
        &self,
        (advantage, loss): (&dyn AdvantageEstimator, &dyn PolicyLoss),
        group_size: usize,
    ) -> Result<(), AlgorithmError> {
        let expected = advantage.min_group_size();
        if group_size < expected {
            return Err(AlgorithmError::GroupTooSmall {
                advantage: self.advantage.label(),
                expected,
                got: group_size,
            });
        }
        let (credit, updates) = (self.advantage.label(), self.updates_per_batch);
        let is_process = self.advantage.kind() == Some(Credit::ProcessGrpo);
        let weightless = is_process && self.step_weight + self.outcome_weight == 0.0;
        let clips = matches!(self.loss.kind(), Some(LossKind::Clipped | LossKind::ClipCov));
        let has_ratio = loss.has_ratio();
        let loss = self.loss.label();
        let has_critic = self.critic != CriticKind::None;
        let bounds = self.dual_clip > 0.0 || self.ratio_ceiling > 0.0;
        let reason = if advantage.needs_values() && !has_critic {
            format!("{credit} needs a critic: expected critic = \"separate\" or \"shared\", got \"none\"")
        } else if has_critic && !advantage.needs_values() {
            format!("{credit} asks no critic: expected critic = \"none\", got {:?}", self.critic)
        } else if !has_ratio && updates > 1 {
            format!(
                "the loss {loss} has no ratio to the old policy: expected updates_per_batch = 1, got {updates}"
            )
        } else if !has_ratio && self.mini_batches > 1 {
            format!(
                "the loss {loss} has no ratio to the old policy: expected mini_batches = 1, got {}",
                self.mini_batches
            )
        } else if weightless {
            "step_weight and outcome_weight: expected one above 0, got 0 twice".to_owned()
        } else if self.replay_share > 0.0 && !has_ratio {
            format!(
                "replayed completions are of older policies, and the loss {loss} has no ratio to them: expected \
                 replay_share = 0"
            )
        } else if self.replay_share > 0.0 && has_critic {
            "the value targets of replayed completions are of older policies: expected replay_share = 0 with a critic"
                .to_owned()
        } else if bounds && !clips {
            format!("dual_clip and ratio_ceiling belong to the loss Clipped, got {loss}")
        } else if self.kl_coef == 0.0 && self.kl_target > 0.0 {
            format!("kl_target = {} adapts kl_coef: expected one above 0, got 0", self.kl_target)
        } else if self.kl_coef == 0.0 && self.reference_every > 0 {
            format!(
                "reference_every = {} without a reference: expected kl_coef above 0, got 0",
                self.reference_every
            )
        } else if self.dynamic_sampling && advantage.credits_equal_rewards() {
            format!(
                "{credit} has credit in groups without spread: expected dynamic_sampling = false, got true"
            )
        } else {
            return Ok(());
        };
        Err(AlgorithmError::NoMeaning { reason })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AdaptiveKl, Preset, WeightLevel, algorithm::CorrectionKind};

    fn refused(config: AlgorithmConfig, group_size: usize) -> String {
        config.build(group_size).err().unwrap().to_string()
    }

    #[test]
    fn combinations_without_meaning_are_refused_with_the_reason() {
        let grpo = || AlgorithmConfig::preset(Preset::Grpo);
        assert_eq!(
            refused(grpo(), 1),
            "algorithm: Grpo compares the completions of a prompt: expected group_size of at least 2, got 1"
        );
        assert_eq!(
            refused(AlgorithmConfig { clip_low: 0.0, ..grpo() }, 4),
            "algorithm.clip_low: expected a number in (0, 1], got 0"
        );
        assert_eq!(
            refused(AlgorithmConfig { kl_coef: f64::NAN, ..grpo() }, 4),
            "algorithm.kl_coef: expected a finite number of at least 0, got NaN"
        );
        assert_eq!(
            refused(AlgorithmConfig { advantage: Credit::Gae.into(), ..grpo() }, 4),
            "algorithm: Gae needs a critic: expected critic = \"separate\" or \"shared\", got \"none\""
        );
        assert_eq!(
            refused(AlgorithmConfig { critic: CriticKind::Shared, ..grpo() }, 4),
            "algorithm: Grpo asks no critic: expected critic = \"none\", got Shared"
        );
        assert_eq!(
            refused(AlgorithmConfig { loss: LossKind::Reinforce.into(), updates_per_batch: 4, ..grpo() }, 4),
            "algorithm: the loss Reinforce has no ratio to the old policy: expected updates_per_batch = 1, got 4"
        );
        assert_eq!(
            refused(AlgorithmConfig { kl_target: 6.0, ..grpo() }, 4),
            "algorithm: kl_target = 6 adapts kl_coef: expected one above 0, got 0"
        );
        assert_eq!(
            refused(AlgorithmConfig { loss: LossKind::Sapo.into(), dual_clip: 3.0, ..grpo() }, 4),
            "algorithm: dual_clip and ratio_ceiling belong to the loss Clipped, got Sapo"
        );
        assert_eq!(
            refused(AlgorithmConfig { advantage: Credit::PassAtK.into(), pass_k: 8, ..grpo() }, 4),
            "algorithm: PassAtK compares the completions of a prompt: expected group_size of at least 8, got 4"
        );
    }

    #[test]
    fn replay_needs_a_ratio_and_no_critic() {
        let replaying = |preset| AlgorithmConfig { replay_share: 0.5, ..AlgorithmConfig::preset(preset) };
        let replay = replaying(Preset::Grpo).build(4).unwrap().filters.replay.unwrap();
        assert_eq!((replay.share, replay.capacity, replay.alpha), (0.5, 512, 1.0));
        assert!(refused(replaying(Preset::Reinforce), 4).contains("no ratio"));
        assert!(refused(replaying(Preset::Ppo), 4).contains("value targets"));
        let empty = AlgorithmConfig { replay_capacity: 0, ..replaying(Preset::Grpo) };
        assert_eq!(refused(empty, 4), "algorithm.replay_capacity: expected at least 1, got 0");
    }

    #[test]
    fn ppo_runs_with_one_completion_a_prompt() {
        let ppo = AlgorithmConfig::preset(Preset::Ppo).build(1).unwrap();
        assert_eq!(ppo.critic.unwrap().value_clip, Some(0.2));
    }

    #[test]
    fn what_no_group_can_lack_is_not_sampled_dynamically() {
        for preset in [Preset::Reinforce, Preset::ReinforcePlusPlus, Preset::Remax] {
            let config = AlgorithmConfig { dynamic_sampling: true, ..AlgorithmConfig::preset(preset) };
            assert!(refused(config, 4).contains("has credit in groups without spread"), "{preset:?}");
        }
        for preset in [Preset::Ppo, Preset::Vapo, Preset::Gpg, Preset::ReinforcePlusPlusBaseline] {
            let config = AlgorithmConfig { dynamic_sampling: true, ..AlgorithmConfig::preset(preset) };
            assert!(config.build(4).is_ok(), "{preset:?}");
        }
    }

    #[test]
    fn bounds_are_finite_and_in_order() {
        let grpo = || AlgorithmConfig::preset(Preset::Grpo);
        assert_eq!(
            refused(AlgorithmConfig { correction_high: f64::INFINITY, ..grpo() }, 4),
            "algorithm.correction_high: expected a finite number above correction_low, got inf"
        );
        assert_eq!(
            refused(AlgorithmConfig { cov_low: f64::NAN, ..grpo() }, 4),
            "algorithm.cov_low: expected a finite number, got NaN"
        );
        let k1 = AlgorithmConfig { rejection: RejectionKind::K1, rejection_high: 0.4, ..grpo() };
        assert_eq!(
            refused(k1.clone(), 4),
            "algorithm.rejection_high: expected a finite number above rejection_low, got 0.4"
        );
        assert!(AlgorithmConfig { rejection: RejectionKind::K2, ..k1 }.build(4).is_ok());
        let reinforce = AlgorithmConfig { mini_batches: 2, ..AlgorithmConfig::preset(Preset::Reinforce) };
        assert!(refused(reinforce, 4).contains("expected mini_batches = 1, got 2"));
    }

    #[test]
    fn zeros_switch_parts_off() {
        let plain = AlgorithmConfig::preset(Preset::Grpo).build(2).unwrap();
        assert!(plain.kl.is_none() && plain.entropy.is_none() && plain.correction.is_none());
        let config = AlgorithmConfig {
            kl_coef: 0.1,
            kl_target: 6.0,
            entropy_target: 0.2,
            correction: CorrectionKind::MaskGeometric,
            ..AlgorithmConfig::preset(Preset::Grpo)
        };
        let full = config.build(2).unwrap();
        assert_eq!(full.kl.unwrap().adaptive, Some(AdaptiveKl { target: 6.0, horizon: 10_000.0 }));
        assert_eq!(full.entropy.unwrap().target, Some(0.2));
        assert_eq!(full.correction.unwrap().level, WeightLevel::Geometric);
    }
}
