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

/// A token with its log-probability at temperature 1 over the whole vocabulary.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Drawn {
    pub token: u32,
    pub logprob: f32,
}

/// Draws one token from logits. `None` if they are not numbers, or all tokens are banned.
pub(crate) fn draw(
    logits: &[f32],
    config: &SamplingConfig,
    banned: &[u32],
    rng: &mut impl Rng,
) -> Option<Drawn> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    // The sum of weights relative to the likeliest token, and with it the norm of the whole distribution.
    let mut cumulative = Vec::with_capacity(logits.len());
    let mut total = 0.0_f64;
    for logit in logits {
        total += f64::from((logit - top).exp());
        cumulative.push(total);
    }
    if !(total.is_finite() && top.is_finite()) {
        return None;
    }
    let norm = top + total.ln() as f32;
    let plain = config.temperature == 1.0 && config.top_k == 0 && config.top_p == 1.0 && config.min_p == 0.0;
    let allowed = |&(id, _): &(u32, &f32)| !banned.contains(&id);
    let likeliest = |best: f32, (_, logit): (u32, &f32)| best.max(*logit);
    let top_allowed = (0_u32..).zip(logits).filter(allowed).fold(f32::NEG_INFINITY, likeliest);
    let token = if plain && top_allowed == top {
        draw_plain(&cumulative, banned, rng)?
    } else if plain {
        // A banned token is the likeliest: weights relative to it may all vanish.
        let mut total = 0.0;
        let weights = (0_u32..).zip(logits).map(|entry| {
            total += if allowed(&entry) { f64::from((entry.1 - top_allowed).exp()) } else { 0.0 };
            total
        });
        draw_plain(&weights.collect::<Vec<f64>>(), banned, rng)?
    } else {
        draw_filtered(logits, config, banned, rng)?
    };
    Some(Drawn { token, logprob: logits[token as usize] - norm })
}

/// Inverse distribution function over the whole vocabulary, without sorting; banned tokens are stepped over.
fn draw_plain(cumulative: &[f64], banned: &[u32], rng: &mut impl Rng) -> Option<u32> {
    let mass = |id: usize| cumulative[id] - if id == 0 { 0.0 } else { cumulative[id - 1] };
    let mut skipped: Vec<usize> =
        banned.iter().map(|&id| id as usize).filter(|&id| id < cumulative.len()).collect();
    skipped.sort_unstable();
    skipped.dedup();
    let total = cumulative.last()? - skipped.iter().map(|&id| mass(id)).sum::<f64>();
    let mut target = rng.random::<f64>() * total;
    for &id in &skipped {
        // Everything before the banned token holds the target, or its mass is stepped over.
        if cumulative[id] - mass(id) <= target {
            target += mass(id);
        }
    }
    let index = cumulative.partition_point(|&sum| sum <= target).min(cumulative.len() - 1);
    if skipped.binary_search(&index).is_err() {
        return Some(index as u32);
    }
    // Rounding may end on a banned token: its nearest neighbour with a weight stands in.
    let weighs = |&id: &usize| skipped.binary_search(&id).is_err() && mass(id) > 0.0;
    (0..index).rev().find(weighs).or_else(|| (index..cumulative.len()).find(weighs)).map(|id| id as u32)
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
        for config in [SamplingConfig::default(), SamplingConfig { top_k: 4, ..SamplingConfig::default() }] {
            let mut rng = stream_rng(1, Stream::Rollout, &[]);
            let mut counts = [0; 4];
            for _ in 0..20_000 {
                let drawn = draw(&LOGPROBS, &config, &[2], &mut rng).unwrap();
                assert!((drawn.logprob - LOGPROBS[drawn.token as usize]).abs() < 1e-5);
                counts[drawn.token as usize] += 1;
            }
            assert_eq!(counts[2], 0);
            for (count, share) in [(counts[0], 1.0 / 7.0), (counts[1], 4.0 / 7.0), (counts[3], 2.0 / 7.0)] {
                assert!((f64::from(count) / 20_000.0 - share).abs() < 0.015, "{counts:?}");
            }
        }
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
