//! From logits to the distribution that tokens are drawn from.

use anyhow::Result;
use kyoka_core::SamplingConfig;
use kyoka_rollout::distribution;

use super::{
    case::Case,
    report::{Checks, Precision},
};

/// Logits below this stand for banned tokens.
const BANNED: f64 = -1e29;

pub fn run(case: &Case<'_>, checks: &mut Checks) -> Result<()> {
    let logits = case.list("logits")?;
    let narrow: Vec<f32> = logits.iter().map(|&logit| logit as f32).collect();
    let config = SamplingConfig {
        temperature: case.optional("temperature").unwrap_or(1.0) as f32,
        top_k: case.optional("top_k").unwrap_or(0.0) as usize,
        top_p: case.optional("top_p").unwrap_or(1.0) as f32,
        min_p: case.optional("min_p").unwrap_or(0.0) as f32,
        ..SamplingConfig::default()
    };
    let drawn = distribution(&narrow, &config, &[]);
    let mut probabilities = vec![0.0; logits.len()];
    drawn.iter().for_each(|&(id, probability)| probabilities[id as usize] = f64::from(probability));
    checks.compare("probs", &probabilities, &case.list("probs")?, Precision::Single);
    // A banned token may or may not be listed.
    let allowed = |id: &usize| logits[*id] > BANNED;
    let sorted = |ids: Vec<usize>| -> Vec<f64> {
        let mut ids: Vec<usize> = ids.into_iter().filter(allowed).collect();
        ids.sort_unstable();
        ids.into_iter().map(|id| id as f64).collect()
    };
    let support = sorted(drawn.iter().map(|&(id, _)| id as usize).collect());
    checks.compare("support", &support, &sorted(case.counts("support")?), Precision::Exact);
    if case.has("greedy") {
        let greedy = distribution(&narrow, &SamplingConfig { temperature: 0.0, ..config }, &[]);
        let first = greedy.first().map_or(f64::NAN, |&(id, _)| f64::from(id));
        checks.number("greedy", first, case.number("greedy")?, Precision::Exact);
    }
    Ok(())
}
