"""Tiny random checkpoints and what transformers 5.23 makes of them (f32, eager attention, CPU).

    python make.py [--only NAME ...]             # writes <checkpoint>/ beside itself
    python make.py --varied DIR [--seeds 3]      # many other sizes into DIR, to test against things not seen

Needs torch, transformers, safetensors and tokenizers. A checkpoint folder holds config.json, the weights under the names
of the hub, a word-level tokenizer.json, and cases/<case>/{golden.safetensors, case.json}: inputs `in.*`, outputs `out.*`,
gradients `grad.<name on disk>`. The sizes are in `committed()` and `varied()` below, the inputs of each family in its class.
"""

import argparse
import copy
import json
import shutil
import tempfile
from pathlib import Path

import torch
import transformers as tf
from safetensors.torch import load_file, save_file

GREEDY_TOKENS = 16
PAD, BOS, EOS, UNK = 0, 1, 2, 3


# ---------------------------------------------------------------- weights

def draw_weights(model, generator, spread=1.0):
    """Norms that are not 1, biases that are not 0, matrices that keep the size of what they multiply."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            last = name.split(".")[-1]
            if "lambda1" in last:
                p.copy_(0.6 + 0.2 * noise)
            elif p.ndim == 1 and "norm" in name.lower() and last == "weight" or p.ndim == 1 and "ln_q" in name and last == "weight":
                p.copy_(1 + 0.3 * noise)
            elif p.ndim < 2:
                p.copy_(0.2 * noise)
            elif "embed" in name and p.ndim == 2 or last in ("cls_token", "mask_token", "position_embeddings", "probe"):
                p.copy_(0.35 * noise)
            else:
                p.copy_(spread * noise / p[0].numel() ** 0.5)


def round_weights(model, dtype):
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(p.to(dtype).float())


def names_on_disk(model, values):
    """`values` by the names of this process, under the names that a saved checkpoint has."""
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder, state_dict={k: v.contiguous() for k, v in values.items()})
        return load_file(Path(folder) / "model.safetensors")


def gradients_on_disk(model):
    return names_on_disk(model, {n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in model.named_parameters()})


# ---------------------------------------------------------------- tokens

class Tokens:
    """Rows of token ids: running text is drawn, placeholders and marks are given."""

    def __init__(self, vocab, reserved, generator):
        self.allowed = [t for t in range(4, vocab) if t not in reserved]
        self.generator = generator

    def text(self, count):
        picks = torch.randint(len(self.allowed), (count,), generator=self.generator)
        return [self.allowed[i] for i in picks.tolist()]

    def row(self, *segments):
        """An int is that many tokens of text, a list is taken as it is."""
        return [t for s in segments for t in (self.text(s) if isinstance(s, int) else s)]


def batch(rows, completion_len, side="left"):
    """Ids, attention mask and completion mask of padded rows; every row ends with its completion."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), PAD)
    mask, completion = torch.zeros_like(ids), torch.zeros_like(ids)
    for i, row in enumerate(rows):
        start = width - len(row) if side == "left" else 0
        ids[i, start:start + len(row)] = torch.tensor(row)
        mask[i, start:start + len(row)] = 1
        completion[i, start + len(row) - completion_len:start + len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask, "completion_mask": completion}


def padding_of(case):
    mask = case["attention_mask"]
    return "none" if mask.all() else "right" if mask[:, 0].all() else "left"


# ---------------------------------------------------------------- language models

def decoder_of(model):
    for module in model.modules():
        if all(hasattr(module, part) for part in ("embed_tokens", "layers", "norm")):
            return module
    raise ValueError("no text decoder")


FEATURES = {  # name in the golden file -> how to find the module, by the end of its name
    "model.connector": "connector", "model.vision_model": "vision_model", "model.visual": "visual",
    "model.audio_tower": "audio_tower", "model.multi_modal_projector": "multi_modal_projector",
}


class Watch:
    """Hidden states and projected features of one forward pass."""

    def __init__(self, model, features):
        self.seen, self.handles = {}, []
        decoder = decoder_of(model)
        first = lambda out: out[0] if isinstance(out, tuple) else out
        self.on(decoder.layers[0].register_forward_pre_hook(
            lambda m, args, kwargs: self.seen.update({"inputs_embeds_merged": args[0] if args else kwargs["hidden_states"]}),
            with_kwargs=True))
        self.on(decoder.layers[0].register_forward_hook(lambda m, a, out: self.seen.update({"hidden_state_1": first(out)})))
        self.on(decoder.norm.register_forward_hook(lambda m, a, out: self.seen.update({"last_hidden_state": out})))
        for name in features:
            module = next(m for n, m in model.named_modules() if n.split(".")[-1] == FEATURES[name])
            self.on(module.register_forward_hook(lambda m, a, out, name=name: self.seen.update({"feat." + name: self.feature(name, out)})))

    @staticmethod
    def feature(name, out):
        if torch.is_tensor(out):
            return out
        if name == "model.visual" and getattr(out, "pooler_output", None) is not None:
            return out.pooler_output
        return out[0]

    def on(self, handle):
        self.handles.append(handle)

    def close(self):
        for handle in self.handles:
            handle.remove()


def media(case):
    return {k: v for k, v in case.items() if k not in ("input_ids", "attention_mask", "completion_mask", "mm_token_type_ids")}


def call(model, case):
    kwargs = {k: v for k, v in case.items() if k not in ("completion_mask",)}
    return model(**kwargs, use_cache=False)


def logprobs_of(logits, ids, completion):
    scores = torch.log_softmax(logits[:, :-1].float(), -1).gather(-1, ids[:, 1:, None])[..., 0]
    return torch.nn.functional.pad(scores, (1, 0)) * completion


def greedy(model, case, completion_len, eos):
    kept = case["input_ids"].shape[1] - completion_len
    kwargs = {k: case[k][:, :kept] for k in ("input_ids", "attention_mask", "mm_token_type_ids") if k in case}
    return model.generate(
        **kwargs, **media(case), do_sample=False, max_new_tokens=GREEDY_TOKENS, eos_token_id=eos, pad_token_id=PAD,
        return_dict_in_generate=True, output_logits=True), kept


def language_case(model, case, family, completion_len):
    """Tensors and notes of one case, or None if two tokens are too near for a greedy comparison."""
    tensors = {"in." + k: v.clone() for k, v in case.items()}
    notes = {"padding": padding_of(case)}
    if notes["padding"] != "right":
        with torch.no_grad():
            made, kept = greedy(model, case, completion_len, None)
        logits = torch.stack(made.logits, 1)
        top = logits.topk(2, -1).values
        margin = top[..., 0] - top[..., 1]
        if margin.min() < 1e-3:
            return None
        ids = made.sequences[:, kept:]
        eos = int(ids[0, GREEDY_TOKENS // 2])
        with torch.no_grad():
            stopped = greedy(model, case, completion_len, eos)[0].sequences[:, kept:]
        stopped = torch.nn.functional.pad(stopped, (0, GREEDY_TOKENS - stopped.shape[1]), value=PAD)
        tensors |= {"out.greedy_ids": ids, "out.greedy_margin": margin, "out.greedy_ids_with_eos": stopped}
        notes |= {"greedy_prompt_len": kept, "greedy_eos_id": eos, "greedy_min_margin": float(margin.min())}
    model.zero_grad()
    watch = Watch(model, family.features if media(case) else [])
    logits = call(model, case).logits
    watch.close()
    logprobs = logprobs_of(logits, case["input_ids"], case["completion_mask"])
    nll = -logprobs.sum() / case["completion_mask"].sum()
    nll.backward()
    real = case["attention_mask"][..., None]
    for name, value in watch.seen.items():
        tensors["out." + name] = value.detach() if name.startswith("feat.") else value.detach() * real
    tensors |= {"out.logits": logits.detach() * real, "out.logprobs": logprobs.detach(), "out.nll": nll.detach().reshape(1)}
    tensors |= family.positions(model, case)
    notes["noise_logits_f32_vs_f64"] = noise(model, case, logits)
    return tensors, notes | gradients(model, family, tensors)


def noise(model, case, logits):
    """How far f32 is from f64, or None where transformers' mask holds numbers that only f32 has."""
    try:
        with torch.no_grad():
            exact = call(copy.deepcopy(model).double(), {k: v.double() if v.is_floating_point() else v for k, v in case.items()})
        worst = float((exact.logits - logits.detach()).abs().max())
        return worst if worst == worst else None
    except RuntimeError:
        return None


def gradients(model, family, tensors):
    on_disk = gradients_on_disk(model)
    for part in family.graded:
        name = next(n for n in sorted(on_disk) if n.endswith(part))
        tensors["grad." + name] = on_disk[name]
    return {
        "grad_l2": {n: float(g.norm()) for n, g in sorted(on_disk.items())},
        "grad_sum": {n: float(g.double().sum()) for n, g in sorted(on_disk.items())},
    }


# ---------------------------------------------------------------- families

class Text:
    features, graded = [], ["embed_tokens.weight", "layers.0.mlp.down_proj.weight", "layers.1.self_attn.q_proj.weight", "norm.weight"]
    reserved, completion_len = [], 4

    def __init__(self, config, model_class, names=None):
        self.config, self.model_class, self.names = config, model_class, names

    def text_config(self):
        return self.config.get_text_config()

    def cases(self, tokens, generator):
        lengths = [19, 11, 24]
        rows = [tokens.row([BOS], n) for n in lengths]
        yield "batch_left_pad", "", batch(rows, 4)
        yield "batch_right_pad", "", batch(rows[:2], 4, "right")

    def positions(self, model, case):
        return {}


class Idefics(Text):
    features = ["model.connector", "model.vision_model"]
    graded = ["modality_projection.proj.weight", "text_model.layers.1.self_attn.q_proj.weight", "patch_embedding.weight",
              "position_embedding.weight", "encoder.layers.0.self_attn.q_proj.weight"]

    @property
    def reserved(self):
        return [self.config.image_token_id]

    def cases(self, tokens, generator):
        vision = self.config.vision_config
        side, patch = vision.image_size, vision.patch_size
        tile = [self.config.image_token_id] * ((side // patch) ** 2 // self.config.scale_factor ** 2)
        pixels = lambda b, n: torch.randn(b, n, 3, side, side, generator=generator)
        rows = [tokens.row([BOS], 2, tile, 1, tile, 1, tile, 7), tokens.row([BOS], 1, tile, 8)]
        case = batch(rows, 4)
        values, mask = pixels(2, 3), torch.ones(2, 3, side, side, dtype=torch.long)
        values[1, 1:], mask[1, 1:] = 0, 0
        yield "tiles_left_pad", "row 1 has one tile: its other places are zeros under a zero mask, and count for nothing", \
            case | {"pixel_values": values, "pixel_attention_mask": mask}
        values, mask = pixels(1, 2), torch.ones(1, 2, side, side, dtype=torch.long)
        rows_kept, columns_kept = side - patch - patch // 2, side - patch
        mask[0, 0, rows_kept:] = 0
        mask[0, 1, :, columns_kept:] = 0
        yield "partial_mask", "the lower rows of the first and the right columns of the second picture are padding", \
            batch([tokens.row([BOS], 1, tile, 2, tile, 6)], 4) | {"pixel_values": values * mask[:, :, None], "pixel_attention_mask": mask}


class QwenVl(Text):
    features = ["model.visual"]
    graded = ["model.layers.1.self_attn.q_proj.weight", "blocks.0.attn.qkv.weight", "merger.mlp.2.weight", "patch_embed.proj.weight"]
    audio = False

    @property
    def reserved(self):
        c = self.config
        return [c.image_token_id, c.video_token_id, c.vision_start_token_id, c.vision_end_token_id]

    def pictures(self, grids, generator):
        v = self.config.vision_config
        size = 3 * v.temporal_patch_size * v.patch_size ** 2
        return {"pixel_values": torch.randn(sum(h * w for h, w in grids), size, generator=generator),
                "image_grid_thw": torch.tensor([[1, h, w] for h, w in grids])}

    def picture(self, grid):
        count = grid[0] * grid[1] // self.config.vision_config.spatial_merge_size ** 2
        c = self.config
        return [c.vision_start_token_id] + [c.image_token_id] * count + [c.vision_end_token_id]

    def with_types(self, case):
        return case | {"mm_token_type_ids": (case["input_ids"] == self.config.image_token_id).int()}

    def cases(self, tokens, generator):
        m = self.config.vision_config.spatial_merge_size
        grids = [(3 * m, 2 * m), (2 * m, 2 * m), (m, 5 * m)]
        rows = [tokens.row([BOS], 2, self.picture(grids[0]), 2, self.picture(grids[1]), 6), tokens.row([BOS], self.picture(grids[2]), 7)]
        yield "two_images_left_pad", "", self.with_types(batch(rows, 4)) | self.pictures(grids, generator)
        grid = [(7 * m, 3 * m)]
        yield "one_tall_image", "windows that the picture does not fill", \
            self.with_types(batch([tokens.row([BOS], 1, self.picture(grid[0]), 6)], 4)) | self.pictures(grid, generator)

    def positions(self, model, case):
        kwargs = {k: case[k] for k in ("image_grid_thw", "attention_mask", "mm_token_type_ids") if k in case}
        ids, deltas = model.model.get_rope_index(case["input_ids"], **kwargs)
        return {"out.mrope_position_ids": ids, "out.mrope_deltas": deltas}


def audio_tokens(length):
    return ((length - 1) // 2 + 1 - 2) // 2 + 1


class Qwen2Audio(Text):
    features = ["model.multi_modal_projector"]
    graded = ["conv1.weight", "audio_tower.layers.0.self_attn.q_proj.weight", "language_model.model.layers.1.self_attn.q_proj.weight",
              "multi_modal_projector.linear.weight"]

    @property
    def reserved(self):
        return [self.config.audio_token_id]

    def sounds(self, lengths, generator):
        a = self.config.audio_config
        width = 2 * a.max_source_positions
        features = torch.randn(len(lengths), a.num_mel_bins, width, generator=generator)
        mask = (torch.arange(width)[None] < torch.tensor(lengths)[:, None]).long()
        # Padding is the constant that a log-mel of silence has.
        return {"input_features": torch.where(mask[:, None] == 1, features, torch.tensor(-0.5)), "feature_attention_mask": mask}

    def sound(self, length):
        return [self.config.audio_token_id] * audio_tokens(length)

    def cases(self, tokens, generator):
        width = 2 * self.config.audio_config.max_source_positions
        lengths = [width // 3, width, width // 2 - 1]
        rows = [tokens.row([BOS], 1, self.sound(lengths[0]), 2, self.sound(lengths[1]), 6), tokens.row([BOS], self.sound(lengths[2]), 8)]
        yield "three_lengths_left_pad", f"lengths {lengths} in frames; the first row has two sounds", batch(rows, 4) | self.sounds(lengths, generator)


class Omni(QwenVl):
    features = ["model.visual", "model.audio_tower"]
    graded = ["model.layers.1.self_attn.q_proj.weight", "blocks.0.attn.q.weight", "merger.mlp.2.weight", "audio_tower.proj.weight",
              "audio_tower.layers.0.self_attn.q_proj.weight"]

    @property
    def reserved(self):
        c = self.config
        return [c.image_token_id, c.video_token_id, c.audio_token_id, c.vision_start_token_id, c.vision_end_token_id,
                c.audio_start_token_id, c.audio_end_token_id]

    def sound(self, length):
        c = self.config
        return [c.audio_start_token_id] + [c.audio_token_id] * audio_tokens(length) + [c.audio_end_token_id]

    def sounds(self, lengths, generator):
        mask = (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).long()
        bins = self.config.audio_config.num_mel_bins
        return {"input_features": torch.randn(len(lengths), bins, max(lengths), generator=generator) * mask[:, None], "feature_attention_mask": mask}

    def with_types(self, case):
        return case

    def cases(self, tokens, generator):
        m, chunk = self.config.vision_config.spatial_merge_size, 2 * self.config.audio_config.n_window
        grids, lengths = [(2 * m, 3 * m), (m, 2 * m)], [2 * chunk + chunk // 2 + 1, chunk + 3]
        rows = [tokens.row([BOS], 1, self.picture(grids[0]), 1, self.sound(lengths[0]), 6),
                tokens.row([BOS], self.sound(lengths[1]), 2, self.picture(grids[1]), 7)]
        yield "image_and_audio_left_pad", f"audio lengths {lengths}: the last window of both is cut", \
            batch(rows, 4) | self.pictures(grids, generator) | self.sounds(lengths, generator)

    def positions(self, model, case):
        lengths = case["feature_attention_mask"].sum(-1)
        root = model.model if hasattr(model, "model") and hasattr(model.model, "get_rope_index") else model
        ids, deltas = root.get_rope_index(case["input_ids"], case["image_grid_thw"], None, case["attention_mask"], False, lengths, None)
        return {"out.mrope_position_ids": ids, "out.mrope_deltas": deltas}


# ---------------------------------------------------------------- encoders alone

class Tower:
    graded = []

    def __init__(self, config, model_class, graded):
        self.config, self.model_class, self.graded = config, model_class, graded

    def cases(self, generator):
        """Name, note, inputs, further keyword arguments."""
        side, patch = self.config.image_size, self.config.patch_size
        interpolate = {} if self.config.model_type.startswith("dinov2") else {"interpolate_pos_encoding": True}
        pixels = lambda b, h, w: {"pixel_values": torch.randn(b, 3, h, w, generator=generator)}
        yield "native", "", pixels(2, side, side), {}
        yield "interpolated", "positions are interpolated bicubically to the larger grid", pixels(1, side + patch, side + 2 * patch), interpolate
        yield "interpolated_smaller", "positions are interpolated bicubically to the smaller grid", pixels(1, side - patch, side), interpolate

    def run(self, model, inputs, kwargs):
        return model(**inputs, **kwargs, output_hidden_states=True)


class TowerOfPair(Tower):
    """The vision tower of a checkpoint that has a text tower besides."""

    def cases(self, generator):
        return Tower(self.config.vision_config, None, []).cases(generator)

    def run(self, model, inputs, kwargs):
        return model.vision_model(**inputs, **kwargs, output_hidden_states=True)


class Whisper(Tower):
    def cases(self, generator):
        frames = 2 * self.config.max_source_positions
        yield "batch2", self.note, {"input_features": torch.randn(2, self.config.num_mel_bins, frames, generator=generator)}, {}

    @property
    def note(self):
        return "encoder.embed_positions is " + ("drawn" if self.drawn_positions else "the usual sinusoids")

    drawn_positions = False

    def run(self, model, inputs, kwargs):
        return model.get_encoder()(**inputs, output_hidden_states=True)


def tower_case(model, family, inputs, kwargs, generator):
    model.zero_grad()
    inputs = {k: v.requires_grad_() for k, v in inputs.items()}
    out = family.run(model, inputs, kwargs)
    last = out.last_hidden_state
    cotangent = torch.randn(last.shape, generator=generator)
    loss = (last * cotangent).sum() / last.numel()
    loss.backward()
    tensors = {"in." + k: v.detach() for k, v in inputs.items()} | {"grad_input." + k: v.grad for k, v in inputs.items()}
    tensors |= {"in.cotangent": cotangent, "out.last_hidden_state": last.detach(), "out.loss": loss.detach().reshape(1),
                "out.hidden_state_0": out.hidden_states[0].detach(), "out.hidden_state_1": out.hidden_states[1].detach()}
    if getattr(out, "pooler_output", None) is not None:
        tensors["out.pooler_output"] = out.pooler_output.detach()
    notes = {"loss": "sum(out.last_hidden_state*in.cotangent)/numel", "call": kwargs}
    return tensors, notes | gradients(model, family, tensors)


# ---------------------------------------------------------------- writing

def write_tokenizer(folder, vocab):
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    names = {"<pad>": PAD, "<s>": BOS, "</s>": EOS, "<unk>": UNK} | {f"t{k}": k for k in range(4, vocab)}
    tokenizer = Tokenizer(models.WordLevel(names, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in ("<pad>", "<s>", "</s>", "<unk>")])
    (folder / "tokenizer.json").write_text(tokenizer.to_str())
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>",
        "unk_token": "<unk>", "model_max_length": 512}, indent=1))


def write_case(folder, checkpoint, case, tensors, notes):
    folder.mkdir(parents=True)
    save_file({k: v.contiguous().clone() for k, v in tensors.items()}, folder / "golden.safetensors")
    head = {"checkpoint": checkpoint, "case": case, "transformers": tf.__version__, "torch": torch.__version__,
            "dtype": "float32", "attention": "eager"}
    shapes = {"tensors": {k: [str(v.dtype).split(".")[1], list(v.shape)] for k, v in sorted(tensors.items())}}
    (folder / "case.json").write_text(json.dumps(head | notes | shapes, indent=0))


def save_weights(model, folder, dtype, shard):
    """Config and weights in `dtype`; the model itself stays f32."""
    kept = copy.deepcopy(model).to(dtype)
    kept.config.dtype = dtype
    kept.save_pretrained(folder, **({"max_shard_size": shard} if shard else {}))


def with_prefix(folder, prefix, others):
    """Puts a prefix before the names on disk, and other tensors beside them."""
    weights = load_file(folder / "model.safetensors")
    save_file({prefix + k: v for k, v in weights.items()} | others, folder / "model.safetensors", {"format": "pt"})


def into_full_omni(folder):
    """A thinker's files as the full model has them: tensors of the talker and the vocoder beside `thinker.`."""
    others = {"talker.model.norm.weight": torch.ones(4), "token2wav.code2wav_bigvgan_model.conv_pre.bias": torch.zeros(4)}
    with_prefix(folder, "thinker.", others)
    thinker = json.loads((folder / "config.json").read_text())
    full = {"architectures": ["Qwen2_5OmniModel"], "model_type": "qwen2_5_omni", "enable_audio_output": True, "thinker_config": thinker,
            "talker_config": {"model_type": "qwen2_5_omni_talker"}, "token2wav_config": {"model_type": "qwen2_5_omni_token2wav"}}
    (folder / "config.json").write_text(json.dumps(full, indent=1))


def prefixed(prefix, tensors, notes):
    """Gradients under the prefixed names."""
    for key in ("grad_l2", "grad_sum"):
        notes[key] = {prefix + k: v for k, v in notes[key].items()}
    return {k.replace("grad.", "grad." + prefix, 1) if k.startswith("grad.") else k: v for k, v in tensors.items()}


def make(out, name, family, seed, dtype=torch.float32, shard=None, prefix=""):
    """Draws weights until every case's greedy tokens are beyond doubt, and writes the folder."""
    for attempt in range(40):
        generator = torch.Generator().manual_seed(1000 * seed + attempt)
        torch.manual_seed(seed)
        config = copy.deepcopy(family.config)
        config._attn_implementation = "eager"
        model = family.model_class._from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
        family = copy.copy(family)
        family.config = model.config
        positions = {n: p.detach().clone() for n, p in model.named_parameters() if n.endswith("encoder.embed_positions.weight")}
        draw_weights(model, generator)
        if not getattr(family, "drawn_positions", False):
            for n, p in model.named_parameters():
                if n in positions:
                    p.data.copy_(positions[n])
        round_weights(model, dtype)
        written = cases_of(model, family, generator)
        if written is not None:
            break
    else:
        raise SystemExit(f"{name}: no draw without near ties")
    folder = out / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save_weights(model, folder, dtype, shard)
    if isinstance(family, (Text, Whisper)):
        write_tokenizer(folder, family.config.get_text_config().vocab_size)
    if prefix == "thinker.":
        into_full_omni(folder)
    elif prefix:
        with_prefix(folder, prefix, {})
    for case, tensors, notes in written:
        tensors = prefixed(prefix, tensors, notes) if prefix else tensors
        write_case(folder / "cases" / case, name, case, tensors, notes)
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    print(f"{name}: {size / 1e3:.0f} kB, {len(written)} case(s), attempt {attempt}", flush=True)


def cases_of(model, family, generator):
    written = []
    if isinstance(family, Tower):
        for case, note, inputs, kwargs in family.cases(generator):
            tensors, notes = tower_case(model, family, inputs, kwargs, generator)
            written.append((case, tensors, {"note": note} | notes))
        return written
    tokens = Tokens(family.config.get_text_config().vocab_size, family.reserved, generator)
    for case, note, inputs in family.cases(tokens, generator):
        made = language_case(model, inputs, family, family.completion_len)
        if made is None:
            return None
        written.append((case, made[0], {"note": note} | made[1]))
    return written


# ---------------------------------------------------------------- sizes

def rope(theta, kind="default", **more):
    return {"rope_type": kind, "rope_theta": theta, **more}


def text(vocab=64, d=16, hidden=24, layers=2, heads=4, kv=2, **more):
    return dict(vocab_size=vocab, hidden_size=d, intermediate_size=hidden, num_hidden_layers=layers, num_attention_heads=heads,
                num_key_value_heads=kv, pad_token_id=PAD, bos_token_id=BOS, eos_token_id=EOS,
                **{"max_position_embeddings": 256, "rms_norm_eps": 1e-4, **more})


def llama(**sizes):
    return Text(tf.LlamaConfig(**text(**sizes)), tf.LlamaForCausalLM)


def qwen2(**sizes):
    return Text(tf.Qwen2Config(**text(**sizes)), tf.Qwen2ForCausalLM)


def qwen3(**sizes):
    return Text(tf.Qwen3Config(**text(**sizes)), tf.Qwen3ForCausalLM)


def idefics(kind, vision, scale=2, image=7, tied=False, **sizes):
    config, model = {"smolvlm": (tf.SmolVLMConfig, tf.SmolVLMForConditionalGeneration),
                     "idefics3": (tf.Idefics3Config, tf.Idefics3ForConditionalGeneration)}[kind]
    language = dict(model_type="llama", tie_word_embeddings=tied, **text(**sizes))
    return Idefics(config(text_config=language, vision_config=vision, scale_factor=scale, image_token_id=image,
                          tie_word_embeddings=tied, pad_token_id=PAD), model)


def siglip(d=16, hidden=20, layers=2, heads=2, side=12, patch=3, **more):
    return dict(hidden_size=d, intermediate_size=hidden, num_hidden_layers=layers, num_attention_heads=heads, image_size=side,
                patch_size=patch, **more)


def qwen2_vl(vision, sections=(2, 1, 1), theta=300.0, first=4, tied=False, **sizes):
    sizes = text(**sizes)
    config = tf.Qwen2VLConfig(
        text_config=dict(rope_parameters=rope(theta, mrope_section=list(sections)), tie_word_embeddings=tied, **sizes),
        vision_config=dict(hidden_size=sizes["hidden_size"], **vision), tie_word_embeddings=tied,
        image_token_id=first, video_token_id=first + 1, vision_start_token_id=first + 2, vision_end_token_id=first + 3)
    return QwenVl(config, tf.Qwen2VLForConditionalGeneration)


def qwen2_5_vl(vision, sections=(2, 1, 1), theta=300.0, first=4, tied=False, **sizes):
    sizes = text(**sizes)
    config = tf.Qwen2_5_VLConfig(
        text_config=dict(rope_parameters=rope(theta, mrope_section=list(sections)), tie_word_embeddings=tied, **sizes),
        vision_config=dict(out_hidden_size=sizes["hidden_size"], **vision), tie_word_embeddings=tied,
        image_token_id=first, video_token_id=first + 1, vision_start_token_id=first + 2, vision_end_token_id=first + 3)
    return QwenVl(config, tf.Qwen2_5_VLForConditionalGeneration)


def whisper_encoder(d=16, hidden=24, layers=2, heads=2, mels=8, positions=24):
    return dict(d_model=d, encoder_ffn_dim=hidden, encoder_layers=layers, encoder_attention_heads=heads, num_mel_bins=mels,
                max_source_positions=positions)


def qwen2_audio(audio, theta=300.0, token=5, tied=False, **sizes):
    config = tf.Qwen2AudioConfig(
        audio_config=dict(model_type="qwen2_audio_encoder", dropout=0.0, **audio), audio_token_id=token, tie_word_embeddings=tied,
        text_config=dict(model_type="qwen2", rope_parameters=rope(theta), tie_word_embeddings=tied, **text(**sizes)))
    return Qwen2Audio(config, tf.Qwen2AudioForConditionalGeneration)


def omni(vision, audio, window=5, sections=(2, 1, 1), theta=300.0, first=4, **sizes):
    from transformers.models.qwen2_5_omni.configuration_qwen2_5_omni import Qwen2_5OmniThinkerConfig
    sizes = text(**sizes)
    config = Qwen2_5OmniThinkerConfig(
        text_config=dict(rope_parameters=rope(theta, mrope_section=list(sections)), **sizes),
        vision_config=dict(out_hidden_size=sizes["hidden_size"], **vision),
        audio_config=dict(n_window=window, output_dim=sizes["hidden_size"], **audio),
        audio_token_id=first, image_token_id=first + 1, video_token_id=first + 2, vision_start_token_id=first + 3,
        vision_end_token_id=first + 4, audio_start_token_id=first + 5, audio_end_token_id=first + 6)
    return Omni(config, tf.Qwen2_5OmniThinkerForConditionalGeneration)


def whisper(drawn=False, decoder=1, vocab=64, **sizes):
    sizes = whisper_encoder(**sizes)
    config = tf.WhisperConfig(
        vocab_size=vocab, decoder_layers=decoder, decoder_attention_heads=2, decoder_ffn_dim=8, max_target_positions=8, pad_token_id=PAD,
        bos_token_id=BOS, eos_token_id=EOS, decoder_start_token_id=BOS, suppress_tokens=None, begin_suppress_tokens=None, **sizes)
    family = Whisper(config, tf.WhisperForConditionalGeneration,
                     ["encoder.conv1.weight", "encoder.layer_norm.weight", "encoder.layers.0.self_attn.v_proj.bias", "encoder.layers.1.self_attn.q_proj.weight"])
    family.drawn_positions = drawn
    return family


def dinov2(swiglu=False, d=16, layers=2, heads=2, side=12, patch=3, ratio=2, **more):
    config = tf.Dinov2Config(hidden_size=d, num_hidden_layers=layers, num_attention_heads=heads, image_size=side, patch_size=patch,
                             mlp_ratio=ratio, use_swiglu_ffn=swiglu, **more)
    return Tower(config, tf.Dinov2Model, ["position_embeddings", "patch_embeddings.projection.weight", "layer_scale1.lambda1",
                                          "layer.1.attention.attention.query.weight"])


GRADED_VISION = ["position_embedding.weight", "patch_embedding.weight", "layers.1.self_attn.q_proj.weight", "layers.0.mlp.fc1.bias"]


def clip_vision(act="quick_gelu", **sizes):
    config = tf.CLIPVisionConfig(hidden_act=act, projection_dim=8, **siglip(**sizes))
    return Tower(config, tf.CLIPVisionModel, GRADED_VISION + ["class_embedding"])


def siglip_vision(**sizes):
    return Tower(tf.SiglipVisionConfig(**siglip(**sizes)), tf.SiglipVisionModel, GRADED_VISION)


def pair(kind, **sizes):
    """A whole CLIP or SigLIP, of which the vision tower is looked at."""
    language = dict(vocab_size=40, hidden_size=8, intermediate_size=12, num_hidden_layers=1, num_attention_heads=2, max_position_embeddings=8,
                    pad_token_id=1, bos_token_id=2, eos_token_id=3)
    config, model = {"clip": (tf.CLIPConfig, tf.CLIPModel), "siglip": (tf.SiglipConfig, tf.SiglipModel)}[kind]
    more = dict(projection_dim=8) if kind == "clip" else dict()
    language |= dict(projection_size=siglip(**sizes)["hidden_size"]) if kind == "siglip" else {}
    return TowerOfPair(config(text_config=language, vision_config=siglip(**sizes), **more), model, ["vision_model." + g for g in
                       ("embeddings.position_embedding.weight", "embeddings.patch_embedding.weight", "encoder.layers.1.self_attn.q_proj.weight")])


QWEN2_VISION = dict(embed_dim=16, depth=2, num_heads=2, mlp_ratio=2, patch_size=2, spatial_merge_size=2, temporal_patch_size=2)
QWEN25_VISION = dict(hidden_size=16, intermediate_size=20, depth=3, num_heads=2, patch_size=2, spatial_merge_size=2, temporal_patch_size=2,
                     window_size=8, fullatt_block_indexes=[1])
OMNI_AUDIO = dict(d_model=16, encoder_ffn_dim=20, encoder_layers=2, encoder_attention_heads=2, num_mel_bins=8, max_source_positions=32)


def committed():
    """Name, family, and how the files are written."""
    bf16, f16 = dict(dtype=torch.bfloat16), dict(dtype=torch.float16)
    long = dict(head_dim=12, heads=4, kv=1)
    yield "llama_llama3", llama(rope_parameters=rope(400.0, "llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                                                     original_max_position_embeddings=16), tie_word_embeddings=False, **long), {}
    yield "llama_yarn", llama(rope_parameters=rope(200.0, "yarn", factor=4.0, original_max_position_embeddings=16, beta_fast=4.0, beta_slow=1.0),
                              max_position_embeddings=64, head_dim=16, heads=2, kv=1, tie_word_embeddings=True), {}
    yield "llama_linear", llama(rope_parameters=rope(900.0, "linear", factor=2.5), tie_word_embeddings=False), f16
    yield "qwen2_untied", qwen2(rope_parameters=rope(700.0), tie_word_embeddings=False), dict(shard="6KB")
    yield "qwen3", qwen3(rope_parameters=rope(500.0), tie_word_embeddings=True, head_dim=6), bf16
    yield "smolvlm_tiles", idefics("smolvlm", siglip(), rope_parameters=rope(600.0), head_dim=6, tied=True), {}
    yield "idefics3_tiles", idefics("idefics3", siglip(side=15, patch=5, heads=4), scale=3, image=62, rope_parameters=rope(800.0)), bf16
    yield "qwen2_vl", qwen2_vl(QWEN2_VISION, heads=2, kv=1, first=60), {}
    yield "qwen2_5_vl", qwen2_5_vl(QWEN25_VISION, heads=2, kv=1, tied=True), {}
    yield "qwen2_audio", qwen2_audio(whisper_encoder(positions=16)), {}
    yield "qwen2_5_omni", omni(QWEN25_VISION, OMNI_AUDIO, heads=2, kv=1, first=57), dict(prefix="thinker.")
    yield "qwen2_5_omni_thinker", omni(QWEN25_VISION, OMNI_AUDIO, window=4, heads=2, kv=2, theta=900.0), {}
    yield "whisper_learned", whisper(drawn=True, positions=16), {}
    yield "dinov2_swiglu", dinov2(swiglu=True), {}
    yield "dinov2", dinov2(heads=4, patch=4), {}
    yield "clip_vision", clip_vision(), {}
    yield "siglip_vision", siglip_vision(heads=4), dict(prefix="vision_model.")


def varied(seed):
    """Other sizes of everything, drawn by seed."""
    import random
    r = random.Random(seed)
    pick = r.choice

    def sizes(**more):
        heads, kv = pick([(4, 1), (4, 4), (6, 2), (8, 2), (3, 1), (5, 5)])
        return dict(vocab=pick([97, 180, 301]), d=heads * pick([8, 10, 12]), hidden=pick([40, 52, 76]), layers=pick([2, 3, 4]), heads=heads, kv=kv,
                    rms_norm_eps=pick([1e-3, 1e-5, 1e-6]), **more)

    def theta():
        return pick([50.0, 1e4, 1e5, 1e6])

    def tied():
        return pick([True, False])

    kinds = dict(dtype=pick([torch.float32, torch.bfloat16, torch.float16]))
    shard = dict(shard=pick([None, "40KB"]))
    scalings = [rope(theta()), rope(theta(), "linear", factor=pick([2.0, 3.7])),
                rope(theta(), "llama3", factor=pick([4.0, 32.0]), low_freq_factor=1.0, high_freq_factor=pick([2.0, 4.0]), original_max_position_embeddings=pick([8, 64])),
                rope(theta(), "yarn", factor=pick([2.0, 8.0]), original_max_position_embeddings=pick([8, 32]), beta_fast=pick([8.0, 32.0]), beta_slow=1.0),
                rope(theta(), "yarn", factor=4.0, original_max_position_embeddings=16, attention_factor=0.9)]
    for i, scaling in enumerate(scalings):
        for kind, build in (("llama", llama), ("qwen2", qwen2), ("qwen3", qwen3)):
            width = dict(head_dim=pick([8, 14, 20])) if kind == "qwen3" or kind == "llama" and tied() else {}
            yield f"{kind}_{scaling['rope_type']}{i}_s{seed}", build(rope_parameters=scaling, tie_word_embeddings=tied(), **sizes(**width)), kinds | shard
    yield f"llama_biased_s{seed}", llama(rope_parameters=rope(theta()), attention_bias=True, mlp_bias=tied(), **sizes()), {}
    for kind in ("smolvlm", "idefics3"):
        patch, scale, blocks = pick([3, 4]), pick([1, 2, 3]), pick([1, 2])
        vision = siglip(d=pick([24, 36]), hidden=pick([30, 50]), layers=pick([2, 3]), heads=pick([2, 4]), side=patch * scale * (blocks + 1), patch=patch,
                        layer_norm_eps=pick([1e-6, 1e-3]), hidden_act=pick(["gelu_pytorch_tanh", "gelu"]))
        s = sizes()
        yield f"{kind}_s{seed}", idefics(kind, vision, scale=scale, image=pick([7, s["vocab"] - 1]), tied=tied(), rope_parameters=rope(theta()), **s), kinds | shard
    s = sizes()
    half = s["d"] // s["heads"] // 2
    sections = [half - 2 * (half // 3), half // 3, half // 3]
    merge, patch = pick([2, 3]), pick([2, 4])
    first = pick([4, s["vocab"] - 4])
    vision = dict(QWEN2_VISION, embed_dim=pick([24, 32]), depth=pick([2, 3]), mlp_ratio=pick([2, 3]), patch_size=patch, spatial_merge_size=merge, hidden_act=pick(["quick_gelu", "gelu"]))
    yield f"qwen2_vl_s{seed}", qwen2_vl(vision, sections=sections, theta=theta(), first=first, tied=tied(), **s), kinds | shard
    vision = dict(QWEN25_VISION, hidden_size=pick([24, 32]), intermediate_size=pick([36, 44]), depth=4, patch_size=patch, spatial_merge_size=merge,
                      window_size=patch * merge * pick([1, 2, 3]), fullatt_block_indexes=pick([[0], [1, 3], []]))
    yield f"qwen2_5_vl_s{seed}", qwen2_5_vl(vision, sections=sections, theta=theta(), first=first, tied=tied(), **s), kinds | shard
    audio = dict(OMNI_AUDIO, d_model=pick([24, 36]), encoder_ffn_dim=pick([30, 50]), encoder_layers=pick([1, 3]), num_mel_bins=pick([10, 16]))
    yield f"omni_thinker_s{seed}", omni(vision, audio, window=pick([4, 6, 9]), sections=sections, theta=theta(), first=pick([4, s["vocab"] - 7]), **s), kinds | shard
    yield f"omni_full_s{seed}", omni(vision, audio, window=pick([4, 6, 9]), sections=sections, theta=theta(), first=4, **s), dict(prefix="thinker.")
    audio = whisper_encoder(d=pick([24, 36]), hidden=pick([30, 50]), layers=pick([2, 3]), heads=pick([2, 3]), mels=pick([10, 20]), positions=pick([20, 30]))
    s = sizes()
    yield f"qwen2_audio_s{seed}", qwen2_audio(audio, theta=theta(), token=pick([5, s["vocab"] - 1]), tied=tied(), **s), kinds | shard
    yield f"whisper_s{seed}", whisper(
        drawn=tied(), d=audio["d_model"], hidden=audio["encoder_ffn_dim"], layers=audio["encoder_layers"], heads=audio["encoder_attention_heads"],
        mels=audio["num_mel_bins"], positions=audio["max_source_positions"]), kinds | shard
    grid = dict(d=pick([24, 48]), layers=pick([2, 3]), heads=pick([2, 3, 4]), side=pick([20, 35]), patch=5)
    yield f"dinov2_s{seed}", dinov2(ratio=pick([2, 3, 4]), layer_norm_eps=pick([1e-6, 1e-3]), qkv_bias=tied(), **grid), kinds
    yield f"dinov2_swiglu_s{seed}", dinov2(swiglu=True, ratio=pick([2, 4]), **grid), kinds
    eps = dict(layer_norm_eps=pick([1e-6, 1e-3]))
    yield f"clip_vision_s{seed}", clip_vision(act=pick(["quick_gelu", "gelu"]), **grid, **eps), kinds
    yield f"siglip_vision_s{seed}", siglip_vision(**grid, **eps), kinds
    yield f"clip_s{seed}", pair("clip", **grid), kinds
    yield f"siglip_s{seed}", pair("siglip", **grid), kinds


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", nargs="*", help="checkpoints to make again")
    parser.add_argument("--varied", type=Path, help="write many other sizes into this folder instead")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    tf.utils.logging.disable_progress_bar()
    here = Path(__file__).parent
    if args.varied:
        todo = [(args.varied, seed, *entry) for seed in range(args.seeds) for entry in varied(seed)]
    else:
        todo = [(here, 7, *entry) for entry in committed()]
    for out, seed, name, family, how in todo:
        if not args.only or name in args.only:
            make(out, name, family, seed, **how)


if __name__ == "__main__":
    main()
