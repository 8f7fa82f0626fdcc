"""The checkpoint, prompts and clock that the peer scripts share.

    python fixture.py --out checkpoint16 --image-tokens 16

writes a SmolVLM of 6.1 M parameters with random weights (seed 0): a Llama decoder of width 256 and a SigLIP tower of
width 192. The side of its pictures decides how many tokens a picture takes: 16, 64 or 256.
"""

import argparse
import json
import os
import random
import resource
import statistics
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

SIDES = {16: 128, 64: 256, 256: 512}
VOCAB = 2048
# The first ids of the vocabulary; the processor knows them by these names.
SPECIAL = {
    "pad_token": "<pad>",
    "bos_token": "<|im_start|>",
    "eos_token": "<end_of_utterance>",
    "unk_token": "<unk>",
    "image_token": "<image>",
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
    "video_token": "<video>",
}
IDS = {name: place for place, name in enumerate(SPECIAL)}
CHAT = (
    "<|im_start|>{% for m in messages %}{{ m['role'] | capitalize }}"
    "{{ ':' if m['content'][0]['type'] == 'image' else ': ' }}"
    "{% for part in m['content'] %}{{ part['text'] if part['type'] == 'text' else '<image>' }}{% endfor %}"
    "<end_of_utterance>\n{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def sizes():
    """The command line that both peers understand."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--image-tokens", default="auto")
    for name, value in [("prompts", 8), ("group", 8), ("prompt-tokens", 32), ("new-tokens", 48), ("steps", 5), ("threads", 2)]:
        parser.add_argument(f"--{name}", type=int, default=value)
    return parser


def tokenizer_of(folder=None):
    """A byte-level BPE over made-up words; from `folder` if it stands there."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    if folder:
        source = {"tokenizer_file": str(folder / "tokenizer.json")}
    else:
        draw = random.Random(0)
        syllables = [a + b for a in "bcdfghklmnprstvz" for b in "aeiou"]
        words = ["".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(4000)]
        words += ["User:", "Assistant:"] * 200
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=VOCAB,
            special_tokens=list(SPECIAL.values()),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        tokenizer.train_from_iterator((" ".join(draw.choices(words, k=30)) for _ in range(3000)), trainer)
        source = {"tokenizer_object": tokenizer}
    named = {name: SPECIAL[name] for name in ["pad_token", "bos_token", "eos_token", "unk_token"]}
    others = [text for name, text in SPECIAL.items() if name not in named]
    tokenizer = PreTrainedTokenizerFast(**source, **named, additional_special_tokens=others, padding_side="left")
    for name, text in [*SPECIAL.items(), ("end_of_utterance_token", SPECIAL["eos_token"])]:
        if name not in named:
            setattr(tokenizer, name, text)
            setattr(tokenizer, f"{name}_id", tokenizer.convert_tokens_to_ids(text))
    return tokenizer


def processor_of(tokenizer, image_tokens):
    import transformers

    side = {"longest_edge": SIDES[image_tokens]}
    images = transformers.SmolVLMImageProcessor(size=side, max_image_size=side, do_image_splitting=False)
    return transformers.SmolVLMProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        video_processor=transformers.SmolVLMVideoProcessor(),
        image_seq_len=image_tokens,
        chat_template=CHAT,
    )


def write(folder, image_tokens):
    import torch
    import transformers

    torch.manual_seed(0)
    text = dict(
        model_type="llama", vocab_size=VOCAB, hidden_size=256, intermediate_size=688, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, head_dim=64, max_position_embeddings=2048, rms_norm_eps=1e-5,
        pad_token_id=IDS["pad_token"], bos_token_id=IDS["bos_token"], eos_token_id=IDS["eos_token"],
        tie_word_embeddings=False,
    )
    vision = dict(
        hidden_size=192, intermediate_size=768, num_hidden_layers=4, num_attention_heads=3,
        image_size=SIDES[image_tokens], patch_size=16,
    )
    config = transformers.SmolVLMConfig(
        text_config=text, vision_config=vision, scale_factor=2, image_token_id=IDS["image_token"],
        tie_word_embeddings=False, pad_token_id=IDS["pad_token"],
    )
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizer_of()
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    transformers.SmolVLMForConditionalGeneration(config).float().save_pretrained(folder)
    processor_of(tokenizer, image_tokens).save_pretrained(folder)


def load(args):
    """Model, processor and tokens a picture of a checkpoint."""
    import torch
    import transformers

    torch.set_num_threads(args.threads)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model = transformers.SmolVLMForConditionalGeneration.from_pretrained(args.checkpoint, dtype=torch.float32)
    vision = model.config.vision_config
    tokens = (vision.image_size // vision.patch_size // model.config.scale_factor) ** 2
    if args.image_tokens not in ("auto", str(tokens)):
        sys.exit(f"the checkpoint makes {tokens} tokens of a picture, not {args.image_tokens}")
    return model, processor_of(tokenizer_of(args.checkpoint), tokens), tokens


def rows(count, args, processor, image_tokens):
    """Pictures of random rectangles, and words so many that a prompt has `prompt_tokens` besides its picture."""
    import numpy as np
    from PIL import Image

    draw, tokenizer, side = np.random.default_rng(1), processor.tokenizer, SIDES[image_tokens]
    # Words of one token each, so that a prompt can be filled up exactly.
    single = [token[1:] for token, place in tokenizer.get_vocab().items() if token[:1] == "\u0120" and place > 300]
    single = sorted(word for word in single if word.isascii() and word.isalpha())
    made = []
    for _ in range(count):
        pixels = np.full((side, side, 3), draw.integers(0, 256, 3), np.uint8)
        for _ in range(12):
            top, left = draw.integers(0, side, 2)
            pixels[top:top + side // 3, left:left + side // 3] = draw.integers(0, 256, 3)
        words = ""
        while length(words, processor) < args.prompt_tokens:
            words += " " + single[draw.integers(len(single))]
        assert length(words, processor) == args.prompt_tokens, "the prompt could not be filled up exactly"
        made.append({"prompt": [{"role": "user", "content": words}], "image": Image.fromarray(pixels)})
    return made


def chat(words, processor):
    content = [{"type": "image"}, {"type": "text", "text": words}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def length(words, processor):
    """Tokens of a prompt without those of its picture: the placeholder goes, three wrappers come."""
    return len(processor.tokenizer(chat(words, processor), add_special_tokens=False)["input_ids"]) - 1 + 3


def tensors(batch, processor):
    """`input_ids [n, P]` and `pixel_values [n, 3, H, W]`."""
    out = processor(
        text=[chat(row["prompt"][0]["content"], processor) for row in batch],
        images=[[row["image"]] for row in batch],
        return_tensors="pt", padding=True, add_special_tokens=False,
    )
    return out["input_ids"], out["pixel_values"][:, 0].contiguous()


def reward(ids):
    """Share of even token ids: trivial, and hardly ever constant within a group."""
    return sum(token % 2 == 0 for token in ids) / len(ids)


def report(tool, args, seconds, rollout, train):
    tokens = args.prompts * args.group * args.new_tokens
    emit({
        "tool": tool,
        "s_per_step": statistics.median(seconds),
        "rollout_s": statistics.median(rollout),
        "train_s": statistics.median(train),
        "generated_tokens_per_s": tokens / statistics.median(rollout),
        "steps": seconds,
    })


def emit(result):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**result, "peak_rss_mb": peak}), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--image-tokens", type=int, choices=SIDES, default=16)
    chosen = parser.parse_args()
    write(chosen.out, chosen.image_tokens)
