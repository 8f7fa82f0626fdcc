//! The vetted settings, each with its paper at [`Preset`].

use crate::{
    AlgorithmConfig, KlEstimator, KlPlacement, Preset, Reduction,
    advantage::{StepCredit, Whitening},
    algorithm::{CorrectionKind, Credit, CriticKind, LossKind, RejectionKind},
    correction::RejectionLevel,
};

impl AlgorithmConfig {
    /// The vetted setting of a paper.
    pub fn preset(preset: Preset) -> Self {
        match preset {
            Preset::Ppo | Preset::VcPpo | Preset::Vapo | Preset::OpenReasonerZero => with_critic(preset),
            Preset::Gspo | Preset::Gmpo | Preset::Cispo | Preset::Sapo | Preset::Opmd => other_loss(preset),
            Preset::ReinforcePlusPlus | Preset::ReinforcePlusPlusBaseline => with_divergence(preset),
            _ => other_credit(preset),
        }
    }
}

/// GRPO, which the others differ from.
fn grpo() -> AlgorithmConfig {
    AlgorithmConfig {
        advantage: Credit::Grpo.into(),
        step_weight: 1.0,
        outcome_weight: 1.0,
        step_credit: StepCredit::AtStep,
        pass_k: 4,
        gamma: 1.0,
        lambda: 0.95,
        lambda_critic: 1.0,
        length_alpha: 0.05,
        f_norm: 1.0,
        whitening: Whitening::Tokens,
        whiten: true,
        loss: LossKind::Clipped.into(),
        clip_low: 0.2,
        clip_high: 0.2,
        dual_clip: 0.0,
        ratio_ceiling: 0.0,
        tau_positive: 1.0,
        tau_negative: 1.05,
        anchor: 0.1,
        cov_share: 2e-4,
        cov_low: 1.0,
        cov_high: 5.0,
        cov_kl_coef: 1.0,
        reduction: Reduction::SequenceMeanTokenMean,
        kl_coef: 0.0,
        kl_estimator: KlEstimator::K3,
        kl_placement: KlPlacement::Loss,
        kl_target: 0.0,
        kl_horizon: 10_000.0,
        reference_every: 0,
        reference_decay: 0.0,
        critic: CriticKind::None,
        value_coef: 1.0,
        value_clip: 0.2,
        critic_pretrain_steps: 0,
        critic_learning_rate: 0.0,
        nll_coef: 0.0,
        entropy_coef: 0.0,
        entropy_target: 0.0,
        correction: CorrectionKind::None,
        correction_low: 0.5,
        correction_high: 2.0,
        correction_normalise: false,
        rejection: RejectionKind::None,
        rejection_level: RejectionLevel::Token,
        rejection_low: 0.5,
        rejection_high: 2.0,
        dynamic_sampling: false,
        mask_overlong: false,
        keep_share: 1.0,
        replay_share: 0.0,
        replay_capacity: 512,
        replay_alpha: 1.0,
        off_policy_threshold: 0.0,
        top_entropy_share: 1.0,
        updates_per_batch: 1,
        mini_batches: 1,
    }
}

/// Methods that differ in how credit is assigned or which samples are used.
fn other_credit(preset: Preset) -> AlgorithmConfig {
    let on_policy = AlgorithmConfig {
        loss: LossKind::Reinforce.into(),
        reduction: Reduction::SequenceMeanTokenSum,
        ..grpo()
    };
    match preset {
        Preset::Reinforce => AlgorithmConfig { advantage: Credit::Reinforce.into(), ..on_policy },
        Preset::ProcessGrpo => AlgorithmConfig {
            advantage: Credit::ProcessGrpo.into(),
            reduction: Reduction::TokenMean,
            clip_high: 0.28,
            ..grpo()
        },
        Preset::DrGrpo => AlgorithmConfig {
            advantage: Credit::DrGrpo.into(),
            reduction: Reduction::SequenceMeanTokenSumNorm,
            ..grpo()
        },
        Preset::Rloo => AlgorithmConfig {
            advantage: Credit::Rloo.into(),
            reduction: Reduction::SequenceMeanTokenSum,
            ..grpo()
        },
        Preset::Remax => AlgorithmConfig { advantage: Credit::Remax.into(), ..on_policy },
        Preset::Dapo => AlgorithmConfig {
            clip_high: 0.28,
            reduction: Reduction::TokenMean,
            dynamic_sampling: true,
            ..grpo()
        },
        Preset::Cppo => AlgorithmConfig { keep_share: 0.5, ..grpo() },
        Preset::Gpg => {
            AlgorithmConfig { advantage: Credit::Gpg.into(), reduction: Reduction::TokenMean, ..on_policy }
        }
        Preset::LitePpo => {
            AlgorithmConfig { advantage: Credit::LitePpo.into(), reduction: Reduction::TokenMean, ..grpo() }
        }
        Preset::Opo => AlgorithmConfig { advantage: Credit::Opo.into(), ..on_policy },
        Preset::Gdpo => AlgorithmConfig { advantage: Credit::Gdpo.into(), ..grpo() },
        Preset::Maxrl => AlgorithmConfig { advantage: Credit::MaxRl.into(), ..on_policy },
        _ => grpo(),
    }
}

/// Methods whose papers need a reference policy.
fn with_divergence(preset: Preset) -> AlgorithmConfig {
    let base = AlgorithmConfig { reduction: Reduction::TokenMean, ..grpo() };
    match preset {
        Preset::ReinforcePlusPlus => AlgorithmConfig {
            advantage: Credit::ReinforcePlusPlus.into(),
            kl_coef: 0.01,
            kl_estimator: KlEstimator::K1,
            kl_placement: KlPlacement::Reward,
            ..base
        },
        _ => AlgorithmConfig {
            advantage: Credit::ReinforcePlusPlusBaseline.into(),
            kl_coef: 0.001,
            kl_estimator: KlEstimator::K2,
            ..base
        },
    }
}

/// Methods that differ from GRPO in the per-token loss.
fn other_loss(preset: Preset) -> AlgorithmConfig {
    match preset {
        Preset::Gspo => {
            AlgorithmConfig { loss: LossKind::Gspo.into(), clip_low: 3e-4, clip_high: 4e-4, ..grpo() }
        }
        Preset::Gmpo => {
            AlgorithmConfig { loss: LossKind::Gmpo.into(), clip_low: 0.4, clip_high: 0.4, ..grpo() }
        }
        Preset::Cispo => AlgorithmConfig {
            loss: LossKind::Cispo.into(),
            clip_low: 1.0,
            clip_high: 0.28,
            reduction: Reduction::TokenMean,
            ..grpo()
        },
        Preset::Opmd => AlgorithmConfig {
            advantage: Credit::DrGrpo.into(),
            loss: LossKind::Opmd.into(),
            reduction: Reduction::SequenceMeanTokenSum,
            ..grpo()
        },
        _ => AlgorithmConfig { loss: LossKind::Sapo.into(), ..grpo() },
    }
}

/// PPO and its kin.
fn with_critic(preset: Preset) -> AlgorithmConfig {
    let ppo = AlgorithmConfig {
        advantage: Credit::Gae.into(),
        critic: CriticKind::Separate,
        reduction: Reduction::TokenMean,
        ..grpo()
    };
    match preset {
        Preset::VcPpo => {
            AlgorithmConfig { advantage: Credit::DecoupledGae.into(), critic_pretrain_steps: 50, ..ppo }
        }
        Preset::Vapo => AlgorithmConfig {
            advantage: Credit::LengthAdaptiveGae.into(),
            clip_high: 0.28,
            critic_pretrain_steps: 50,
            nll_coef: 0.1,
            ..ppo
        },
        Preset::OpenReasonerZero => AlgorithmConfig { lambda: 1.0, ..ppo },
        _ => ppo,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_preset_makes_sense() {
        for preset in Preset::ALL {
            let config = AlgorithmConfig::preset(preset);
            let algorithm = config.build(8).unwrap_or_else(|error| panic!("{preset:?}: {error}"));
            assert_eq!(algorithm.advantage.needs_values(), algorithm.critic.is_some(), "{preset:?}");
        }
    }

    #[test]
    fn presets_differ() {
        let all: Vec<AlgorithmConfig> = Preset::ALL.into_iter().map(AlgorithmConfig::preset).collect();
        for (i, a) in all.iter().enumerate() {
            assert!(all[..i].iter().all(|b| a != b), "{:?} is another preset again", Preset::ALL[i]);
        }
    }
}
