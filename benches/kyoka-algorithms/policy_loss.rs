//! A per-token loss with its gradient at [64, 1024], one of each family.

use burn::tensor::{Device, Distribution, Tensor};
use criterion::{Criterion, criterion_group, criterion_main};
use kyoka_algorithms::{
    KlEstimator, KlInput, ValueLossInput,
    policy_loss::{
        Cispo, ClipCov, ClippedLoss, Dppo, Gmpo, Gspo, GspoToken, KlCov, Opmd, ReinforceLoss, Sapo,
    },
    value_loss,
};
use kyoka_core::{PolicyLoss, PolicyLossInput};

const SHAPE: [usize; 2] = [64, 1024];

fn uniform(low: f64, high: f64) -> Tensor<2> {
    Tensor::random(SHAPE, Distribution::Uniform(low, high), &Device::default())
}

fn input() -> PolicyLossInput {
    let old_logprobs = uniform(-4.0, -0.1);
    let policy_logprobs = old_logprobs.clone() + uniform(-0.1, 0.1);
    PolicyLossInput {
        policy_logprobs,
        old_logprobs,
        advantages: uniform(-1.0, 1.0),
        loss_mask: uniform(0.0, 1.0).greater_scalar(0.1),
    }
}

fn policy_losses(c: &mut Criterion) {
    let losses: [(&str, &dyn PolicyLoss); 11] = [
        ("reinforce", &ReinforceLoss),
        ("clipped", &ClippedLoss { dual_clip: Some(3.0), ..ClippedLoss::default() }),
        ("gspo", &Gspo::default()),
        ("gspo_token", &GspoToken::default()),
        ("gmpo", &Gmpo::default()),
        ("cispo", &Cispo::default()),
        ("sapo", &Sapo::default()),
        ("dppo", &Dppo::default()),
        ("clip_cov", &ClipCov::default()),
        ("kl_cov", &KlCov::default()),
        ("opmd", &Opmd::default()),
    ];
    let input = input();
    for (name, loss) in losses {
        c.bench_function(&format!("policy_loss/{name}/64x1024"), |b| {
            b.iter(|| {
                let policy_logprobs = input.policy_logprobs.clone().autodiff().require_grad();
                let output = loss
                    .evaluate(PolicyLossInput { policy_logprobs: policy_logprobs.clone(), ..input.clone() });
                policy_logprobs.grad(&output.per_token.sum().backward())
            });
        });
    }
}

fn divergence_and_value(c: &mut Criterion) {
    let input = input();
    c.bench_function("kl/k3/64x1024", |b| {
        b.iter(|| {
            let policy_logprobs = input.policy_logprobs.clone().autodiff().require_grad();
            let divergence = KlEstimator::K3.evaluate(KlInput {
                policy_logprobs: policy_logprobs.clone(),
                reference_logprobs: input.old_logprobs.clone(),
                old_logprobs: input.old_logprobs.clone(),
                loss_mask: input.loss_mask.clone(),
            });
            policy_logprobs.grad(&divergence.sum().backward())
        });
    });
    c.bench_function("value_loss/64x1024", |b| {
        b.iter(|| {
            let values = input.policy_logprobs.clone().autodiff().require_grad();
            let loss = value_loss(
                ValueLossInput {
                    values: values.clone(),
                    old_values: input.old_logprobs.clone(),
                    targets: input.advantages.clone(),
                    loss_mask: input.loss_mask.clone(),
                },
                Some(0.2),
            );
            values.grad(&loss.sum().backward())
        });
    });
}

criterion_group!(benches, policy_losses, divergence_and_value);
criterion_main!(benches);
