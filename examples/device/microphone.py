#!/usr/bin/env python3
"""Translate what a microphone hears, sentence by sentence: `pip install "./residual-st[runtime]" sounddevice`, then

    python microphone.py MODEL [--target-lang de] [--source-lang es --task translate]

MODEL is a folder that residual-st export wrote. A sentence ends where it is quiet for half a second.
"""

import argparse
import queue

import numpy as np

from residual_st.audio.lengths import Lengths
from residual_st.audio.pauses import spans_between_pauses
from residual_st.printing import print_any_text
from residual_st.runtime import Translator

BLOCK_SECONDS = 0.3  # between two looks at what was said so far
PAUSE_SECONDS = 0.5  # behind a sentence
KEPT_SECONDS = 1.0  # of what came before a sentence


def sentences(blocks, rate, lengths):
    """Yield the samples of each sentence of a stream of blocks, cut as `translate` cuts recordings."""
    held = np.zeros(0, np.float32)
    for block in blocks:
        held = np.concatenate([held, block])
        spans = spans_between_pauses(held, rate, Lengths(lengths.longest))
        ended = [(start, end) for start, end in spans if len(held) - end >= PAUSE_SECONDS * rate]
        for start, end in ended:
            yield held[start:end]
        if ended:
            held = held[ended[-1][1] :]
        elif not spans:
            held = held[-round(KEPT_SECONDS * rate) :]


def main() -> None:
    import sounddevice  # here, so that `sentences` can be used without it

    print_any_text()
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.splitlines()[0])
    parser.add_argument("model")
    for flag in ("--task", "--source-lang", "--target-lang"):
        parser.add_argument(flag)
    args = parser.parse_args()
    translator = Translator(args.model, task=args.task, source_lang=args.source_lang, target_lang=args.target_lang)
    rate, heard = translator.sample_rate, queue.Queue()

    def listen(block, frames, time, status):
        heard.put(block[:, 0].copy())

    with sounddevice.InputStream(rate, round(BLOCK_SECONDS * rate), channels=1, dtype="float32", callback=listen):
        print("listening; Ctrl-C ends it")
        for samples in sentences(iter(heard.get, None), rate, translator.lengths):
            print(translator.translate(samples).text, flush=True)


if __name__ == "__main__":
    main()
