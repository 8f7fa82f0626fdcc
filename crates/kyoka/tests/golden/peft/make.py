"""LoRA adapters as PEFT writes them, over checkpoints beside this folder, and the numbers they give (f32, eager attention).

    python make.py [NAME ...]       # writes <adapter>/ beside itself, all or those named

Needs torch, transformers, peft and safetensors. Every folder has adapter_config.json and adapter_model.safetensors as
`save_pretrained` leaves them, and golden.safetensors: the inputs of a case of the base, `out.*` with the adapter, and
`grad.<name in adapter_model.safetensors>`. case.json names base and case.
"""

import json
import shutil
import sys
from pathlib import Path

import torch
import transformers as tf
from peft import LoraConfig, get_peft_model
from peft.utils import get_peft_model_state_dict
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))
from make import logprobs_of  # noqa: E402

EVERY_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

ADAPTERS = {  # folder -> base, case, settings
    "llama_every_linear": ("llama_llama3", "batch_left_pad", dict(r=4, lora_alpha=6, target_modules=EVERY_LINEAR)),
    "qwen2_rank_stabilised": ("qwen2_untied", "batch_left_pad", dict(r=3, lora_alpha=5, use_rslora=True, target_modules=["q_proj", "v_proj"])),
    "llama_one_layer": ("llama_linear", "batch_right_pad", dict(r=2, lora_alpha=8, target_modules=["o_proj", "down_proj"], layers_to_transform=[1])),
    "smolvlm_language": ("smolvlm_tiles", "tiles_left_pad", dict(r=2, lora_alpha=2, target_modules=r".*text_model.*\.(q_proj|down_proj)")),
    "smolvlm_everywhere": ("smolvlm_tiles", "tiles_left_pad", dict(r=2, lora_alpha=3, target_modules=["q_proj", "fc1", "proj"])),
    "qwen2_saved_ends": ("qwen2_untied", "batch_left_pad", dict(r=2, lora_alpha=4, target_modules=["q_proj"], modules_to_save=["lm_head", "embed_tokens", "norm"])),
    "qwen2_patterns": ("qwen2_untied", "batch_left_pad", dict(r=4, lora_alpha=6, target_modules=["lm_head", "q_proj", "v_proj"], rank_pattern={"v_proj": 2, "layers.0.self_attn.q_proj": 3}, alpha_pattern={"lm_head": 3, "^model.layers.1.self_attn.q_proj": 5})),
    "llama_tied_output": ("llama_linear", "batch_right_pad", dict(r=2, lora_alpha=4, target_modules=["lm_head", "q_proj"])),
    "llama_tied_embedding_saved": ("llama_linear", "batch_right_pad", dict(r=2, lora_alpha=4, target_modules=["q_proj"], modules_to_save=["embed_tokens"])),
    "llama_tied_embedding": ("llama_linear", "batch_right_pad", dict(r=2, lora_alpha=4, target_modules=["embed_tokens", "q_proj"])),
    "qwen2_5_vl_patches": ("qwen2_5_vl", "two_images_left_pad", dict(r=2, lora_alpha=4, target_modules=["patch_embed.proj", "mlp.0", "q_proj"], modules_to_save=["merger.mlp.2"])),
    "smolvlm_patches": ("smolvlm_tiles", "tiles_left_pad", dict(r=2, lora_alpha=3, target_modules=["patch_embedding", "o_proj"], modules_to_save=["connector"])),
    "qwen2_5_vl_language": ("qwen2_5_vl", "two_images_left_pad", dict(r=2, lora_alpha=4, target_modules=r".*language_model.*\.(q_proj|v_proj|up_proj)")),
}


def load_base(name):
    folder = HERE.parent / name
    kind = json.loads((folder / "config.json").read_text())["architectures"][0]
    return getattr(tf, kind).from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()


def unlearned(adapted):
    """What PEFT wants to find beside the adapters."""
    return {n: p for n, p in adapted.state_dict().items() if "lora_" not in n}


def make(name, base, case, settings):
    generator = torch.Generator().manual_seed(11)
    model = load_base(base)
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.0, **settings))
    adapted.peft_config["default"].base_model_name_or_path = f"../../{base}"
    with torch.no_grad():
        for n, p in adapted.named_parameters():
            if "lora_" in n:
                p.copy_(0.3 * torch.randn(p.shape, generator=generator))
            elif "modules_to_save" in n:
                p.add_(0.1 * torch.randn(p.shape, generator=generator))
    golden = load_file(HERE.parent / base / "cases" / case / "golden.safetensors")
    tensors = {k: v for k, v in golden.items() if k.startswith("in.")}
    inputs = {k[3:]: v for k, v in tensors.items() if k != "in.completion_mask"}
    completion = tensors["in.completion_mask"]
    logits = adapted(**inputs, use_cache=False).logits
    logprobs = logprobs_of(logits, inputs["input_ids"], completion)
    nll = -logprobs.sum() / completion.sum()
    nll.backward()
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    adapted.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    config = json.loads((folder / "adapter_config.json").read_text())
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()  # PEFT writes a set: its order would differ from run to run
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True))
    grads = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in adapted.named_parameters() if "lora_" in n}
    named = get_peft_model_state_dict(adapted, state_dict=grads | unlearned(adapted))
    tensors |= {"grad." + n: g for n, g in named.items() if ".lora_A." in n or ".lora_B." in n}
    real = inputs["attention_mask"][..., None]
    tensors |= {"out.logits": logits.detach() * real, "out.logprobs": logprobs.detach(), "out.nll": nll.detach().reshape(1)}
    moved = float((tensors["out.logits"] - golden["out.logits"]).abs().max())
    assert moved > 0.05, f"{name}: the adapter changes nothing"
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, folder / "golden.safetensors")
    (folder / "case.json").write_text(json.dumps({"base": base, "case": case, "largest_change_of_logits": moved, "transformers": tf.__version__}, indent=1))
    names = sorted(load_file(folder / "adapter_model.safetensors"))
    print(f"{name}: {len(names)} tensors, logits move by up to {moved:.2f}; {names[0]}")


if __name__ == "__main__":
    tf.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    for entry, (base, case, settings) in ADAPTERS.items():
        if len(sys.argv) > 1 and entry not in sys.argv[1:]:
            continue
        make(entry, base, case, settings)
