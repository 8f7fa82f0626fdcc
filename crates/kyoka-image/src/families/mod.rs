//! Vision towers of Hugging Face checkpoints: their `config.json`, and where their weights lie.

mod clip;
mod dinov2;
mod qwen_vl;
mod siglip;

pub use clip::ClipVision;
pub use dinov2::Dinov2;
pub use qwen_vl::{Qwen2VlVision, Qwen25Vision};
pub use siglip::SiglipVision;

use kyoka_nn::WeightRule;

/// Rules of the parameters of linear maps: ours, theirs, whether there is a bias. Several maps in one have `rows` each.
fn linears(ours: &str, theirs: &str, rows: usize, parts: &[(&str, &[&str], bool)]) -> Vec<WeightRule> {
    let rules = parts.iter().flat_map(|(part, names, bias)| {
        let on_disk: Vec<String> = names.iter().map(|name| format!("{theirs}{name}")).collect();
        let rules = WeightRule::linear(&format!("{ours}{part}"), &on_disk, *bias);
        let with_rows = move |rule: WeightRule| match names.len() {
            1 => rule,
            count => rule.with_rows(&vec![rows; count]),
        };
        rules.into_iter().map(with_rows)
    });
    rules.collect()
}

/// Rules of layer norms: ours, theirs.
fn layer_norms(ours: &str, theirs: &str, parts: &[(&str, &str)]) -> Vec<WeightRule> {
    let rules = parts.iter().flat_map(|(part, name)| {
        [("gamma", "weight"), ("beta", "bias")].map(|(kind, on_disk)| {
            WeightRule::same(format!("{ours}{part}.{kind}"), format!("{theirs}{name}.{on_disk}"))
        })
    });
    rules.collect()
}
