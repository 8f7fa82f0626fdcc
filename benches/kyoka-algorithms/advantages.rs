//! Credit for 100,000 completions of 100 tokens.

use criterion::{Criterion, criterion_group, criterion_main};
use kyoka_algorithms::advantage::{Grpo, ProcessGrpo};
use kyoka_core::{AdvantageEstimator, CreditedStep, GroupRewards};

fn groups() -> Vec<GroupRewards> {
    let step = |value: usize| CreditedStep { step: value % 5, token: value % 100, value: (value % 2) as f32 };
    let group = |index: usize| GroupRewards {
        totals: (0..8).map(|i| ((index * 7 + i * 3) % 11) as f32).collect(),
        lengths: vec![100; 8],
        steps: (0..8).map(|i| (0..5).map(|s| step(index + i + s)).collect()).collect(),
        ..GroupRewards::default()
    };
    (0..12_500).map(group).collect()
}

fn advantages(c: &mut Criterion) {
    let groups = groups();
    let estimators: [(&str, &dyn AdvantageEstimator); 2] =
        [("grpo", &Grpo::default()), ("process_grpo", &ProcessGrpo::default())];
    for (name, estimator) in estimators {
        c.bench_function(&format!("advantages/{name}/100k"), |b| b.iter(|| estimator.estimate(&groups)));
    }
}

criterion_group!(benches, advantages);
criterion_main!(benches);
