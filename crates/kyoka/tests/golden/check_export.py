"""Whether transformers (and peft) take what Kyoka writes: no warning, no missing or unexpected tensor, the same logits.

    python check_export.py FOLDER GOLDEN [--like ORIGINAL] [--base BASE] [--tolerance 1e-4]

FOLDER is an exported checkpoint, or a PEFT adapter if it holds adapter_config.json: then BASE is the checkpoint it belongs
to (else what adapter_config.json names). GOLDEN is a safetensors file, or a folder with a golden.safetensors: `in.*` are the
inputs of forward, `out.logits` (or `out.last_hidden_state` of an encoder) what must come out. With --like the names, dtypes
and shapes on disk must be those of ORIGINAL. Prints one line a check and exits with 1 if one fails.
"""

import argparse
import json
import logging
import sys
import tempfile
import warnings
from pathlib import Path

import torch
import transformers as tf
from safetensors import safe_open
from safetensors.torch import load_file, save_file

NOT_FORWARD = ("completion_mask", "cotangent")


class Heard(logging.Handler):
    """Everything that is said above info."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage().strip())


def on_disk(folder, single):
    """dtype and shape of every tensor in a folder."""
    files = [folder / single] if (folder / single).exists() else sorted(folder.glob("*.safetensors"))
    found = {}
    for file in files:
        with safe_open(file, "pt") as tensors:
            if (tensors.metadata() or {}).get("format") != "pt":
                raise SystemExit(f"{file}: metadata lacks format: pt")
            found |= {k: (tensors.get_slice(k).get_dtype(), tuple(tensors.get_slice(k).get_shape())) for k in tensors.keys()}
    return found


def thinker_alone(folder):
    """The thinker of a full Omni checkpoint as a folder of its own: the other parts are large and not ours."""
    config = json.loads((folder / "config.json").read_text())
    if config["model_type"] != "qwen2_5_omni":
        return folder
    alone = Path(tempfile.mkdtemp())
    weights = {}
    for file in folder.glob("*.safetensors"):
        weights |= load_file(file)
    save_file({k.removeprefix("thinker."): v for k, v in weights.items() if k.startswith("thinker.")}, alone / "model.safetensors", {"format": "pt"})
    (alone / "config.json").write_text(json.dumps(config["thinker_config"] | {"architectures": ["Qwen2_5OmniThinkerForConditionalGeneration"]}))
    return alone


def load_model(folder):
    folder = thinker_alone(folder)
    kind = json.loads((folder / "config.json").read_text())["architectures"][0]
    model, info = getattr(tf, kind).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    return model.eval(), {k: sorted(map(str, v)) for k, v in info.items() if v}


def load(folder, base):
    """The model, and what did not fit."""
    if not (folder / "adapter_config.json").exists():
        return load_model(folder)
    from peft import PeftModel
    named = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    model, info = load_model(base or folder / named)
    adapted = PeftModel.from_pretrained(model, folder).eval()
    from peft.utils import get_peft_model_state_dict
    mine, theirs = set(on_disk(folder, "adapter_model.safetensors")), set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    if mine ^ theirs:
        info["adapter_keys"] = sorted(mine ^ theirs)
    return adapted, info


def forward(model, golden):
    inputs = {k[3:]: v for k, v in golden.items() if k.startswith("in.") and k[3:] not in NOT_FORWARD}
    with torch.no_grad():
        if "out.logits" in golden:
            real = inputs["attention_mask"][..., None] if "attention_mask" in inputs else 1
            return golden["out.logits"], model(**inputs, use_cache=False).logits * real
        encoder = model.get_encoder() if "input_features" in inputs else getattr(model, "vision_model", model)
        return golden["out.last_hidden_state"], encoder(**inputs).last_hidden_state


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("golden", type=Path)
    parser.add_argument("--like", type=Path)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--tolerance", type=float, default=1e-4)
    args = parser.parse_args()
    heard = Heard()
    for name in ("transformers", "peft"):
        logging.getLogger(name).addHandler(heard)
    tf.utils.logging.disable_progress_bar()
    failed = []

    def check(what, good, detail=""):
        print(f"{'ok' if good else 'FAILED'}: {what} {detail}".rstrip())
        failed.extend([] if good else [what])

    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        model, info = load(args.folder, args.base)
        if (args.folder / "tokenizer.json").exists():
            # Beside a full Omni configuration AutoTokenizer warns about the defaults of its own talker.
            omni = thinker_alone(args.folder) != args.folder if (args.folder / "config.json").exists() else False
            tokenizer = (tf.PreTrainedTokenizerFast if omni else tf.AutoTokenizer).from_pretrained(args.folder)
            check("tokenizer", len(tokenizer) > 0, f"{len(tokenizer)} tokens")
        if (args.folder / "generation_config.json").exists():
            check("generation config", tf.GenerationConfig.from_pretrained(args.folder) is not None)
    check("every tensor fits", not info, str(info or ""))
    said = heard.lines + [str(w.message) for w in warned if not issubclass(w.category, (DeprecationWarning, FutureWarning, ResourceWarning))]
    check("no warning", not said, " | ".join(said)[:2000])
    file = args.golden / "golden.safetensors" if args.golden.is_dir() else args.golden
    expected, got = forward(model, load_file(file))
    worst = float((expected - got).abs().max())
    allowed = args.tolerance * max(1.0, float(expected.abs().max()))
    check("the same numbers", expected.shape == got.shape and worst <= allowed, f"largest difference {worst:.2e}, allowed {allowed:.2e}")
    if args.like:
        single = "adapter_model.safetensors" if (args.like / "adapter_config.json").exists() else "model.safetensors"
        mine, theirs = on_disk(args.folder, single), on_disk(args.like, single)
        differ = sorted(k for k in mine.keys() | theirs.keys() if mine.get(k) != theirs.get(k))
        check("names, dtypes and shapes of the original", not differ, ", ".join(f"{k}: {theirs.get(k)} -> {mine.get(k)}" for k in differ)[:2000])
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
