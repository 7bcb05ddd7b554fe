"""The one place that knows fairseq, torch and Python versions."""

import argparse
import logging

import torch

# fairseq says on every import, at level INFO, that tensorboardX is missing, which only its speech synthesis uses
logging.getLogger("fairseq.tasks.text_to_speech").setLevel(logging.WARNING)


def allow_fairseq_checkpoints() -> None:
    """Let `torch.load(weights_only=True)`, the default since torch 2.6, read fairseq checkpoints.

    They hold tensors, plain containers and the training flags as an `argparse.Namespace`, which can run no code. Anything else in a
    checkpoint is refused, as it should be: a pickle from a stranger is a program.
    """
    torch.serialization.add_safe_globals([argparse.Namespace])
