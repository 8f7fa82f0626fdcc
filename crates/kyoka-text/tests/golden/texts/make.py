"""Reads and writes odd texts and token ids with transformers; writes texts.json.

    pip install transformers==5.24.0 tokenizers
    python make.py

The file holds small tokenizers as the folders of checkpoints have them, and for each what transformers makes of texts
(`tokenizer(text)`) and of token ids (`tokenizer.decode(ids, skip_special_tokens=True)`).
"""

import json
import random
import tempfile
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer

HERE = Path(__file__).parent
LINES = [
    "How many coats are there, 3 or 4? <think> two boots, one shirt </think> <answer> 3 </answer>",
    "The picture shows a pullover and two sandals; 強化 means reinforcement. Ünïcödé, naïve café.",
    "日本語の文章です。 これはペンです。 emoji 👍🏽 and 🧪 don't, it's, we've.\n\tint main() { return 0; }",
]
TEXTS = [
    "", " ", "a", "  two  spaces ", "\n\t", "強化 é 日本", "<s>", "</s> x", "coat<|im_end|>boot", "x <|im_end|>", "👍🏽🧪",
    "e\u0301\u200b", "\x00\x7f", "tail ", " lead", "a\r\nb", "\ufffd", "<image>", "a b", "<think>why</think>", "ＡＢＣ ①",
    "don't ' x ' .", "\u2028x\u00a0y", "a<s>b", "<s><s>a", "Zürich, 21.5 °C!", "()[]{}", "1234567890", "ﬁ ß İ", "<|im_end|",
]


def byte_level(**more):
    tokenizer = Tokenizer(models.BPE(**more))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>", "<|im_end|>"]
    tokenizer.train_from_iterator(LINES * 4, trainers.BpeTrainer(vocab_size=330, initial_alphabet=alphabet, special_tokens=special))
    return tokenizer


def byte_fallback(prepend="first"):
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prepend, split=False)
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer.train_from_iterator(LINES[:1] * 4, trainers.BpeTrainer(vocab_size=380, special_tokens=["<unk>", "<s>", "</s>", *bytes_], show_progress=False))
    made = json.loads(tokenizer.to_str())
    made["added_tokens"] = [token for token in made["added_tokens"] if not token["content"].startswith("<0x")]
    tokenizer = Tokenizer.from_str(json.dumps(made))
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return tokenizer


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(LINES * 4, trainer)
    return tokenizer


def words():
    known = ["<unk>", "<s>", "</s>", "coat", "boot", "a", "b", "x", ".", ",", "'", "don", "n't", "'s"]
    tokenizer = Tokenizer(models.WordLevel({word: id for id, word in enumerate(known)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<unk>", "<s>"])
    return tokenizer


def bos_first(tokenizer):
    id = tokenizer.token_to_id("<s>")
    template = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", id)])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return tokenizer


def padded_and_cut(tokenizer):
    tokenizer.enable_padding(length=40, pad_id=0, pad_token="<s>")
    tokenizer.enable_truncation(5)
    return tokenizer


def with_added(tokenizer, *tokens):
    tokenizer.add_tokens(list(tokens))
    return tokenizer


USUAL = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>"}
TOKENIZERS = {
    "bytes": (byte_level(), USUAL),
    "bytes_bos": (bos_first(byte_level(ignore_merges=True)), USUAL),
    "bytes_told": (byte_level(), {**USUAL, "add_bos_token": True}),
    "bytes_told_not": (bos_first(byte_level()), {**USUAL, "add_bos_token": False}),
    "bytes_padded": (padded_and_cut(byte_level()), USUAL),
    "bytes_added": (
        with_added(byte_level(), "<think>", AddedToken("</think>", lstrip=True), AddedToken("é日", normalized=False)),
        {**USUAL, "eos_token": "<|im_end|>", "think_token": "<think>"},
    ),
    "fallback": (byte_fallback(), {**USUAL, "unk_token": "<unk>"}),
    "fallback_always": (bos_first(byte_fallback("always")), {**USUAL, "unk_token": "<unk>"}),
    "unigram": (unigram(), {**USUAL, "clean_up_tokenization_spaces": True}),
    "words": (words(), {**USUAL, "unk_token": "<unk>", "eos_token": "boot"}),
    "words_cleaned": (words(), {**USUAL, "clean_up_tokenization_spaces": True}),
}


def main():
    draw = random.Random(1)
    table = {}
    for name, (tokenizer, config) in TOKENIZERS.items():
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "tokenizer.json").write_text(tokenizer.to_str())
            (Path(folder) / "tokenizer_config.json").write_text(json.dumps(config))
            read = AutoTokenizer.from_pretrained(folder)
        encoded = [[text, read(text, truncation=False, padding=False)["input_ids"]] for text in TEXTS]
        size = tokenizer.get_vocab_size()
        drawn = [[draw.randrange(size) for _ in range(draw.choice([1, 2, 5, 12]))] for _ in range(60)]
        cut = [ids[: draw.randrange(len(ids) + 1)] + ids[draw.randrange(len(ids) + 1) :] for _, ids in encoded if ids]
        decoded = [[ids, read.decode(ids, skip_special_tokens=True)] for ids in drawn + cut + [ids for _, ids in encoded]]
        table[name] = {"tokenizer": json.loads(tokenizer.to_str()), "config": config, "encoded": encoded, "decoded": decoded}
    (HERE / "texts.json").write_text(json.dumps(table, ensure_ascii=True, separators=(",", ":")) + "\n")
    print({name: (len(case["encoded"]), len(case["decoded"])) for name, case in table.items()})


main()
