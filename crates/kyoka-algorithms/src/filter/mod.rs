//! Which samples and tokens take part, as pure numbers.

mod cppo;
mod dynamic_sampling;
mod off_policy_mask;
mod overlong;
mod replay;
mod top_entropy;

pub use cppo::strongest;
pub use dynamic_sampling::{gives_credit, is_informative};
pub use off_policy_mask::keeps_on_policy;
pub use overlong::without_overlong;
pub use replay::ReplayBuffer;
pub use top_entropy::top_entropy_mask;
