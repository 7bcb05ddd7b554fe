#!/usr/bin/env python3
"""Translate what a microphone hears, sentence by sentence: `pip install "./residual-st[runtime]" sounddevice`, then

    python microphone.py MODEL [--lang de]

MODEL is a folder that residual-st export wrote. A sentence ends where it is quiet for half a second.
"""

import argparse
import queue

import numpy as np

from residual_st.printing import print_any_text
from residual_st.runtime import Translator

BLOCK_SECONDS, PAUSE_SECONDS, LONGEST_SECONDS = 0.1, 0.5, 20.0
LOUDER = 4.0  # than the quietest blocks, in energy: speech


def sentences(blocks, rate):
    """Yield the samples of each sentence of a stream of blocks."""
    spoken, quiet, levels = [], 0, []
    for block in blocks:
        levels = [*levels[-300:], float(np.mean(block**2))]  # of the last half minute
        is_speech = levels[-1] > LOUDER * np.percentile(levels, 10) + 1e-7
        quiet = 0 if is_speech else quiet + 1
        if is_speech or spoken:
            spoken.append(block)
        if spoken and (quiet * BLOCK_SECONDS >= PAUSE_SECONDS or len(spoken) * BLOCK_SECONDS >= LONGEST_SECONDS):
            yield np.concatenate(spoken)
            spoken, quiet = [], 0


def main() -> None:
    import sounddevice  # here, so that `sentences` can be used without it

    print_any_text()
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--lang")
    args = parser.parse_args()
    translator = Translator(args.model, language=args.lang)
    rate, heard = translator.sample_rate, queue.Queue()

    def listen(block, frames, time, status):
        heard.put(block[:, 0].copy())

    with sounddevice.InputStream(rate, round(BLOCK_SECONDS * rate), channels=1, dtype="float32", callback=listen):
        print("listening; Ctrl-C ends it")
        for samples in sentences(iter(heard.get, None), rate):
            print(translator.translate(samples).text, flush=True)


if __name__ == "__main__":
    main()
