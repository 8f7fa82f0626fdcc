//! The decoder transformer, Llama/Qwen2-shaped.

use std::sync::Arc;

use burn::{
    module::{Module, Param},
    tensor::{Device, Tensor},
};
use kyoka_core::Distribution;
use kyoka_nn::{
    AttentionLayout, HeadConfig, HostKv, Linear, Linears, NamedLinears, Norm, NormKind, Position,
    RopeScaling, Rotary, RotaryAxes, RotaryConfig, WeightInit, WeightRule, caches_on_host, fused, indices,
    packed_attention,
};
use serde::{Deserialize, Serialize};

use crate::{
    cache::{DecoderCache, DeviceCache, HostCache, split_off},
    decoder_layer::DecoderLayer,
    packing::{Packing, PromptPlaces},
};

/// Sizes of the decoder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DecoderConfig {
    /// Number of token ids.
    pub vocab_size: usize,
    /// Width.
    pub d_model: usize,
    /// Number of layers.
    pub num_layers: usize,
    /// Query heads.
    pub num_heads: usize,
    /// Key and value heads; divides the query heads.
    pub num_kv_heads: usize,
    /// Width of a head; even.
    pub d_head: usize,
    /// Width of the gated MLP.
    pub d_hidden: usize,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// How the frequencies are stretched. Default not at all.
    #[serde(default)]
    pub rope_scaling: Option<RopeScaling>,
    /// Frequencies turned by time, row and column, where positions have axes of their own (`mrope_section`).
    #[serde(default)]
    pub rope_sections: Option<[usize; 3]>,
    /// Added to the mean square in the norms.
    pub norm_epsilon: f64,
    /// Biases on queries, keys and values, as Qwen2 has them.
    pub qkv_bias: bool,
    /// A bias on the attention's output, as Llama may have it. Default false.
    #[serde(default)]
    pub out_bias: bool,
    /// Biases in the MLP, as Llama may have them. Default false.
    #[serde(default)]
    pub mlp_bias: bool,
    /// Norms on the heads of queries and keys, as Qwen3 has them. Default false.
    #[serde(default)]
    pub qk_norm: bool,
    /// Whether the output uses the embedding matrix.
    pub tie_embeddings: bool,
    /// Longest sequence.
    pub max_positions: usize,
}

impl DecoderConfig {
    /// Four layers of width 128: about 0.8 M parameters.
    pub fn tiny(vocab_size: usize) -> Self {
        Self {
            vocab_size,
            d_model: 128,
            num_layers: 4,
            num_heads: 4,
            num_kv_heads: 2,
            d_head: 32,
            d_hidden: 344,
            rope_theta: 10_000.0,
            rope_scaling: None,
            rope_sections: None,
            norm_epsilon: 1e-6,
            qkv_bias: false,
            out_bias: false,
            mlp_bias: false,
            qk_norm: false,
            tie_embeddings: true,
            max_positions: 512,
        }
    }

    /// The rotation of queries and keys.
    pub fn rotary(&self) -> RotaryConfig {
        let axes = self.rope_sections.map_or(RotaryAxes::One, RotaryAxes::Sections);
        RotaryConfig { axes, scaling: self.rope_scaling, ..RotaryConfig::new(self.d_head, self.rope_theta) }
    }
}

/// Embedding, layers, final norm and output.
#[derive(Module, Debug)]
pub struct Decoder {
    /// Shape `[V, D]`.
    pub embedding: Param<Tensor<2>>,
    /// The layers.
    pub layers: Vec<DecoderLayer>,
    /// Norm before the output.
    pub norm: Norm,
    /// Output weight `[D, V]`; absent when tied to the embedding.
    pub head: Option<Linear>,
    num_heads: usize,
    num_kv_heads: usize,
    d_head: usize,
    #[module(skip)]
    rotary: RotaryConfig,
    max_positions: usize,
}

impl Decoder {
    /// A decoder with seeded weights.
    ///
    /// # Panics
    /// If the heads do not divide or the head width is odd.
    pub fn new(config: &DecoderConfig, init: &mut WeightInit) -> Self {
        let DecoderConfig { vocab_size, d_model, num_heads, num_kv_heads, d_head, .. } = *config;
        assert!(num_heads % num_kv_heads == 0, "decoder: {num_kv_heads} key heads do not divide {num_heads}");
        assert!(d_head % 2 == 0, "decoder: rotary embedding needs an even head width, got {d_head}");
        Self {
            embedding: init.uniform([vocab_size, d_model], 0.02 * 3_f32.sqrt()),
            layers: (0..config.num_layers).map(|_| DecoderLayer::new(config, init)).collect(),
            norm: Norm::new(NormKind::RootMeanSquare, d_model, config.norm_epsilon, init),
            head: (!config.tie_embeddings).then(|| init.linear(d_model, vocab_size, false)),
            num_heads,
            num_kv_heads,
            d_head,
            rotary: config.rotary(),
            max_positions: config.max_positions,
        }
    }

    /// How the parameters are made of a Llama or Qwen2 checkpoint's, whose names start with `theirs` (`model.` in a
    /// text-only one) besides the output's, named `head` (`lm_head`); ours start with `ours`.
    pub fn weight_rules(config: &DecoderConfig, ours: &str, theirs: &str, head: &str) -> Vec<WeightRule> {
        let mut rules = vec![
            WeightRule::same(format!("{ours}embedding"), format!("{theirs}embed_tokens.weight")),
            WeightRule::same(format!("{ours}norm.gamma"), format!("{theirs}norm.weight")),
        ];
        if !config.tie_embeddings {
            rules.extend(WeightRule::linear(&format!("{ours}head"), &[head.to_owned()], false));
        }
        for layer in 0..config.num_layers {
            let (ours, theirs) = (format!("{ours}layers.{layer}"), format!("{theirs}layers.{layer}"));
            let mut linear = |part: &str, names: &[&str], rows: &[usize], bias| {
                let names: Vec<String> = names.iter().map(|name| format!("{theirs}.{name}")).collect();
                let linear = WeightRule::linear(&format!("{ours}.{part}"), &names, bias);
                rules.extend(linear.into_iter().map(|rule| rule.with_rows(rows)));
            };
            let [q, kv] = [config.num_heads, config.num_kv_heads].map(|heads| heads * config.d_head);
            let qkv = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"];
            linear("qkv", &qkv, &[q, kv, kv], config.qkv_bias);
            linear("out", &["self_attn.o_proj"], &[config.d_model], config.out_bias);
            let gates = ["mlp.gate_proj", "mlp.up_proj"];
            linear("mlp.gate_up", &gates, &[config.d_hidden; 2], config.mlp_bias);
            linear("mlp.down", &["mlp.down_proj"], &[config.d_model], config.mlp_bias);
            let mut norms =
                vec![("attention_norm", "input_layernorm"), ("mlp_norm", "post_attention_layernorm")];
            if config.qk_norm {
                norms.extend([("query_norm", "self_attn.q_norm"), ("key_norm", "self_attn.k_norm")]);
            }
            rules.extend(norms.into_iter().map(|(part, name)| {
                WeightRule::same(format!("{ours}.{part}.gamma"), format!("{theirs}.{name}.weight"))
            }));
        }
        rules
    }

    /// Where the parameters live.
    pub fn device(&self) -> Device {
        self.embedding.val().device()
    }

    /// Size of the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.embedding.val().dims()[0]
    }

    /// Longest sequence.
    pub fn max_positions(&self) -> usize {
        self.max_positions
    }

    /// Embeddings of token ids.
    ///
    /// # Shapes
    /// - output: `[N, D]`
    pub(crate) fn embed(&self, token_ids: &[usize]) -> Tensor<2> {
        self.embedding.val().select(0, indices(token_ids, &self.device()))
    }

    /// Width of a hidden row.
    pub fn d_model(&self) -> usize {
        self.embedding.val().dims()[1]
    }

    /// Hidden rows after the last norm.
    pub(crate) fn normed(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.norm.forward(hidden)
    }

    /// Logits of hidden rows after the last norm.
    ///
    /// # Shapes
    /// - input: `[N, D]`
    /// - output: `[N, V]`
    pub(crate) fn project(&self, normed: Tensor<2>) -> Tensor<2> {
        match &self.head {
            Some(head) => head.forward(normed),
            None => normed.matmul(self.embedding.val().transpose()),
        }
    }

    /// Logits of hidden rows.
    pub(crate) fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.project(self.normed(hidden))
    }

    /// Log-probability of one target a hidden row, `[N, 1]`.
    pub(crate) fn target_logprobs(
        &self,
        hidden: Tensor<2>,
        targets: &[usize],
        distribution: &Distribution<'_>,
    ) -> Tensor<2> {
        let hidden = self.normed(hidden);
        match &self.head {
            // What adapters or a bias add to the logits has no fused form.
            Some(head) if !head.adapters.is_empty() || head.bias.is_some() => {
                fused::target_logprobs(head.forward(hidden), targets, distribution)
            }
            Some(head) => fused::head_logprobs(hidden, head.weight.val(), false, targets, distribution),
            None => fused::head_logprobs(hidden, self.embedding.val(), true, targets, distribution),
        }
    }

    fn rotary(&self, positions: &[Position], device: &Device) -> Rotary {
        Rotary::new(&self.rotary, positions, device)
    }

    fn layout(&self, prompt_lens: &[usize]) -> AttentionLayout {
        let Self { num_heads, num_kv_heads, d_head, .. } = *self;
        AttentionLayout::new(HeadConfig { num_heads, num_kv_heads, d_head }, prompt_lens, true)
    }

    /// All layers. The last one goes on after its attention with the rows in `wanted` alone: nobody reads the others.
    ///
    /// # Shapes
    /// - input: `[N, D]`
    /// - output: `[M, D]`, `M` the number of wanted rows
    fn run(
        &self,
        input: Tensor<2>,
        wanted: &[usize],
        mut attention: impl FnMut(&DecoderLayer, Tensor<2>) -> Tensor<2>,
    ) -> Tensor<2> {
        let wanted = indices(wanted, &input.device());
        let Some((last, layers)) = self.layers.split_last() else { return input.select(0, wanted) };
        let hidden =
            layers.iter().fold(input, |hidden, layer| layer.forward(hidden, &mut attention, |input| input));
        let pick = |rows: Tensor<2>| rows.select(0, wanted.clone());
        last.forward(hidden, |layer, qkv| pick(attention(layer, qkv)), pick)
    }

    /// Where the rows of a pass over prompts and completions stand.
    pub(crate) fn packed_layout(&self, packing: &Packing, device: &Device) -> Arc<AttentionLayout> {
        let layout = self
            .layout(&packing.prompt_lens)
            .with_completions(&packing.completion_lens)
            .with_rotary(self.rotary(&packing.positions, device));
        Arc::new(layout)
    }

    /// Prompts and completions in one pass without a cache; hidden rows of the positions that predict.
    pub(crate) fn forward_packed(&self, input: Tensor<2>, packing: &Packing) -> Tensor<2> {
        let layout = self.packed_layout(packing, &input.device());
        self.run(input, &packing.predictors, |_, qkv| packed_attention(qkv, &layout))
    }

    /// Reads prompts, one after the other; returns the cache and the hidden rows of each prompt's last token.
    pub(crate) fn prefill(&self, input: Tensor<2>, places: &PromptPlaces) -> (DecoderCache, Tensor<2>) {
        if caches_on_host(&input.device()) {
            let mut layers = Vec::with_capacity(self.layers.len());
            let hidden = self.prefill_into(input, places, |_, qkv, layout| {
                layers.push(HostKv::of_prompts(qkv, layout));
            });
            let cache = HostCache {
                layers,
                starts: places.next.clone(),
                rows: Vec::new(),
                next: Vec::new(),
                num_slots: 0,
            };
            return (DecoderCache::Host(cache), hidden);
        }
        let (cache, hidden) = self.prefill_on_device(input, places);
        (DecoderCache::Device(vec![cache]), hidden)
    }

    fn prefill_on_device(&self, input: Tensor<2>, places: &PromptPlaces) -> (DeviceCache, Tensor<2>) {
        let mut prefix = Vec::with_capacity(self.layers.len());
        let hidden = self.prefill_into(input, places, |layer, qkv, layout| {
            prefix.push(layer.prefix_kv(qkv, layout));
        });
        let (completion, slots) = (Vec::new(), Vec::new());
        let starts = places.next.clone();
        (DeviceCache { prefix, completion, starts, group_size: 0, t: 0, slots }, hidden)
    }

    /// A pass over prompts; `keep` gets queries, keys and values of every layer.
    fn prefill_into(
        &self,
        input: Tensor<2>,
        places: &PromptPlaces,
        mut keep: impl FnMut(&DecoderLayer, &Tensor<2>, &AttentionLayout),
    ) -> Tensor<2> {
        let rotary = self.rotary(&places.positions, &input.device());
        let layout = Arc::new(self.layout(&places.lengths).with_rotary(rotary));
        let last: Vec<usize> = layout.prompts.iter().map(|rows| rows.end - 1).collect();
        self.run(input, &last, |layer, qkv| {
            keep(layer, &qkv, &layout);
            packed_attention(qkv, &layout)
        })
    }

    /// Hidden rows of every position of prompts after the embedding, after each layer, and after the last norm.
    ///
    /// # Shapes
    /// - input: `[N, D]`
    /// - outputs: `[N, D]` each, `num_layers + 1` of them
    pub(crate) fn trace(&self, input: Tensor<2>, places: &PromptPlaces) -> Vec<Tensor<2>> {
        let rotary = self.rotary(&places.positions, &input.device());
        let layout = Arc::new(self.layout(&places.lengths).with_rotary(rotary));
        let mut rows = vec![input];
        for layer in &self.layers {
            let attention = |_: &DecoderLayer, qkv| packed_attention(qkv, &layout);
            let hidden = rows[rows.len() - 1].clone();
            rows.push(layer.forward(hidden, attention, |input| input));
        }
        if let Some(last) = rows.last_mut() {
            *last = self.normed(last.clone());
        }
        rows
    }

    /// Opens `group_size` slots a prompt.
    pub(crate) fn branch(&self, cache: &mut DecoderCache, group_size: usize, max_tokens: usize) {
        match cache {
            DecoderCache::Host(cache) => cache.branch(group_size, max_tokens),
            DecoderCache::Device(cohorts) => {
                let device = self.device();
                cohorts.iter_mut().for_each(|cohort| cohort.branch(group_size, max_tokens, &device));
            }
        }
    }

    /// Appends one token to every open row; returns the hidden rows `[R, D]`.
    pub(crate) fn decode(&self, cache: &mut DecoderCache, token_ids: &[u32]) -> Tensor<2> {
        assert_eq!(token_ids.len(), cache.num_rows(), "decode: expected one token an open row");
        match cache {
            DecoderCache::Host(cache) => self.decode_on_host(cache, token_ids),
            DecoderCache::Device(cohorts) => self.decode_on_device(cohorts, token_ids),
        }
    }

    /// Appends a segment to each of the given open rows, which go behind all others; returns the hidden rows of their last
    /// tokens.
    ///
    /// # Shapes
    /// - input: `[N, D]`, the segments' embeddings one after the other
    /// - output: `[rows, D]`
    pub(crate) fn extend(
        &self,
        cache: &mut DecoderCache,
        rows: &[usize],
        (input, places): (Tensor<2>, &PromptPlaces),
    ) -> Tensor<2> {
        assert_eq!(rows.len(), places.lengths.len(), "extend: expected a segment for each row");
        assert!(places.lengths.iter().all(|&length| length > 0), "extend: a segment is empty");
        match cache {
            DecoderCache::Host(cache) => self.extend_on_host(cache, rows, (input, places)),
            DecoderCache::Device(cohorts) => self.extend_on_device(cohorts, rows, (input, places)),
        }
    }

    fn extend_on_host(
        &self,
        cache: &mut HostCache,
        rows: &[usize],
        (input, places): (Tensor<2>, &PromptPlaces),
    ) -> Tensor<2> {
        let (steps, positions) = cache.extend(rows, places);
        let rotary = self.rotary(&positions, &self.device());
        let ends = places.lengths.iter().scan(0, |end, length| {
            *end += length;
            Some(*end - 1)
        });
        let mut layers = cache.layers.iter_mut();
        // Keys of all tokens are in place before the first is attended, and each looks at those up to its own.
        self.run(input, &ends.collect::<Vec<_>>(), |_, qkv| {
            let kv = layers.next().expect("a cache a layer");
            kv.attend(qkv, &rotary, &steps)
        })
    }

    /// Each row goes into a rectangle of its own, reads its segment token by token there, and has it in its prompt from then on.
    fn extend_on_device(
        &self,
        cohorts: &mut Vec<DeviceCache>,
        rows: &[usize],
        (input, places): (Tensor<2>, &PromptPlaces),
    ) -> Tensor<2> {
        let device = self.device();
        let others = split_off(cohorts, rows, &device);
        let (mut start, mut last) = (0, Vec::with_capacity(rows.len()));
        for (cohort, (&length, &taken)) in
            cohorts[others..].iter_mut().zip(places.lengths.iter().zip(&places.next))
        {
            let first = cohort.starts[0];
            let mut hidden = input.clone().narrow(0, start, 1);
            for t in start..start + length {
                let position = places.positions[t].map(|axis| axis + first);
                let rotaries = [self.rotary(&[position], &device)];
                let row = input.clone().narrow(0, t, 1);
                hidden = self.step_on_device(std::slice::from_mut(cohort), row, &rotaries);
            }
            last.push(hidden);
            start += length;
            *cohort = cohort.alone(0, &device);
            cohort.starts[0] = first + taken;
        }
        Tensor::cat(last, 0)
    }

    fn decode_on_host(&self, cache: &mut HostCache, token_ids: &[u32]) -> Tensor<2> {
        let ids: Vec<usize> = token_ids.iter().map(|&id| id as usize).collect();
        let positions: Vec<Position> = cache.next.iter().map(|&position| [position; 3]).collect();
        let rotary = self.rotary(&positions, &self.device());
        let mut hidden = self.embed(&ids);
        for (layer, kv) in self.layers.iter().zip(&mut cache.layers) {
            hidden = layer.forward(hidden, |_, qkv| kv.attend(qkv, &rotary, &cache.rows), |input| input);
        }
        cache.rows.iter_mut().for_each(|row| row.len += 1);
        cache.next.iter_mut().for_each(|position| *position += 1);
        hidden
    }

    /// Rows of all cohorts go through the layers together; attention takes them cohort by cohort.
    fn decode_on_device(&self, cohorts: &mut [DeviceCache], token_ids: &[u32]) -> Tensor<2> {
        let device = self.device();
        let (mut ids, mut open, mut rotaries) = (Vec::new(), Vec::new(), Vec::new());
        let mut token_ids = token_ids.iter();
        for cohort in cohorts.iter() {
            let start = ids.len();
            ids.resize(start + cohort.num_slots(), 0);
            for (&slot, &id) in cohort.slots.iter().zip(token_ids.by_ref()) {
                ids[start + slot] = id as usize;
                open.push(start + slot);
            }
            rotaries.push(self.rotary(&cohort.positions(), &device));
        }
        let hidden = self.step_on_device(cohorts, self.embed(&ids), &rotaries);
        if open.len() == ids.len() { hidden } else { hidden.select(0, indices(&open, &device)) }
    }

    /// A token in every slot of all cohorts, through all layers.
    fn step_on_device(
        &self,
        cohorts: &mut [DeviceCache],
        mut hidden: Tensor<2>,
        rotaries: &[Rotary],
    ) -> Tensor<2> {
        for (index, layer) in self.layers.iter().enumerate() {
            let attention = |layer: &DecoderLayer, qkv: Tensor<2>| {
                let mut start = 0;
                let mixed = cohorts.iter_mut().zip(rotaries).map(|(cohort, rotary)| {
                    let count = cohort.num_slots();
                    let rows = qkv.clone().narrow(0, start, count);
                    start += count;
                    layer.attend_step(rows, rotary, cohort.layer(index))
                });
                let mut mixed: Vec<Tensor<2>> = mixed.collect();
                if mixed.len() == 1 { mixed.remove(0) } else { Tensor::cat(mixed, 0) }
            };
            hidden = layer.forward(hidden, attention, |input| input);
        }
        cohorts.iter_mut().for_each(|cohort| cohort.t += 1);
        hidden
    }
}

impl Linears for Decoder {
    fn linears<'a>(&'a mut self, prefix: &str, found: &mut NamedLinears<'a>) {
        self.layers.linears(&format!("{prefix}layers."), found);
        if let Some(head) = &mut self.head {
            found.push((format!("{prefix}head"), head));
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Tolerance;

    use super::*;

    /// Prompts of 4 and 2 tokens, two completions each, of which rows end at different steps.
    #[test]
    fn both_caches_give_the_same_hidden_rows() {
        let device = Device::default();
        let decoder = Decoder::new(&DecoderConfig::tiny(11), &mut WeightInit::new(1, &device));
        let prompts = || decoder.embed(&[1, 2, 3, 4, 5, 6]);
        let places = PromptPlaces::text(&[4, 2]);
        let (rectangles, expected) = decoder.prefill_on_device(prompts(), &places);
        let mut layers = Vec::new();
        let got = decoder.prefill_into(prompts(), &places, |_, qkv, layout| {
            layers.push(HostKv::of_prompts(qkv, layout));
        });
        let host = HostCache { layers, starts: vec![4, 2], rows: Vec::new(), next: Vec::new(), num_slots: 0 };
        let near = |a: Tensor<2>, b: Tensor<2>| {
            a.into_data().assert_approx_eq::<f32>(&b.into_data(), Tolerance::absolute(1e-5));
        };
        near(got, expected);
        let mut caches = [DecoderCache::Host(host), DecoderCache::Device(vec![rectangles])];
        caches.iter_mut().for_each(|cache| decoder.branch(cache, 2, 4));
        for (token_ids, kept) in [
            (vec![7, 8, 9, 10], vec![0, 2, 3]),
            (vec![1, 2, 3], vec![1, 2]),
            (vec![4, 5], vec![0, 1]),
            (vec![6, 7], vec![0]),
        ] {
            let [host, device_rows] = caches.each_mut().map(|cache| decoder.decode(cache, &token_ids));
            near(host, device_rows);
            caches.iter_mut().for_each(|cache| cache.retain(&kept, &device));
        }
    }

    /// Segments of three and of one token between the decoded ones of four rows: appended at once, they give what token by token
    /// gives, in either cache.
    #[test]
    fn segments_are_read_as_their_tokens_would_be() {
        let device = Device::default();
        let decoder = Decoder::new(&DecoderConfig::tiny(11), &mut WeightInit::new(1, &device));
        let prompts = || decoder.embed(&[1, 2, 3, 4, 5, 6]);
        let places = PromptPlaces::text(&[4, 2]);
        let host = || {
            let mut layers = Vec::new();
            decoder.prefill_into(prompts(), &places, |_, qkv, layout| {
                layers.push(HostKv::of_prompts(qkv, layout));
            });
            let (starts, rows, next) = (vec![4, 2], Vec::new(), Vec::new());
            DecoderCache::Host(HostCache { layers, starts, rows, next, num_slots: 0 })
        };
        let on_device = || DecoderCache::Device(vec![decoder.prefill_on_device(prompts(), &places).0]);
        let near = |a: Tensor<2>, b: &Tensor<2>| {
            a.into_data().assert_approx_eq::<f32>(&b.clone().into_data(), Tolerance::absolute(1e-5));
        };
        let mut plain = host();
        decoder.branch(&mut plain, 2, 6);
        // Rows 0 and 3 read longer segments; the others stand still meanwhile, which a cache of rows of their own shows.
        let first = decoder.decode(&mut plain, &[7, 8, 9, 10]);
        for mut cache in [host(), on_device()] {
            decoder.branch(&mut cache, 2, 6);
            near(decoder.decode(&mut cache, &[7, 8, 9, 10]), &first);
            let segments = decoder.embed(&[5, 4, 3, 2]);
            let ends = decoder.extend(&mut cache, &[0, 3], (segments, &PromptPlaces::text(&[3, 1])));
            // Now the rows are 1, 2, 0, 3.
            let after = decoder.decode(&mut cache, &[1, 2, 3, 4]);
            let alone = |kept: usize, tokens: &[u32]| {
                let mut cache = host();
                decoder.branch(&mut cache, 2, 6);
                drop(decoder.decode(&mut cache, &[7, 8, 9, 10]));
                cache.retain(&[kept], &device);
                let rows: Vec<_> = tokens.iter().map(|&token| decoder.decode(&mut cache, &[token])).collect();
                rows
            };
            let (longer, shorter) = (alone(0, &[5, 4, 3, 3]), alone(3, &[2, 4]));
            near(ends, &Tensor::cat(vec![longer[2].clone(), shorter[0].clone()], 0));
            let others = [alone(1, &[1])[0].clone(), alone(2, &[2])[0].clone()];
            let expected =
                Tensor::cat([others.to_vec(), vec![longer[3].clone(), shorter[1].clone()]].concat(), 0);
            near(after, &expected);
            // A row leaves, and one that has read a segment reads another.
            cache.retain(&[0, 2], &device);
            let again = decoder.extend(&mut cache, &[1], (decoder.embed(&[6]), &PromptPlaces::text(&[1])));
            near(again, &alone(0, &[5, 4, 3, 3, 6])[4]);
        }
    }

    /// A prompt joins while another's completions are under way; the first ones end before it.
    #[test]
    fn completions_that_join_later_equal_those_alone() {
        let device = Device::default();
        let decoder = Decoder::new(&DecoderConfig::tiny(11), &mut WeightInit::new(1, &device));
        let opened = |ids: &[usize]| {
            let (cache, _) = decoder.prefill_on_device(decoder.embed(ids), &PromptPlaces::text(&[ids.len()]));
            let mut cache = DecoderCache::Device(vec![cache]);
            decoder.branch(&mut cache, 2, 4);
            cache
        };
        let (mut first, mut second) = (opened(&[1, 2, 3]), opened(&[4, 5]));
        let mut joined = opened(&[1, 2, 3]);
        let near = |a: Tensor<2>, b: Tensor<2>| {
            a.into_data().assert_approx_eq::<f32>(&b.into_data(), Tolerance::absolute(1e-5));
        };
        near(decoder.decode(&mut joined, &[6, 7]), decoder.decode(&mut first, &[6, 7]));
        joined.append(opened(&[4, 5]));
        let apart = |first: &mut DecoderCache, second: &mut DecoderCache, ids: &[u32]| {
            let (own, other) = ids.split_at(first.num_rows());
            Tensor::cat(vec![decoder.decode(first, own), decoder.decode(second, other)], 0)
        };
        near(decoder.decode(&mut joined, &[8, 9, 10, 1]), apart(&mut first, &mut second, &[8, 9, 10, 1]));
        joined.retain(&[1, 3], &device);
        first.retain(&[1], &device);
        second.retain(&[1], &device);
        near(decoder.decode(&mut joined, &[2, 3]), apart(&mut first, &mut second, &[2, 3]));
        joined.retain(&[1], &device);
        near(decoder.decode(&mut joined, &[4]), decoder.decode(&mut second, &[4]));
        assert_eq!(joined.num_rows(), 1);
    }
}
