//! From plain data to an algorithm: ranges, combinations, parts.

use kyoka_core::{AdvantageEstimator, PolicyLoss};

use crate::{
    AdaptiveKl, Algorithm, AlgorithmConfig, AlgorithmError, Correction, EntropyBonus, Kl, WeightBound,
    WeightLevel,
    advantage::OWN_ADVANTAGES,
    advantage::{
        DecoupledGae, DrGrpo, Gae, Gdpo, Gpg, Grpo, LengthAdaptiveGae, LitePpo, MaxRl, Opo, PassAtK,
        PassAtKBest, ProcessGrpo, Reinforce, ReinforcePlusPlus, ReinforcePlusPlusBaseline, Remax, Rloo,
    },
    algorithm::{
        CorrectionKind, Credit, CriticSettings, LossKind, PartNames, ReferenceRefresh, Rejection,
        RejectionKind, ReplaySettings, SampleFilters,
    },
    correction::RejectionRule,
    own_part::{Choice, OwnParts},
    policy_loss::{
        Cispo, ClipCov, ClippedLoss, Dppo, Gmpo, Gspo, GspoToken, KlCov, OWN_LOSSES, Opmd, PolicyDivergence,
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
        self.build_with(group_size, &OwnParts::default())
    }

    /// [`build`](Self::build), with estimators and losses that another crate brings.
    ///
    /// # Errors
    /// As [`build`](Self::build), and if one is named that is not brought.
    pub fn build_with(&self, group_size: usize, parts: &OwnParts) -> Result<Algorithm, AlgorithmError> {
        self.check_ranges()?;
        let (advantage, loss) = (self.advantage(parts)?, self.loss(parts)?);
        self.check_combination((advantage.as_ref(), loss.as_ref()), group_size)?;
        let needs_critic = advantage.needs_values();
        let names = PartNames { advantage: self.advantage.spelled(), loss: self.loss.spelled() };
        Ok(Algorithm {
            names,
            advantage,
            loss,
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
            rejection: self.rejection(),
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
            mini_batches: self.mini_batches,
        })
    }

    fn advantage(&self, parts: &OwnParts) -> Result<Box<dyn AdvantageEstimator>, AlgorithmError> {
        let (gamma, whiten) = (self.gamma, self.whiten);
        let credit = match &self.advantage {
            Choice::Kind(credit) => credit,
            Choice::Own(part) => return part.make("advantage", OWN_ADVANTAGES, parts.advantages()),
        };
        Ok(match credit {
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
            Credit::Gdpo => Box::new(Gdpo { whitening: self.whitening, ..Gdpo::default() }),
            Credit::Gpg => Box::new(Gpg { f_norm: self.f_norm, ..Gpg::default() }),
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
        })
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

    fn loss(&self, parts: &OwnParts) -> Result<Box<dyn PolicyLoss>, AlgorithmError> {
        let (low, high) = (self.clip_low, self.clip_high);
        let kind = match &self.loss {
            Choice::Kind(kind) => kind,
            Choice::Own(part) => return part.make("loss", OWN_LOSSES, parts.losses()),
        };
        Ok(match kind {
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
        })
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

    fn rejection(&self) -> Option<Rejection> {
        let (low, high) = (self.rejection_low, self.rejection_high);
        let rule = match self.rejection {
            RejectionKind::None => return None,
            RejectionKind::K1 => RejectionRule::K1 { low, high },
            RejectionKind::K2 => RejectionRule::K2 { max: high },
            RejectionKind::K3 => RejectionRule::K3 { max: high },
        };
        Some(Rejection { rule, level: self.rejection_level })
    }
}
