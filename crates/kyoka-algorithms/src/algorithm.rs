//! An algorithm as a composition of parts: the names of the parts, and the parts put together.

use kyoka_core::{AdvantageEstimator, PolicyLoss};
use serde::{Deserialize, Serialize};

use crate::{
    Correction, EntropyBonus, Kl, Reduction,
    correction::{RejectionLevel, RejectionRule},
};

/// A named, vetted setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// Williams 1992, with the batch's mean as baseline.
    Reinforce,
    /// DeepSeekMath, arXiv 2402.03300.
    Grpo,
    /// GRPO with credit at the steps, after arXiv 2402.03300 section 4.1.3.
    ProcessGrpo,
    /// "Understanding R1-Zero-like training", arXiv 2503.20783.
    DrGrpo,
    /// "Back to basics", arXiv 2402.14740.
    Rloo,
    /// REINFORCE++, arXiv 2501.03262.
    ReinforcePlusPlus,
    /// REINFORCE++-baseline, arXiv 2501.03262.
    ReinforcePlusPlusBaseline,
    /// ReMax, arXiv 2310.10505.
    Remax,
    /// DAPO, arXiv 2503.14476.
    Dapo,
    /// CPPO, arXiv 2503.22342.
    Cppo,
    /// GPG, arXiv 2504.02546.
    Gpg,
    /// GSPO, arXiv 2507.18071.
    Gspo,
    /// GMPO, arXiv 2507.20673.
    Gmpo,
    /// CISPO (MiniMax-M1), arXiv 2506.13585.
    Cispo,
    /// SAPO, arXiv 2511.20347.
    Sapo,
    /// Online policy mirror descent (Kimi k1.5), arXiv 2501.12599.
    Opmd,
    /// PPO, arXiv 1707.06347.
    Ppo,
    /// VC-PPO, arXiv 2503.01491.
    VcPpo,
    /// VAPO, arXiv 2504.05118.
    Vapo,
    /// Open-Reasoner-Zero, arXiv 2503.24290.
    OpenReasonerZero,
    /// Lite PPO, arXiv 2508.08221.
    LitePpo,
    /// OPO, arXiv 2505.23585.
    Opo,
    /// GDPO, arXiv 2601.05242.
    Gdpo,
    /// MaxRL, arXiv 2602.02710.
    Maxrl,
}

impl Preset {
    /// All of them, in the order of `docs/algorithms.md`.
    pub const ALL: [Self; 24] = [
        Self::Reinforce,
        Self::Grpo,
        Self::ProcessGrpo,
        Self::DrGrpo,
        Self::Rloo,
        Self::ReinforcePlusPlus,
        Self::ReinforcePlusPlusBaseline,
        Self::Remax,
        Self::Dapo,
        Self::Cppo,
        Self::Gpg,
        Self::Gspo,
        Self::Gmpo,
        Self::Cispo,
        Self::Sapo,
        Self::Opmd,
        Self::Ppo,
        Self::VcPpo,
        Self::Vapo,
        Self::OpenReasonerZero,
        Self::LitePpo,
        Self::Opo,
        Self::Gdpo,
        Self::Maxrl,
    ];
}

/// How credit is assigned; each name is a struct of [`crate::advantage`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the structs of `advantage` are documented under the same names")]
pub enum Credit {
    Reinforce,
    Grpo,
    ProcessGrpo,
    DrGrpo,
    Rloo,
    ReinforcePlusPlus,
    ReinforcePlusPlusBaseline,
    Remax,
    Opo,
    PassAtK,
    PassAtKBest,
    MaxRl,
    LitePpo,
    Gdpo,
    Gpg,
    Gae,
    DecoupledGae,
    LengthAdaptiveGae,
}

/// The per-token loss; each name is a struct of [`crate::policy_loss`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LossKind {
    /// See [`crate::policy_loss::ReinforceLoss`]; GPG's loss too.
    Reinforce,
    /// See [`crate::policy_loss::ClippedLoss`].
    Clipped,
    /// See [`crate::policy_loss::Gspo`].
    Gspo,
    /// See [`crate::policy_loss::GspoToken`].
    GspoToken,
    /// See [`crate::policy_loss::Gmpo`].
    Gmpo,
    /// See [`crate::policy_loss::Cispo`].
    Cispo,
    /// See [`crate::policy_loss::Sapo`].
    Sapo,
    /// See [`crate::policy_loss::Dppo`], by total variation.
    DppoTv,
    /// See [`crate::policy_loss::Dppo`], by binary KL.
    DppoKl,
    /// See [`crate::policy_loss::ClipCov`].
    ClipCov,
    /// See [`crate::policy_loss::KlCov`].
    KlCov,
    /// See [`crate::policy_loss::Opmd`].
    Opmd,
}

/// Who says what a state is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CriticKind {
    /// Nobody.
    None,
    /// A model of its own, started from the policy, with a scalar head.
    Separate,
    /// A scalar head on the policy's own trunk.
    Shared,
}

/// The correction of a mismatch between sampler and trainer; see [`Correction`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CorrectionKind {
    /// None.
    None,
    /// Token weights cut at `correction_high`.
    TruncateToken,
    /// Sequence weights cut at `correction_high`.
    TruncateSequence,
    /// Geometric means of a sequence's weights, cut at `correction_high`.
    TruncateGeometric,
    /// Tokens with a weight outside `[correction_low, correction_high]` are dropped.
    MaskToken,
    /// Completions whose weight lies outside are dropped.
    MaskSequence,
    /// Completions whose geometric mean lies outside are dropped.
    MaskGeometric,
}

/// What is dropped where sampler and trainer disagree; see [`RejectionRule`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RejectionKind {
    /// Nothing.
    None,
    /// What has a ratio `mu / pi` outside `[rejection_low, rejection_high]`.
    K1,
    /// What has a `l^2 / 2` above `rejection_high`.
    K2,
    /// What has a `exp(l) - l - 1` above `rejection_high`.
    K3,
}

/// Tokens or completions to drop, by [`crate::correction::keep_mask`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rejection {
    /// The value that is looked at, and its bounds.
    pub rule: RejectionRule,
    /// What is judged.
    pub level: RejectionLevel,
}

/// The critic's part of an algorithm.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CriticSettings {
    /// Whether the critic has a trunk of its own.
    pub kind: CriticKind,
    /// Weight of the value loss; with a shared trunk against the policy loss, else its only factor.
    pub value_coef: f64,
    /// Passed to [`crate::value_loss`]: how far a value may move in one batch.
    pub value_clip: Option<f64>,
    /// Steps that train the critic alone, on the returns of the policy it starts from (targets of
    /// [`crate::advantage::Gae`] with `lambda = 1`), before the first policy step and on top of the policy's steps.
    pub pretrain_steps: usize,
    /// Peak of the critic's learning rate; none means that of the policy.
    pub learning_rate: Option<f64>,
}

/// When the reference policy follows the policy.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReferenceRefresh {
    /// Steps between updates of the reference.
    pub every: usize,
    /// `reference <- decay * reference + (1 - decay) * policy`; 0 copies.
    pub decay: f64,
}

/// Selective Sample Replay, see [`crate::filter::ReplayBuffer`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ReplaySettings {
    /// Share of the whole batch that is replayed, in (0, 1).
    pub share: f64,
    /// Completions kept.
    pub capacity: usize,
    /// Power of `|A|` that the chance of a draw is proportional to.
    pub alpha: f64,
}

/// Which samples and tokens take part, see [`crate::filter`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SampleFilters {
    /// Give completions that the length limit cut off no token in the loss (`filter::without_overlong`, on the lengths
    /// that the reduction's weights are computed from).
    pub mask_overlong: bool,
    /// After credit, keep this share of each group (`filter::strongest`).
    pub keep_share: f64,
    /// Completions of earlier steps that are trained again; none keeps no buffer.
    pub replay: Option<ReplaySettings>,
    /// Drop bad completions that the policy has left behind (`filter::keeps_on_policy`), before each update.
    pub off_policy_threshold: Option<f64>,
    /// Share of the step's tokens with the highest entropy whose surrogate is trained (`filter::top_entropy_mask`); no
    /// denominator changes. 1 trains all and needs no entropies.
    pub top_entropy_share: f64,
}

/// What messages call the parts that may come from outside: their kinds as recipes write them, or their own names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartNames {
    /// The estimator's.
    pub advantage: String,
    /// The policy loss's.
    pub loss: String,
}

/// An algorithm ready to run. Each field says what a trainer must do with it.
pub struct Algorithm {
    /// What messages call its parts.
    pub names: PartNames,
    /// Rewards to credit; its `needs_*` methods say what `GroupRewards` must hold.
    pub advantage: Box<dyn AdvantageEstimator>,
    /// Credit to per-token loss.
    pub loss: Box<dyn PolicyLoss>,
    /// Per-token loss to one number, by weights from the lengths of the whole batch.
    pub reduction: Reduction,
    /// Penalty for leaving the reference policy; its `placement` says whether loss or reward.
    pub kl: Option<Kl>,
    /// When the reference follows the policy; none keeps it frozen.
    pub reference_refresh: Option<ReferenceRefresh>,
    /// The critic, exactly where `advantage.needs_values()`.
    pub critic: Option<CriticSettings>,
    /// Weight of the likelihood of right completions, see [`crate::positive_nll`]; 0 is none.
    pub nll_coef: f64,
    /// Bonus for entropy, with [`crate::entropy()`] of the policy's logits as per-token values under `reduction`.
    pub entropy: Option<EntropyBonus>,
    /// Weights for the per-token loss, from the trainer's log-probabilities at the start of the batch minus the
    /// sampler's; with it `PolicyLossInput::old_logprobs` are the trainer's.
    pub correction: Option<Correction>,
    /// What has no token in the loss for the same mismatch.
    pub rejection: Option<Rejection>,
    /// Which samples and tokens take part.
    pub filters: SampleFilters,
    /// Drop groups that give no credit (`filter::gives_credit`) and refill.
    pub dynamic_sampling: bool,
    /// Passes over one batch of rollouts.
    pub updates_per_batch: usize,
    /// Parts of a batch in each pass; each is an optimizer update.
    pub mini_batches: usize,
}

/// Why a composition was refused.
#[derive(Debug, Clone, thiserror::Error, PartialEq)]
pub enum AlgorithmError {
    /// A field is out of range.
    #[error("algorithm.{field}: expected {expected}, got {got}")]
    OutOfRange {
        /// The field.
        field: &'static str,
        /// Its range.
        expected: &'static str,
        /// The value.
        got: f64,
    },
    /// A field is given that the chosen parts do not read.
    #[error("algorithm.{field}: expected {expected}, which reads it, or no {field}; got {got}")]
    Unread {
        /// The field.
        field: &'static str,
        /// The choice that reads it.
        expected: String,
        /// The choice that was made.
        got: String,
    },
    /// Group-relative credit needs a group.
    #[error(
        "algorithm: {advantage} compares the completions of a prompt: expected group_size of at least {expected}, got {got}"
    )]
    GroupTooSmall {
        /// The estimator.
        advantage: String,
        /// Fewest completions.
        expected: usize,
        /// The recipe's group size.
        got: usize,
    },
    /// A part with settings of its own cannot be made of them, or is not there.
    #[error("algorithm.{field}: {reason}")]
    OwnPart {
        /// The field that chooses the part, or a field of its settings: `advantage.epsilon`.
        field: String,
        /// What is wrong.
        reason: String,
    },
    /// The parts do not go together.
    #[error("algorithm: {reason}")]
    NoMeaning {
        /// What does not go with what, expected and got.
        reason: String,
    },
}

/// An error that names the field, unless `holds`.
pub(crate) fn in_range(
    holds: bool,
    field: &'static str,
    expected: &'static str,
    got: f64,
) -> Result<(), AlgorithmError> {
    if holds && !got.is_nan() { Ok(()) } else { Err(AlgorithmError::OutOfRange { field, expected, got }) }
}
