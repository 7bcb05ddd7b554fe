"""Greedy decoding of the CTC head, without the decoder.

    python -m residual_st.evaluation.ctc CHECKPOINT DATA SUBSET OUTPUT

writes fairseq-generate's format, so that the output can be scored the same way. The decoder of a joint model can compensate for a
poor encoder by its language model; the WER of the CTC head shows the encoder alone.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import torch
from fairseq.models import BaseFairseqModel
from torch import Tensor

from residual_st.errors import InputError
from residual_st.fairseq.standalone import load_model
from residual_st.fairseq.training_data import TrainingData
from residual_st.files import atomically

_BLANK = 0  # fairseq's CTC loss uses the dictionary's first symbol


@torch.no_grad()
def best_paths(model: BaseFairseqModel, batch: dict) -> Iterator[Tensor]:
    """Yield each utterance's most probable symbol per frame, without repetitions and blanks.

    Raises:
        InputError: if the encoder was trained without CTC.
    """
    if getattr(model.encoder, "ctc_proj", None) is None:
        raise InputError("the model was trained without CTC, so its encoder has no CTC head")
    encoded = model.encoder(batch["net_input"]["src_tokens"], batch["net_input"]["src_lengths"])
    scores, lengths = model.get_ctc_output((None, {"encoder_out": encoded}), batch)
    for symbols, length in zip(scores.argmax(-1).t(), lengths.tolist()):
        path = torch.unique_consecutive(symbols[:length])
        yield path[path != _BLANK]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__ and __doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("subset")
    parser.add_argument("output", type=Path)
    args = parser.parse_args()
    state, model = load_model(args.checkpoint)
    data = TrainingData(state, args.data)
    bpe, dictionary = data.task.build_bpe(None), data.task.target_dictionary
    with atomically(args.output) as partial, open(partial, "w", encoding="utf-8") as file:
        batches = data.batches(args.subset)
        if batches.left_out:
            raise InputError(
                f"{args.subset} has {batches.left_out} sentences that are too long for the model, so a score would be incomplete"
            )
        for batch in batches:
            references = data.task.dataset(args.subset).tgt_texts
            for number, path in zip(batch["id"].tolist(), best_paths(model, batch)):
                text = bpe.decode(dictionary.string(path))
                file.write(f"T-{number}\t{references[number]}\nD-{number}\t0\t{text}\n")
        file.write(f"Generate {args.subset} with CTC, greedily\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
