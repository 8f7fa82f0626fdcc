//! Which choice reads which field: a field that is given and not read is refused, never ignored.

use crate::{
    AlgorithmConfig, AlgorithmError,
    algorithm::{CorrectionKind, Credit, CriticKind, LossKind, RejectionKind},
};

/// The choice that makes a field count.
enum Reader {
    /// One of these estimators.
    Advantage(&'static [Credit]),
    /// One of these losses.
    Loss(&'static [LossKind]),
    /// Any critic.
    Critic,
    /// A correction; with `true` one that masks.
    Correction { masks: bool },
    /// One of these rejections.
    Rejection(&'static [RejectionKind]),
    /// A number above 0: its name and value.
    Above0(&'static str, fn(&AlgorithmConfig) -> f64),
}

const GAE_FAMILY: &[Credit] = &[Credit::Gae, Credit::DecoupledGae, Credit::LengthAdaptiveGae];
const RETURNS: &[Credit] =
    &[Credit::ReinforcePlusPlus, Credit::Gae, Credit::DecoupledGae, Credit::LengthAdaptiveGae];
const CLIPS: &[LossKind] = &[
    LossKind::Clipped,
    LossKind::Gspo,
    LossKind::GspoToken,
    LossKind::Gmpo,
    LossKind::Cispo,
    LossKind::DppoTv,
    LossKind::DppoKl,
    LossKind::ClipCov,
];
const CLIPS_RATIO: &[LossKind] = &[LossKind::Clipped, LossKind::ClipCov];
const ANY_REJECTION: &[RejectionKind] = &[RejectionKind::K1, RejectionKind::K2, RejectionKind::K3];
const KL: Reader = Reader::Above0("kl_coef", |config| config.kl_coef);
const REPLAY: Reader = Reader::Above0("replay_share", |config| config.replay_share);

/// Fields that not every algorithm reads. All others choose a part or are read whatever the parts.
const READERS: [(&str, Reader); 40] = [
    ("step_weight", Reader::Advantage(&[Credit::ProcessGrpo])),
    ("outcome_weight", Reader::Advantage(&[Credit::ProcessGrpo])),
    ("step_credit", Reader::Advantage(&[Credit::ProcessGrpo])),
    ("pass_k", Reader::Advantage(&[Credit::PassAtK])),
    ("gamma", Reader::Advantage(RETURNS)),
    ("lambda", Reader::Advantage(&[Credit::Gae, Credit::DecoupledGae])),
    ("lambda_critic", Reader::Advantage(&[Credit::DecoupledGae])),
    ("length_alpha", Reader::Advantage(&[Credit::LengthAdaptiveGae])),
    ("f_norm", Reader::Advantage(&[Credit::Gpg])),
    ("whitening", Reader::Advantage(&[Credit::Gdpo])),
    ("whiten", Reader::Advantage(GAE_FAMILY)),
    ("clip_low", Reader::Loss(CLIPS)),
    ("clip_high", Reader::Loss(CLIPS)),
    ("dual_clip", Reader::Loss(CLIPS_RATIO)),
    ("ratio_ceiling", Reader::Loss(CLIPS_RATIO)),
    ("tau_positive", Reader::Loss(&[LossKind::Sapo])),
    ("tau_negative", Reader::Loss(&[LossKind::Sapo])),
    ("anchor", Reader::Loss(&[LossKind::Opmd])),
    ("cov_share", Reader::Loss(&[LossKind::ClipCov, LossKind::KlCov])),
    ("cov_low", Reader::Loss(&[LossKind::ClipCov])),
    ("cov_high", Reader::Loss(&[LossKind::ClipCov])),
    ("cov_kl_coef", Reader::Loss(&[LossKind::KlCov])),
    ("kl_estimator", KL),
    ("kl_placement", KL),
    ("kl_target", KL),
    ("kl_horizon", Reader::Above0("kl_target", |config| config.kl_target)),
    ("reference_every", KL),
    ("reference_decay", Reader::Above0("reference_every", |config| config.reference_every as f64)),
    ("value_coef", Reader::Critic),
    ("value_clip", Reader::Critic),
    ("critic_pretrain_steps", Reader::Critic),
    ("critic_learning_rate", Reader::Critic),
    ("correction_low", Reader::Correction { masks: true }),
    ("correction_high", Reader::Correction { masks: false }),
    ("correction_normalise", Reader::Correction { masks: false }),
    ("rejection_level", Reader::Rejection(ANY_REJECTION)),
    ("rejection_low", Reader::Rejection(&[RejectionKind::K1])),
    ("rejection_high", Reader::Rejection(ANY_REJECTION)),
    ("replay_capacity", REPLAY),
    ("replay_alpha", REPLAY),
];

/// Fields that bound how far the policy may move from the old one. With one update a batch, on fresh completions of the
/// policy itself, the two are equal when gradients are taken: every ratio is 1 and no bound is met. An engine elsewhere has
/// other numbers, unless a correction takes the old log-probabilities from the trainer.
const BOUNDS_OF_RATIO: [&str; 6] =
    ["clip_low", "clip_high", "dual_clip", "ratio_ceiling", "tau_positive", "tau_negative"];

/// Fields that bound movements over the updates of a batch alone, whatever engine samples.
const BOUNDS_OF_UPDATES: [&str; 2] = ["value_clip", "off_policy_threshold"];

/// Refuses a field of `given` that `config` does not read.
pub(crate) fn check(
    config: &AlgorithmConfig,
    given: &[&'static str],
    foreign_sampler: bool,
) -> Result<(), AlgorithmError> {
    let moves = config.updates_per_batch > 1 || config.mini_batches > 1 || config.replay_share > 0.0;
    let foreign_ratios = foreign_sampler && config.correction == CorrectionKind::None;
    let is_met = |field| match field {
        field if BOUNDS_OF_RATIO.contains(&field) => moves || foreign_ratios,
        field if BOUNDS_OF_UPDATES.contains(&field) => moves,
        _ => true,
    };
    for &field in given {
        let reader = READERS.iter().find(|(name, _)| *name == field).map(|(_, reader)| reader);
        let (expected, got) = match reader.filter(|reader| !reader.reads(config)) {
            Some(reader) => (reader.choice(), reader.chosen(config)),
            None if !is_met(field) => (
                "mini_batches or updates_per_batch above 1, or replay_share above 0".to_owned(),
                "one update a batch, where the policy is the old one and every ratio is 1".to_owned(),
            ),
            None => continue,
        };
        return Err(AlgorithmError::Unread { field, expected, got });
    }
    Ok(())
}

impl Reader {
    fn reads(&self, config: &AlgorithmConfig) -> bool {
        match self {
            Self::Advantage(kinds) => config.advantage.kind().is_some_and(|kind| kinds.contains(&kind)),
            Self::Loss(kinds) => config.loss.kind().is_some_and(|kind| kinds.contains(&kind)),
            Self::Critic => config.critic != CriticKind::None,
            Self::Correction { masks } => match config.correction {
                CorrectionKind::None => false,
                CorrectionKind::MaskToken | CorrectionKind::MaskSequence | CorrectionKind::MaskGeometric => {
                    true
                }
                _ => !masks,
            },
            Self::Rejection(kinds) => kinds.contains(&config.rejection),
            Self::Above0(_, value) => value(config) > 0.0,
        }
    }

    /// What would read the field, as a recipe says it.
    fn choice(&self) -> String {
        match self {
            Self::Advantage(kinds) => format!("advantage = {}", one_of(kinds)),
            Self::Loss(kinds) => format!("loss = {}", one_of(kinds)),
            Self::Critic => format!("critic = {}", one_of(&[CriticKind::Separate, CriticKind::Shared])),
            Self::Correction { masks: true } => "a correction that masks".to_owned(),
            Self::Correction { masks: false } => "a correction".to_owned(),
            Self::Rejection(kinds) => format!("rejection = {}", one_of(kinds)),
            Self::Above0(field, _) => format!("{field} above 0"),
        }
    }

    /// What the recipe has instead.
    fn chosen(&self, config: &AlgorithmConfig) -> String {
        match self {
            Self::Advantage(_) => format!("advantage = \"{}\"", config.advantage.spelled()),
            Self::Loss(_) => format!("loss = \"{}\"", config.loss.spelled()),
            Self::Critic => format!("critic = {}", one_of(&[config.critic])),
            Self::Correction { .. } => format!("correction = {}", one_of(&[config.correction])),
            Self::Rejection(_) => format!("rejection = {}", one_of(&[config.rejection])),
            Self::Above0(field, value) => format!("{field} = {}", value(config)),
        }
    }
}

/// Kinds as recipes spell them.
pub(crate) fn one_of<T: std::fmt::Debug>(kinds: &[T]) -> String {
    let names: Vec<String> =
        kinds.iter().map(|kind| format!("\"{}\"", snake_case(&format!("{kind:?}")))).collect();
    names.join(" or ")
}

/// `DppoTv` as `dppo_tv`, which is what serde makes of it.
pub(crate) fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    for letter in name.chars() {
        if letter.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.extend(letter.to_lowercase());
    }
    snake
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AlgorithmOverrides, Preset};

    fn refused(overrides: AlgorithmOverrides) -> String {
        overrides.build(8).err().unwrap().to_string()
    }

    #[test]
    fn every_reader_is_of_a_field() {
        let all = AlgorithmConfig::preset(Preset::Grpo).to_overrides();
        for (field, _) in READERS {
            assert!(all.given().contains(&field), "{field}");
        }
    }

    #[test]
    fn the_message_says_what_would_read_the_field() {
        let none = AlgorithmOverrides::default;
        assert_eq!(
            refused(AlgorithmOverrides { correction_low: Some(0.1), ..none() }),
            "algorithm.correction_low: expected a correction that masks, which reads it, or no correction_low; got correction = \"none\""
        );
        assert_eq!(
            refused(AlgorithmOverrides { kl_horizon: Some(10.0), kl_coef: Some(0.1), ..none() }),
            "algorithm.kl_horizon: expected kl_target above 0, which reads it, or no kl_horizon; got kl_target = 0"
        );
        assert_eq!(
            refused(AlgorithmOverrides {
                cov_share: Some(0.1),
                loss: Some(LossKind::DppoTv.into()),
                ..none()
            }),
            "algorithm.cov_share: expected loss = \"clip_cov\" or \"kl_cov\", which reads it, or no cov_share; got loss = \"dppo_tv\""
        );
    }

    #[test]
    fn a_field_counts_where_its_reader_is_chosen() {
        let bounds = AlgorithmOverrides { clip_high: Some(0.28), ..Default::default() };
        assert_eq!(
            refused(bounds.clone()),
            "algorithm.clip_high: expected mini_batches or updates_per_batch above 1, or replay_share above 0, which reads \
             it, or no clip_high; got one update a batch, where the policy is the old one and every ratio is 1"
        );
        let elsewhere = crate::OwnParts::default().with_foreign_sampler(true);
        assert!(bounds.build_with(4, &elsewhere).is_ok(), "another sampler has other numbers");
        let corrected =
            AlgorithmOverrides { correction: Some(CorrectionKind::TruncateToken), ..bounds.clone() };
        let said = corrected.build_with(4, &elsewhere).err().unwrap().to_string();
        assert!(said.starts_with("algorithm.clip_high: expected mini_batches"), "{said}");
        let filtered = AlgorithmOverrides { off_policy_threshold: Some(0.1), ..Default::default() };
        let said = filtered.build_with(4, &elsewhere).err().unwrap().to_string();
        assert!(said.starts_with("algorithm.off_policy_threshold: expected mini_batches"), "{said}");
        for moves in [
            AlgorithmOverrides { mini_batches: Some(2), ..bounds.clone() },
            AlgorithmOverrides { updates_per_batch: Some(2), ..bounds.clone() },
            AlgorithmOverrides { replay_share: Some(0.5), ..bounds },
        ] {
            assert!(moves.build(4).is_ok(), "{moves:?}");
        }
        let critic = AlgorithmOverrides {
            preset: Some(Preset::Ppo),
            value_coef: Some(0.5),
            gamma: Some(0.9),
            critic: Some(CriticKind::Shared),
            ..Default::default()
        };
        assert!(critic.build(1).is_ok());
        let adaptive = AlgorithmOverrides { length_alpha: Some(0.1), ..critic };
        assert!(
            refused(adaptive)
                .starts_with("algorithm.length_alpha: expected advantage = \"length_adaptive_gae\"")
        );
    }
}
