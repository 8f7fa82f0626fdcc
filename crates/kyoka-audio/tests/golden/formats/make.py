"""Sounds of many containers and codecs, with the samples that soundfile (libsndfile) reads.

    pip install soundfile==0.14.0 numpy safetensors
    python make.py
"""

import json
from pathlib import Path

import numpy as np
import soundfile
from safetensors.numpy import save_file

HERE = Path(__file__).parent


def wave(count, channels, rate):
    """Two tones that swell and fade; each channel has its own loudness."""
    t = np.arange(count) / rate
    envelope = np.sin(np.pi * np.arange(count) / count) ** 2
    tones = 0.4 * np.sin(2 * np.pi * 330 * t + 0.3) + 0.2 * np.sin(2 * np.pi * 1270 * t)
    return np.stack([envelope * tones / (1 + c) for c in range(channels)], 1).astype(np.float32)


FILES = [
    # name, channels, rate, options of soundfile.write, largest difference: decoders of IMA ADPCM round in two ways, and
    # libopus has floats where its port has fixed point.
    ("rf64_s16.wav", 2, 11_025, dict(format="RF64", subtype="PCM_16"), 0),
    ("rf64_f32.wav", 1, 11_025, dict(format="RF64", subtype="FLOAT"), 0),
    ("alaw.wav", 1, 8_000, dict(subtype="ALAW"), 0),
    ("ulaw.wav", 2, 8_000, dict(subtype="ULAW"), 0),
    ("ima_adpcm.wav", 1, 11_025, dict(subtype="IMA_ADPCM"), 2e-3),
    ("ima_adpcm_stereo.wav", 2, 11_025, dict(subtype="IMA_ADPCM"), 2e-3),
    ("ms_adpcm.wav", 1, 11_025, dict(subtype="MS_ADPCM"), 0),
    ("ms_adpcm_stereo.wav", 2, 11_025, dict(subtype="MS_ADPCM"), 0),
    ("s8.aiff", 1, 11_025, dict(subtype="PCM_S8"), 0),
    ("s16.aiff", 2, 11_025, dict(subtype="PCM_16"), 0),
    ("s24.aiff", 1, 44_100, dict(subtype="PCM_24"), 0),
    ("s32.aiff", 1, 11_025, dict(subtype="PCM_32"), 0),
    ("sowt.aiff", 2, 11_025, dict(subtype="PCM_16", endian="LITTLE"), 0),
    ("f32.aiff", 1, 11_025, dict(subtype="FLOAT"), 0),
    ("f64.aiff", 1, 11_025, dict(subtype="DOUBLE"), 0),
    ("alaw.aiff", 1, 8_000, dict(subtype="ALAW"), 0),
    ("ulaw.aiff", 1, 8_000, dict(subtype="ULAW"), 0),
    ("mono.flac", 1, 11_025, dict(subtype="PCM_16"), 0),
    ("mono.opus", 1, 48_000, dict(format="OGG", subtype="OPUS"), 1e-3),
    ("stereo.opus", 2, 48_000, dict(format="OGG", subtype="OPUS"), 1e-3),
    ("six.opus", 6, 48_000, dict(format="OGG", subtype="OPUS"), 1e-3),
    ("vorbis.ogg", 2, 22_050, dict(format="OGG", subtype="VORBIS"), 1e-5),
    # What is not read.
    ("gsm.wav", 1, 8_000, dict(subtype="GSM610"), None),
    ("ima4.aiff", 1, 11_025, dict(subtype="IMA_ADPCM"), None),
    ("plain.au", 1, 8_000, dict(subtype="PCM_16"), None),
]


def main():
    manifest, samples = {}, {}
    for name, channels, rate, options, most in FILES:
        soundfile.write(HERE / name, wave(rate // 20, channels, rate), rate, **options)
        manifest[name] = {"rate": rate, "channels": channels, "most": most}
        if most is not None:
            read, got = soundfile.read(HERE / name, dtype="float32", always_2d=True)
            assert got == rate, name
            samples[name] = read
    save_file(samples, HERE / "samples.safetensors")
    (HERE / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


main()
