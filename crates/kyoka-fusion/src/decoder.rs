//! The decoder transformer, Llama/Qwen2-shaped.

use burn::{
    module::{Module, Param},
    nn::{Linear, RmsNorm},
    tensor::{Device, Tensor},
};
use kyoka_nn::{CompletionKv, PrefixKv, Rotary, RotaryConfig, WeightInit, causal_bias, fused};
use serde::{Deserialize, Serialize};

use crate::{
    cache::{DecoderCache, indices},
    decoder_layer::{Block, DecoderLayer, LayerCache, Pass},
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
    /// Added to the mean square in the norms.
    pub norm_epsilon: f64,
    /// Biases on queries, keys and values, as Qwen2 has them.
    pub qkv_bias: bool,
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
            norm_epsilon: 1e-6,
            qkv_bias: false,
            tie_embeddings: true,
            max_positions: 512,
        }
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
    pub norm: RmsNorm,
    /// Output weight `[D, V]`; absent when tied to the embedding.
    pub head: Option<Linear>,
    d_head: usize,
    query_heads_per_kv: usize,
    rope_theta: f64,
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
            norm: init.rms_norm(d_model, config.norm_epsilon),
            head: (!config.tie_embeddings).then(|| init.linear(d_model, vocab_size, false)),
            d_head,
            query_heads_per_kv: num_heads / num_kv_heads,
            rope_theta: config.rope_theta,
            max_positions: config.max_positions,
        }
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

    /// Logits of hidden rows.
    ///
    /// # Shapes
    /// - input: `[N, D]`
    /// - output: `[N, V]`
    pub(crate) fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        let hidden = fused::rms_norm(&self.norm, hidden);
        match &self.head {
            Some(head) => head.forward(hidden),
            None => hidden.matmul(self.embedding.val().transpose()),
        }
    }

    fn rotary(&self, positions: &[usize], device: &Device) -> Rotary {
        Rotary::new(RotaryConfig { d_head: self.d_head, theta: self.rope_theta }, positions, device)
    }

    fn prefix_pass(
        &self,
        prefix: Block,
        lengths: &[usize],
        device: &Device,
    ) -> (Block, Option<Tensor<4>>, Tensor<5>) {
        let causal = causal_bias(self.query_heads_per_kv, prefix.t, prefix.t, device);
        (prefix, PrefixKv::bias_of(lengths, prefix.t, device), causal)
    }

    /// Prompts and completions in one pass without a cache; `input` holds prompts first.
    pub(crate) fn forward_packed(
        &self,
        input: Tensor<2>,
        prompt_lengths: &[usize],
        packing: &crate::packing::Packing,
    ) -> Tensor<2> {
        let device = input.device();
        let completion = (packing.completion.t > 0).then(|| {
            let t = packing.completion.t;
            (packing.completion, Some(causal_bias(self.query_heads_per_kv, t, t, &device)))
        });
        let pass = Pass {
            prefix: Some(self.prefix_pass(packing.prefix, prompt_lengths, &device)),
            completion,
            rotary: self.rotary(&packing.positions, &device),
        };
        self.layers.iter().fold(input, |hidden, layer| layer.forward(hidden, &pass, LayerCache::None))
    }

    /// Reads prompts padded to `width`; returns the cache and the hidden rows of each prompt's last token.
    pub(crate) fn prefill(
        &self,
        input: Tensor<2>,
        lengths: Vec<usize>,
        width: usize,
    ) -> (DecoderCache, Tensor<2>) {
        let device = input.device();
        let block = Block { b: lengths.len(), g: 1, t: width };
        let positions: Vec<usize> = (0..lengths.len()).flat_map(|_| 0..width).collect();
        let pass = Pass {
            prefix: Some(self.prefix_pass(block, &lengths, &device)),
            completion: None,
            rotary: self.rotary(&positions, &device),
        };
        let mut prefix = Vec::with_capacity(self.layers.len());
        let hidden = self.layers.iter().fold(input, |hidden, layer| {
            let mut kept = None;
            let hidden = layer.forward(hidden, &pass, LayerCache::Fill(&mut kept));
            prefix.push(kept.expect("a prefill pass has prompts"));
            hidden
        });
        let last: Vec<usize> = lengths.iter().enumerate().map(|(b, length)| b * width + length - 1).collect();
        let hidden = hidden.select(0, indices(&last, &device));
        let cache = DecoderCache {
            prefix,
            completion: Vec::new(),
            prompt_lengths: lengths,
            group_size: 0,
            t: 0,
            slots: Vec::new(),
        };
        (cache, hidden)
    }

    /// Opens `group_size` slots a prompt.
    pub(crate) fn branch(&self, cache: &mut DecoderCache, group_size: usize, max_new_tokens: usize) {
        let device = self.device();
        cache.completion = cache
            .prefix
            .iter()
            .map(|layer| {
                let [b, h, _, d] = layer.key.dims();
                CompletionKv::new([b, h, group_size, max_new_tokens, d], &device)
            })
            .collect();
        cache.group_size = group_size;
        cache.t = 0;
        cache.slots = (0..cache.prompt_lengths.len() * group_size).collect();
    }

    /// Appends one token to every open row; returns the hidden rows `[R, D]`.
    pub(crate) fn decode(&self, cache: &mut DecoderCache, token_ids: &[u32]) -> Tensor<2> {
        assert_eq!(token_ids.len(), cache.num_rows(), "decode: expected one token an open row");
        let mut ids = vec![0; cache.num_slots()];
        for (&slot, &id) in cache.slots.iter().zip(token_ids) {
            ids[slot] = id as usize;
        }
        let input = self.embed(&ids);
        let device = input.device();
        let (t, group_size) = (cache.t, cache.group_size);
        let positions: Vec<usize> = cache
            .prompt_lengths
            .iter()
            .flat_map(|&length| std::iter::repeat_n(length + t, group_size))
            .collect();
        let pass = Pass {
            prefix: None,
            completion: Some((Block { b: cache.prompt_lengths.len(), g: group_size, t: 1 }, None)),
            rotary: self.rotary(&positions, &device),
        };
        let mut hidden = input;
        let layers = self.layers.iter().zip(&cache.prefix).zip(&mut cache.completion);
        for ((layer, prefix), completion) in layers {
            hidden = layer.forward(hidden, &pass, LayerCache::Step { prefix, completion, t });
        }
        cache.t += 1;
        if cache.slots.len() == ids.len() { hidden } else { hidden.select(0, indices(&cache.slots, &device)) }
    }
}
