//! Attention over a flat pass: prompts first, their completions after, nothing padded.

use std::sync::Arc;

use burn::tensor::{Int, Tensor, TensorData};

use crate::{
    AttentionLayout, HeadConfig, PrefixKv, attend, attention_bias::MASKED, attention_layout::Block, fused,
};

/// Attention of a whole pass. On the CPU one fused operation that keeps no scores for its backward pass; elsewhere
/// composed from [`attend`].
///
/// # Shapes
/// - input: `[N, (H + 2 Hkv) Dh]`
/// - output: `[N, H Dh]`
///
/// # Panics
/// If the rows are not those of the layout.
pub fn packed_attention(qkv: Tensor<2>, layout: &Arc<AttentionLayout>) -> Tensor<2> {
    let expected = [layout.num_rows(), layout.heads.row_width()];
    assert_eq!(qkv.dims(), expected, "attention: expected rows and width of the layout");
    fused::attention(qkv, layout, composed)
}

/// The composed form, for every device: padded to rectangles, mixed, and packed again.
fn composed(qkv: Tensor<2>, layout: &AttentionLayout) -> Tensor<2> {
    let HeadConfig { num_heads: h, num_kv_heads: kv, d_head } = layout.heads;
    let [n, _] = qkv.dims();
    let padded = layout.padded(&qkv.device());
    let heads: Tensor<3> = qkv.reshape([n, h + 2 * kv, d_head]);
    let mut turned = heads.clone().narrow(1, 0, h + kv);
    if let Some(rotary) = &layout.rotary {
        turned = rotary.apply(turned);
    }
    let value = heads.narrow(1, h + kv, kv);
    let block = |block: Block, rows: &Tensor<1, Int>| {
        let turned = turned.clone().select(0, rows.clone());
        let value = value.clone().select(0, rows.clone());
        let query = split_query(turned.clone().narrow(1, 0, h), block, kv);
        (query, split_kv(turned.narrow(1, h, kv), block), split_kv(value, block))
    };
    let (query, key, value_of_prompts) = block(padded.prompts, &padded.prompt_rows);
    let bias = match (&padded.causal_bias, &padded.prompt_bias) {
        // A causal query never sees the padding after it.
        (Some(causal), _) => Some(causal.clone()),
        (None, padding) => padding.clone().map(|bias| bias.unsqueeze_dim(1)),
    };
    let mixed = attend(query, key.clone(), value_of_prompts.clone(), bias, None);
    let mut output = merge(mixed, padded.prompts, kv);
    if let Some((completions, rows, causal)) = &padded.completions {
        let bias = padded.prompt_bias.clone();
        let prefix = PrefixKv { key: key.squeeze_dim(2), value: value_of_prompts.squeeze_dim(2), bias };
        let (query, key, value) = block(*completions, rows);
        let mixed = attend(query, key, value, Some(causal.clone()), Some(&prefix));
        output = Tensor::cat(vec![output, merge(mixed, *completions, kv)], 0);
    }
    output.select(0, padded.back.clone())
}

/// Attention within sequences of one length in which some positions are seen by nobody, though they see others.
///
/// # Shapes
/// - input: `[B P, (H + 2 Hkv) Dh]`
/// - seen: one a row, true where others see it
/// - output: `[B P, H Dh]`
///
/// # Panics
/// If the rows do not make whole sequences.
pub fn masked_attention(qkv: Tensor<2>, heads: HeadConfig, positions: usize, seen: &[bool]) -> Tensor<2> {
    let HeadConfig { num_heads: h, num_kv_heads: kv, d_head } = heads;
    let [n, _] = qkv.dims();
    assert!(n == seen.len() && n.is_multiple_of(positions), "attention: expected whole sequences of rows");
    let block = Block { b: n / positions, g: 1, t: positions };
    let bias: Vec<f32> = seen.iter().map(|&seen| if seen { 0.0 } else { MASKED }).collect();
    let bias = Tensor::from_data(TensorData::new(bias, [block.b, 1, 1, 1, positions]), &qkv.device());
    let rows: Tensor<3> = qkv.reshape([n, h + 2 * kv, d_head]);
    let query = split_query(rows.clone().narrow(1, 0, h), block, kv);
    let key = split_kv(rows.clone().narrow(1, h, kv), block);
    let value = split_kv(rows.narrow(1, h + kv, kv), block);
    merge(attend(query, key, value, Some(bias), None), block, kv)
}

/// `[b g t, H, Dh]` to `[b, Hkv, g, R t, Dh]`.
fn split_query(rows: Tensor<3>, Block { b, g, t }: Block, kv: usize) -> Tensor<5> {
    let [_, h, d_head] = rows.dims();
    let split: Tensor<6> = rows.reshape([b, g, t, kv, h / kv, d_head]);
    split.permute([0, 3, 1, 4, 2, 5]).reshape([b, kv, g, h / kv * t, d_head])
}

/// `[b g t, Hkv, Dh]` to `[b, Hkv, g, t, Dh]`.
fn split_kv(rows: Tensor<3>, Block { b, g, t }: Block) -> Tensor<5> {
    let [_, kv, d_head] = rows.dims();
    rows.reshape([b, g, t, kv, d_head]).permute([0, 3, 1, 2, 4])
}

/// `[b, Hkv, g, R t, Dh]` to `[b g t, H Dh]`.
fn merge(mixed: Tensor<5>, Block { b, g, t }: Block, kv: usize) -> Tensor<2> {
    let [_, _, _, rt, d_head] = mixed.dims();
    let split: Tensor<6> = mixed.reshape([b, kv, g, rt / t, t, d_head]);
    split.permute([0, 2, 4, 1, 3, 5]).reshape([b * g * t, kv * rt / t * d_head])
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution, Tolerance};

    use super::*;
    use crate::{
        fused::same_form::{assert_same, random},
        indices,
    };

    #[test]
    fn attention_equals_the_composed_form() {
        let heads = HeadConfig { num_heads: 4, num_kv_heads: 2, d_head: 8 };
        let rotary = |rows: usize| {
            let positions: Vec<crate::Position> = (0..rows).map(|row| [row * 7 % 50; 3]).collect();
            crate::Rotary::new(&crate::RotaryConfig::new(8, 100.0), &positions, &Device::flex())
        };
        let prompts = |causal| AttentionLayout::new(heads, &[5, 170, 1], causal);
        let completions = [vec![9, 1, 0, 30], vec![150, 7], vec![]];
        let layouts = [
            prompts(true),
            prompts(false),
            prompts(true).with_rotary(rotary(176)),
            prompts(true).with_completions(&completions).with_rotary(rotary(176 + 197)),
            prompts(false).with_completions(&completions),
        ];
        for layout in layouts {
            let layout = Arc::new(layout);
            let qkv = random([layout.num_rows(), heads.row_width()]);
            assert_same(qkv, |x| packed_attention(x, &layout), |x| composed(x, &layout));
        }
    }

    #[test]
    fn positions_that_nobody_sees_change_nothing_else() {
        let device = Device::default();
        let heads = HeadConfig { num_heads: 2, num_kv_heads: 2, d_head: 4 };
        let qkv = Tensor::<2>::random([6, 24], Distribution::Normal(0.0, 1.0), &device);
        let seen = [true, true, false, true, true, true];
        let masked = masked_attention(qkv.clone(), heads, 3, &seen);
        // Without the third row the first two see the same; the second sequence is whole.
        let lengths = [2, 3];
        let kept = indices(&[0, 1, 3, 4, 5], &device);
        let layout = Arc::new(AttentionLayout::new(heads, &lengths, false));
        let expected = packed_attention(qkv.select(0, kept.clone()), &layout);
        let near = Tolerance::absolute(1e-5);
        masked.select(0, kept).into_data().assert_approx_eq::<f32>(&expected.into_data(), near);
    }
}
