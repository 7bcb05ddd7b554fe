import pytest
import torch
from fairseq.models.speech_to_text.s2t_transformer import Conv1dSubsampler

from residual_st.fairseq.layers.subsampler import UnrolledSubsampler


@pytest.mark.parametrize("kernels", [[5, 5], [3], [3, 5, 3], [1, 1], [5, 1], [1, 3]])
@pytest.mark.parametrize("length", [1, 2, 40, 41, 42, 43])
@pytest.mark.parametrize("batch", [1, 3])
def test_is_the_stock_subsampler(kernels, length, batch):
    torch.manual_seed(1)
    stock = Conv1dSubsampler(8, 12, 6, kernels)
    frames = torch.randn(batch, length, 8)
    lengths = torch.tensor([length, 1, max(length - 3, 1)][:batch])
    with torch.no_grad():
        expected, expected_lengths = stock(frames, lengths)
        ours, our_lengths = UnrolledSubsampler(stock)(frames, lengths)
    torch.testing.assert_close(ours, expected)
    assert ours.is_contiguous()
    assert torch.equal(our_lengths, expected_lengths)
