"""Encoders that attend in chunks: training, validation, and streaming chunk by chunk."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import cli, same_weights, tiny_model
from fairseq import checkpoint_utils
from fairseq.data.audio.feature_transforms.global_cmvn import GlobalCMVN

from residual_st.audio.filterbank import OnlineFilterbank, filterbank
from residual_st.errors import InputError
from residual_st.fairseq.chunks import Chunks, chunk_mask, strides_and_reach
from residual_st.fairseq.model_input import ModelInput
from residual_st.fairseq.standalone import build_model, load_model, parse_model_flags
from residual_st.fairseq.streaming import StreamingEncoder

DENSE = {"encoder_group_size": 1, "encoder_residual_rank": 0, "encoder_residual_diagonal": False}
STOCK = {"arch": "s2t_transformer_s"}


def noise(samples: int) -> np.ndarray:
    return (0.1 * np.random.default_rng(samples).standard_normal(samples)).astype(np.float32)


def encoded(model, frames: torch.Tensor) -> torch.Tensor:
    """Encoder states (time, width) of features (frames, bins)."""
    with torch.no_grad():
        return model.encoder(frames[None], torch.tensor([len(frames)]))["encoder_out"][0][:, 0]


def test_chunk_mask():
    mask = chunk_mask(7, frames=2, left=1, like=torch.zeros(1)).bool()
    seen = [[j for j in range(7) if not mask[i, j]] for i in range(7)]
    assert seen == [[0, 1], [0, 1], [0, 1, 2, 3], [0, 1, 2, 3], [2, 3, 4, 5], [2, 3, 4, 5], [4, 5, 6]]


@pytest.mark.parametrize("options", [{}, DENSE, STOCK])
def test_frame_depends_on_its_chunk_earlier_chunks_and_the_look_ahead(options):
    model = tiny_model(encoder_chunk_frames="4", encoder_left_chunks=1, **options).eval()
    stride, reach = strides_and_reach(model.encoder.subsample)
    frames = torch.randn(180, 80)
    states = encoded(model, frames)
    read = set()  # the first frame of chunk 32 to 35 reads, through six layers, from chunk 8 to 11 on
    for place in range(len(frames)):
        changed = frames.clone()
        changed[place] += 10
        if not torch.equal(encoded(model, changed)[32], states[32]):
            read.add(place)
    assert read == set(range(8 * stride - reach, 35 * stride + reach + 1))


def test_chunk_size_0_is_full_attention(batch):
    full, whole = tiny_model(encoder_chunk_frames="0,4").eval(), tiny_model().eval()
    assert torch.equal(full(**batch)[0], whole(**batch)[0])
    assert same_weights(full.state_dict(), whole.state_dict())
    chunked = tiny_model(encoder_chunk_frames="4,0").eval()
    assert not torch.allclose(chunked(**batch)[0], whole(**batch)[0])
    assert torch.allclose(
        tiny_model(encoder_chunk_frames="15").eval()(**batch)[0], whole(**batch)[0], atol=1e-5
    )  # 60 frames in all


def test_padding_has_no_effect(batch):
    model = tiny_model(encoder_chunk_frames="4", encoder_left_chunks=0).eval()
    with torch.no_grad():
        states = model.encoder(batch["src_tokens"], batch["src_lengths"])["encoder_out"][0]
    frames = batch["src_tokens"][1].clone()
    frames[41:] = 0
    torch.testing.assert_close(states[:8, 1], encoded(model, frames[:41])[:8], rtol=0, atol=1e-5)  # later states read the padding


@pytest.mark.parametrize("options", [{}, DENSE, STOCK, {"encoder_normalize_before": False}])
@pytest.mark.parametrize(("size", "left"), [(1, 3), (4, 2), (7, 0), (16, 8)])
def test_chunk_by_chunk_equals_the_masked_pass(options, size, left, tmp_path):
    np.savez(tmp_path / "stats.npz", mean=np.full(80, 9.0), std=np.full(80, 2.5))
    source = ModelInput(transforms=(GlobalCMVN(tmp_path / "stats.npz"),))
    model = tiny_model(encoder_chunk_frames=str(size), encoder_left_chunks=left, **options).eval()
    stream = StreamingEncoder(model.encoder, source)
    for length in (400, 1000, 16_077, 40_000):
        samples = noise(length)
        places = [0, *sorted(np.random.default_rng(1).integers(0, length, 9)), length]
        states = torch.cat([*(stream.feed(samples[start:end]) for start, end in pairwise(places)), stream.finish()], dim=1)[0]
        torch.testing.assert_close(states, encoded(model, source.features(samples)), rtol=0, atol=1e-5)
    assert stream.finish().shape == (1, 0, 32)


def test_streamed_features_equal_those_of_the_whole_recording():
    samples, bank = noise(50_000), OnlineFilterbank(16_000)
    places = [0, *sorted(np.random.default_rng(2).integers(0, 50_000, 200)), 50_000]
    assert np.array_equal(
        np.concatenate([bank.feed(samples[start:end]) for start, end in pairwise(places)]), filterbank(samples, 16_000)
    )


def test_training_draws_chunk_sizes_and_resumes_exactly(data, fairseq_train, tmp_path, monkeypatch):
    sampled, draw = [], Chunks.sampled
    monkeypatch.setattr(Chunks, "sampled", lambda self: sampled.append(draw(self)) or sampled[-1])
    options = {"encoder_chunk_frames": "4,8,0", "encoder_left_chunks": 2, "disable_validation": True, "update_freq": 2}
    fairseq_train(data, tmp_path / "whole", max_update=6, **options)
    whole = sampled[:]
    assert len(whole) == 12 and set(whole) == {4, 8, 0}
    sampled.clear()
    fairseq_train(data, tmp_path / "parts", max_update=3, **options)
    fairseq_train(data, tmp_path / "parts", max_update=6, **options)
    assert sampled == whole
    one, two = (torch.load(tmp_path / name / "checkpoint_last.pt", weights_only=True)["model"] for name in ("whole", "parts"))
    assert same_weights(one, two)


def test_commands_keep_chunk_flags_and_distillation_supports_chunks(data, fairseq_train, tmp_path):
    options = {"encoder_chunk_frames": "4,0", "encoder_left_chunks": 2, "max_update": 2}
    fairseq_train(data, tmp_path / "dense", arch="s2t_transformer_s", **options)
    dense, shared = tmp_path / "dense" / "checkpoint_last.pt", tmp_path / "shared.pt"
    cli(
        "compress",
        dense,
        "--output",
        shared,
        "--group-size",
        "3",
        "--residual-rank",
        "2",
        "--calibration",
        data,
        "--calibration-batches",
        "1",
    )
    cli("average", shared, shared, "--output", tmp_path / "average.pt")
    cli("expand", tmp_path / "average.pt", "--output", tmp_path / "expanded.pt")
    for name in ("shared.pt", "average.pt", "expanded.pt"):
        assert load_model(tmp_path / name)[1].encoder.chunks == Chunks((4, 0), 2), name
    (model,), _, _ = checkpoint_utils.load_model_ensemble_and_task(
        [str(tmp_path / "expanded.pt")], arg_overrides={"data": str(data), "encoder_chunk_frames": "0"}
    )
    assert type(model).__name__ == "S2TTransformerModel" and not getattr(model.encoder, "chunks", None)
    teacher = {"criterion": "label_smoothed_cross_entropy_with_residual", "distill_from": dense, "distill_encoder_weight": 1.0}
    fairseq_train(data, tmp_path / "student", finetune_from_model=shared, **options, **teacher)
    assert load_model(tmp_path / "student" / "checkpoint_last.pt")[1].encoder.chunks == Chunks((4, 0), 2)


@pytest.mark.parametrize("arch", ["wav2vec_ctc", "xm_transformer", "transformer", "s2ut_transformer"])
def test_unsupported_archs_refuse_chunks(arch):
    flags = parse_model_flags(arch, ["--encoder-chunk-frames", "16"])
    with pytest.raises(InputError, match=f"encoder_chunk_frames does not work with --arch {arch}; it must be s2t_transformer or"):
        build_model(flags, 20)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder_chunk_frames": "16,half"}, "encoder_chunk_frames=16,half must be whole numbers of at least 0"),
        ({"encoder_chunk_frames": "-1"}, "encoder_chunk_frames=-1 must be whole numbers of at least 0"),
        ({"encoder_chunk_frames": "16", "encoder_left_chunks": -1}, "encoder_left_chunks=-1 must be a whole number of at least 0"),
        ({"encoder_left_chunks": 2}, "encoder_left_chunks=2 needs encoder_chunk_frames"),
        ({"encoder_chunk_frames": "16", "conv_version": "convtransformer"}, "does not work with --conv-version convtransformer"),
        ({"encoder_chunk_frames": "16", "arch": "s2t_conformer"}, "encoder_chunk_frames does not work with --arch s2t_conformer"),
        ({"encoder_chunk_frames": "16", "arch": "convtransformer"}, "does not work with --arch convtransformer"),
    ],
)
def test_invalid_chunk_flags_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        tiny_model(**options)


def test_models_that_cannot_be_streamed_are_refused():
    with pytest.raises(InputError, match="attends to whole utterances .* train it with --encoder-chunk-frames"):
        StreamingEncoder(tiny_model().encoder, ModelInput(transforms=()))
    with pytest.raises(InputError, match="conv_kernel_sizes contains 4; .* must be odd"):
        StreamingEncoder(tiny_model(encoder_chunk_frames="4", conv_kernel_sizes="5,4").encoder, ModelInput(transforms=()))
    model = tiny_model(encoder_chunk_frames="4")
    with pytest.raises(InputError, match="has UtteranceCMVN, which needs the whole utterance .* --cmvn global"):
        StreamingEncoder(model.encoder, ModelInput())
    with pytest.raises(InputError, match="chunks of 0 encoder frames cannot be streamed"):
        StreamingEncoder(model.encoder, ModelInput(transforms=()), 0)
