"""What transformers names the parameters of the checkpoints in ../golden: transformers_names.json.

    python names.py

Needs torch and transformers. PEFT names adapters by these names.
"""

import json
from pathlib import Path

import torch
import transformers as tf

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "golden"
FOLDERS = ["llama_yarn", "qwen2_untied", "qwen3", "smolvlm_tiles", "idefics3_tiles", "qwen2_vl", "qwen2_5_vl", "qwen2_audio", "qwen2_5_omni_thinker"]

if __name__ == "__main__":
    tf.utils.logging.set_verbosity_error()
    found = {}
    for name in FOLDERS:
        kind = json.loads((GOLDEN / name / "config.json").read_text())["architectures"][0]
        found[name] = sorted(k for k, _ in getattr(tf, kind).from_pretrained(GOLDEN / name).named_parameters())
    # The tiny one has no talker to load; the names of its thinker are those of the whole model.
    with torch.device("meta"):
        omni = tf.Qwen2_5OmniForConditionalGeneration(tf.AutoConfig.from_pretrained(GOLDEN / "qwen2_5_omni"))
    found["qwen2_5_omni"] = sorted(k for k, _ in omni.named_parameters() if k.startswith("thinker."))
    (HERE / "transformers_names.json").write_text(json.dumps(found, indent=0))
