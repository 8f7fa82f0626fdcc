//! From logits to a token.

use kyoka_core::SamplingConfig;
use rand::{Rng, RngExt};

/// The tokens that may be drawn with their probabilities, likeliest first.
///
/// Banned tokens are taken out, then temperature, top-k, top-p and min-p act in this order, as in transformers.
/// A temperature of 0 keeps the likeliest token (the first of equals).
pub fn distribution(logits: &[f32], config: &SamplingConfig, banned: &[u32]) -> Vec<(u32, f32)> {
    let mut kept: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
    for &id in banned {
        if let Some(entry) = kept.get_mut(id as usize) {
            entry.1 = f32::NEG_INFINITY;
        }
    }
    kept.retain(|&(_, logit)| logit > f32::NEG_INFINITY);
    kept.sort_by(|a, b| b.1.total_cmp(&a.1));
    if config.temperature == 0.0 {
        kept.truncate(1);
        return kept.into_iter().map(|(id, _)| (id, 1.0)).collect();
    }
    let highest = kept.first().map_or(0.0, |&(_, logit)| logit);
    for entry in &mut kept {
        entry.1 = ((entry.1 - highest) / config.temperature).exp();
    }
    if config.top_k > 0 {
        kept.truncate(config.top_k);
    }
    normalise(&mut kept);
    if config.top_p < 1.0 {
        let mut before = 0.0;
        let within = kept.iter().take_while(|&&(_, probability)| {
            let keeps = before < config.top_p;
            before += probability;
            keeps
        });
        let count = within.count();
        kept.truncate(count.max(1));
        normalise(&mut kept);
    }
    if config.min_p > 0.0 {
        let floor = config.min_p * kept[0].1;
        kept.retain(|&(_, probability)| probability >= floor);
        normalise(&mut kept);
    }
    kept
}

fn normalise(kept: &mut [(u32, f32)]) {
    let total: f32 = kept.iter().map(|&(_, weight)| weight).sum();
    for entry in kept {
        entry.1 /= total;
    }
}

/// A token, its log-probability, and the entropy of the policy where it was drawn, both in
/// [`SamplingConfig::distribution`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Drawn {
    pub token: u32,
    pub logprob: f32,
    pub entropy: f32,
}

/// Draws one token from logits. `None` if they are not numbers, or all tokens are banned.
pub(crate) fn draw(
    logits: &[f32],
    config: &SamplingConfig,
    banned: &[u32],
    rng: &mut impl Rng,
) -> Option<Drawn> {
    let policy = config.distribution(banned);
    let mut log_weights = logits.to_vec();
    policy.banned_within(logits.len()).for_each(|id| log_weights[id] = f32::NEG_INFINITY);
    let top = log_weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sharpness = 1.0 / policy.temperature;
    // Weights relative to the likeliest token; their running sum, and that of `w log w`, which the entropy is made of.
    let mut cumulative = Vec::with_capacity(logits.len());
    let (mut total, mut weighted) = (0.0_f64, 0.0_f64);
    for log_weight in &mut log_weights {
        *log_weight = (*log_weight - top) * sharpness;
        let weight = f64::from(log_weight.exp());
        total += weight;
        if weight > 0.0 {
            weighted += weight * f64::from(*log_weight);
        }
        cumulative.push(total);
    }
    // Logits that are no numbers may hide behind a ban or below a largest one.
    if !(total.is_finite() && top.is_finite() && logits.iter().all(|logit| *logit < f32::INFINITY)) {
        return None;
    }
    let token = match config.draws_from_the_whole_distribution() {
        true => draw_from(&cumulative, rng)?,
        false => draw_filtered(logits, config, banned, rng)?,
    };
    let norm = total.ln();
    let logprob = (f64::from(log_weights[token as usize]) - norm) as f32;
    Some(Drawn { token, logprob, entropy: (norm - weighted / total) as f32 })
}

/// Inverse distribution function over the whole vocabulary, without sorting.
fn draw_from(cumulative: &[f64], rng: &mut impl Rng) -> Option<u32> {
    let target = rng.random::<f64>() * cumulative.last()?;
    let index = cumulative.partition_point(|&sum| sum <= target);
    // Rounding may step over the end: the last token with a weight stands in.
    let last = || cumulative.partition_point(|&sum| sum < cumulative[cumulative.len() - 1]);
    Some(if index < cumulative.len() { index } else { last() } as u32)
}

fn draw_filtered(logits: &[f32], config: &SamplingConfig, banned: &[u32], rng: &mut impl Rng) -> Option<u32> {
    let kept = distribution(logits, config, banned);
    let mut target: f32 = rng.random();
    let drawn = kept.iter().find(|&&(_, probability)| {
        target -= probability;
        target < 0.0
    });
    drawn.or(kept.last()).map(|&(id, _)| id)
}

#[cfg(test)]
mod tests {
    use kyoka_core::{Stream, stream_rng};

    use super::*;

    /// Of 0.1, 0.4, 0.3 and 0.2.
    const LOGPROBS: [f32; 4] = [-std::f32::consts::LN_10, -0.916_291, -1.203_973, -1.609_438];

    fn ids(config: &SamplingConfig, banned: &[u32]) -> Vec<u32> {
        distribution(&LOGPROBS, config, banned).iter().map(|&(id, _)| id).collect()
    }

    #[test]
    fn filters_keep_the_tokens_they_say() {
        let base = SamplingConfig::default();
        assert_eq!(ids(&base, &[]), [1, 2, 3, 0]);
        assert_eq!(ids(&SamplingConfig { top_k: 2, ..base.clone() }, &[]), [1, 2]);
        assert_eq!(ids(&SamplingConfig { top_p: 0.65, ..base.clone() }, &[]), [1, 2]);
        assert_eq!(ids(&SamplingConfig { top_p: 0.01, ..base.clone() }, &[]), [1]);
        assert_eq!(ids(&SamplingConfig { min_p: 0.6, ..base.clone() }, &[]), [1, 2]);
        assert_eq!(ids(&SamplingConfig::greedy(8), &[]), [1]);
        assert_eq!(ids(&SamplingConfig::greedy(8), &[1]), [2]);
    }

    #[test]
    fn temperature_sharpens_and_flattens() {
        let first = |temperature| {
            distribution(&LOGPROBS, &SamplingConfig { temperature, ..SamplingConfig::default() }, &[])[0].1
        };
        // 0.4² / (0.01 + 0.16 + 0.09 + 0.04)
        assert!((first(0.5) - 0.16 / 0.3).abs() < 1e-4);
        assert!(first(100.0) < 0.26);
    }

    #[test]
    fn draws_follow_the_distribution_and_never_hit_a_banned_token() {
        let base = SamplingConfig { temperature: 0.5, ..SamplingConfig::default() };
        for config in [base.clone(), SamplingConfig { top_k: 4, ..base }] {
            let mut rng = stream_rng(1, Stream::Rollout, &[]);
            let mut counts = [0; 4];
            // 0.1, 0.4 and 0.2 squared are left.
            let shares = [1.0 / 21.0, 16.0 / 21.0, 0.0, 4.0 / 21.0_f64];
            let entropy = -shares.iter().filter(|&&p| p > 0.0).map(|p| p * p.ln()).sum::<f64>();
            for _ in 0..20_000 {
                let drawn = draw(&LOGPROBS, &config, &[2, 9], &mut rng).unwrap();
                assert!((f64::from(drawn.logprob) - shares[drawn.token as usize].ln()).abs() < 1e-5);
                assert!((f64::from(drawn.entropy) - entropy).abs() < 1e-5);
                counts[drawn.token as usize] += 1;
            }
            for (count, share) in counts.into_iter().zip(shares) {
                assert!((f64::from(count) / 20_000.0 - share).abs() < 0.015, "{counts:?}");
            }
            assert_eq!(counts[2], 0);
        }
    }

    #[test]
    fn the_likeliest_token_has_the_log_probability_of_temperature_1() {
        let mut rng = stream_rng(1, Stream::Rollout, &[]);
        let drawn = draw(&LOGPROBS, &SamplingConfig::greedy(1), &[1], &mut rng).unwrap();
        assert_eq!(drawn.token, 2);
        assert!((drawn.logprob - 0.5_f32.ln()).abs() < 1e-5, "{drawn:?}");
    }

    #[test]
    fn numbers_that_are_none_give_no_token() {
        let mut rng = stream_rng(1, Stream::Rollout, &[]);
        let mut draw = |logits: &[f32], banned: &[u32]| {
            draw(logits, &SamplingConfig::default(), banned, &mut rng).map(|drawn| drawn.token)
        };
        assert_eq!(draw(&[0.0, f32::NAN], &[]), None);
        assert_eq!(draw(&[0.0, f32::INFINITY], &[]), None);
        assert_eq!(draw(&[0.0, 1.0], &[0, 1]), None);
        assert_eq!(draw(&[0.0, 1.0, f32::NEG_INFINITY], &[1, 1, 9]), Some(0));
        assert_eq!(draw(&[-300.0, 1.0, -400.0], &[1]), Some(0), "however likely the banned token is");
    }
}
