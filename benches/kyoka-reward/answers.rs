//! Answers judged on one core.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use kyoka_core::{Completion, RewardContext, RewardFn, Sample};
use kyoka_reward::{ChoiceAnswer, Format, MathAnswer, completion_of};

fn judged(c: &mut Criterion, name: &str, rule: &dyn RewardFn, pairs: &[(&str, &str)]) {
    let cases: Vec<(Sample, Completion)> = pairs
        .iter()
        .map(|(gold, said)| {
            let row = Sample { answer: Some((*gold).into()), ..Sample::default() };
            let text =
                format!("<think> Let me work this out step by step. </think> <answer> {said} </answer>");
            (row, completion_of(&text, 256))
        })
        .collect();
    let mut group = c.benchmark_group("rewards");
    group.throughput(Throughput::Elements(cases.len() as u64));
    group.bench_function(name, |b| {
        b.iter(|| {
            let scores =
                cases.iter().map(|(row, completion)| rule.score(&RewardContext::of(row), completion));
            scores.filter(|reward| reward.as_ref().is_ok_and(|reward| reward.total == Some(1.0))).count()
        });
    });
    group.finish();
}

fn answers(c: &mut Criterion) {
    let maths = [
        ("42", "42"),
        ("1/2", "\\frac{1}{2}"),
        ("\\sqrt{12}", "2\\sqrt{3}"),
        ("(1, 2]", "(1,2]"),
        ("x^2-1", "(x-1)(x+1)"),
        ("3.14", "3.15"),
        ("\\{1, 2, 3\\}", "3, 1, 2"),
        ("17", "The answer is $18$."),
    ];
    judged(c, "math_answer", &MathAnswer::default(), &maths);
    let choices =
        [("B", "B"), ("C", "(C) the cup"), ("A", "A. the plate"), ("D", "The answer is D."), ("A", "B or C")];
    judged(c, "choice_answer", &ChoiceAnswer::default(), &choices);
    judged(c, "format", &Format::default(), &choices);
}

criterion_group!(benches, answers);
criterion_main!(benches);
