"""Untrusted checkpoints: damaged, or with invalid contents."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from residual_st.fairseq.checkpoints import load_checkpoint

TRUNCATIONS, FLIPS = 100, 200


def checkpoint_commands(work: Path) -> dict[str, list[str]]:
    data = str(work / "corpus" / "en-de")
    return {
        "inspect": ["inspect", "{file}"],
        "strip": ["strip", "{file}", "--output", "{out}"],
        "average": ["average", "{file}", "{file}", "--output", "{out}"],
        "compress": ["compress", "{file}", "--output", "{out}"],
        "expand": ["expand", "{file}", "--output", "{out}"],
        "convert": ["convert", "{file}", "--data", data, "--output", "{out}"],
        "export": ["export", "{file}", "--data", data, "--output", "{out}"],
        "cache-teacher": ["cache-teacher", "{file}", "--data", data, "--output", "{out}"],
        "train": ["train", str(work / "run.yaml"), "--dry-run", "finetune-from-model={file}", "save-dir={out}"],
    }


def damaged(work: Path) -> Iterator[tuple[str, Callable, list]]:
    """Truncated at random positions or with a flipped bit; commands alternate, and `inspect` reads every file."""
    content = (work / "dense" / "checkpoint_last.pt").read_bytes()
    commands = list(checkpoint_commands(work).values())
    for number in range(TRUNCATIONS + FLIPS):
        chance = random.Random(number)
        if number < TRUNCATIONS:
            place = chance.randrange(len(content))
            name, changed = f"cut at {place}", content[:place]
        else:
            # half of them in the first and last 64 KB, which contain names, sizes and the directory
            ends = [*range(2**16), *range(len(content) - 2**16, len(content))]
            place = chance.choice(ends) if number % 2 else chance.randrange(len(content))
            name, changed = f"bit at {place}", bytearray(content)
            changed[place] ^= 1 << chance.randrange(8)
        yield (
            name,
            lambda path, changed=changed: path.write_bytes(changed),
            [commands[0], commands[1 + number % (len(commands) - 1)]],
        )


def contents(work: Path) -> Iterator[tuple[str, Callable, list]]:
    """Complete files with invalid weights, names or flags."""
    state = load_checkpoint(work / "shared.pt")
    commands = list(checkpoint_commands(work).values())
    name = "encoder.transformer_layers.0.fc1.bias"
    value = state["model"][name]
    weights = {
        "another shape": value[:-1].clone(),
        "another dtype": value.long(),
        "complex": value.to(torch.complex64),
        "NaN": value * float("nan"),
        "infinite": value / 0 + float("inf"),
        "sparse": value.to_sparse(),
        "quantised": torch.quantize_per_tensor(value, 0.1, 0, torch.qint8),
        "no tensor": 5,
        "a text": "weights",
        "of no elements": value[:0],
        "of 20 dimensions": value.reshape(-1, *[1] * 19),
        "on the meta device": value.to("meta"),
    }
    for kind, changed in weights.items():
        yield f"a weight, {kind}", saved({**state, "model": {**state["model"], name: changed}}), commands[:6]
    models = {
        "another name": {**state["model"], "encoder.odd\n\x1b[31m": value},
        "a number for a name": {**state["model"], 7: value},
        "without a weight": {key: item for key, item in state["model"].items() if key != name},
        "none": {},
        "a list": [],
        "of a thousand layers": {**state["model"], **{f"encoder.transformer_layers.{n}.fc1.bias": value for n in range(1000)}},
    }
    for kind, model in models.items():
        yield f"weights, {kind}", saved({**state, "model": model}), commands
    flags = flags_of(state)
    values = {
        "encoder_layers": [10**9, -1, 0, "six", 6.5, None, [6], float("nan")],
        "encoder_embed_dim": [10**9, 0, -8, "wide", 7],
        "encoder_attention_heads": [0, 10**6, "x"],
        "encoder_group_size": [0, 10**9, -3, "x", [1, 2], float("inf")],
        "encoder_residual_rank": [10**9, -1, "1,2", "=" * 5000, "9" * 5000, {"a": 1}],
        "encoder_sharing_pattern": ["spiral", "0,0,0", "0," * 100_000, 5],
        "max_source_positions": [10**12, -1, "x"],
        "conv_kernel_sizes": ["5," * 3000 + "5", "", "a", 5],
        "arch": ["transformer", [], None, 5, "s2t_conformer", "x" * 10**5],
        "activation_fn": ["sing", 5],
        "dropout": ["x", float("nan"), 10**400],
    }
    for flag, alternatives in values.items():
        for number, alternative in enumerate(alternatives):
            changed = {**flags, flag: alternative}
            again = [commands[0], commands[1 + (number + len(flag)) % (len(commands) - 1)]]
            yield f"{flag} {number}", saved({**state, "cfg": {"model": changed}, "args": None}), again
    for kind, cfg in {"a list": [1], "a text": "model", "a number": 7, "without a model": {"task": {}}, "none": None}.items():
        yield f"cfg, {kind}", saved({**state, "cfg": cfg, "args": None}), commands[:5]


def saved(state: dict) -> Callable:
    return lambda path: torch.save(state, path)


def flags_of(state: dict) -> dict:
    flags = (state.get("cfg") or {}).get("model") or state["args"]
    return dict(flags if isinstance(flags, dict) else vars(flags))
