//! From plain data to an algorithm: ranges, combinations, parts.

use kyoka_core::{AdvantageEstimator, PolicyLoss};

use crate::{
    AdaptiveKl, Algorithm, AlgorithmConfig, AlgorithmError, Correction, EntropyBonus, Kl, WeightBound,
    WeightLevel,
    advantage::{
        DecoupledGae, DrGrpo, Gae, Gdpo, Gpg, Grpo, LengthAdaptiveGae, LitePpo, MaxRl, Opo, PassAtK,
        PassAtKBest, ProcessGrpo, Reinforce, ReinforcePlusPlus, ReinforcePlusPlusBaseline, Remax, Rloo,
    },
    algorithm::{
        CorrectionKind, Credit, CriticKind, CriticSettings, LossKind, ReferenceRefresh, ReplaySettings,
        SampleFilters, in_range,
    },
    policy_loss::{
        Cispo, ClipCov, ClippedLoss, Dppo, Gmpo, Gspo, GspoToken, KlCov, Opmd, PolicyDivergence,
        ReinforceLoss, Sapo,
    },
};

/// Change of an adaptive entropy coefficient a step, and the most it may become (Skywork-OR1, section 4.3).
const ENTROPY_STEP: f64 = 0.005;
const MAX_ENTROPY_COEF: f64 = 1.0;

/// A number for which 0 means "none".
fn unless_zero(value: f64) -> Option<f64> {
    (value > 0.0).then_some(value)
}

impl AlgorithmConfig {
    /// Checks the composition for groups of `group_size` and makes it.
    ///
    /// # Errors
    /// If a field is out of range or the parts do not go together, with the reason.
    pub fn build(&self, group_size: usize) -> Result<Algorithm, AlgorithmError> {
        self.check_ranges()?;
        let advantage = self.advantage();
        self.check_combination(advantage.as_ref(), group_size)?;
        let needs_critic = advantage.needs_values();
        Ok(Algorithm {
            advantage,
            loss: self.loss(),
            reduction: self.reduction,
            kl: unless_zero(self.kl_coef).map(|kl_coef| Kl {
                kl_coef,
                estimator: self.kl_estimator,
                placement: self.kl_placement,
                adaptive: unless_zero(self.kl_target)
                    .map(|target| AdaptiveKl { target, horizon: self.kl_horizon }),
            }),
            reference_refresh: (self.reference_every > 0)
                .then_some(ReferenceRefresh { every: self.reference_every, decay: self.reference_decay }),
            critic: needs_critic.then(|| self.critic_settings()),
            nll_coef: self.nll_coef,
            entropy: (self.entropy_coef > 0.0 || self.entropy_target > 0.0).then_some(EntropyBonus {
                coef: self.entropy_coef,
                target: unless_zero(self.entropy_target),
                step: ENTROPY_STEP,
                max_coef: MAX_ENTROPY_COEF,
            }),
            correction: self.correction(),
            filters: SampleFilters {
                mask_overlong: self.mask_overlong,
                keep_share: self.keep_share,
                replay: unless_zero(self.replay_share).map(|share| ReplaySettings {
                    share,
                    capacity: self.replay_capacity,
                    alpha: self.replay_alpha,
                }),
                off_policy_threshold: unless_zero(self.off_policy_threshold),
                top_entropy_share: self.top_entropy_share,
            },
            dynamic_sampling: self.dynamic_sampling,
            updates_per_batch: self.updates_per_batch,
        })
    }

    fn advantage(&self) -> Box<dyn AdvantageEstimator> {
        let (gamma, whiten) = (self.gamma, self.whiten);
        match self.advantage {
            Credit::Reinforce => Box::new(Reinforce),
            Credit::Grpo => Box::new(Grpo::default()),
            Credit::ProcessGrpo => Box::new(ProcessGrpo {
                outcome_weight: self.outcome_weight,
                step_weight: self.step_weight,
                step_credit: self.step_credit,
                ..ProcessGrpo::default()
            }),
            Credit::DrGrpo => Box::new(DrGrpo::default()),
            Credit::Rloo => Box::new(Rloo::default()),
            Credit::ReinforcePlusPlus => Box::new(ReinforcePlusPlus { gamma }),
            Credit::ReinforcePlusPlusBaseline => Box::new(ReinforcePlusPlusBaseline::default()),
            Credit::Remax => Box::new(Remax),
            Credit::Opo => Box::new(Opo::default()),
            Credit::PassAtK => Box::new(PassAtK { k: self.pass_k }),
            Credit::PassAtKBest => Box::new(PassAtKBest::default()),
            Credit::MaxRl => Box::new(MaxRl),
            Credit::LitePpo => Box::new(LitePpo::default()),
            Credit::Gdpo => Box::new(Gdpo::default()),
            Credit::Gpg => Box::new(Gpg::default()),
            Credit::Gae => Box::new(Gae { gamma, lambda: self.lambda, whiten }),
            Credit::DecoupledGae => Box::new(DecoupledGae {
                gamma,
                lambda_actor: self.lambda,
                lambda_critic: self.lambda_critic,
                whiten,
            }),
            Credit::LengthAdaptiveGae => {
                Box::new(LengthAdaptiveGae { gamma, alpha: self.length_alpha, whiten })
            }
        }
    }

    fn clipped(&self) -> ClippedLoss {
        ClippedLoss {
            clip_low: self.clip_low,
            clip_high: self.clip_high,
            dual_clip: unless_zero(self.dual_clip),
            ratio_ceiling: unless_zero(self.ratio_ceiling),
            ..ClippedLoss::default()
        }
    }

    fn loss(&self) -> Box<dyn PolicyLoss> {
        let (low, high) = (self.clip_low, self.clip_high);
        match self.loss {
            LossKind::Reinforce => Box::new(ReinforceLoss),
            LossKind::Clipped => Box::new(self.clipped()),
            LossKind::Gspo => Box::new(Gspo { clip_low: low, clip_high: high, ..Gspo::default() }),
            LossKind::GspoToken => {
                Box::new(GspoToken { clip_low: low, clip_high: high, ..GspoToken::default() })
            }
            LossKind::Gmpo => Box::new(Gmpo { log_clip_low: low, log_clip_high: high, ..Gmpo::default() }),
            LossKind::Cispo => {
                Box::new(Cispo { ratio_min: 1.0 - low, ratio_max: 1.0 + high, ..Cispo::default() })
            }
            LossKind::Sapo => Box::new(Sapo {
                tau_positive: self.tau_positive,
                tau_negative: self.tau_negative,
                ..Sapo::default()
            }),
            LossKind::DppoTv => Box::new(Dppo { low, high, ..Dppo::default() }),
            LossKind::DppoKl => {
                Box::new(Dppo { divergence: PolicyDivergence::Kl, low, high, ..Dppo::default() })
            }
            LossKind::ClipCov => Box::new(ClipCov {
                clipped: self.clipped(),
                share: self.cov_share,
                cov_low: self.cov_low,
                cov_high: self.cov_high,
                ..ClipCov::default()
            }),
            LossKind::KlCov => {
                Box::new(KlCov { share: self.cov_share, coef: self.cov_kl_coef, ..KlCov::default() })
            }
            LossKind::Opmd => Box::new(Opmd { tau: self.anchor }),
        }
    }

    fn critic_settings(&self) -> CriticSettings {
        CriticSettings {
            kind: self.critic,
            value_coef: self.value_coef,
            value_clip: unless_zero(self.value_clip),
            pretrain_steps: self.critic_pretrain_steps,
            learning_rate: unless_zero(self.critic_learning_rate),
        }
    }

    fn correction(&self) -> Option<Correction> {
        let truncate = WeightBound::Truncate { cap: self.correction_high };
        let mask = WeightBound::Mask { low: self.correction_low, high: self.correction_high };
        let (level, bound) = match self.correction {
            CorrectionKind::None => return None,
            CorrectionKind::TruncateToken => (WeightLevel::Token, truncate),
            CorrectionKind::TruncateSequence => (WeightLevel::Sequence, truncate),
            CorrectionKind::TruncateGeometric => (WeightLevel::Geometric, truncate),
            CorrectionKind::MaskToken => (WeightLevel::Token, mask),
            CorrectionKind::MaskSequence => (WeightLevel::Sequence, mask),
            CorrectionKind::MaskGeometric => (WeightLevel::Geometric, mask),
        };
        Some(Correction { level, bound, normalise: self.correction_normalise })
    }

    fn check_ranges(&self) -> Result<(), AlgorithmError> {
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
            ("off_policy_threshold", self.off_policy_threshold),
        ];
        for (field, value) in at_least_0 {
            in_range(value >= 0.0 && value.is_finite(), field, "at least 0", value)?;
        }
        let above_0 = [
            ("length_alpha", self.length_alpha),
            ("clip_high", self.clip_high),
            ("tau_positive", self.tau_positive),
            ("tau_negative", self.tau_negative),
            ("kl_horizon", self.kl_horizon),
            ("value_coef", self.value_coef),
        ];
        for (field, value) in above_0 {
            in_range(value > 0.0 && value.is_finite(), field, "a number above 0", value)?;
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
        let ceiling = self.ratio_ceiling;
        in_range(self.dual_clip == 0.0 || self.dual_clip > 1.0, "dual_clip", "0 or above 1", self.dual_clip)?;
        let above = ceiling == 0.0 || ceiling > 1.0 + self.clip_high;
        in_range(above, "ratio_ceiling", "0 or above 1 + clip_high", ceiling)?;
        in_range(self.cov_high > self.cov_low, "cov_high", "a number above cov_low", self.cov_high)?;
        let high = self.correction_high;
        in_range(high > self.correction_low, "correction_high", "a number above correction_low", high)?;
        let capacity = self.replay_capacity;
        in_range(capacity >= 1, "replay_capacity", "at least 1", capacity as f64)?;
        in_range(self.pass_k >= 1, "pass_k", "at least 1", self.pass_k as f64)?;
        in_range(
            self.updates_per_batch >= 1,
            "updates_per_batch",
            "at least 1",
            self.updates_per_batch as f64,
        )
    }

    fn check_combination(
        &self,
        advantage: &dyn AdvantageEstimator,
        group_size: usize,
    ) -> Result<(), AlgorithmError> {
        let expected = advantage.min_group_size();
        if group_size < expected {
            return Err(AlgorithmError::GroupTooSmall {
                advantage: self.advantage,
                expected,
                got: group_size,
            });
        }
        let (credit, loss, updates) = (self.advantage, self.loss, self.updates_per_batch);
        let clips = matches!(loss, LossKind::Clipped | LossKind::ClipCov);
        let has_critic = self.critic != CriticKind::None;
        let bounds = self.dual_clip > 0.0 || self.ratio_ceiling > 0.0;
        let reason = if advantage.needs_values() && !has_critic {
            format!("{credit:?} needs a critic: expected critic = \"separate\" or \"shared\", got \"none\"")
        } else if has_critic && !advantage.needs_values() {
            format!("{credit:?} asks no critic: expected critic = \"none\", got {:?}", self.critic)
        } else if loss == LossKind::Reinforce && updates > 1 {
            format!(
                "the loss Reinforce has no ratio to the old policy: expected updates_per_batch = 1, got {updates}"
            )
        } else if self.replay_share > 0.0 && loss == LossKind::Reinforce {
            "replayed completions are of older policies, and the loss Reinforce has no ratio to them: expected \
             replay_share = 0"
                .to_owned()
        } else if self.replay_share > 0.0 && has_critic {
            "the value targets of replayed completions are of older policies: expected replay_share = 0 with a critic"
                .to_owned()
        } else if bounds && !clips {
            format!("dual_clip and ratio_ceiling belong to the loss Clipped, got {loss:?}")
        } else if self.kl_coef == 0.0 && self.kl_target > 0.0 {
            format!("kl_target = {} adapts kl_coef: expected one above 0, got 0", self.kl_target)
        } else if self.kl_coef == 0.0 && self.reference_every > 0 {
            format!(
                "reference_every = {} without a reference: expected kl_coef above 0, got 0",
                self.reference_every
            )
        } else if advantage.needs_greedy_rollout() && self.dynamic_sampling {
            format!(
                "{credit:?} has credit in groups without spread: expected dynamic_sampling = false, got true"
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
    use crate::Preset;

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
            "algorithm: clip_low: expected a number in (0, 1], got 0"
        );
        assert_eq!(
            refused(AlgorithmConfig { kl_coef: f64::NAN, ..grpo() }, 4),
            "algorithm: kl_coef: expected at least 0, got NaN"
        );
        assert_eq!(
            refused(AlgorithmConfig { advantage: Credit::Gae, ..grpo() }, 4),
            "algorithm: Gae needs a critic: expected critic = \"separate\" or \"shared\", got \"none\""
        );
        assert_eq!(
            refused(AlgorithmConfig { critic: CriticKind::Shared, ..grpo() }, 4),
            "algorithm: Grpo asks no critic: expected critic = \"none\", got Shared"
        );
        assert_eq!(
            refused(AlgorithmConfig { loss: LossKind::Reinforce, updates_per_batch: 4, ..grpo() }, 4),
            "algorithm: the loss Reinforce has no ratio to the old policy: expected updates_per_batch = 1, got 4"
        );
        assert_eq!(
            refused(AlgorithmConfig { kl_target: 6.0, ..grpo() }, 4),
            "algorithm: kl_target = 6 adapts kl_coef: expected one above 0, got 0"
        );
        assert_eq!(
            refused(AlgorithmConfig { loss: LossKind::Sapo, dual_clip: 3.0, ..grpo() }, 4),
            "algorithm: dual_clip and ratio_ceiling belong to the loss Clipped, got Sapo"
        );
        assert_eq!(
            refused(AlgorithmConfig { advantage: Credit::PassAtK, pass_k: 8, ..grpo() }, 4),
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
        assert_eq!(refused(empty, 4), "algorithm: replay_capacity: expected at least 1, got 0");
    }

    #[test]
    fn ppo_runs_with_one_completion_a_prompt() {
        let ppo = AlgorithmConfig::preset(Preset::Ppo).build(1).unwrap();
        assert_eq!(ppo.critic.unwrap().value_clip, Some(0.2));
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
