//! Credit for 100,000 completions of 100 tokens, one estimator of each family.

use criterion::{Criterion, criterion_group, criterion_main};
use kyoka_algorithms::advantage::{
    Gae, Gdpo, Grpo, LengthAdaptiveGae, Opo, PassAtK, ProcessGrpo, ReinforcePlusPlus,
    ReinforcePlusPlusBaseline, Remax, Rloo,
};
use kyoka_core::{AdvantageEstimator, CreditedStep, GroupRewards};

fn groups() -> Vec<GroupRewards> {
    let step = |value: usize| CreditedStep {
        step: (0, value % 5),
        tokens: value % 100..value % 100 + 1,
        value: (value % 2) as f32,
    };
    let group = |index: usize| GroupRewards {
        totals: (0..8).map(|i| ((index * 7 + i * 3) % 11) as f32).collect(),
        lengths: vec![100; 8],
        steps: (0..8).map(|i| (0..5).map(|s| step(index + i + s)).collect()).collect(),
        parts: (0..8).map(|i| vec![(i % 2) as f32, ((index + i) % 5) as f32]).collect(),
        values: (0..8).map(|i| (0..100).map(|t| ((i + t) % 7) as f32 * 0.1).collect()).collect(),
        greedy_total: Some(1.0),
        ..GroupRewards::default()
    };
    (0..12_500).map(group).collect()
}

fn advantages(c: &mut Criterion) {
    let groups = groups();
    let estimators: [(&str, &dyn AdvantageEstimator); 11] = [
        ("grpo", &Grpo::default()),
        ("rloo", &Rloo::default()),
        ("opo", &Opo::default()),
        ("pass_at_k", &PassAtK { k: 4 }),
        ("process_grpo", &ProcessGrpo::default()),
        ("remax", &Remax),
        ("gdpo", &Gdpo::default()),
        ("reinforce_plus_plus", &ReinforcePlusPlus::default()),
        ("reinforce_plus_plus_baseline", &ReinforcePlusPlusBaseline::default()),
        ("gae", &Gae::default()),
        ("length_adaptive_gae", &LengthAdaptiveGae::default()),
    ];
    for (name, estimator) in estimators {
        c.bench_function(&format!("advantages/{name}/100k"), |b| b.iter(|| estimator.estimate(&groups)));
    }
}

criterion_group!(benches, advantages);
criterion_main!(benches);
