//! Drawing tokens where the logits are: a token and its log-probability come back, not a row of logits.
//!
//! Tokens are drawn by the inverse distribution function from one number a row that the host draws, so a completion
//! depends on its seed and not on who shares the batch. The function is found in two levels (blocks of about `sqrt(V)`
//! tokens, then the tokens of one block), which keeps sums short and exact. Devices cannot sort a vocabulary without
//! copying it to the host; top-k and top-p find the least kept logit by halving an interval instead.

use burn::tensor::{DType, Device, FloatDType, Int, Tensor, TensorData};
use kyoka_core::{Distribution, SamplingConfig};

use crate::sampling::Drawn;

/// Log-weights below this one vanish in f32.
const VANISHED: f64 = -104.0;

/// Halvings of the interval `[VANISHED, 0]`: its end is closer than neighbouring f32 logits are.
const HALVINGS: usize = 32;

/// Just below 1, further than rounding goes.
const BELOW_ONE: f64 = 1.0 - 1.0 / (1 << 22) as f64;

/// Draws for one request; keeps what every step needs.
pub(crate) struct DeviceDraw<'a> {
    sampling: &'a SamplingConfig,
    policy: Distribution<'a>,
    /// Added to the logits; see [`Distribution::ban`].
    ban: Option<Tensor<2>>,
}

impl<'a> DeviceDraw<'a> {
    pub fn new(sampling: &'a SamplingConfig, banned_ids: &'a [u32], vocab: usize, device: &Device) -> Self {
        let policy = sampling.distribution(banned_ids);
        Self { sampling, policy, ban: policy.ban(vocab, device) }
    }

    /// One token a row. `uniforms` are numbers in `[0, 1)`, one a row. `None` where logits are not numbers, or all
    /// tokens are banned.
    ///
    /// # Shapes
    /// - logits: `[R, V]`
    pub fn draw(&self, logits: Tensor<2>, uniforms: &[f32]) -> Vec<Option<Drawn>> {
        let logits = logits.cast(FloatDType::F32);
        let [rows, _] = logits.dims();
        let log_weights = self.log_weights(logits);
        let weights = log_weights.clone().exp();
        let total = weights.clone().sum_dim(1);
        let norm = total.clone().log();
        let of_weights = weights.clone() * log_weights.clone().clamp_min(VANISHED);
        let entropy = norm.clone() - of_weights.sum_dim(1) / total;
        let token = if self.sampling.temperature == 0.0 {
            log_weights.clone().argmax(1)
        } else {
            let data = TensorData::new(uniforms.to_vec(), [rows, 1]);
            let uniforms = Tensor::from_data(data, (&log_weights.device(), DType::F32));
            inverse_distribution(self.filtered(weights, &log_weights), uniforms)
        };
        let logprob = log_weights.gather(1, token.clone()) - norm;
        // Ids are exact in f32; together with the other numbers they are one wait for the device.
        let all = Tensor::cat(vec![token.float().cast(FloatDType::F32), logprob, entropy], 1);
        let all: Vec<f32> = all.into_data().try_into_vec_as().unwrap_or_default();
        let drawn = |numbers: &[f32]| {
            let drawn = Drawn { token: numbers[0] as u32, logprob: numbers[1], entropy: numbers[2] };
            (drawn.logprob.is_finite() && !self.policy.banned.contains(&drawn.token)).then_some(drawn)
        };
        let mut drawn: Vec<Option<Drawn>> = all.chunks_exact(3).map(drawn).collect();
        drawn.resize(rows, None);
        drawn
    }

    /// Logits below the largest one, divided by the temperature; far below where a token is banned.
    fn log_weights(&self, logits: Tensor<2>) -> Tensor<2> {
        let allowed = match &self.ban {
            Some(ban) => logits + ban.clone(),
            None => logits,
        };
        let top = allowed.clone().max_dim(1);
        (allowed - top) * (1.0 / f64::from(self.policy.temperature))
    }

    /// The weights of log-weights, 0 where a token may not be drawn. Top-k, top-p and min-p act in this order, as on the
    /// host; of tokens that are equally likely at the edge all stay.
    fn filtered(&self, mut weights: Tensor<2>, log_weights: &Tensor<2>) -> Tensor<2> {
        let SamplingConfig { top_k, top_p, min_p, .. } = *self.sampling;
        let [_, vocab] = log_weights.dims();
        if top_k > 0 && top_k < vocab {
            let enough = |kept: Tensor<2>| kept.sum_dim(1).sub_scalar(top_k as f64 - 0.5);
            weights = weights * at_least(log_weights, least_kept(log_weights, enough));
        }
        if top_p < 1.0 {
            let wanted = weights.clone().sum_dim(1) * f64::from(top_p);
            let enough = |kept: Tensor<2>| (kept * weights.clone()).sum_dim(1) - wanted.clone();
            let least = least_kept(log_weights, enough);
            weights = weights * at_least(log_weights, least);
        }
        if min_p > 0.0 {
            let floor = log_weights.clone().lower_scalar(f64::from(min_p).ln());
            weights = weights.mask_fill(floor, 0.0);
        }
        weights
    }
}

/// 1 where a log-weight is at least its row's bound, else 0.
fn at_least(log_weights: &Tensor<2>, bound: Tensor<2>) -> Tensor<2> {
    (log_weights.clone() - bound).greater_equal_scalar(0.0).float().cast(FloatDType::F32)
}

/// The largest bound, a row, at which the tokens that reach it are enough: at which `enough` is not negative.
///
/// # Shapes
/// - output: `[R, 1]`
fn least_kept(log_weights: &Tensor<2>, enough: impl Fn(Tensor<2>) -> Tensor<2>) -> Tensor<2> {
    let [rows, _] = log_weights.dims();
    let edge = |value: f64| Tensor::full([rows, 1], value, (&log_weights.device(), DType::F32));
    let (mut low, mut high): (Tensor<2>, Tensor<2>) = (edge(VANISHED), edge(0.0));
    for _ in 0..HALVINGS {
        let middle = (low.clone() + high.clone()) * 0.5;
        let reached = enough(at_least(log_weights, middle.clone())).greater_equal_scalar(0.0);
        low = low.mask_where(reached.clone(), middle.clone());
        high = middle.mask_where(reached, high);
    }
    low
}

/// The first token at which the running sum of weights exceeds `uniforms` of the whole; its weight is not 0.
///
/// # Shapes
/// - weights: `[R, V]`
/// - uniforms: `[R, 1]`
/// - output: `[R, 1]`
fn inverse_distribution(weights: Tensor<2>, uniforms: Tensor<2>) -> Tensor<2, Int> {
    let ([rows, vocab], device) = (weights.dims(), weights.device());
    let width = vocab.isqrt().max(1);
    let count = vocab.div_ceil(width);
    let missing = count * width - vocab;
    let padding = |missing| Tensor::zeros([rows, missing], (&device, DType::F32));
    let weights = if missing == 0 { weights } else { Tensor::cat(vec![weights, padding(missing)], 1) };
    let blocks: Tensor<3> = weights.reshape([rows, count, width]);
    let sums: Tensor<2> = blocks.clone().sum_dim(2).reshape([rows, count]);
    let ends = sums.clone().cumsum(1);
    let total = ends.clone().narrow(1, count - 1, 1);
    let target = (uniforms * total.clone()).min_pair(total * BELOW_ONE);
    let block = first_above(ends.clone(), sums.clone(), target.clone());
    let before = (ends - sums).gather(1, block.clone());
    let places: Tensor<3, Int> = block.clone().reshape([rows, 1, 1]).repeat_dim(2, width);
    let inside: Tensor<2> = blocks.gather(1, places).reshape([rows, width]);
    let ends = inside.clone().cumsum(1);
    let last = ends.clone().narrow(1, width - 1, 1);
    let target = (target - before).clamp_min(0.0).min_pair(last * BELOW_ONE);
    // Without a weight, as from logits that are not numbers, the last place is in the padding.
    (block * width as i64 + first_above(ends, inside, target)).clamp_max(vocab as i64 - 1)
}

/// The first place whose running sum exceeds the target and whose own part is not 0; the last place if there is none.
///
/// # Shapes
/// - ends and parts: `[R, N]`
/// - target and output: `[R, 1]`
fn first_above(ends: Tensor<2>, parts: Tensor<2>, target: Tensor<2>) -> Tensor<2, Int> {
    let ([rows, count], device) = (ends.dims(), ends.device());
    let places: Tensor<2, Int> = Tensor::arange(0..count as i64, &device).reshape([1, count]);
    let above = (ends - target).greater_scalar(0.0).bool_and(parts.greater_scalar(0.0));
    places.repeat_dim(0, rows).mask_fill(above.bool_not(), count as i64 - 1).min_dim(1)
}

#[cfg(test)]
mod tests {
    use kyoka_core::{Stream, stream_rng};
    use rand::RngExt;

    use super::*;
    use crate::sampling::{distribution, draw};

    const VOCAB: usize = 37;

    /// Logits of some rows, all different within a row.
    fn logits(rows: usize) -> Vec<f32> {
        (0..rows * VOCAB).map(|i| ((i * 7919 % 1013) as f32 / 1013.0 - 0.5) * 8.0).collect()
    }

    fn on_device(
        sampling: &SamplingConfig,
        banned: &[u32],
        logits: &[f32],
        uniforms: &[f32],
    ) -> Vec<Option<Drawn>> {
        let (device, rows) = (Device::default(), logits.len() / VOCAB);
        let logits = Tensor::from_data(TensorData::new(logits.to_vec(), [rows, VOCAB]), &device);
        DeviceDraw::new(sampling, banned, VOCAB, &device).draw(logits, uniforms)
    }

    #[test]
    fn unfiltered_draws_are_those_of_the_host() {
        let sampling = SamplingConfig { temperature: 1.6, ..SamplingConfig::default() };
        let banned = [3, 36, 99];
        let logits = logits(200);
        let rng = |row: u64| stream_rng(9, Stream::Rollout, &[row]);
        let uniforms: Vec<f32> = (0..200).map(|row| rng(row).random::<f64>() as f32).collect();
        let drawn = on_device(&sampling, &banned, &logits, &uniforms);
        for (row, (drawn, logits)) in drawn.iter().zip(logits.chunks_exact(VOCAB)).enumerate() {
            let expected = draw(logits, &sampling, &banned, &mut rng(row as u64)).unwrap();
            let drawn = drawn.unwrap();
            assert_eq!(drawn.token, expected.token, "row {row}");
            assert!((drawn.logprob - expected.logprob).abs() < 1e-5);
            assert!((drawn.entropy - expected.entropy).abs() < 1e-5);
        }
    }

    #[test]
    fn every_number_finds_a_token_that_may_be_drawn() {
        let logits: Vec<f32> = (0..VOCAB).map(|id| if id % 5 == 2 { 1.0 } else { -200.0 }).collect();
        for uniform in [0.0, 0.3, 0.999_999, 0.999_999_94] {
            let drawn = on_device(&SamplingConfig::default(), &[2], &logits, &[uniform])[0].unwrap();
            assert!(drawn.token % 5 == 2 && drawn.token != 2, "{uniform} draws {}", drawn.token);
        }
        let greedy = SamplingConfig::greedy(1);
        assert!(on_device(&greedy, &[2, 7], &logits, &[0.5])[0].unwrap().token >= 12);
    }

    #[test]
    fn filters_keep_the_tokens_and_shares_of_the_host() {
        let base = SamplingConfig { temperature: 0.7, ..SamplingConfig::default() };
        let logits = logits(5);
        for sampling in [
            base.clone(),
            SamplingConfig { top_k: 1, ..base.clone() },
            SamplingConfig { top_k: 7, ..base.clone() },
            SamplingConfig { top_p: 0.8, ..base.clone() },
            SamplingConfig { top_p: 0.01, ..base.clone() },
            SamplingConfig { min_p: 0.1, ..base.clone() },
            SamplingConfig { top_k: 9, top_p: 0.9, min_p: 0.05, ..base.clone() },
        ] {
            let device = Device::default();
            let allowed: Tensor<2> = Tensor::from_data(TensorData::new(logits.clone(), [5, VOCAB]), &device);
            let draw = DeviceDraw::new(&sampling, &[5], VOCAB, &device);
            let log_weights = draw.log_weights(allowed);
            let weights = draw.filtered(log_weights.clone().exp(), &log_weights);
            let shares: Vec<f32> = (weights.clone() / weights.sum_dim(1)).into_data().try_into_vec().unwrap();
            for (shares, logits) in shares.chunks_exact(VOCAB).zip(logits.chunks_exact(VOCAB)) {
                let mut expected = vec![0.0; VOCAB];
                for (id, share) in distribution(logits, &sampling, &[5]) {
                    expected[id as usize] = share;
                }
                for (id, (share, expected)) in shares.iter().zip(expected).enumerate() {
                    assert!((share - expected).abs() < 1e-5, "{sampling:?}: token {id}: {share}, {expected}");
                }
            }
        }
    }

    #[test]
    fn numbers_that_are_none_give_no_token() {
        let mut broken = logits(2);
        broken[VOCAB + 4] = f32::NAN;
        let drawn = on_device(&SamplingConfig::default(), &[], &broken, &[0.5, 0.5]);
        assert!(drawn[0].is_some() && drawn[1].is_none());
        let all: Vec<u32> = (0..VOCAB as u32).collect();
        assert!(on_device(&SamplingConfig::default(), &all, &logits(1), &[0.5])[0].is_none());
    }
}
