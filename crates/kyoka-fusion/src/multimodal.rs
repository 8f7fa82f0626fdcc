//! A decoder that also sees and hears.

use std::marker::PhantomData;

use burn::{
    module::{Module, ModuleDisplay},
    tensor::{Device, Tensor},
};
use kyoka_core::{
    AudioInput, CausalLm, Distribution, ImageInput, Modality, ModalityEncoder, ModalityFeatures, PackedGroup,
    Prefill, Prompt, Recompute, Segment,
};
use kyoka_nn::{Linears, NamedLinears, caches_on_host, indices};

use crate::{
    Decoder, PositionScheme, Tower,
    cache::DecoderCache,
    feature_cache::{FeatureCache, audio_key, image_key},
    packing::{Packing, PromptPlaces},
    positions::TokenGrid,
};

/// The policy: towers for pictures and sounds, and a decoder.
#[derive(Module, Debug)]
pub struct MultimodalLm<I: Module, A: Module> {
    /// Sees; absent in a blind model.
    pub image: Option<Tower<I>>,
    /// Hears; absent in a deaf model.
    pub audio: Option<Tower<A>>,
    /// Reads and writes.
    pub decoder: Decoder,
    #[module(skip)]
    positions: PositionScheme,
    /// Where the encoders are frozen: what they gave for every picture and sound.
    #[module(skip)]
    features: Option<[FeatureCache; 2]>,
}

/// What a policy computes on the way through a batch of prompts, one row a token, prompt after prompt.
#[derive(Debug, Clone)]
pub struct Trace {
    /// Embeddings with the media's features in their places, then the rows after each layer, the last one normed;
    /// `[N, D]` each.
    pub hidden: Vec<Tensor<2>>,
    /// Logits of every position, `[N, V]`.
    pub logits: Tensor<2>,
}

/// Stands in for a sense that a policy does not have.
#[derive(Module, Debug, Default)]
pub struct NoEncoder<T: Clone + core::fmt::Debug + Send + Sync + 'static> {
    #[module(skip)]
    input: PhantomData<T>,
}

impl<T: Clone + core::fmt::Debug + Send + Sync + 'static> ModalityEncoder for NoEncoder<T> {
    type Input = T;

    fn d_output(&self) -> usize {
        0
    }

    fn num_positions(&self, _: &T) -> usize {
        0
    }

    fn encode(&self, _: &[&T], _: &Device) -> ModalityFeatures {
        unreachable!("a sense that is absent has no tower to call")
    }
}

impl<T: Clone + core::fmt::Debug + Send + Sync + 'static> Linears for NoEncoder<T> {
    fn linears<'a>(&'a mut self, _: &str, _: &mut NamedLinears<'a>) {}
}

impl<I: Module, A: Module> MultimodalLm<I, A> {
    /// A policy of the given parts.
    pub fn new(
        image: Option<Tower<I>>,
        audio: Option<Tower<A>>,
        decoder: Decoder,
        positions: PositionScheme,
    ) -> Self {
        Self { image, audio, decoder, positions, features: None }
    }

    /// Keeps what the encoders give for every picture and sound, about `capacity_bytes` for each sense: a medium is encoded
    /// once, whatever the number of steps, epochs and clones. Projectors run as ever.
    ///
    /// For frozen encoders only, and once their weights are in place: features are never computed anew.
    pub fn with_feature_cache(mut self, capacity_bytes: usize) -> Self {
        self.features = Some([FeatureCache::new(capacity_bytes), FeatureCache::new(capacity_bytes)]);
        self
    }

    /// Pictures and sounds that were encoded since the features are kept.
    pub fn num_encoded(&self) -> [usize; 2] {
        self.features.as_ref().map_or([0; 2], |caches| caches.each_ref().map(FeatureCache::num_encoded))
    }

    /// A policy without senses.
    pub fn text_only(decoder: Decoder) -> Self {
        Self::new(None, None, decoder, PositionScheme::Plain)
    }
}

impl<I, A> MultimodalLm<I, A>
where
    I: ModalityEncoder<Input = ImageInput>,
    A: ModalityEncoder<Input = AudioInput>,
{
    /// Embeddings of prompts, one after the other, with the media's features in their places.
    ///
    /// A picture that was split into tiles has a span a tile; features fill the spans of a modality in order.
    ///
    /// # Panics
    /// If a prompt holds media that this policy has no tower for, or spans that its media do not fill.
    ///
    /// # Shapes
    /// - output: `[N, D]`, `N` the tokens of all prompts
    fn embed_prompts(&self, prompts: &[&Prompt]) -> Tensor<2> {
        let mut ids: Vec<usize> = Vec::with_capacity(prompts.iter().map(|prompt| prompt.len()).sum());
        for prompt in prompts {
            let start = ids.len();
            ids.extend(prompt.token_ids.iter().map(|&id| id as usize));
            // A placeholder's own row is never taken, and a composed policy's placeholders lie behind the vocabulary.
            for position in prompt.spans.iter().flat_map(|span| span.positions.clone()) {
                ids[start + position] = 0;
            }
        }
        let embedded = self.decoder.embed(&ids);
        let device = embedded.device();
        let images: Vec<&ImageInput> = prompts.iter().flat_map(|prompt| &prompt.images).collect();
        let audios: Vec<&AudioInput> = prompts.iter().flat_map(|prompt| &prompt.audios).collect();
        let mut sources: Vec<usize> = (0..ids.len()).collect();
        let mut features: [Option<Tensor<2>>; 2] = [None, None];
        if !images.is_empty() {
            let tower =
                self.image.as_ref().expect("a prompt holds a picture: the policy must have an image tower");
            let kept = self.features.as_ref().map(|[cache, _]| (cache, image_key as fn(&_) -> _));
            features[0] = Some(forward(tower, (&images, &device), kept));
        }
        if !audios.is_empty() {
            let tower =
                self.audio.as_ref().expect("a prompt holds a sound: the policy must have an audio tower");
            let kept = self.features.as_ref().map(|[_, cache]| (cache, audio_key as fn(&_) -> _));
            features[1] = Some(forward(tower, (&audios, &device), kept));
        }
        let mut rows = vec![embedded];
        let mut next = ids.len();
        for (modality, features) in [Modality::Image, Modality::Audio].into_iter().zip(features) {
            let got = features.as_ref().map_or(0, |features| features.dims()[0]);
            let end = place_features(&mut sources, prompts, modality, next);
            let name = modality.name();
            assert_eq!(end - next, got, "merge: expected a feature for each position of the {name} spans");
            rows.extend(features);
            next = end;
        }
        if rows.len() == 1 {
            return rows.remove(0);
        }
        let rows = Tensor::cat(rows, 0);
        rows.select(0, indices(&sources, &device))
    }

    /// Where the tokens of prompts stand.
    fn places(&self, prompts: &[&Prompt]) -> PromptPlaces {
        let grids: Vec<Vec<TokenGrid>> = match (&self.image, self.positions) {
            (Some(tower), PositionScheme::Grid { .. }) => prompts
                .iter()
                .map(|prompt| prompt.images.iter().map(|image| tower.token_grid(image)).collect())
                .collect(),
            _ => vec![Vec::new(); prompts.len()],
        };
        self.positions.places(prompts, &grids)
    }

    /// The rows of a pass over groups.
    pub(crate) fn packing(&self, groups: &[PackedGroup<'_>]) -> Packing {
        let prompts: Vec<&Prompt> = groups.iter().map(|group| group.prompt).collect();
        Packing::new(groups, self.places(&prompts), &self.places(&observations(groups)))
    }

    /// Positions of a batch of prompts by time, row and column, prompt after prompt, and of each one's first
    /// completion token.
    pub fn positions(&self, prompts: &[&Prompt]) -> (Vec<[usize; 3]>, Vec<usize>) {
        let places = self.places(prompts);
        (places.positions, places.next)
    }

    /// Every position of a batch of prompts through all layers: for tests and for looking inside.
    pub fn trace(&self, prompts: &[&Prompt]) -> Trace {
        let hidden = self.decoder.trace(self.embed_prompts(prompts), &self.places(prompts));
        let logits = self.decoder.project(hidden[hidden.len() - 1].clone());
        Trace { hidden, logits }
    }

    /// Embeddings of a pass over groups: those of the prompts, then those of the completions' rows.
    pub(crate) fn pass_input(&self, groups: &[PackedGroup<'_>], packing: &Packing) -> Tensor<2> {
        let mut prompts: Vec<&Prompt> = groups.iter().map(|group| group.prompt).collect();
        prompts.extend(observations(groups));
        let input = self.embed_prompts(&prompts);
        if packing.completion_ids.is_empty() {
            return input;
        }
        let rows = Tensor::cat(vec![input, self.decoder.embed(&packing.completion_ids)], 0);
        if packing.sources.is_empty() {
            return rows;
        }
        let sources = indices(&packing.sources, &rows.device());
        rows.select(0, sources)
    }

    /// Hidden rows of the positions that predict, one a target, not normed.
    fn predicting_rows(&self, groups: &[PackedGroup<'_>], packing: &Packing) -> Tensor<2> {
        self.decoder.forward_packed(self.pass_input(groups, packing), packing)
    }
}

impl<I: Module + Linears, A: Module + Linears> Linears for MultimodalLm<I, A> {
    fn linears<'a>(&'a mut self, prefix: &str, found: &mut NamedLinears<'a>) {
        if let Some(tower) = &mut self.image {
            tower.linears(&format!("{prefix}image."), found);
        }
        if let Some(tower) = &mut self.audio {
            tower.linears(&format!("{prefix}audio."), found);
        }
        self.decoder.linears(&format!("{prefix}decoder."), found);
    }
}

/// What was observed in the completions of groups, in their order.
fn observations<'a>(groups: &[PackedGroup<'a>]) -> Vec<&'a Prompt> {
    let segments = groups.iter().flat_map(|group| &group.completions).flat_map(|&rows| rows.segments());
    let seen = segments.filter_map(|segment| match segment {
        Segment::Environment(seen) => Some(seen),
        Segment::Policy(_) => None,
    });
    seen.collect()
}

/// What names an input's features in the cache.
type CacheKey<I> = fn(&I) -> blake3::Hash;

/// Tokens of media: through encoder and projector, or from kept features through the projector.
fn forward<E: ModalityEncoder>(
    tower: &Tower<E>,
    (inputs, device): (&[&E::Input], &Device),
    kept: Option<(&FeatureCache, CacheKey<E::Input>)>,
) -> Tensor<2> {
    let Some((cache, key)) = kept else { return tower.forward(inputs, device) };
    let keys: Vec<blake3::Hash> = inputs.iter().map(|input| key(input)).collect();
    let mut features = cache.features(&keys, |missing| {
        let missing: Vec<&E::Input> = missing.iter().map(|&place| inputs[place]).collect();
        tower.encoder.encode(&missing, device)
    });
    if device.is_autodiff() {
        features.embeddings = features.embeddings.autodiff();
    }
    tower.projector.forward(features)
}

/// Points the positions of one modality's spans at its feature rows, which start at `next`.
fn place_features(sources: &mut [usize], prompts: &[&Prompt], modality: Modality, mut next: usize) -> usize {
    let mut start = 0;
    for prompt in prompts {
        for position in prompt.spans_of(modality).flat_map(|span| span.positions.clone()) {
            sources[start + position] = next;
            next += 1;
        }
        start += prompt.len();
    }
    next
}

impl<I, A> CausalLm for MultimodalLm<I, A>
where
    I: ModalityEncoder<Input = ImageInput> + Linears + ModuleDisplay,
    A: ModalityEncoder<Input = AudioInput> + Linears + ModuleDisplay,
{
    type Cache = DecoderCache;

    fn prefill(&self, prompts: &[&Prompt]) -> Prefill<DecoderCache> {
        let (cache, last) = self.decoder.prefill(self.embed_prompts(prompts), &self.places(prompts));
        Prefill { cache, logits: self.decoder.logits(last) }
    }

    fn branch(&self, cache: &mut DecoderCache, group_size: usize, max_tokens: usize) {
        self.decoder.branch(cache, group_size, max_tokens);
    }

    fn extend(&self, cache: &mut DecoderCache, rows: &[usize], segments: &[&Prompt]) -> Tensor<2> {
        let hidden = self.decoder.extend(cache, rows, (self.embed_prompts(segments), &self.places(segments)));
        self.decoder.logits(hidden)
    }

    fn decode(&self, cache: &mut DecoderCache, token_ids: &[u32]) -> Tensor<2> {
        self.decoder.logits(self.decoder.decode(cache, token_ids))
    }

    fn retain(&self, cache: &mut DecoderCache, rows: &[usize]) {
        cache.retain(rows, &self.device());
    }

    fn append(&self, cache: &mut DecoderCache, more: DecoderCache) {
        cache.append(more);
    }

    fn is_on_host(&self) -> bool {
        caches_on_host(&self.device())
    }

    fn score(&self, groups: &[PackedGroup<'_>], distribution: &Distribution<'_>) -> Tensor<2> {
        let packing = self.packing(groups);
        let hidden = self.predicting_rows(groups, &packing);
        let logprobs = self.decoder.target_logprobs(hidden, &packing.targets, distribution);
        packing.unpack(logprobs).squeeze_dim(2)
    }

    fn score_with_hidden(
        &self,
        groups: &[PackedGroup<'_>],
        distribution: &Distribution<'_>,
    ) -> (Tensor<2>, Tensor<3>) {
        let packing = self.packing(groups);
        let hidden = self.predicting_rows(groups, &packing);
        let logprobs = self.decoder.target_logprobs(hidden.clone(), &packing.targets, distribution);
        (packing.unpack(logprobs).squeeze_dim(2), packing.unpack(self.decoder.normed(hidden)))
    }

    fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.decoder.project(hidden)
    }

    fn set_dropout(&mut self, seed: Option<u64>) {
        self.set_adapter_dropout(seed);
    }

    fn recompute(&self) -> Option<&dyn Recompute> {
        Some(self)
    }

    fn device(&self) -> Device {
        self.decoder.device()
    }

    fn d_model(&self) -> usize {
        self.decoder.d_model()
    }

    fn vocab_size(&self) -> usize {
        self.decoder.vocab_size()
    }

    fn max_positions(&self) -> usize {
        self.decoder.max_positions()
    }
}
