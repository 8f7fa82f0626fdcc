"""Pictures of many kinds, with the pixels that Pillow reads; where Pillow has its own way, with those that are meant:
16 bits by their upper bytes, transparency over white.

    pip install pillow==13.0.0 tifffile==2026.3.3 numpy safetensors imagecodecs
    python make.py
"""

import io
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image, TiffImagePlugin
from safetensors.numpy import save_file

HERE = Path(__file__).parent
H, W = 11, 19
RNG = np.random.default_rng(5)
Y, X = np.mgrid[0:H, 0:W]
RGB = np.stack([X * 13 % 256, Y * 23 % 256, (X + Y) * 8 % 256], -1).astype(np.uint8)
RGB[3:7, 5:11] = RNG.integers(0, 256, (4, 6, 3), dtype=np.uint8)
RGB16 = RGB.astype(np.uint16) * 256 + RNG.integers(0, 256, RGB.shape, dtype=np.uint16)
ALPHA = (X * 14 % 256).astype(np.uint8)


def over_white(rgb, alpha):
    a = alpha.astype(np.uint32)[..., None]
    total = rgb.astype(np.uint32) * a + 255 * (255 - a) + 128
    return (((total >> 8) + total) >> 8).astype(np.uint8)


def grey(values):
    return np.repeat(values[..., None], 3, -1)


def tiffs():
    g8, g16 = RGB[..., 0], RGB16[..., 0]
    white = over_white(RGB, ALPHA)
    kinds = [("none", {}), ("lzw", dict(compression="lzw")), ("lzw_predicted", dict(compression="lzw", predictor=True))]
    kinds += [("deflate", dict(compression="deflate")), ("packbits", dict(compression="packbits"))]
    for name, how in kinds:
        yield f"grey8_{name}.tif", g8, grey(g8), dict(photometric="minisblack", **how)
        yield f"grey16_{name}.tif", g16, grey(g8), dict(photometric="minisblack", **how)
        yield f"rgb8_{name}.tif", RGB, RGB, dict(photometric="rgb", **how)
        yield f"planar16_{name}.tif", RGB16.transpose(2, 0, 1), RGB, dict(photometric="rgb", planarconfig="separate", **how)
    rgba, deep = np.dstack([RGB, ALPHA]), np.dstack([RGB16, ALPHA.astype(np.uint16) * 257])
    alpha = dict(photometric="rgb", extrasamples=["unassalpha"])
    yield "rgba8.tif", rgba, white, alpha
    yield "rgba16.tif", deep, white, alpha
    yield "planar_rgba8.tif", rgba.transpose(2, 0, 1), white, dict(planarconfig="separate", **alpha)
    flat = dict(photometric="minisblack", extrasamples=["unassalpha"], planarconfig="contig")
    yield "grey_alpha8.tif", np.dstack([g8, ALPHA]), over_white(grey(g8), ALPHA), flat
    yield "extra8.tif", rgba, RGB, dict(photometric="rgb", extrasamples=["unspecified"])
    yield "white_is_zero.tif", 255 - g8, grey(g8), dict(photometric="miniswhite")
    yield "tiled.tif", RGB, RGB, dict(photometric="rgb", tile=(16, 16))
    yield "big.tif", RGB, RGB, dict(photometric="rgb", bigtiff=True)
    yield "big_endian.tif", g16, grey(g8), dict(photometric="minisblack", byteorder=">")
    yield "two_pages.tif", np.stack([RGB, 255 - RGB]), RGB, dict(photometric="rgb")
    yield "float.tif", (g8 / 255).astype(np.float32), None, dict(photometric="minisblack")
    yield "signed.tif", g16.astype(np.int16), None, dict(photometric="minisblack")


def main():
    pixels = {}

    def keep(name, expected=None):
        if expected is None:
            expected = np.asarray(Image.open(HERE / name).convert("RGB"))
        pixels[name] = np.ascontiguousarray(expected)

    for name, values, expected, how in tiffs():
        tifffile.imwrite(HERE / name, values, metadata=None, **how)
        if expected is not None:
            keep(name, expected)
    picture = Image.fromarray(RGB)
    bilevel = picture.convert("1")
    for name, how in [("bilevel.tif", {}), ("group4.tif", dict(compression="group4"))]:
        bilevel.save(HERE / name, **how)
        keep(name)
    picture.convert("CMYK").save(HERE / "cmyk.tif")
    keep("cmyk.tif")
    picture.quantize(16).save(HERE / "palette.tif")
    turned = TiffImagePlugin.ImageFileDirectory_v2()
    turned[274] = 6
    picture.save(HERE / "turned.tif", tiffinfo=turned)
    keep("turned.tif")
    Image.fromarray(RGB16[..., 0]).save(HERE / "grey16.png")
    keep("grey16.png", grey(RGB[..., 0]))
    for name, how in [
        ("baseline.jpg", {}),
        ("progressive.jpg", dict(progressive=True)),
        ("restarts.jpg", dict(restart_marker_blocks=2)),
        ("lossy.webp", {}),
        ("lossless.webp", dict(lossless=True)),
        ("whole.gif", {}),
        ("whole.bmp", {}),
    ]:
        picture.save(HERE / name, **how)
        keep(name)
    picture.convert("CMYK").save(HERE / "cmyk.jpg", quality=95)
    keep("cmyk.jpg")
    thumbnail = io.BytesIO()
    picture.resize((5, 5)).save(thumbnail, "JPEG")
    exif = Image.Exif()
    exif[274] = 8
    picture.save(HERE / "turned.jpg", exif=exif, comment=thumbnail.getvalue(), quality=95)
    keep("turned.jpg", np.asarray(Image.open(HERE / "turned.jpg").transpose(Image.Transpose.ROTATE_90).convert("RGB")))
    save_file(pixels, HERE / "pixels.safetensors")


main()
