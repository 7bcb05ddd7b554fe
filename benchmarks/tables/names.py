"""Names of systems in tables and figures, which replace those in rows of results."""

import re

_NAMES = {
    "basis-1": "low rank, uncorrected",
    # quality.yaml
    "bypassed": "dense, all layers bypassed",
    "every-third-layer": "dense, every third layer kept",
    "four-layers": "4 layers",
    "dense-continued": "dense, trained as long",
    "residual-0.34": "K=12, 34 %, distilled",
    "residual-0.22": "K=12, 22 %, distilled",
    "residual-as-low-rank-0.22": "K=12, 20.5 %, distilled",
    "low-rank-0.34": "low rank, 33 %, distilled",
    "low-rank-0.22": "low rank, 20.5 %, distilled",
    "untaught-0.34": "K=12, 34 %, fine-tuned on labels",
    "brief-1e-3": "K=12, words and states, learning rate 1e-3",
    "brief-3e-3": "K=12, words and states, learning rate 3e-3",
    "brief-5e-3": "K=12, words and states, learning rate 5e-3",
    "brief-3e-3-words": "K=12, words, learning rate 3e-3",
    "brief-1e-3-k6": "K=6, words and states, learning rate 1e-3",
    "long-3e-3": "K=12, words and states, learning rate 3e-3, 3,000 updates",
    "st-from-scratch": "dense, without a recognition encoder to start from",
    # quality_forms.yaml
    "shared": "K=3, U alone",
    "shared-diagonal": "K=3, U and d",
    "shared-rank-2": "K=3, R=2, no diagonal",
    "unshared-0.34": "low rank, 33 %",
    "unshared-0.22": "low rank, 20.5 %",
    "k12-as-unshared-0.34": "K=12, 33 %",
    "k12-as-unshared-0.22": "K=12, 20.5 %",
    "narrow": "dense, narrower",
    # decoder.yaml
    "deep": "dense, 6 decoder layers",
    "both-shared": "encoder and decoder shared, distilled",
    "both-shared-start": "encoder and decoder shared, compressed only",
    # others
    "low-rank": "low rank",
    "lite-asr": "LiteASR",
    "lite-asr-uniform": "LiteASR, uniform ranks",
    "fewer-layers": "fewer layers",
    "shared-0.75": "K=2, 75 %",
    "shared-0.6": "K=2, 60 %",
    "shared-0.45": "K=4, 45 %",
    "whole": "encoder and decoder compressed to",
    "compressed": "compressed to",
    "untrained-s": "size _s, untrained",
    "compressed, K=12": "K=12, compressed only",
    "compressed and taught, K=12": "K=12, distilled",
    "four layers": "4 layers",
    "words, A and B at three times the rate": "words, A and B at three times the learning rate",
}
_ENDINGS = {
    "-taught": ", distilled",
    "-distilled": ", distilled",
    "-untaught": ", fine-tuned on labels",
    "-continued": ", trained twice as long",
    "-refined": ", refined",
    "-start": ", compressed only",
    "-slower": ", learning rate 1.4e-3",
    "-ends": ", residual initialisation",
    "-long": ", 3 × the updates",
    "-st": ", translation",
    "-st-taught": ", translation distilled",
    "-states": ", encoder states",
    "-states-3": ", encoder states with weight 3",
    "-states-temperature-2": ", encoder states, temperature 2",
    "-temperature-2": ", temperature 2",
    "-weight-0.9": ", weight 0.9",
    "-cycle": ", cycle",
    "-cycle-reverse": ", cycle-reverse",
    "-chunked": ", chunked",
    "-int8": ", int8",
    "-on-es": ", calibrated on Spanish alone",
    "-on-fr": ", calibrated on French alone",
    "-on-it": ", calibrated on Italian alone",
}
_FORMS = {
    r"^k(\d+)-r(\d+)$": r"K=\1, R=\2",
    r"^shared-(\d+)$": r"K=\1",
    r"^basis-(\d+)$": r"Basis Sharing, K=\1",
    r"K=(\d+) R=": r"K=\1, R=",
    r"budget 0\.(\d\d)": r"K and R by budget, \1 %",
    r"^no shared matrix": "low rank",
    r"low rank alone 0\.36": "low rank, 36 %",
    r"low rank alone 0\.525": "low rank, 52.5 %",
}


def reader_name(system: str) -> str:
    """`K=3, R=2, distilled` for `k3-r2-taught`: the form, followed by its training.

    Rows keep their names, which identify runs. Names without an entry are already readable.
    """
    if system in _NAMES:
        return _NAMES[system]
    for ending in sorted(_ENDINGS, key=len, reverse=True):
        if system.endswith(ending) and system != ending:
            return reader_name(system.removesuffix(ending)) + _ENDINGS[ending]
    size = re.fullmatch(r"(.+)-(0\.\d+)", system)
    if size:
        name, separator = reader_name(size[1]), " " if size[1] in ("compressed", "whole") else ", "
        return f"{name}{separator}{float(size[2]):.0%}".replace("%", " %")
    for form, name in _FORMS.items():
        system = re.sub(form, name, system)
    return system
