"""Short sounds through WhisperFeatureExtractor (NumPy), in the form `cargo xtask parity` reads.

    pip install transformers==5.23.0 numpy safetensors
    python make.py
"""

import json
import struct
from pathlib import Path

import numpy as np
import transformers
from safetensors.numpy import save_file
from transformers import WhisperFeatureExtractor

HERE = Path(__file__).parent
RNG = np.random.default_rng(21)


def wave(count, channels, rate):
    """Three tones below 3 kHz that swell and fade, so that ends do not matter to a resampler."""
    t = np.arange(count) / rate
    envelope = np.sin(np.pi * np.arange(count) / count) ** 2
    tones = [np.sin(2 * np.pi * hz * t + phase) for hz, phase in [(220.0, 0.3), (1270.0, 1.1), (2900.0, 2.0)]]
    return np.stack([envelope * (0.3 * tones[0] + (0.1 + 0.1 * c) * tones[1] + 0.05 * tones[2]) for c in range(channels)], 1)


FORMATS = {"u8": (1, 8), "s16": (1, 16), "s24": (1, 24), "s32": (1, 32), "f32": (3, 32), "f64": (3, 64)}


def quantise(values, kind):
    code, bits = FORMATS[kind]
    if code == 3:
        return values.astype("<f4" if bits == 32 else "<f8").tobytes(), values.astype(np.float32)
    whole = np.clip(np.round(values * 2 ** (bits - 1)), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1).astype(np.int64)
    if bits == 8:
        data = (whole + 128).astype(np.uint8).tobytes()
    elif bits == 24:
        data = b"".join(struct.pack("<i", value)[:3] for value in whole.reshape(-1))
    else:
        data = whole.astype(f"<i{bits // 8}").tobytes()
    return data, (whole / 2 ** (bits - 1)).astype(np.float32)


def chunk(name, data):
    return name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2)


def wav(values, kind, rate, extensible=False, list_first=False):
    code, bits = FORMATS[kind]
    channels = values.shape[1]
    data, decoded = quantise(values, kind)
    size = channels * bits // 8
    head = struct.pack("<HHIIHH", 0xFFFE if extensible else code, channels, rate, rate * size, size, bits)
    if extensible:
        tail = bytes.fromhex("000000001000800000aa00389b71")
        head += struct.pack("<HHIH", 22, bits, (1 << channels) - 1, code) + tail
    listed = chunk(b"LIST", b"INFO" + chunk(b"INAM", b"odd")) if list_first else b""
    body = b"WAVE" + listed + chunk(b"fmt ", head) + chunk(b"data", data)
    return b"RIFF" + struct.pack("<I", len(body)) + body, decoded


def sounds():
    for kind in ["u8", "s16", "s24", "s32", "f32", "f64"]:
        yield f"16k_mono_{kind}.wav", dict(kind=kind, rate=16_000), 1
    yield "44k_stereo_s16.wav", dict(kind="s16", rate=44_100), 2
    yield "8k_stereo_f32.wav", dict(kind="f32", rate=8_000), 2
    yield "48k_mono_s24_extensible.wav", dict(kind="s24", rate=48_000, extensible=True), 1
    yield "16k_stereo_f32_extensible.wav", dict(kind="f32", rate=16_000, extensible=True), 2
    yield "16k_mono_s16_list_first.wav", dict(kind="s16", rate=16_000, list_first=True), 1


def main():
    (HERE / "audio").mkdir(exist_ok=True)
    (HERE / "golden_audio").mkdir(exist_ok=True)
    manifest = {"transformers": transformers.__version__, "audio": {}, "audio_features": {}}
    decoded = {}
    for name, options, channels in sounds():
        rate = options["rate"]
        values = wave(rate // 25, channels, rate)
        data, samples = wav(values, **options)
        (HERE / "audio" / name).write_bytes(data)
        decoded[f"{name}/wave"] = samples
        ideal = f"ch{channels}/mono16k_ideal"
        decoded[ideal] = wave(16_000 // 25, channels, 16_000).mean(1).astype(np.float32)
        manifest["audio"][name] = {"rate": rate, "channels": channels, "format": options["kind"], "ideal": ideal}
    save_file(decoded, HERE / "golden_audio" / "decoded.safetensors")
    features = {}

    def add(key, waves, options, **call):
        extractor = WhisperFeatureExtractor(**options)
        out = extractor(waves, sampling_rate=16_000, return_attention_mask=True, return_tensors="np", **call)
        features.update({f"{key}/wave{i}": w for i, w in enumerate(waves)})
        features[f"{key}/input_features"] = out["input_features"].astype(np.float32)
        features[f"{key}/attention_mask"] = out["attention_mask"].astype(np.int32)
        entry = dict(options) if call.get("padding") != "longest" else {"note": "padded to the longest"}
        entry["call"] = {key: value for key, value in call.items() if key == "do_normalize"}
        manifest["audio_features"][key] = entry

    def sound(count):
        quiet = 1e-4 * RNG.standard_normal(count)
        return (wave(count, 1, 16_000)[:, 0] + quiet).astype(np.float32)

    second = dict(feature_size=80, chunk_length=1)
    add("mel80_two_lengths", [sound(9_001), sound(2_000)], second)
    add("mel80_one_sample", [np.array([0.5], np.float32)], second)
    add("mel128_cut", [sound(16_123)], dict(feature_size=128, chunk_length=1))
    for mels in [80, 128]:
        options = dict(feature_size=mels, chunk_length=1)
        add(f"mel{mels}_longest", [sound(3_200), sound(4_837)], options, padding="longest", truncation=False)
    add("mel80_silence", [np.zeros(1_600, np.float32)], second)
    add("mel80_normalised", [sound(7_000)], second, do_normalize=True)
    add("mel64_other_windows", [sound(7_777)], dict(feature_size=64, chunk_length=1, n_fft=512, hop_length=200))
    save_file(features, HERE / "golden_audio" / "whisper_features.safetensors")
    (HERE / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


main()
