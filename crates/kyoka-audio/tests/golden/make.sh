#!/usr/bin/env bash
# Makes the compressed tones beside this script; needs Debian's sox and libsox-fmt-mp3. Run when made, never in tests.
set -euo pipefail
cd "$(dirname "$0")"
sox -n -r 16000 -c 1 -b 16 tone.flac synth 0.3 sine 440 vol 0.5
sox -n -r 44100 -c 2 tone.ogg synth 0.3 sine 440 vol 0.5
sox -n -r 22050 -c 1 -C 64 tone.mp3 synth 0.3 sine 440 vol 0.5
