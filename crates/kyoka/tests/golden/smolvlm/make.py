"""A tiny random SmolVLM and what transformers 5.23 makes of two pictures and a text (torch 2.11, f32, eager attention).

    python make.py        # writes config.json, model.safetensors and golden.safetensors beside itself
"""

from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

torch.manual_seed(3)
folder = Path(__file__).parent
text = dict(
    model_type="llama", vocab_size=61, hidden_size=24, intermediate_size=40, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, head_dim=6, max_position_embeddings=64, rms_norm_eps=1e-4,
    rope_parameters={"rope_type": "default", "rope_theta": 500.0}, tie_word_embeddings=False,
)
vision = dict(
    hidden_size=20, intermediate_size=28, num_hidden_layers=2, num_attention_heads=2, image_size=12, patch_size=3,
)
config = transformers.SmolVLMConfig(
    text_config=text, vision_config=vision, scale_factor=2, image_token_id=7, tie_word_embeddings=False,
)
config._attn_implementation = "eager"
model = transformers.SmolVLMForConditionalGeneration(config).float().eval()
with torch.no_grad():
    for parameter in model.parameters():
        # Norms that are not 1 and biases that are not 0, so that none can be mixed up.
        parameter.add_(0.3 * torch.randn_like(parameter))
model.save_pretrained(folder)
(folder / "generation_config.json").unlink(missing_ok=True)

# 16 patches fold into 4 tokens a picture.
prompt = torch.tensor([[1, 9, 7, 7, 7, 7, 12, 7, 7, 7, 7, 33, 40]])
completion = torch.tensor([[5, 58, 14, 2]])
pixels = torch.randn(1, 2, 3, 12, 12)
with torch.no_grad():
    logits = model(input_ids=torch.cat([prompt, completion], 1), pixel_values=pixels).logits[0]
n = prompt.shape[1]
logprobs = torch.log_softmax(logits[n - 1:-1], -1).gather(1, completion[0][:, None])[:, 0]
save_file(
    {
        "prompt": prompt[0].float(), "completion": completion[0].float(), "pixel_values": pixels[0].contiguous(),
        "logits": logits[n - 1].contiguous(), "logprobs": logprobs.contiguous(),
    },
    folder / "golden.safetensors",
)
