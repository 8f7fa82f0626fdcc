"""Small pictures through the image processors of transformers, in the form `cargo xtask parity` reads.

    pip install transformers==5.23.0 pillow==13.0.0 torchvision==0.29.2 numpy safetensors
    python make.py

Each class is the one that `AutoImageProcessor` takes by default, on torchvision, but for SmolVLM and Idefics3: torchvision
has no Lanczos, so theirs is the one on Pillow. The nearest pixel, which no known checkpoint asks for, is Pillow's too.
"""

import json
from pathlib import Path

import numpy as np
import PIL
import transformers
from PIL import Image
from safetensors.numpy import save_file
from transformers.models.bit.image_processing_bit import BitImageProcessor
from transformers.models.clip.image_processing_clip import CLIPImageProcessor
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.siglip.image_processing_siglip import SiglipImageProcessor
from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
from transformers.models.vit.image_processing_vit import ViTImageProcessor
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

HERE = Path(__file__).parent
RNG = np.random.default_rng(20)


def noise(height, width, channels):
    """Hard edges on a gradient: what overshoots in a filter shows."""
    ramp = np.linspace(0, 255, width)[None, :, None] * np.ones((height, 1, channels))
    hard = 255.0 * (RNG.random((height, width, channels)) > 0.5)
    return np.where(RNG.random((height, width, 1)) > 0.4, hard, ramp).astype(np.uint8)


def pictures():
    """Each kind of file once, at sizes that no processor likes."""
    yield "rgb_37x26.png", Image.fromarray(noise(26, 37, 3))
    yield "tall_5x61.png", Image.fromarray(noise(61, 5, 3))
    yield "wide_70x3.png", Image.fromarray(noise(3, 70, 3))
    yield "rgba_21x18.png", Image.fromarray(noise(18, 21, 4), "RGBA")
    yield "grey_alpha_9x14.png", Image.fromarray(noise(14, 9, 2), "LA")
    yield "grey_15x15.png", Image.fromarray(noise(15, 15, 1)[:, :, 0])
    yield "bilevel_11x8.png", Image.fromarray(noise(8, 11, 1)[:, :, 0]).convert("1")
    yield "palette_13x17.png", Image.fromarray(noise(17, 13, 3)).quantize(16)
    yield "one_1x1.png", Image.fromarray(np.array([[[200, 100, 7]]], np.uint8))
    yield "line_1x201.png", Image.fromarray(noise(201, 1, 3))
    smooth = Image.fromarray(noise(7, 9, 3)).resize((34, 27), Image.BICUBIC)
    yield "rgb444_34x27.jpg", smooth
    yield "rgb420_34x27.jpg", smooth


def processors():
    qwen = dict(patch_size=4, merge_size=2, temporal_patch_size=2)
    yield "clip", CLIPImageProcessor(size={"shortest_edge": 18}, crop_size={"height": 15, "width": 16}), {}
    yield "bit_larger_crop", BitImageProcessor(size={"shortest_edge": 10}, crop_size={"height": 16, "width": 14}), {}
    yield "siglip", SiglipImageProcessor(size={"height": 14, "width": 20}), {}
    yield "vit_bilinear", ViTImageProcessor(size={"height": 12, "width": 12}, do_convert_rgb=True), {}
    yield "vit_nearest", ViTImageProcessorPil(size={"height": 11, "width": 9}, resample=0, do_convert_rgb=True), {}
    split = dict(return_row_col_info=True)
    sizes = dict(size={"longest_edge": 24}, max_image_size={"longest_edge": 12})
    yield "smolvlm_split", SmolVLMImageProcessorPil(**sizes), split
    yield "smolvlm_whole", SmolVLMImageProcessorPil(**sizes, do_image_splitting=False), {}
    odd = dict(size={"longest_edge": 21}, max_image_size={"longest_edge": 9})
    yield "idefics3_odd", Idefics3ImageProcessorPil(**odd), split
    yield "qwen2_vl", Qwen2VLImageProcessor(**qwen, min_pixels=192, max_pixels=704), {}


def rgb_on_white(image):
    rgba = image.convert("RGBA")
    white = Image.new("RGBA", image.size, (255, 255, 255, 255))
    return np.array(Image.alpha_composite(white, rgba).convert("RGB"))


def tensors_of(name, output):
    for key in ["pixel_values", "pixel_attention_mask", "image_grid_thw", "rows", "cols"]:
        if key in output:
            value = np.array(output[key])
            kinds = {"pixel_values": np.float32, "pixel_attention_mask": np.uint8}
            value = value.reshape(-1) if key in ("rows", "cols") else value
            yield f"{name}/{key}", np.ascontiguousarray(value.astype(kinds.get(key, np.int64)))


def main():
    (HERE / "images").mkdir(exist_ok=True)
    (HERE / "golden_images").mkdir(exist_ok=True)
    manifest = {"transformers": transformers.__version__, "pillow": PIL.__version__, "images": {}, "processors": {}}
    decoded, names = {}, []
    for name, image in pictures():
        path = HERE / "images" / name
        image.save(path, **({"quality": 90, "subsampling": 0 if "444" in name else 2} if name.endswith("jpg") else {}))
        image = Image.open(path)
        names.append(name)
        manifest["images"][name] = {"mode": image.mode, "size_wh": list(image.size)}
        decoded[f"{name}/rgb"] = np.array(image.convert("RGB"))
        if "A" in image.getbands() or "transparency" in image.info:
            decoded[f"{name}/rgb_on_white"] = rgb_on_white(image)
    save_file(decoded, HERE / "golden_images" / "decoded_rgb.safetensors")
    for name, processor, call in processors():
        config = processor.to_dict()
        entry = {"class": type(processor).__name__, "config": config, "errors": {}}
        golden = {}
        for file in names:
            image = Image.open(HERE / "images" / file)
            try:
                golden.update(tensors_of(file, processor(image, return_tensors="pt", **call)))
            except ValueError as error:
                entry["errors"][file] = str(error)
        manifest["processors"][name] = entry
        save_file(golden, HERE / "golden_images" / f"{name}.safetensors")
    (HERE / "manifest.json").write_text(json.dumps(manifest, indent=1, default=dict) + "\n")


main()
