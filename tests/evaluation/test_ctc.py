import pytest
import torch
from conftest import tiny_model

from residual_st.errors import InputError
from residual_st.evaluation.ctc import best_paths


def test_greedy_ctc_drops_repetitions_blanks_and_padding(batch):
    model = tiny_model(ctc_weight=0.3, tgt_dict_size=20).eval()
    symbols = torch.tensor([0, 5, 5, 0, 5, 7, 7, 0, 0, 8, 4, 4, 4, 0, 9])  # the symbol at each of the 15 positions

    def predict(_module, _inputs, output):
        return torch.nn.functional.one_hot(symbols[: len(output), None].expand(-1, output.shape[1]), 20).float()

    model.encoder.ctc_proj.register_forward_hook(predict)
    sample = {"net_input": {"src_tokens": batch["src_tokens"], "src_lengths": batch["src_lengths"]}}
    paths = [path.tolist() for path in best_paths(model, sample)]
    assert paths == [[5, 5, 7, 8, 4, 9], [5, 5, 7, 8, 4]]  # 60 frames give 15 positions, 41 give 11


def test_encoder_without_ctc_is_refused(batch):
    sample = {"net_input": {"src_tokens": batch["src_tokens"], "src_lengths": batch["src_lengths"]}}
    with pytest.raises(InputError, match="without CTC"):
        list(best_paths(tiny_model().eval(), sample))
