"""GRPO steps in plain PyTorch: prompt and picture run once a group, forward and backward.

    python torch_step.py --checkpoint checkpoint16 [--mode step|decode|textstep|check]

The weights are those of transformers' module; the passes are written out here, so that nothing but the arithmetic is
paid for: fused projections and packed weights while decoding, a static cache, one copy of the prompt's keys and values
in training. Each mode prints one line of JSON.
"""

import statistics
import time

import fixture

parser = fixture.sizes()
parser.add_argument("--mode", choices=["step", "decode", "textstep", "check"], default="step")
args = parser.parse_args()

import torch  # noqa: E402  (the environment is set up first)
import torch.nn.functional as F  # noqa: E402

model, processor, image_tokens = fixture.load(args)
model.train()
config = model.config.text_config
heads, kv_heads, width, epsilon = config.num_attention_heads, config.num_key_value_heads, config.head_dim, config.rms_norm_eps
decoder, head = model.model.text_model, model.lm_head.weight
clock = time.perf_counter

angles = torch.outer(torch.arange(2048.0), config.rope_parameters["rope_theta"] ** (-torch.arange(0, width, 2) / width))
COS, SIN = angles.repeat(1, 2).cos(), angles.repeat(1, 2).sin()


def rotate(x, cos, sin):
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat([-second, first], -1) * sin


def norm(x, weight):
    return F.rms_norm(x, (x.shape[-1],), weight, epsilon)


def features(pixels):
    """Pictures `[n, 3, H, W]` to token embeddings `[n, tokens, D]`, by transformers' own tower and connector."""
    side = pixels.shape[-1] // model.config.vision_config.patch_size
    seen = torch.ones(pixels.shape[0], side, side, dtype=torch.bool)
    return model.model.connector(model.model.vision_model(pixels, patch_attention_mask=seen).last_hidden_state)


def embed(ids, pixels):
    embedded = decoder.embed_tokens(ids)
    if pixels is None:
        return embedded
    start = int((ids[0] == fixture.IDS["image_token"]).nonzero()[0])
    seen = features(pixels)
    return torch.cat([embedded[:, :start], seen, embedded[:, start + seen.shape[1]:]], 1)


def project(layer, x, position):
    """Turned queries and keys, and values, `[B, heads, T, width]` each."""
    b, t, _ = x.shape
    attention = layer.self_attn
    split = [p(x).view(b, t, -1, width).transpose(1, 2) for p in (attention.q_proj, attention.k_proj, attention.v_proj)]
    cos, sin = COS[position:position + t], SIN[position:position + t]
    return rotate(split[0], cos, sin), rotate(split[1], cos, sin), split[2]


def rest(layer, x, mixed):
    b, t, _ = x.shape
    x = x + layer.self_attn.o_proj(mixed.transpose(1, 2).reshape(b, t, heads * width))
    inner = norm(x, layer.post_attention_layernorm.weight)
    return x + layer.mlp.down_proj(F.silu(layer.mlp.gate_proj(inner)) * layer.mlp.up_proj(inner))


def read(x, kept=None):
    """A causal pass from position 0; every layer's keys and values go to `kept`."""
    for layer in decoder.layers:
        query, key, value = project(layer, norm(x, layer.input_layernorm.weight), 0)
        if kept is not None:
            kept.append((key, value))
        x = rest(layer, x, F.scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True))
    return norm(x, decoder.norm.weight)


def follow(x, prefix, group):
    """Completions `[n * group, T, D]` behind the prefixes `[n, ...]` that their groups share."""
    t, p = x.shape[1], prefix[0][0].shape[2]
    mask = torch.ones(t, p + t, dtype=torch.bool).tril(p)
    for layer, (prefix_key, prefix_value) in zip(decoder.layers, prefix):
        query, key, value = project(layer, norm(x, layer.input_layernorm.weight), p)
        key = torch.cat([prefix_key.repeat_interleave(group, 0), key], 2)
        value = torch.cat([prefix_value.repeat_interleave(group, 0), value], 2)
        x = rest(layer, x, F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True))
    return norm(x, decoder.norm.weight)


def logprobs_of(hidden, targets):
    losses = F.cross_entropy(F.linear(hidden, head).flatten(0, 1), targets.flatten(), reduction="none")
    return -losses.view(targets.shape)


def score(ids, pixels, completions, shared=True):
    """Log-probabilities of completions `[n * group, T]`, prompts shared or repeated."""
    group = completions.shape[0] // ids.shape[0]
    if shared:
        prefix = []
        last = read(embed(ids, pixels), prefix)[:, -1:].repeat_interleave(group, 0)
        hidden = follow(decoder.embed_tokens(completions[:, :-1]), prefix, group)
        return logprobs_of(torch.cat([last, hidden], 1), completions)
    repeated = torch.cat([ids.repeat_interleave(group, 0), completions[:, :-1]], 1)
    pixels = None if pixels is None else pixels.repeat_interleave(group, 0)
    return logprobs_of(read(embed(repeated, pixels))[:, ids.shape[1] - 1:], completions)


class Matrix:
    """A weight packed for products with `rows` rows."""

    def __init__(self, weight, rows):
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), rows)

    def __call__(self, x):
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, None, "none", [], "")


class Sampler:
    """Decoding with weights fused and packed once a step; the norms' weights are folded into what follows them."""

    @torch.no_grad()
    def __init__(self, rows):
        self.layers = []
        for layer in decoder.layers:
            a, before, after = layer.self_attn, layer.input_layernorm.weight, layer.post_attention_layernorm.weight
            qkv = torch.cat([a.q_proj.weight * width**-0.5, a.k_proj.weight, a.v_proj.weight]) * before
            gate_up = torch.cat([layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight]) * after
            weights = (qkv, a.o_proj.weight, gate_up, layer.mlp.down_proj.weight)
            self.layers.append([Matrix(weight, rows) for weight in weights])
        self.head = Matrix(head * decoder.norm.weight, rows)

    def next(self, tokens, position, cache):
        x = F.embedding(tokens, decoder.embed_tokens.weight)
        rows = x.shape[0]
        scaled = lambda x: x * (x.square().mean(-1, keepdim=True) + epsilon).rsqrt()
        for (qkv, out, gate_up, down), (keys, values) in zip(self.layers, cache):
            projected = qkv(scaled(x)).view(rows, heads + 2 * kv_heads, width)
            turned = rotate(projected[:, :heads + kv_heads], COS[position], SIN[position])
            keys[:, :, position], values[:, :, position] = turned[:, heads:], projected[:, heads + kv_heads:]
            query = turned[:, :heads].reshape(rows, kv_heads, heads // kv_heads, width)
            weights = torch.softmax(query @ keys[:, :, :position + 1].transpose(2, 3), -1)
            x = x + out((weights @ values[:, :, :position + 1]).reshape(rows, heads * width))
            gate, up = gate_up(scaled(x)).chunk(2, -1)
            x = x + down(F.silu(gate) * up)
        return self.head(scaled(x))


def draw(logits):
    """One token a row by inverse distribution function; neither placeholder nor end is drawn."""
    probabilities = torch.softmax(logits, -1)
    allowed = probabilities.clone()
    allowed[:, [fixture.IDS["image_token"], fixture.IDS["eos_token"]]] = 0
    sums = allowed.cumsum(-1)
    tokens = torch.searchsorted(sums, torch.rand(logits.shape[0], 1) * sums[:, -1:]).clamp_(max=logits.shape[1] - 1)
    return tokens.squeeze(1), probabilities.gather(1, tokens).squeeze(1).log()


@torch.no_grad()
def rollout(ids, pixels, group, new_tokens):
    """Completions, their log-probabilities, and seconds of reading and of decoding."""
    started = clock()
    kept, (n, p) = [], ids.shape
    rows = n * group
    logits = F.linear(read(embed(ids, pixels), kept)[:, -1], head).repeat_interleave(group, 0)
    sampler, cache = Sampler(rows), []
    for pair in kept:
        room = [torch.empty(rows, kv_heads, p + new_tokens, width) for _ in pair]
        for place, part in zip(room, pair):
            place[:, :, :p] = part.repeat_interleave(group, 0)
        cache.append(room)
    read_in, drawn = clock(), []
    for t in range(new_tokens):
        drawn.append(draw(logits))
        if t + 1 < new_tokens:
            logits = sampler.next(drawn[-1][0], p + t, cache)
    tokens, logprobs = (torch.stack(column, 1) for column in zip(*drawn))
    return tokens, logprobs, read_in - started, clock() - read_in


optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6, weight_decay=0.0, fused=True)


def update(loss):
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()


def step(batch):
    """One GRPO step; seconds of sampling and of training."""
    ids, pixels = fixture.tensors(batch, processor)
    started = clock()
    tokens, old, _, _ = rollout(ids, pixels, args.group, args.new_tokens)
    sampled = clock()
    rewards = torch.tensor([fixture.reward(row) for row in tokens.tolist()]).view(args.prompts, args.group)
    spread = rewards.std(1, keepdim=True) + 1e-4
    advantages = ((rewards - rewards.mean(1, keepdim=True)) / spread).view(-1, 1)
    optimizer.zero_grad(set_to_none=True)
    ratio = torch.exp(score(ids, pixels, tokens) - old)
    update(-torch.min(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean())
    return sampled - started, clock() - sampled


torch.manual_seed(0)
if args.mode == "step":
    made = fixture.rows(args.prompts * (args.steps + 1), args, processor, image_tokens)
    times = []
    for number in range(args.steps + 1):
        began = clock()
        phases = step(made[number * args.prompts:(number + 1) * args.prompts])
        times.append((clock() - began, *phases))
    fixture.report("torch", args, *map(list, zip(*times[1:])))
elif args.mode == "decode":
    ids, pixels = fixture.tensors(fixture.rows(args.prompts, args, processor, image_tokens), processor)
    runs = [rollout(ids, pixels, args.group, args.new_tokens)[2:] for _ in range(args.steps + 1)][1:]
    reading, decoding = (statistics.median(column) for column in zip(*runs))
    tokens = args.prompts * args.group * args.new_tokens
    fixture.emit({
        "tool": "torch", "decode_tokens_per_s": tokens / decoding, "s_decode": decoding, "s_prefill": reading,
    })
elif args.mode == "textstep":
    times = []
    for _ in range(args.steps + 1):
        ids = torch.randint(8, fixture.VOCAB, (32, 128))
        began = clock()
        optimizer.zero_grad(set_to_none=True)
        update(-logprobs_of(read(decoder.embed_tokens(ids))[:, :-1], ids[:, 1:]).mean())
        times.append(1e3 * (clock() - began))
    fixture.emit({"tool": "torch", "ms_step": statistics.median(times[1:]), "steps_ms": times[1:]})
else:
    ids, pixels = fixture.tensors(fixture.rows(2, args, processor, image_tokens), processor)
    with torch.no_grad():
        expected = model(input_ids=ids, pixel_values=pixels[:, None]).logits
        logits = F.linear(read(embed(ids, pixels)), head)
    tokens, old, _, _ = rollout(ids, pixels, 3, 12)
    gradients = []
    for shared in (True, False):
        model.zero_grad()
        score(ids, pixels, tokens, shared).mean().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    with torch.no_grad():
        drift = (score(ids, pixels, tokens) - old).abs().max()
    fixture.emit({
        "tool": "torch",
        "logits_against_transformers": (logits - expected).abs().max().item(),
        "sampler_against_trainer": drift.item(),
        "gradients_shared_against_plain": ((gradients[0] - gradients[1]).norm() / gradients[1].norm()).item(),
    })
