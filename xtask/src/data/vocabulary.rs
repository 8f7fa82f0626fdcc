//! A byte-level BPE vocabulary for a small set of texts.

use anyhow::{Result, anyhow};
use tokenizers::{
    AddedToken, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer,
    models::TrainerWrapper,
    models::bpe::{BPE, BpeTrainer},
    pre_tokenizers::{byte_level::ByteLevel, sequence::Sequence, split::Split, split::SplitPattern},
};

/// The tokenizer's `tokenizer.json`: all 256 bytes, the special tokens, and merges until every word of `texts` is
/// one token. A word takes the space before it along.
pub fn train(texts: &[&str]) -> Result<String> {
    let fail = |error: tokenizers::Error| anyhow!("{error}");
    let mut tokenizer = Tokenizer::new(BPE::default());
    let words =
        Split::new(SplitPattern::Regex(r" ?[^\s]+|\s+".into()), SplitDelimiterBehavior::Isolated, false);
    tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![
        PreTokenizerWrapper::Split(words.map_err(fail)?),
        PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, false, false)),
    ])));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    let special = ["<|endoftext|>", "<|pad|>", "<image>", "<audio>"];
    let mut trainer: TrainerWrapper = BpeTrainer::builder()
        .vocab_size(2048)
        .min_frequency(1)
        .show_progress(false)
        .initial_alphabet(ByteLevel::alphabet().into_iter().collect())
        .special_tokens(special.iter().map(|&token| AddedToken::from(token, true)).collect())
        .build()
        .into();
    tokenizer.train(&mut trainer, texts.iter().copied()).map_err(fail)?;
    tokenizer.to_string(true).map_err(fail)
}
